"""Exercises of notebook 07: from pixels to cells, discs, what remains of a way, what to hold, and pulling pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dragonkit.course.exercise import Wrong, called, exercise
from dragonkit.regions import pick, positions

if TYPE_CHECKING:
    from dragonkit.world import Counterfactual

STILL = 4.0
"""Pixels of 256 that a point may move and still be one to hold."""


@exercise
def check_cells(mine: Callable[..., Any]) -> str:
    """Write where pixel positions xy (N, 2) lie on a grid whose cells are s pixels wide."""
    generator = torch.Generator().manual_seed(1)
    for s in (4, 8, 6):
        cells = torch.randint(0, 30, (5, 2), generator=generator).double()
        offsets = torch.rand(5, 2, generator=generator, dtype=torch.float64) - 0.5
        # A cell's position is the mean of its pixels' positions; s pixels farther is one cell farther.
        middle = s * cells + torch.arange(s, dtype=torch.float64).mean()
        found = torch.as_tensor(called(mine, middle + s * offsets, s), dtype=torch.float64)
        if found.shape != (5, 2):
            raise Wrong(f"the answer for 5 positions should be 5 positions, (5, 2), and is {tuple(found.shape)}")
        if torch.allclose(found, (middle + s * offsets) / s):
            hint = "a cell's centre lies between its pixels: half a pixel has to be added first, half a cell taken off"
            raise Wrong(
                f"the scale is right, but the middle of cell 0 comes out as {(s - 1) / 2 / s:.3f}, not 0: {hint}"
            )
        if torch.allclose(found, found.round()) or torch.allclose(found, found.floor()):
            raise Wrong("fractions are lost: a point may lie between cells, so do not round")
        if not torch.allclose(found, cells + offsets, atol=1e-4):
            off = (found - cells - offsets).abs().max().item()
            hint = "x lies x + 1/2 pixels from the edge; how many cells are that?"
            raise Wrong(f"with cells of {s} px you are up to {off:.2f} cells off: {hint}")
    return "pixels and cells have their centres where they should be"


@exercise
def check_disc(mine: Callable[..., Any]) -> str:
    """Write the disc round a position (u, v): the 3 x 3 positions one cell apart of which it is the middle, (9, 2)."""
    for u, v in ((20.0, 30.0), (13.25, 8.6)):
        found = torch.as_tensor(called(mine, u, v), dtype=torch.float64)
        if found.shape != (9, 2):
            raise Wrong(f"nine positions (u, v) make (9, 2); this is {tuple(found.shape)}")
        right = {(u + i, v + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
        middle = found.mean(0).tolist()
        if not math.isclose(middle[0], u, abs_tol=1e-4) or not math.isclose(middle[1], v, abs_tol=1e-4):
            swapped = math.isclose(middle[0], v, abs_tol=1e-4)
            hint = "u, across, comes first" if swapped else "the centre keeps its fraction and lies in the middle"
            raise Wrong(f"the middle of your positions is ({middle[0]:g}, {middle[1]:g}), not ({u:g}, {v:g}): {hint}")
        far = [min(math.dist(p, q) for q in right) for p in found.tolist()]
        if max(far) > 1e-4 or len({tuple(round(x, 3) for x in p) for p in found.tolist()}) != 9:
            raise Wrong("the middle is right, but not all nine: steps of -1, 0 and 1 cell in both directions")
    return "nine places, between cells if need be"


@exercise
def check_remaining(mine: Callable[..., Any]) -> str:
    """Write the share of a point's way that remains, from where it is found, its start and its true end."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(4):
        start, end, aside = (tuple(v) for v in (200 * torch.rand(3, 2, generator=generator)).tolist())
        half = tuple((a + b) / 2 for a, b in zip(start, end, strict=True))
        past = tuple(2 * b - a for a, b in zip(start, end, strict=True))
        for found, right, name in (
            (start, 1.0, "in the source"),
            (end, 0.0, "in the exact answer"),
            (half, 0.5, "half-way"),
            (past, 1.0, "as far past its end as it had to go"),
            (aside, math.dist(aside, end) / math.dist(start, end), "somewhere else"),
        ):
            share = float(called(mine, found, start, end))
            if abs(share - right) > 1e-4:
                raise Wrong(
                    f"a point {name} has {right:.2f} of its way left, not {share:.2f}: measure from its true end"
                )
    return "1 in the source, 0 in the exact answer, and whatever goes astray counts"


@exercise
def check_held(points: Sequence[Any], case: Counterfactual) -> str:
    """Name two places (x, y) on the object that the edit should hold: they hardly move in the exact answer."""
    try:
        places = [(float(p[0]), float(p[1])) for p in points]
    except (TypeError, ValueError, IndexError):
        raise Wrong(f"give places as [(x, y), (x, y)]; this is {points!r}") from None
    if len(places) < 2:
        raise Wrong(f"{len(places)} given: name two places")
    height, width = case.mask.shape
    handles = [pair[:2] for pair in case.points()]
    for x, y in places:
        column, row = round(x), round(y)
        if not (0 <= row < height and 0 <= column < width and case.mask[row, column]):
            raise Wrong(f"({x:g}, {y:g}) is not on the object")
        way = case.flow[:, row, column] - torch.tensor([x, y])
        if not way.isfinite().all():
            raise Wrong(f"({x:g}, {y:g}) is hidden in the exact answer: take a place that stays in view")
        if way.norm() > STILL * width / 256:
            raise Wrong(f"what is at ({x:g}, {y:g}) moves by {way.norm():.0f} px in the exact answer: hold what stays")
        if min(math.dist((x, y), handle) for handle in handles) < 0.1 * width:
            raise Wrong(f"({x:g}, {y:g}) is so near a handle that both pull at the same cells: go farther away")
    if math.dist(*places[:2]) < 0.05 * width:
        raise Wrong("the two are almost one place: spread them")
    return "these stay where they are, away from what is dragged"


@exercise
def check_pull(mine: Callable[..., Any]) -> str:
    """Write the warp: give every pixel of the result the colour of the place that its content came from."""
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(3, 12, 20, generator=generator)
    here = positions((12, 20))
    anywhere = torch.rand(12, 20, 2, generator=generator, dtype=torch.float64) * torch.tensor([19, 11])
    for name, back in (
        ("everything came from 3 px to the left", here - torch.tensor([3.0, 0.0])),
        ("everything came from 2 px above", here - torch.tensor([0.0, 2.0])),
        ("the content came from all over", anywhere),
    ):
        inner = (back >= 0).all(-1) & (back[..., 0] <= 19) & (back[..., 1] <= 11)
        found = called(mine, image, back)
        if not isinstance(found, Tensor) or found.shape != image.shape:
            raise Wrong(
                f"the result is an image like the first, (3, 12, 20), and not {getattr(found, 'shape', found)!r}"
            )
        right = pick(image, back.reshape(-1, 2)).reshape(image.shape)
        if not torch.allclose(found[:, inner].float(), right[:, inner].float(), atol=1e-3):
            nearest = pick(image, back.round().reshape(-1, 2)).reshape(image.shape)
            if torch.allclose(found[:, inner].float(), nearest[:, inner].float(), atol=1e-3):
                raise Wrong("places between pixels: interpolate (dragonkit.regions.pick does) instead of rounding")
            raise Wrong(f"where {name} the result is wrong: back[y, x] is a place (x, y) in the image to look up")
    return "no holes: every pixel asks for its own colour"
