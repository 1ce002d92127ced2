"""Exact pictures of scenes: sphere tracing in plain torch, on a CPU or a GPU, one scene or a batch.

Each object is traced only along the rays that meet its bounding sphere, with its own shape's distance function, and
the nearest hit wins: for a union of objects this is exact, and it is what makes a picture cheap. Colour is sampled on
a supersampled grid; object ids, depth and canonical coordinates at pixel centres.

    Scene -> _Packed -> (rays) -> trace() -> _Hits -> shade() -> colours
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dragonkit.errors import InputError

from .scene import Object, Scene
from .shade import Surface, shade
from .shapes import SHAPES, Shape, Vec

CAMERA = (0.0, 2.45, 10.0)  # where the camera stands
PITCH = math.radians(9.0)  # how far it looks down
HALF_FIELD = math.tan(math.radians(14.0))  # half the picture's height at distance 1
_STEPS = 72  # sphere tracing steps at most
_HIT = 1.5e-3  # distance, in world units, that counts as touching


@dataclass(frozen=True)
class Render:
    """A picture of a scene, size H = W.

    Attributes:
        image: (3, H, W) float32 in [0, 1].
        ids: (H, W) int64, the index of the object seen at each pixel's centre, -1 for ground and sky.
        depth: (H, W) float32, distance from the camera in world units, inf for sky.
        canonical: (3, H, W) float32, the seen point in its object's rest frame (shape units), nan off the objects.
    """

    image: Tensor
    ids: Tensor
    depth: Tensor
    canonical: Tensor

    def mask(self, index: int) -> Tensor:
        """Where object ``index`` is seen: (H, W) bool."""
        return self.ids == index


@dataclass(frozen=True)
class _Packed:
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
    def of(cls, scenes: Sequence[Scene], device: str | torch.device) -> _Packed:
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
class _Hits:
    """What rays see. Rays are numbered over the whole batch; ``t`` is inf where only sky or ground is met."""

    t: Tensor  # (B, R)
    row: Tensor  # (B, R) packed row of the object met, -1 for none


def camera_rays(size: int, offsets: Sequence[tuple[float, float]], device: str | torch.device) -> Vec:
    """Directions (x, y, z), each (H·W·len(offsets),), through every pixel at the given offsets from its centre."""
    v, u = torch.meshgrid(torch.arange(size, device=device), torch.arange(size, device=device), indexing="ij")
    right = torch.stack([(u + 0.5 + dx) / size * 2 - 1 for dx, _ in offsets], -1).flatten() * HALF_FIELD
    up = torch.stack([1 - (v + 0.5 + dy) / size * 2 for _, dy in offsets], -1).flatten() * HALF_FIELD
    y, z = up * math.cos(PITCH) - math.sin(PITCH), -math.cos(PITCH) - up * math.sin(PITCH)
    length = torch.sqrt(right**2 + y**2 + z**2)
    return right / length, y / length, z / length


def project(x: Tensor, y: Tensor, z: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """World points -> pixels (x, y) of a size × size picture, origin at the top-left pixel's centre."""
    x, y, z = x - CAMERA[0], y - CAMERA[1], z - CAMERA[2]
    depth = -math.sin(PITCH) * y - math.cos(PITCH) * z
    up = math.cos(PITCH) * y - math.sin(PITCH) * z
    return (
        (x / depth / HALF_FIELD + 1) / 2 * size - 0.5,
        (1 - up / depth / HALF_FIELD) / 2 * size - 0.5,
    )


def to_world(o: Object, canonical: Tensor) -> Vec:
    """Rest points (3, N) of an object -> world points, through its deformation and pose."""
    d = torch.full_like(canonical[0], o.deform)
    x, y, z = SHAPES[o.shape].bend((canonical[0], canonical[1], canonical[2]), d)
    c, s = math.cos(o.yaw), math.sin(o.yaw)
    return o.size * (c * x + s * z) + o.x, o.size * y, o.size * (c * z - s * x) + o.z


