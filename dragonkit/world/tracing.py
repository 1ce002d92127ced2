"""Rays against objects: first hits, normals, shadows and occlusion, for a batch of scenes at once.

Each object is traced only along the rays that meet its bounding sphere, with its own shape's distance function, and
the nearest hit wins: for a union of objects this is exact, and it is what makes a picture cheap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .camera import CAMERA
from .scene import Scene
from .shapes import SHAPES, Shape, Vec

_STEPS = 72  # sphere tracing steps at most
_HIT = 1.5e-3  # distance, in world units, that counts as touching


@dataclass(frozen=True)
class Packed:
    """A batch of scenes as columns, one row an object: ``scene`` says whose it is, ``slot`` which one."""

    scene: Tensor
    slot: Tensor
    x: Tensor
    z: Tensor
    size: Tensor
    yaw: Tensor
    deform: Tensor
    shapes: tuple[str, ...]

    @classmethod
    def of(cls, scenes: Sequence[Scene], device: str | torch.device) -> Packed:
        """Pack scenes onto a device."""
        rows = [(b, k, o) for b, s in enumerate(scenes) for k, o in enumerate(s.objects)]

        def column(values: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        return cls(
            scene=column([b for b, _, _ in rows], torch.int64),
            slot=column([k for _, k, _ in rows], torch.int64),
            x=column([o.x for _, _, o in rows]),
            z=column([o.z for _, _, o in rows]),
            size=column([o.size for _, _, o in rows]),
            yaw=column([o.yaw for _, _, o in rows]),
            deform=column([o.deform for _, _, o in rows]),
            shapes=tuple(o.shape for _, _, o in rows),
        )

    def groups(self) -> Iterator[tuple[Shape, Tensor]]:
        """Each shape present, with the rows that have it."""
        for name in dict.fromkeys(self.shapes):
            rows = [i for i, shape in enumerate(self.shapes) if shape == name]
            yield SHAPES[name], torch.tensor(rows, device=self.x.device)

    def rest(self, shape: Shape, row: Tensor, p: Vec) -> Vec:
        """World points of objects ``row`` -> rest points."""
        size, yaw = self.size[row], self.yaw[row]
        x, y, z = (p[0] - self.x[row]) / size, p[1] / size, (p[2] - self.z[row]) / size
        c, s = torch.cos(yaw), torch.sin(yaw)
        return shape.rest((c * x - s * z, y, s * x + c * z), self.deform[row])

    def distance(self, shape: Shape, row: Tensor, p: Vec) -> Tensor:
        """A lower bound of the distance from world points to the surfaces of objects ``row``, in world units."""
        return shape.distance(self.rest(shape, row, p))[0] * (self.size[row] * shape.slack)


@dataclass(frozen=True)
class Hits:
    """What rays see. Rays are numbered over the whole batch; ``t`` is inf where only sky or ground is met."""

    t: Tensor  # (B, R)
    row: Tensor  # (B, R) packed row of the object met, -1 for none


def at(origin: Vec, direction: Vec, t: Tensor) -> Vec:
    """The points origin + t · direction."""
    return origin[0] + t * direction[0], origin[1] + t * direction[1], origin[2] + t * direction[2]


def pick(v: Vec, index: Tensor | slice) -> Vec:
    """Some of the vectors."""
    return v[0][index], v[1][index], v[2][index]


def _sphere_span(packed: Packed, shape: Shape, row: Tensor, origin: Vec, direction: Vec) -> tuple[Tensor, Tensor]:
    """Closest approach of rays to the bounding spheres' centres: (t of it, squared distance left over)."""
    size = packed.size[row]
    x, y, z = packed.x[row] - origin[0], size - origin[1], packed.z[row] - origin[2]
    along = x * direction[0] + y * direction[1] + z * direction[2]
    return along, (x * x + y * y + z * z - along * along).clamp(min=0)


def trace(packed: Packed, batch: int, directions: Vec) -> Hits:
    """First surface along every camera ray, for every scene of the batch."""
    device, rays = directions[0].device, directions[0].numel()
    nearest = torch.full((batch * rays,), math.inf, device=device)
    winner = torch.full((batch * rays,), -1, dtype=torch.int64, device=device)
    eye = tuple(torch.full((1,), c, device=device) for c in CAMERA)
    for shape, rows in packed.groups():
        along, off = _sphere_span(packed, shape, rows[:, None], eye, directions)  # type: ignore[arg-type]
        reach = packed.size[rows, None] * shape.radius
        which, ray = torch.nonzero(off < reach**2, as_tuple=True)
        row, half = rows[which], torch.sqrt(reach[which, 0] ** 2 - off[which, ray])
        t = _march(packed, shape, row, pick(directions, ray), along[which, ray] - half, along[which, ray] + half)
        # Several objects of one shape can meet one ray, so the nearest is found before it is compared.
        pixel = packed.scene[row] * rays + ray
        nearest.scatter_reduce_(0, pixel, t, "amin")
        won = (t <= nearest[pixel]) & torch.isfinite(t)
        winner[pixel[won]] = row[won]
    return Hits(nearest.view(batch, rays), winner.view(batch, rays))


