"""Exact pictures of scenes: sphere tracing in plain torch, on a CPU or a GPU, one scene or a batch.

Colour is sampled on a supersampled grid; object ids, depth and canonical coordinates at pixel centres.

    Scene -> Packed -> (rays) -> trace() -> Hits -> Surface -> shade() -> colours
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dragonkit.errors import InputError

from .camera import CAMERA, camera_rays
from .scene import Object, Scene
from .shade import Surface, shade
from .shapes import SHAPES, Vec
from .tracing import Hits, Packed, at, normals, occlusion, pick, shadow, trace


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


def to_world(o: Object, canonical: Tensor) -> Vec:
    """Rest points (3, N) of an object -> world points, through its deformation and pose."""
    d = torch.full_like(canonical[0], o.deform)
    x, y, z = SHAPES[o.shape].bend((canonical[0], canonical[1], canonical[2]), d)
    c, s = math.cos(o.yaw), math.sin(o.yaw)
    return o.size * (c * x + s * z) + o.x, o.size * y, o.size * (c * z - s * x) + o.z


def _surface(packed: Packed, hits: Hits, directions: Vec, scenes: int) -> Surface:
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
    p = at(eye, pick(direction, seen), t[seen])  # type: ignore[arg-type]
    n = [torch.zeros_like(p[0]), torch.ones_like(p[0]), torch.zeros_like(p[0])]
    canonical = [torch.full_like(p[0], math.nan) for _ in range(3)]
    part = torch.zeros_like(p[0])
    member = torch.zeros(len(packed.shapes) + 1, dtype=torch.bool, device=device)  # the last stands for "no object"
    for shape, rows in packed.groups():
        here = torch.nonzero(member.clone().index_fill_(0, rows, True)[row]).flatten()
        mine, point = row[here], pick(p, here)
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
        direction=pick(direction, seen),  # type: ignore[arg-type]
        all_directions=direction,  # type: ignore[arg-type]
        canonical=(canonical[0], canonical[1], canonical[2]),
        part=part,
    )


@torch.no_grad()
def render_batch(
    scenes: Sequence[Scene], size: int = 256, supersample: int = 2, device: str | torch.device = "cpu"
) -> tuple[Tensor, Tensor]:
    """Colours only, for training: (image (B, 3, H, W) float32 in [0, 1], object cover (B, H, W) in [0, 1])."""
    packed = Packed.of(scenes, device)
    steps = [(i + 0.5) / supersample - 0.5 for i in range(supersample)]
    directions = camera_rays(size, [(dx, dy) for dy in steps for dx in steps], device)
    surface = _surface(packed, trace(packed, len(scenes), directions), directions, len(scenes))
    sun = _sun(scenes, surface.scene, device)
    lit = torch.zeros_like(surface.t)
    facing = torch.nonzero(sum(a * b for a, b in zip(surface.normal, sun, strict=True)) > 0).flatten()  # type: ignore[arg-type]
    above = tuple(p + 0.02 * n for p, n in zip(surface.point, surface.normal, strict=True))
    lit[facing] = shadow(packed, surface.scene[facing], len(scenes), pick(above, facing), pick(sun, facing))  # type: ignore[arg-type]
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
    packed = Packed.of([scene], device)
    directions = camera_rays(size, [(0.0, 0.0)], device)
    surface = _surface(packed, trace(packed, 1, directions), directions, 1)
    ids = torch.full((size * size,), -1, dtype=torch.int64, device=device)
    depth = torch.full((size * size,), math.inf, device=device)
    canonical = torch.full((3, size * size), math.nan, device=device)
    ids[surface.index] = surface.slot
    depth[surface.index] = surface.t
    canonical[:, surface.index] = torch.stack(surface.canonical)
    return ids.view(size, size).cpu(), depth.view(size, size).cpu(), canonical.view(3, size, size).cpu()
