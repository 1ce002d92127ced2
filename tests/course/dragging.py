"""What is tried on the exercises of notebook 07."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dragonkit.regions import pick
from dragonkit.world import counterfactual
from tests.course.answers import Answers


def disc(u: float, v: float) -> Tensor:
    return torch.tensor([(u + i, v + j) for j in (-1, 0, 1) for i in (-1, 0, 1)])


def pull(image: Tensor, back: Tensor) -> Tensor:
    return pick(image, back.reshape(-1, 2)).reshape(image.shape)


def push(image: Tensor, back: Tensor) -> Tensor:
    """The content of every pixel goes to where it should have come from."""
    result = torch.zeros_like(image)
    x, y = back.round().long().unbind(-1)
    result[:, y.clamp(0, image.shape[1] - 1), x.clamp(0, image.shape[2] - 1)] = image
    return result


def answers() -> dict[str, Answers]:
    """By the name of the exercise."""
    case = counterfactual("drag", 10**9 + 6, "train")
    low = [(50, 164), (65, 161)]
    handle: Any = case.points()[0][:2]
    return {
        "check_cells": Answers(
            right=[lambda xy, s: (xy + 0.5) / s - 0.5],
            wrong=[
                lambda xy, s: xy / s,
                lambda xy, s: (xy + 0.5) / s,
                lambda xy, s: xy * s,
                lambda xy, s: ((xy + 0.5) / s - 0.5).round(),
                lambda xy, s: ((xy + 0.5) / s - 0.5)[:, 0],
            ],
        ),
        "check_disc": Answers(
            right=[disc, lambda u, v: disc(u, v).flip(0)],
            wrong=[
                lambda u, v: disc(v, u),
                lambda u, v: disc(round(u), round(v)),
                lambda u, v: disc(u + 1, v + 1),
                lambda u, v: disc(u, v)[::2],
                lambda u, v: torch.tensor([u, v]) + 2 * (disc(u, v) - torch.tensor([u, v])),
            ],
        ),
        "check_remaining": Answers(
            right=[lambda found, start, end: math.dist(found, end) / math.dist(start, end)],
            wrong=[
                lambda found, start, end: math.dist(found, start) / math.dist(start, end),
                lambda found, start, end: 1 - math.dist(found, start) / math.dist(start, end),
                lambda found, start, end: math.dist(found, end),
            ],
        ),
        "check_held": Answers(
            right=[low, [(x, y, x, y) for x, y in low]],
            wrong=[low[:1], [low[0], low[0]], [low[0], (5, 5)], [low[0], handle], [low[0], (91, 151)], 3],
            context={"case": case},
        ),
        "check_pull": Answers(
            right=[pull],
            wrong=[
                push,
                lambda image, back: pull(image, back.round()),
                lambda image, back: pull(image, back.flip(-1)),
                1,
            ],
        ),
    }