def _march(packed: Packed, shape: Shape, row: Tensor, direction: Vec, start: Tensor, end: Tensor) -> Tensor:
    """Sphere tracing from ``start`` to ``end``: the t of the hit, inf for a miss."""
    result = torch.full_like(start, math.inf)
    live = torch.arange(start.numel(), device=start.device)
    t, eye = start, tuple(torch.full((1,), c, device=start.device) for c in CAMERA)
    for step in range(_STEPS):
        d = packed.distance(shape, row, at(eye, direction, t))  # type: ignore[arg-type]
        t = t + d
        if step % 6 == 5 or step == _STEPS - 1:  # set the finished rays aside now and then: each look costs a sync
            hit = d < _HIT
            result[live[hit]] = t[hit]
            keep = torch.nonzero(~hit & (t < end)).flatten()
            if not keep.numel():
                break
            live, t, end, row, direction = live[keep], t[keep], end[keep], row[keep], pick(direction, keep)
    return result


def normals(packed: Packed, shape: Shape, row: Tensor, p: Vec) -> Vec:
    """Outward unit normals by central differences on a tetrahedron's corners."""
    e = 2e-3
    total: list[Tensor] = [torch.zeros_like(p[0]) for _ in range(3)]
    for corner in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
        d = packed.distance(shape, row, (p[0] + e * corner[0], p[1] + e * corner[1], p[2] + e * corner[2]))
        total = [n + c * d for n, c in zip(total, corner, strict=True)]
    length = torch.sqrt(total[0] ** 2 + total[1] ** 2 + total[2] ** 2) + 1e-9
    return total[0] / length, total[1] / length, total[2] / length


def _pairs(
    packed: Packed, rows: Tensor, scene: Tensor, batch: int, near: Callable[[Tensor, slice], Tensor]
) -> tuple[Tensor, Tensor]:
    """Which points ask which objects of their own scene: (row, point) index pairs.

    ``scene`` is ascending, so each scene's points are one slice; ``near(row, slice)`` says which of them matter.
    """
    bounds = torch.searchsorted(scene, torch.arange(batch + 1, device=scene.device)).tolist()
    owners = packed.scene[rows].tolist()
    found = []
    for row, owner in zip(rows, owners, strict=True):
        mine = slice(bounds[owner], bounds[owner + 1])
        found.append(torch.nonzero(near(row, mine)).flatten() + mine.start)
    counts = torch.tensor([len(f) for f in found], device=scene.device)
    return rows.repeat_interleave(counts), torch.cat(found)


def shadow(packed: Packed, scene: Tensor, batch: int, origin: Vec, light: Vec) -> Tensor:
    """How much of the sun each point sees, in [0, 1]; penumbras widen with the distance to what casts them."""
    lit = torch.ones_like(origin[0])
    sharpness = 7.0
    for shape, rows in packed.groups():

        def near(row: Tensor, mine: slice, shape: Shape = shape) -> Tensor:
            along, off = _sphere_span(packed, shape, row, pick(origin, mine), pick(light, mine))
            reach = packed.size[row] * shape.radius
            return (along > -reach) & (off < (reach + along.clamp(min=0) / sharpness) ** 2)

        row, point = _pairs(packed, rows, scene, batch, near)
        o, to_sun = pick(origin, point), pick(light, point)
        along, _ = _sphere_span(packed, shape, row, o, to_sun)
        reach = packed.size[row] * shape.radius * 1.3
        t, far = (along - reach).clamp(min=0.03), along + reach
        seen = torch.ones_like(t)
        for _ in range(28):
            d = packed.distance(shape, row, at(o, to_sun, t)) / shape.slack
            seen = torch.minimum(seen, torch.where(t < far, sharpness * d / t, 1.0))
            t = t + (0.7 * d).clamp(0.04, 0.3)
        seen = seen.clamp(0, 1)
        lit.scatter_reduce_(0, point, seen * seen * (3 - 2 * seen), "amin")
    return lit


def occlusion(packed: Packed, scene: Tensor, batch: int, p: Vec, n: Vec) -> Tensor:
    """Ambient light left at each point, in [0.3, 1]: how freely a few points along the normal stand."""
    reaches = (0.1, 0.25, 0.5)
    free = [torch.full_like(p[0], h) for h in reaches]
    for shape, rows in packed.groups():

        def near(row: Tensor, mine: slice, shape: Shape = shape) -> Tensor:
            x, y, z = pick(p, mine)
            size = packed.size[row]
            away = (x - packed.x[row]) ** 2 + (y - size) ** 2 + (z - packed.z[row]) ** 2
            return away < (size * shape.radius + 2 * reaches[-1]) ** 2

        row, point = _pairs(packed, rows, scene, batch, near)
        o, up = pick(p, point), pick(n, point)
        for i, h in enumerate(reaches):
            d = packed.distance(shape, row, at(o, up, torch.full_like(o[0], h))) / shape.slack
            free[i].scatter_reduce_(0, point, d.clamp(min=0), "amin")
    lost = sum(((h - f) / h for h, f in zip(reaches, free, strict=True)), torch.zeros_like(p[0]))
    return (1 - 0.28 * lost).clamp(0.3, 1)