def _at(origin: Vec, direction: Vec, t: Tensor) -> Vec:
    return origin[0] + t * direction[0], origin[1] + t * direction[1], origin[2] + t * direction[2]


def _pick(v: Vec, index: Tensor | slice) -> Vec:
    return v[0][index], v[1][index], v[2][index]


def _sphere_span(packed: _Packed, shape: Shape, row: Tensor, origin: Vec, direction: Vec) -> tuple[Tensor, Tensor]:
    """Closest approach of rays to the bounding spheres' centres: (t of it, squared distance left over)."""
    size = packed.size[row]
    x, y, z = packed.x[row] - origin[0], size - origin[1], packed.z[row] - origin[2]
    along = x * direction[0] + y * direction[1] + z * direction[2]
    return along, (x * x + y * y + z * z - along * along).clamp(min=0)


def trace(packed: _Packed, batch: int, directions: Vec) -> _Hits:
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
        t = _march(packed, shape, row, _pick(directions, ray), along[which, ray] - half, along[which, ray] + half)
        # Several objects of one shape can meet one ray, so the nearest is found before it is compared.
        pixel = packed.scene[row] * rays + ray
        nearest.scatter_reduce_(0, pixel, t, "amin")
        won = (t <= nearest[pixel]) & torch.isfinite(t)
        winner[pixel[won]] = row[won]
    return _Hits(nearest.view(batch, rays), winner.view(batch, rays))


def _march(packed: _Packed, shape: Shape, row: Tensor, direction: Vec, start: Tensor, end: Tensor) -> Tensor:
    """Sphere tracing from ``start`` to ``end``: the t of the hit, inf for a miss."""
    result = torch.full_like(start, math.inf)
    live = torch.arange(start.numel(), device=start.device)
    t, eye = start, tuple(torch.full((1,), c, device=start.device) for c in CAMERA)
    for step in range(_STEPS):
        d = packed.distance(shape, row, _at(eye, direction, t))  # type: ignore[arg-type]
        t = t + d
        if step % 6 == 5 or step == _STEPS - 1:  # set the finished rays aside now and then: each look costs a sync
            hit = d < _HIT
            result[live[hit]] = t[hit]
            keep = torch.nonzero(~hit & (t < end)).flatten()
            if not keep.numel():
                break
            live, t, end, row, direction = live[keep], t[keep], end[keep], row[keep], _pick(direction, keep)
    return result


def normals(packed: _Packed, shape: Shape, row: Tensor, p: Vec) -> Vec:
    """Outward unit normals by central differences on a tetrahedron's corners."""
    e = 2e-3
    total: list[Tensor] = [torch.zeros_like(p[0]) for _ in range(3)]
    for corner in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
        d = packed.distance(shape, row, (p[0] + e * corner[0], p[1] + e * corner[1], p[2] + e * corner[2]))
        total = [n + c * d for n, c in zip(total, corner, strict=True)]
    length = torch.sqrt(total[0] ** 2 + total[1] ** 2 + total[2] ** 2) + 1e-9
    return total[0] / length, total[1] / length, total[2] / length


