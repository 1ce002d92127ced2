"""From what a ray meets to its colour: patterns, grounds, skies, sun, highlights and haze.

Everything is calm on purpose: patterns of 16 pixels or more, grounds without fine grain, soft edges, so that a small
autoencoder can hold it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .scene import COLOURS, GROUNDS, PATTERNS, SKIES, Scene
from .shapes import Vec

# Sky near the horizon, sky above, sunlight, ambient light.
_SKY = {
    "day": ((0.78, 0.88, 0.97), (0.35, 0.60, 0.92), (1.00, 0.97, 0.90), (0.46, 0.50, 0.56)),
    "sunset": ((0.98, 0.68, 0.38), (0.55, 0.32, 0.52), (1.00, 0.74, 0.50), (0.44, 0.37, 0.42)),
    "night": ((0.12, 0.15, 0.30), (0.03, 0.04, 0.13), (0.44, 0.50, 0.72), (0.24, 0.26, 0.38)),
    "dawn": ((0.90, 0.86, 0.88), (0.62, 0.64, 0.74), (0.88, 0.84, 0.84), (0.54, 0.53, 0.57)),
}
_GROUND = {
    "grass": (0.24, 0.50, 0.17),
    "wood": (0.62, 0.41, 0.23),
    "tiles": (0.82, 0.79, 0.72),
    "sand": (0.86, 0.74, 0.52),
    "concrete": (0.55, 0.56, 0.58),
}
_TILE_DARK = (0.47, 0.50, 0.56)


@dataclass(frozen=True)
class Surface:
    """The N points that rays meet, flat over the batch; ``index`` places them among all batch × rays samples."""

    batch: int
    rays: int
    index: Tensor  # (N,)
    scene: Tensor  # (N,)
    row: Tensor  # (N,) packed row of the object, -1 for ground
    slot: Tensor  # (N,) the object's index in its scene, -1 for ground
    t: Tensor  # (N,) distance from the camera
    point: Vec
    normal: Vec
    direction: Vec
    all_directions: Vec  # of every ray, also those that meet only sky
    canonical: Vec
    part: Tensor  # (N,) 1 where the second colour belongs


def _step(value: Tensor, width: float) -> Tensor:
    """0 below zero, 1 above, with a soft edge."""
    return (value / width + 0.5).clamp(0, 1)


def _hash(a: Tensor, b: Tensor, seed: Tensor) -> Tensor:
    """Whole numbers -> [0, 1), in integer arithmetic, so that it is the same on every machine."""
    h = (a * 374761393 + b * 668265263 + seed * 2147483647) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFF).to(torch.float32) / 0x10000


def _noise(a: Tensor, b: Tensor, seed: Tensor) -> Tensor:
    """Smooth value noise with cells of size 1, in [0, 1]."""
    ia, ib = torch.floor(a), torch.floor(b)
    fa, fb = a - ia, b - ib
    fa, fb = fa * fa * (3 - 2 * fa), fb * fb * (3 - 2 * fb)
    ia, ib = ia.long(), ib.long()
    low = _hash(ia, ib, seed) * (1 - fa) + _hash(ia + 1, ib, seed) * fa
    high = _hash(ia, ib + 1, seed) * (1 - fa) + _hash(ia + 1, ib + 1, seed) * fa
    return low * (1 - fb) + high * fb


def _second_colour(pattern: Tensor, q: Vec) -> Tensor:
    """How much of the second colour a pattern puts at rest points, in [0, 1]."""
    x, y, z = q
    round_axis = torch.sqrt(x * x + z * z + 1e-12)
    turn = torch.atan2(z, x) / (2 * math.pi)
    stripes = _step(torch.sin(y * (math.pi / 0.4)), 0.15)
    rows = torch.sin(y * (math.pi / 0.62) + 0.4)
    checks = _step(torch.sin(turn * (2 * math.pi * 4)) * rows, 0.06)
    # Dots sit on a grid of 6 round the axis and rows 0.75 apart, every other row shifted, and keep their round shape.
    level = torch.floor(y / 0.75)
    cell = turn * 6 + 0.5 * torch.remainder(level, 2)
    across = (cell - torch.floor(cell) - 0.5) * (2 * math.pi / 6) * round_axis.clamp(min=0.35)
    up = y - (level + 0.5) * 0.75
    dots = _step(0.25 - torch.sqrt(across**2 + up**2 + 1e-12), 0.05)
    none = torch.zeros_like(x)
    choices = {"plain": none, "striped": stripes, "checkered": checks, "dotted": dots}
    return torch.stack([choices[name] for name in PATTERNS]).gather(0, pattern[None])[0]


def _ground_colour(kind: Tensor, seed: Tensor, surface: Surface) -> Tensor:
    """(N, 3) albedo of the ground; texture fades with distance, where pixels could no longer hold it."""
    x, z = surface.point[0], surface.point[2]
    fade = (1 - (surface.t - 9) / 12).clamp(0, 1)
    broad = _noise(x * 1.1, z * 0.7, seed) - 0.5
    plank = torch.floor(z / 0.9)
    gap = _step(0.04 - (z / 0.9 - plank - 0.5).abs().sub(0.5).abs() * 0.9, 0.08)
    tone = _hash(plank.long(), plank.long() * 0, seed) - 0.5
    grain = _noise(x * 0.5, z * 2.2, seed) - 0.5
    light = {
        "grass": 1 + 0.34 * broad * fade,
        "wood": (1 + (0.3 * tone + 0.14 * grain) * fade) * (1 - 0.3 * gap * fade**2),
        "tiles": torch.ones_like(x),
        "sand": 1 + 0.16 * broad * fade,
        "concrete": 1 + 0.06 * broad * fade,
    }
    tile = _step(torch.sin(x * (math.pi / 1.3)) * torch.sin(z * (math.pi / 1.3)), 0.08)
    tile = 0.5 + (tile - 0.5) * fade
    colours = []
    for name in GROUNDS:
        base = torch.tensor(_GROUND[name], device=x.device).expand(x.numel(), 3)
        if name == "tiles":
            dark = torch.tensor(_TILE_DARK, device=x.device)
            base = base + (dark - base) * tile[:, None]
        colours.append(base * light[name][:, None])
    index = kind[None, :, None].expand(1, x.numel(), 3)
    return torch.stack(colours).gather(0, index)[0]


def _sky_colours(scenes: Sequence[Scene], scene: Tensor) -> tuple[Tensor, ...]:
    """Rows (N, 3) of horizon, zenith, sunlight and ambient light."""
    table = torch.tensor([_SKY[name] for name in SKIES], device=scene.device)
    kind = torch.tensor([SKIES.index(s.sky) for s in scenes], device=scene.device)[scene]
    return tuple(table[kind].unbind(1))


def _sky(scenes: Sequence[Scene], scene: Tensor, direction: Vec) -> Tensor:
    horizon, zenith, _, _ = _sky_colours(scenes, scene)
    height = (direction[1] * 9).clamp(0, 1)[:, None]
    return horizon + (zenith - horizon) * height


def shade(scenes: Sequence[Scene], surface: Surface, sun: Vec, lit: Tensor, ambient: Tensor) -> Tensor:
    """Colours of all rays.

    Args:
        scenes: the batch.
        surface: what the rays meet.
        sun: unit vectors to the sun, one a point.
        lit: (N,) share of the sun that each point sees.
        ambient: (N,) share of the sky that each point sees.

    Returns:
        (B, R, 3), display values; may exceed 1.
    """
    device, n = surface.t.device, surface.normal
    objects = [o for s in scenes for o in s.objects]
    palette = torch.tensor([[COLOURS[o.colour], COLOURS[o.second]] for o in objects], device=device)
    pattern = torch.tensor([PATTERNS.index(o.pattern) for o in objects], device=device)
    ground = torch.tensor([GROUNDS.index(s.ground) for s in scenes], device=device)[surface.scene]
    seed = torch.tensor([s.seed for s in scenes], device=device)[surface.scene]

    albedo = _ground_colour(ground, seed, surface)
    solid = torch.nonzero(surface.row >= 0).flatten()
    row = surface.row[solid]
    q = tuple(c[solid] for c in surface.canonical)
    second = torch.maximum(_second_colour(pattern[row], q), surface.part[solid])[:, None]  # type: ignore[arg-type]
    albedo[solid] = palette[row, 0] * (1 - second) + palette[row, 1] * second

    horizon, _, sunlight, skylight = _sky_colours(scenes, surface.scene)
    towards = [s - d for s, d in zip(sun, surface.direction, strict=True)]
    length = torch.sqrt(sum(c * c for c in towards))  # type: ignore[arg-type]
    facing = sum(a * b for a, b in zip(n, sun, strict=True)).clamp(min=0)  # type: ignore[union-attr]
    glint = (sum(a * b for a, b in zip(n, towards, strict=True)) / length).clamp(min=0) ** 28
    glint = glint * (surface.row >= 0) * lit
    diffuse = sunlight * (facing * lit * 0.85)[:, None]
    diffuse = diffuse + skylight * (ambient * (0.72 + 0.28 * n[1]))[:, None]
    colour = albedo * diffuse + 0.25 * glint[:, None] * sunlight
    haze = (((surface.t - 13) / 26).clamp(0, 1) * (surface.row < 0))[:, None]
    colour = colour + (horizon - colour) * haze

    scene = torch.arange(surface.batch, device=device).repeat_interleave(surface.rays)
    picture = _sky(scenes, scene, surface.all_directions)
    picture[surface.index] = colour
    return picture.clamp(min=0).pow(1 / 1.15).view(surface.batch, surface.rays, 3)
