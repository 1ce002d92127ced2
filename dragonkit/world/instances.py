"""Different objects of one shape, and which point of one is which point of the other, exactly.

A point's canonical coordinate says where it is on the shape, whatever the object's place, size, deformation or paint.
So the surface point of another object of that shape with the same coordinate is the point that corresponds to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dragonkit.checks import check_whole
from dragonkit.errors import InputError

from .camera import CAMERA
from .counterfactual import in_view, true_flow
from .render import Render, render
from .scene import SPLITS, Object, Scene, apart, caption, random_scene, stream

if TYPE_CHECKING:
    import random

    from torch import Tensor

_TRIES = 400
_ROUND = ("ball", "cylinder", "cone", "mushroom", "snowman", "tree")  # look the same from every side, unless painted


@dataclass(frozen=True, eq=False)
class Instances:
    """Two scenes, each with an object of the same shape, H = W = size; in both it is object 0.

    Attributes:
        seed: what they were drawn from.
        scenes: the scenes.
        prompts: their captions.
        renders: their pictures.
        masks: (H, W) bool, the object in each.
        flow: (2, H, W) float32, where (x, y) the point seen at each pixel of the first mask lies on the second object;
            nan off the mask, and where that point cannot be seen.
    """

    seed: int
    scenes: tuple[Scene, Scene]
    prompts: tuple[str, str]
    renders: tuple[Render, Render]
    masks: tuple[Tensor, Tensor]
    flow: Tensor


def instances(seed: int, split: str = "test", size: int = 256) -> Instances:
    """Draw two scenes with different objects of one shape.

    The two differ in colour, place, size, deformation, surroundings and mostly pattern. Both show about the same side:
    up to 0.5 radians apart, or none for a shape that is round, for no one could tell which of its sides corresponds.

    Args:
        seed: any whole number; each gives one pair.
        split: "train" or "test", disjoint random streams; nothing is tuned on "test".
        size: height and width in pixels.

    Raises:
        InputError: the split is unknown, or seed or size is no usable number.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    check_whole("seed", seed, least=None)
    rng = stream("instances", split, seed)
    for _ in range(_TRIES):
        first, second = random_scene(rng), random_scene(rng)
        other = _other(first.objects[0], second.objects[0], rng)
        second = replace(second, objects=(other, *second.objects[1:]))
        room = all(apart(other, neighbour) for neighbour in second.objects[1:])
        if other.colour == first.objects[0].colour or not (room and in_view(first, 0) and in_view(second, 0)):
            continue
        a, b = render(first, size), render(second, size)
        flow = true_flow(second, 0, a, b)
        return Instances(seed, (first, second), (caption(first), caption(second)), (a, b), (a.mask(0), b.mask(0)), flow)
    raise InputError(f"no pair of scenes found for seed {seed}: take another seed")


def _other(o: Object, drawn: Object, rng: random.Random) -> Object:
    """``drawn`` in the shape of ``o``, showing the camera about the same side."""
    turn = 0.0 if o.shape in _ROUND else rng.uniform(-0.5, 0.5)
    return replace(drawn, shape=o.shape, yaw=round(o.yaw + _bearing(drawn) - _bearing(o) + turn, 4))


def _bearing(o: Object) -> float:
    """The direction from the camera to an object, as a turn round the upright axis, in radians."""
    return math.atan2(o.x - CAMERA[0], o.z - CAMERA[2])
