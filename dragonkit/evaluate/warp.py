"""Dragging by warping pixels: the smoothest bend of the picture that takes every handle to its target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dragonkit.regions import pick
from dragonkit.spline import came_from


def warp(image: Tensor, points: Sequence[Sequence[float]], mask: Tensor) -> Tensor:
    """Bend what a mask marks so that each start point arrives at its target, the mask's border staying where it is.

    Args:
        image: (3, H, W) in [0, 1].
        points: (x0, y0, x1, y1) each, pixels: from there to there.
        mask: what may move, (H, W) bool.

    Returns:
        (3, H, W), bit for bit the image outside the mask.
    """
    y, x = mask.nonzero(as_tuple=True)
    result = image.clone()
    result[:, mask] = pick(image, came_from(torch.stack([x, y], 1), points, mask))
    return result
