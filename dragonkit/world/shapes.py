"""The ten shapes of the world, as signed distance functions with one deformation each.

A shape lives in its own frame: it stands on y = 0, is about 2 units tall, and x is its front. A deformation of amount
d in [-1, 1] carries a rest point q to ``bend(q, d)``; ``rest`` is its exact inverse. Distances are evaluated at rest
points, so a rest point is also the surface's *canonical coordinate*: it never changes while the object moves, turns,
grows, deforms or changes colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Vec = tuple[Tensor, Tensor, Tensor]
Warp = Callable[[Vec, Tensor], Vec]


@dataclass(frozen=True)
class Shape:
    """A shape's geometry.

    Attributes:
        distance: rest point -> (signed distance in the shape's units, part), part 1 where the second colour belongs.
        rest: (deformed point, d) -> rest point.
        bend: (rest point, d) -> deformed point, the inverse of ``rest``.
        deformation: what the deformation does, in words.
        slack: factor on the distance that keeps sphere tracing from overshooting under any deformation.
        radius: bounding sphere round (0, 1, 0), for every d.
        footprint: radius of the disc on the ground that the shape needs.
    """

    distance: Callable[[Vec], tuple[Tensor, Tensor]]
    rest: Warp
    bend: Warp
    deformation: str
    slack: float
    radius: float
    footprint: float


# Primitives. Each returns a signed distance, or a lower bound of it, and takes its centre already subtracted.


def _length(*components: Tensor) -> Tensor:
    return torch.sqrt(sum((c * c for c in components), torch.zeros_like(components[0])) + 1e-12)


def _smoothstep(low: float, high: float, value: Tensor) -> Tensor:
    s = ((value - low) / (high - low)).clamp(0, 1)
    return s * s * (3 - 2 * s)


def _sphere(x: Tensor, y: Tensor, z: Tensor, r: float) -> Tensor:
    return _length(x, y, z) - r


def _ellipsoid(x: Tensor, y: Tensor, z: Tensor, a: float, b: float, c: float) -> Tensor:
    k0 = _length(x / a, y / b, z / c)
    k1 = _length(x / a**2, y / b**2, z / c**2)
    return k0 * (k0 - 1) / k1


def _box(x: Tensor, y: Tensor, z: Tensor, half: float, rounding: float) -> Tensor:
    qx, qy, qz = x.abs() - half + rounding, y.abs() - half + rounding, z.abs() - half + rounding
    outside = _length(qx.clamp(min=0), qy.clamp(min=0), qz.clamp(min=0))
    return outside + torch.maximum(qx, torch.maximum(qy, qz)).clamp(max=0) - rounding


def _cylinder(x: Tensor, y: Tensor, z: Tensor, r: float, low: float, high: float, rounding: float = 0.0) -> Tensor:
    side = _length(x, z) - r + rounding
    cap = (y - (low + high) / 2).abs() - (high - low) / 2 + rounding
    return torch.maximum(side, cap).clamp(max=0) + _length(side.clamp(min=0), cap.clamp(min=0)) - rounding


def _cone(x: Tensor, y: Tensor, z: Tensor, r: float, low: float, high: float) -> Tensor:
    height = high - low
    side = (_length(x, z) - r * (high - y) / height) * (height / (height**2 + r**2) ** 0.5)
    return torch.maximum(side, low - y)


def _torus(x: Tensor, y: Tensor, z: Tensor, major: float, minor: float) -> Tensor:
    """A torus standing upright, its axis along z."""
    return _length(_length(x, y) - major, z) - minor


# Shapes.


def _one_part(distance: Tensor) -> tuple[Tensor, Tensor]:
    return distance, torch.zeros_like(distance)


def _two_parts(main: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return torch.minimum(main, second), (second < main).to(main.dtype)


def _ball(q: Vec) -> tuple[Tensor, Tensor]:
    x, y, z = q
    return _one_part(_sphere(x, y - 1, z, 1.0))


def _cube(q: Vec) -> tuple[Tensor, Tensor]:
    x, y, z = q
    return _one_part(_box(x, y - 0.84, z, 0.84, 0.1))


def _can(q: Vec) -> tuple[Tensor, Tensor]:
    x, y, z = q
    return _one_part(_cylinder(x, y, z, 0.8, 0.0, 1.85, 0.06))


def _pointed(q: Vec) -> tuple[Tensor, Tensor]:
    x, y, z = q
    return _one_part(_cone(x, y, z, 0.95, 0.0, 2.1) - 0.02)


def _ring(q: Vec) -> tuple[Tensor, Tensor]:
    x, y, z = q
    return _one_part(_torus(x, y - 1, z, 0.7, 0.3))


def _mushroom(q: Vec) -> tuple[Tensor, Tensor]:
    x, y, z = q
    cap = torch.maximum(_ellipsoid(x, y - 0.9, z, 1.0, 0.95, 1.0), 0.86 - y)
    return _two_parts(cap, _cylinder(x, y, z, 0.36, 0.0, 1.1, 0.05))


def _snowman(q: Vec) -> tuple[Tensor, Tensor]:
    x, y, z = q
    body = torch.minimum(_sphere(x, y - 0.58, z, 0.62), _sphere(x, y - 1.25, z, 0.46))
    body = torch.minimum(body, _sphere(x, y - 1.75, z, 0.34))
    hat = torch.minimum(_cylinder(x, y, z, 0.26, 1.95, 2.3, 0.03), _cylinder(x, y, z, 0.42, 1.93, 2.03, 0.03))
    return _two_parts(body, hat)


def _tree(q: Vec) -> tuple[Tensor, Tensor]:
    x, y, z = q
    leaves = torch.minimum(_cone(x, y, z, 0.9, 0.45, 1.5), _cone(x, y, z, 0.68, 1.05, 2.15))
    return _two_parts(leaves, _cylinder(x, y, z, 0.24, 0.0, 0.6))


def _duck(q: Vec) -> tuple[Tensor, Tensor]:
    x, y, z = q
    body = _ellipsoid(x + 0.1, y - 0.56, z, 0.95, 0.56, 0.66)
    body = torch.minimum(body, _ellipsoid(x + 0.95, y - 0.72, z, 0.3, 0.2, 0.3))
    body = torch.minimum(body, _sphere(x - 0.45, y - 1.43, z, 0.44))
    return _two_parts(body, _ellipsoid(x - 0.92, y - 1.38, z, 0.3, 0.13, 0.24))


def _mug(q: Vec) -> tuple[Tensor, Tensor]:
    x, y, z = q
    wall = torch.maximum(_cylinder(x, y, z, 0.75, 0.0, 1.65, 0.04), -_cylinder(x, y, z, 0.6, 0.2, 1.9))
    handle = torch.maximum(_torus(x - 0.72, y - 0.82, z, 0.44, 0.15), 0.7 - _length(x, z))
    return _two_parts(wall, handle)


# Deformations: pairs (rest, bend), each the other's inverse.


def _stretch_y(amount: float) -> tuple[Warp, Warp]:
    def rest(p: Vec, d: Tensor) -> Vec:
        return p[0], p[1] / (1 + amount * d), p[2]

    def bend(q: Vec, d: Tensor) -> Vec:
        return q[0], q[1] * (1 + amount * d), q[2]

    return rest, bend


def _lean(amount: float, power: int) -> tuple[Warp, Warp]:
    """Points at height y slide along x by amount·d·(y/2)^power."""

    def rest(p: Vec, d: Tensor) -> Vec:
        return p[0] - amount * d * (p[1] / 2) ** power, p[1], p[2]

    def bend(q: Vec, d: Tensor) -> Vec:
        return q[0] + amount * d * (q[1] / 2) ** power, q[1], q[2]

    return rest, bend


def _widen(low: float, high: float, amount: float) -> tuple[Warp, Warp]:
    """Everything above the height range [low, high] grows sideways by 1 + amount·d."""

    def scale(y: Tensor, d: Tensor) -> Tensor:
        return 1 + amount * d * _smoothstep(low, high, y)

    def rest(p: Vec, d: Tensor) -> Vec:
        s = scale(p[1], d)
        return p[0] / s, p[1], p[2] / s

    def bend(q: Vec, d: Tensor) -> Vec:
        s = scale(q[1], d)
        return q[0] * s, q[1], q[2] * s

    return rest, bend


def _turn(axis_x: float, low: float, high: float, amount: float) -> tuple[Warp, Warp]:
    """Everything above the height range [low, high] turns by amount·d radians round the upright axis at x = axis_x."""

    def turned(p: Vec, angle: Tensor) -> Vec:
        c, s = torch.cos(angle), torch.sin(angle)
        x = p[0] - axis_x
        return axis_x + c * x + s * p[2], p[1], c * p[2] - s * x

    def rest(p: Vec, d: Tensor) -> Vec:
        return turned(p, -amount * d * _smoothstep(low, high, p[1]))

    def bend(q: Vec, d: Tensor) -> Vec:
        return turned(q, amount * d * _smoothstep(low, high, q[1]))

    return rest, bend


def _pull(start: float, amount: float) -> tuple[Warp, Warp]:
    """Everything beyond x = start stretches along x by 1 + amount·d."""

    def rest(p: Vec, d: Tensor) -> Vec:
        beyond = (p[0] - start).clamp(min=0)
        return p[0] - beyond + beyond / (1 + amount * d), p[1], p[2]

    def bend(q: Vec, d: Tensor) -> Vec:
        beyond = (q[0] - start).clamp(min=0)
        return q[0] + beyond * amount * d, q[1], q[2]

    return rest, bend


def _shape(
    distance: Callable[[Vec], tuple[Tensor, Tensor]],
    warps: tuple[Warp, Warp],
    deformation: str,
    slack: float,
    radius: float,
    footprint: float,
) -> Shape:
    return Shape(distance, *warps, deformation, slack, radius, footprint)


SHAPES: dict[str, Shape] = {
    "ball": _shape(_ball, _stretch_y(0.25), "stretches upwards", 0.75, 1.55, 1.0),
    "cube": _shape(_cube, _lean(0.5, 1), "leans over", 0.75, 1.75, 1.25),
    "cylinder": _shape(_can, _stretch_y(0.3), "grows taller", 0.7, 1.65, 0.85),
    "cone": _shape(_pointed, _lean(0.6, 2), "bends its tip", 0.6, 1.6, 1.0),
    "ring": _shape(_ring, _stretch_y(0.25), "stretches upwards", 0.7, 1.55, 1.0),
    "mushroom": _shape(_mushroom, _widen(0.6, 0.9, 0.3), "widens its cap", 0.55, 1.65, 1.2),
    "snowman": _shape(_snowman, _lean(0.6, 2), "leans over", 0.6, 1.7, 0.8),
    "tree": _shape(_tree, _stretch_y(0.25), "grows taller", 0.7, 1.8, 0.95),
    "duck": _shape(_duck, _turn(0.45, 1.02, 1.22, 1.0), "turns its head", 0.55, 1.6, 1.15),
    "mug": _shape(_mug, _pull(0.72, 0.45), "stretches its handle", 0.65, 1.75, 1.2),
}