def _pairs(
    packed: _Packed, rows: Tensor, scene: Tensor, batch: int, near: Callable[[Tensor, slice], Tensor]
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


def shadow(packed: _Packed, scene: Tensor, batch: int, origin: Vec, light: Vec) -> Tensor:
    """How much of the sun each point sees, in [0, 1]; penumbras widen with the distance to what casts them."""
    lit = torch.ones_like(origin[0])
    sharpness = 7.0
    for shape, rows in packed.groups():

        def near(row: Tensor, mine: slice, shape: Shape = shape) -> Tensor:
            along, off = _sphere_span(packed, shape, row, _pick(origin, mine), _pick(light, mine))
            reach = packed.size[row] * shape.radius
            return (along > -reach) & (off < (reach + along.clamp(min=0) / sharpness) ** 2)

        row, point = _pairs(packed, rows, scene, batch, near)
        o, to_sun = _pick(origin, point), _pick(light, point)
        along, _ = _sphere_span(packed, shape, row, o, to_sun)
        reach = packed.size[row] * shape.radius * 1.3
        t, far = (along - reach).clamp(min=0.03), along + reach
        seen = torch.ones_like(t)
        for _ in range(28):
            d = packed.distance(shape, row, _at(o, to_sun, t)) / shape.slack
            seen = torch.minimum(seen, torch.where(t < far, sharpness * d / t, 1.0))
            t = t + (0.7 * d).clamp(0.04, 0.3)
        seen = seen.clamp(0, 1)
        lit.scatter_reduce_(0, point, seen * seen * (3 - 2 * seen), "amin")
    return lit


def occlusion(packed: _Packed, scene: Tensor, batch: int, p: Vec, n: Vec) -> Tensor:
    """Ambient light left at each point, in [0.3, 1]: how freely a few points along the normal stand."""
    reaches = (0.1, 0.25, 0.5)
    free = [torch.full_like(p[0], h) for h in reaches]
    for shape, rows in packed.groups():

        def near(row: Tensor, mine: slice, shape: Shape = shape) -> Tensor:
            x, y, z = _pick(p, mine)
            size = packed.size[row]
            away = (x - packed.x[row]) ** 2 + (y - size) ** 2 + (z - packed.z[row]) ** 2
            return away < (size * shape.radius + 2 * reaches[-1]) ** 2

        row, point = _pairs(packed, rows, scene, batch, near)
        o, up = _pick(p, point), _pick(n, point)
        for i, h in enumerate(reaches):
            d = packed.distance(shape, row, _at(o, up, torch.full_like(o[0], h))) / shape.slack
            free[i].scatter_reduce_(0, point, d.clamp(min=0), "amin")
    lost = sum(((h - f) / h for h, f in zip(reaches, free, strict=True)), torch.zeros_like(p[0]))
    return (1 - 0.28 * lost).clamp(0.3, 1)


def _surface(packed: _Packed, hits: _Hits, directions: Vec, scenes: int) -> Surface:
    """Everything about the points that rays meet that shading needs."""
    device, (batch, rays) = directions[0].device, hits.t.shape
    direction = tuple(c.expand(batch, rays).flatten() for c in directions)
    scene = torch.arange(batch, device=device)[:, None].expand(batch, rays).flatten()
    t, row = hits.t.flatten(), hits.row.flatten()
    ground_t = torch.where(direction[1] < -1e-4, -CAMERA[1] / direction[1].clamp(max=-1e-4), math.inf)
    on_object = (row >= 0) & (t < ground_t)
    t = torch.where(on_object, t, ground_t)
    seen = torch.nonzero(torch.isfinite(t) & (t < 60)).flatten()
    row = torch.where(on_object, row, -1)[seen]
    eye = tuple(torch.full((1,), c, device=device) for c in CAMERA)
    p = _at(eye, _pick(direction, seen), t[seen])  # type: ignore[arg-type]
    n = [torch.zeros_like(p[0]), torch.ones_like(p[0]), torch.zeros_like(p[0])]
    canonical = [torch.full_like(p[0], math.nan) for _ in range(3)]
    part = torch.zeros_like(p[0])
    member = torch.zeros(len(packed.shapes) + 1, dtype=torch.bool, device=device)  # the last stands for "no object"
    for shape, rows in packed.groups():
        here = torch.nonzero(member.clone().index_fill_(0, rows, True)[row]).flatten()
        mine, point = row[here], _pick(p, here)
        rest = packed.rest(shape, mine, point)
        part[here] = shape.distance(rest)[1]
        normal = normals(packed, shape, mine, point)
        for axis in range(3):
            n[axis][here] = normal[axis]
            canonical[axis][here] = rest[axis]
    return Surface(
        batch=batch,
        rays=rays,
        index=seen,
        scene=scene[seen],
        row=row,
        slot=torch.where(row >= 0, packed.slot[row], -1),
        t=t[seen],
        point=p,
        normal=(n[0], n[1], n[2]),
        direction=_pick(direction, seen),  # type: ignore[arg-type]
        all_directions=direction,  # type: ignore[arg-type]
        canonical=(canonical[0], canonical[1], canonical[2]),
        part=part,
    )


@torch.no_grad()
def render_batch(
    scenes: Sequence[Scene], size: int = 256, supersample: int = 2, device: str | torch.device = "cpu"
) -> tuple[Tensor, Tensor]:
    """Colours only, for training: (image (B, 3, H, W) float32 in [0, 1], object cover (B, H, W) in [0, 1])."""
    packed = _Packed.of(scenes, device)
    steps = [(i + 0.5) / supersample - 0.5 for i in range(supersample)]
    directions = camera_rays(size, [(dx, dy) for dy in steps for dx in steps], device)
    surface = _surface(packed, trace(packed, len(scenes), directions), directions, len(scenes))
    sun = _sun(scenes, surface.scene, device)
    lit = torch.zeros_like(surface.t)
    facing = torch.nonzero(sum(a * b for a, b in zip(surface.normal, sun, strict=True)) > 0).flatten()  # type: ignore[arg-type]
    above = tuple(p + 0.02 * n for p, n in zip(surface.point, surface.normal, strict=True))
    lit[facing] = shadow(packed, surface.scene[facing], len(scenes), _pick(above, facing), _pick(sun, facing))  # type: ignore[arg-type]
    ambient = occlusion(packed, surface.scene, len(scenes), surface.point, surface.normal)
    colour = shade(scenes, surface, sun, lit, ambient)  # (B, R, 3)
    cover = torch.zeros(len(scenes) * directions[0].numel(), device=device)
    cover[surface.index] = (surface.row >= 0).to(cover.dtype)
    samples = supersample * supersample
    image = colour.view(len(scenes), size, size, samples, 3).mean(3).permute(0, 3, 1, 2)
    return image.clamp(0, 1).contiguous(), cover.view(len(scenes), size, size, samples).mean(3)


def _sun(scenes: Sequence[Scene], scene: Tensor, device: str | torch.device) -> Vec:
    slant = torch.tensor([s.light for s in scenes], dtype=torch.float32, device=device)[scene]
    length = torch.sqrt(slant**2 + 1 + 0.55**2)
    return slant / length, 1 / length, 0.55 / length


def render(scene: Scene, size: int = 256, supersample: int = 2, device: str | torch.device = "cpu") -> Render:
    """Render a scene.

    Args:
        scene: what to draw.
        size: height and width in pixels, 16 to 2048.
        supersample: colour samples a pixel along each axis, 1 to 8.
        device: where to compute.

    Returns:
        The picture with ids, depth and canonical coordinates; the same scene gives the same picture on every run.

    Raises:
        InputError: size or supersample out of range.
    """
    for value, low, high, what in ((size, 16, 2048, "size"), (supersample, 1, 8, "supersample")):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError(f"{what} {value!r} is out of range: give a whole number from {low} to {high}")
    image, _ = render_batch([scene], size, supersample, device)
    ids, depth, canonical = geometry(scene, size, device)
    return Render(image[0].cpu(), ids, depth, canonical)


@torch.no_grad()
def geometry(scene: Scene, size: int, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Object ids, depth and canonical coordinates at pixel centres, as in :class:`Render`."""
    packed = _Packed.of([scene], device)
    directions = camera_rays(size, [(0.0, 0.0)], device)
    surface = _surface(packed, trace(packed, 1, directions), directions, 1)
    ids = torch.full((size * size,), -1, dtype=torch.int64, device=device)
    depth = torch.full((size * size,), math.inf, device=device)
    canonical = torch.full((3, size * size), math.nan, device=device)
    ids[surface.index] = surface.slot
    depth[surface.index] = surface.t
    canonical[:, surface.index] = torch.stack(surface.canonical)
    return ids.view(size, size).cpu(), depth.view(size, size).cpu(), canonical.view(3, size, size).cpu()
