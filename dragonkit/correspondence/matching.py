"""Best matches of points in another picture, to fractions of a cell, and whether they agree both ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dragonkit.correspondence.extract import FeatureMap
from dragonkit.correspondence.likeness import likeness
from dragonkit.correspondence.place import as_points
from dragonkit.errors import InputError
from dragonkit.regions import Frame, inside, pick


@dataclass(frozen=True, eq=False)
class Matches:
    """Points of one picture and what they match in another; all positions (x, y) in pixels, float64 (N, 2).

    Args:
        points: in the source.
        found: their best matches in the target.
        score: S of Eq. 4 at the best cell, float32 (N,) in [0, 1].
        back: the best matches' own best matches, in the source again.
        mutual: bool (N,), whether these return to the point, give or take one cell of the source's grid.
    """

    points: Tensor
    found: Tensor
    score: Tensor
    back: Tensor
    mutual: Tensor

    def __len__(self) -> int:
        return len(self.points)


def match(source: FeatureMap, target: FeatureMap, points: Any, *, subpixel: bool = True) -> Matches:
    """Find for each point of one picture the most similar place of another.

    The best cell is the argmax of Eq. 4 over the whole target. Sub-pixel positions come from the paraboloid at the
    3 x 3 similarities round it, its axes oblique to the grid where need be: near its peak a cosine is quadratic to
    leading order, so nothing is to be chosen, while a soft-argmax has a temperature, and is drawn to the middle of its
    window: on smooth features it errs about twice as much.

    Args:
        source: features of the picture with the points.
        target: features of the other one (or the same), at the same layer and timestep.
        points: (N, 2) in the source's pixels, fractions allowed.
        subpixel: whether to refine, or to stay at the centres of cells.

    Returns:
        One match a point, in order.

    Raises:
        InputError: a point is off the picture, or the features are not of one layer.
    """
    _same_channels(source, target)
    xy = as_points(points, source.frame)
    found, score = _best(_vectors(source, xy), target, subpixel)
    back, _ = _best(_vectors(target, found), source, subpixel)
    here, there = (source.frame.to_cells(p, source.shape) for p in (xy, back))
    return Matches(xy, found, score, back, ((here - there).abs() <= 1).all(dim=1))


def mutual_matches(source: FeatureMap, target: FeatureMap) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of cells that are each other's nearest neighbours.

    Args:
        source: features of one picture.
        target: of the other; exchanged, the two give the same pairs.

    Returns:
        Centres of the cells in the source and in the target, both float64 (N, 2) in pixels, and their similarities
        (N,), by falling similarity.

    Raises:
        InputError: the features are not of one layer.
    """
    _same_channels(source, target)
    ours, theirs = _on_picture(source), _on_picture(target)
    s = likeness(source.values.flatten(1)[:, ours], target).flatten(1)[:, theirs]
    best, back = s.argmax(dim=1), s.argmax(dim=0)
    i = (back[best] == torch.arange(len(s), device=s.device)).nonzero()[:, 0]
    i = i[s[i, best[i]].argsort(descending=True, stable=True)]
    a, b = source.frame.centres(source.shape).view(-1, 2)[ours], target.frame.centres(target.shape).view(-1, 2)[theirs]
    return a[i], b[best[i]], s[i, best[i]]


def _same_channels(source: FeatureMap, target: FeatureMap) -> None:
    if source.values.shape[0] != target.values.shape[0]:
        a, b = source.values.shape[0], target.values.shape[0]
        raise InputError(
            f"features have {a} and {b} channels (layers {source.layer} and {target.layer}): take one layer"
        )


def _on_picture(features: FeatureMap) -> Tensor:
    """Flat indices of the cells whose centres lie on the picture, not on what pads it."""
    pixels = features.frame.centres(features.shape)
    return inside(pixels, (features.frame.height, features.frame.width)).flatten().nonzero()[:, 0]


def _vectors(features: FeatureMap, xy: Tensor) -> Tensor:
    """Feature vectors at points (N, 2) in pixels, bilinearly: (C, N)."""
    return pick(features.values, features.frame.to_cells(xy, features.shape))


def _best(queries: Tensor, features: FeatureMap, subpixel: bool) -> tuple[Tensor, Tensor]:
    """The most similar place to each feature vector (C, N): pixels (N, 2), and S there (N,)."""
    s, cells = likeness(queries, features), _on_picture(features)
    score, index = s.flatten(1)[:, cells].max(dim=1)
    index, width = cells[index], features.shape[1]
    row, column = index // width, index % width
    position = torch.stack([column, row], dim=-1).double()
    if subpixel:
        position = position + _vertex(s, row, column)
    return _clamped(features.frame.to_pixels(position, features.shape), features.frame), score


def _vertex(s: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Where the paraboloid at a peak is highest, relative to it: -H⁻¹ g, by central differences.

    Along an axis that has no peak (at the border, where there is nothing on one side, or on a plateau) the position
    stays.

    Args:
        s: (N, h, w).
        row: (N,).
        column: (N,).

    Returns:
        Float64 (N, 2), (x, y) in cells, each within 1/2.
    """
    n, h, w = s.shape
    step = torch.arange(-1, 2, device=s.device)
    rows = (row[:, None] + step).clamp(0, h - 1)[:, :, None]
    columns = (column[:, None] + step).clamp(0, w - 1)[:, None, :]
    f = s[torch.arange(n, device=s.device)[:, None, None], rows, columns].double()
    gx, hxx = (f[:, 1, 2] - f[:, 1, 0]) / 2, f[:, 1, 0] - 2 * f[:, 1, 1] + f[:, 1, 2]
    gy, hyy = (f[:, 2, 1] - f[:, 0, 1]) / 2, f[:, 0, 1] - 2 * f[:, 1, 1] + f[:, 2, 1]
    hxy = (f[:, 0, 0] + f[:, 2, 2] - f[:, 0, 2] - f[:, 2, 0]) / 4
    free_x, free_y = (column > 0) & (column < w - 1) & (hxx < 0), (row > 0) & (row < h - 1) & (hyy < 0)
    det = hxx * hyy - hxy**2
    joint = free_x & free_y & (det > 0)
    det, hxx, hyy = (torch.where(ok, v, -1) for ok, v in ((joint, det), (free_x, hxx), (free_y, hyy)))
    x = torch.where(joint, (hxy * gy - hyy * gx) / det, -gx / hxx)
    y = torch.where(joint, (hxy * gx - hxx * gy) / det, -gy / hyy)
    return torch.stack([torch.where(free_x, x, 0), torch.where(free_y, y, 0)], dim=-1).clamp(-0.5, 0.5)


def _clamped(xy: Tensor, frame: Frame) -> Tensor:
    """Pixels, brought onto the picture if a cell's outer half reaches over its border."""
    return torch.stack([xy[:, 0].clamp(-0.5, frame.width - 0.5), xy[:, 1].clamp(-0.5, frame.height - 0.5)], dim=-1)
