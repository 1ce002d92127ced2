"""Exercises of notebook 00: where to, how good, how much work."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

import dragonkit as dk
from dragonkit.course.exercise import Wrong, called, exercise
from dragonkit.edits import Move
from dragonkit.edits.move import centre
from dragonkit.errors import InputError
from dragonkit.evaluate import paste, placement_error, psnr
from dragonkit.regions import as_image

if TYPE_CHECKING:
    from dragonkit.models import Model
    from dragonkit.spec import Task


def pair(by: Any) -> tuple[float, float]:
    """A displacement as two floats.

    Raises:
        Wrong: it is no pair of numbers.
    """
    try:
        dx, dy = (float(value) for value in by)
    except (TypeError, ValueError):
        raise Wrong(f"a displacement is a pair of numbers such as (10, -5); this is {by!r}") from None
    return dx, dy


def the_move(task: Task) -> Move:
    """The edit of a task, which is a move.

    Raises:
        InputError: it is another edit.
    """
    if not isinstance(task.edit, Move):
        raise InputError(f"the task's edit is a {type(task.edit).__name__}: give the notebook's own, a Move")
    return task.edit


@exercise
def check_to_the_middle(by: Any, task: Task) -> str:
    """Give the displacement (dx, dy) that brings the centre of the object to the centre of the picture."""
    dx, dy = pair(by)
    mask = the_move(task).mask
    height, width = mask.shape
    middle = ((width - 1) / 2, (height - 1) / 2)
    x, y = centre(Move(mask, by=(dx, dy)).target())
    off = (x - middle[0], y - middle[1])
    if max(map(abs, off)) > 1:
        sides = (
            f"{abs(off[0]):.0f} px to the {'right' if off[0] > 0 else 'left'} of",
            f"{abs(off[1]):.0f} px {'below' if off[1] > 0 else 'above'}",
        )
        raise Wrong(f"the object would stand {sides[0]} and {sides[1]} the middle; x grows to the right, y downwards")
    return "it would stand in the middle"


@exercise
def check_psnr(mine: Callable[..., Any]) -> str:
    """Write the PSNR, in decibels, of an image against an answer: 10 log10(1 / MSE)."""
    generator = torch.Generator().manual_seed(3)
    for size, noise in ((16, 0.3), (40, 0.01)):
        answer = torch.rand(3, size, size, generator=generator)
        image = (answer + noise * torch.randn(3, size, size, generator=generator)).clamp(0, 1)
        found, right = float(called(mine, image, answer)), psnr(image, answer)
        if abs(found + right) < 0.01:
            raise Wrong("the sign: a smaller error must give a larger PSNR")
        if abs(found - right) > 0.01:
            hint = "take the mean of the *squared* differences over all values, and log10 of one over it, times 10"
            raise Wrong(f"for two test images it should be {right:.2f} dB and is {found:.2f}: {hint}")
    return "that is the PSNR"


@exercise
def check_half_way(by: Any, model: Model, task: Task) -> str:
    """Give the displacement that moves the object half as far as the edit above."""
    whole = the_move(task)
    mine, half = Move(whole.mask, by=pair(by)), Move(whole.mask, by=(whole.by[0] / 2, whole.by[1] / 2))
    guidance = dk.Guidance.preset("fast", "move")
    edited = dk.edit(model, task.image, mine, task.prompt, guidance=guidance, progress=False)
    off = placement_error(edited.tensor, paste(as_image(task.image), half), half.target())
    if off > 6:
        raise Wrong(f"your edit ran, and the object is found about {off:.0f} px from half way: halve both components")
    return "your edit ran, and the object is found half way"


@exercise
def check_evaluations(count: Callable[..., Any], model: Model, task: Task) -> str:
    """Write how many evaluations an edit of some steps needs if a share of them is guided."""
    few = dk.Guidance.preset("mini", "move").replace(steps=4, guided=(0.0, 0.5))
    move = Move(the_move(task).mask, by=(8, 0))
    real = dk.edit(model, task.image, move, task.prompt, guidance=few, progress=False).nfe
    for steps, share, right in ((4, 0.5, real), (50, 0.6, 130), (24, 0.0, 48)):
        found = called(count, steps, share)
        if abs(found - right) > 0.5:
            hint = "count inversion, generation, and the guided steps once more"
            raise Wrong(f"{steps} steps, {share:.0%} of them guided, take {right} evaluations, not {found:g}: {hint}")
    return f"a real edit of 4 steps, 2 of them guided, took {real}"
