"""Points and regions of a picture, as the cells of a grid that they are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dragonkit.errors import InputError
from dragonkit.regions import Frame, as_mask


def as_points(points: Any, frame: Frame) -> Tensor:
    """Check points (x, y) in a picture's pixels: float64 (N, 2), on the frame's device.

    Raises:
        InputError: they are no pairs of finite numbers, there are none, or one is off the picture.
    """
    try:
        found = torch.as_tensor(points, dtype=torch.float64, device=frame.device)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"points are {points!r}: give pairs (x, y) in pixels") from None
    if found.ndim != 2 or found.shape[1] != 2 or not len(found):
        raise InputError(f"points have the shape {tuple(found.shape)}: give at least one pair (x, y) in pixels")
    limit = torch.tensor([frame.width, frame.height], dtype=torch.float64, device=frame.device) - 0.5
    off = ~((found >= -0.5) & (found <= limit)).all(dim=1)  # also true for nan
    if off.any():
        x, y = found[off][0].tolist()
        raise InputError(f"point ({x:g}, {y:g}) is off the {frame.width}x{frame.height} image: move it in")
    return found


def shares(at: Any, frame: Frame, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The cells that a place is made of, and how much of each.

    Args:
        at: a point (x, y) in the picture's pixels, fractions allowed: the four cells round it, weighted bilinearly; or
            a mask (H, W) of a region, whose cells count alike.
        frame: of the picture.
        grid: (h, w).

    Returns:
        Row-major indices int64 (K,), and float32 (K,) that sum to 1.

    Raises:
        InputError: the point is off the picture, or the mask is not of its size or is empty.
    """
    if (at.ndim if isinstance(at, Tensor) else np.ndim(at)) != 1:
        index = frame.cells(frame.check(as_mask(at)), grid).flatten().nonzero()[:, 0]
        return index, torch.full((len(index),), 1 / len(index), device=index.device)
    h, w = grid
    x, y = frame.to_cells(as_points([list(at)], frame), grid)[0]
    x, y = x.clamp(0, w - 1), y.clamp(0, h - 1)
    left, top, fx, fy = x.floor(), y.floor(), x.frac(), y.frac()
    columns, rows = torch.stack([left, left + 1]).clamp(max=w - 1), torch.stack([top, top + 1]).clamp(max=h - 1)
    share = torch.outer(torch.stack([1 - fy, fy]), torch.stack([1 - fx, fx]))
    return (rows[:, None] * w + columns).flatten().long(), share.flatten().float()
