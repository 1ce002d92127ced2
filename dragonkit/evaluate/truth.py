"""What the renderer knows of one edit, and the scores of an image against it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from dragonkit.evaluate.scores import Regions, ciede2000, placement_error, region_psnr
from dragonkit.evaluate.size import size_error
from dragonkit.evaluate.travel import Way, without_object
from dragonkit.world import Counterfactual

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Truth:
    """One edit's exact answer and what else is computed once to score images against it.

    Attributes:
        case: the edit.
    """

    case: Counterfactual

    @cached_property
    def regions(self) -> Regions:
        """The parts of the picture that PSNR is given for."""
        return Regions.of(self.case.before.image, self.case.after.image, self.case.mask, self.case.target)

    @cached_property
    def plate(self) -> Tensor:
        """The scene without the edited object, (3, H, W)."""
        return without_object(self.case.scene_after, self.case.index, self.case.mask.shape[0])

    @cached_property
    def way(self) -> Way:
        """Where the handles go, for edits by points."""
        return Way.of(self.case, self.plate, self.case.points())

    def scores(self, image: Tensor) -> Row:
        """PSNR by region, and what is measured for this kind of edit, see ``MEASURES``.

        Args:
            image: (3, H, W) in [0, 1].
        """
        return {"psnr": region_psnr(image, self.case.after.image, self.regions), **self.measures(image)}

    def measures(self, image: Tensor) -> Row:
        """What is measured for this kind of edit alone."""
        return {m.name: m.of(self, image) for m in MEASURES[self.case.kind]}


@dataclass(frozen=True)
class Measure:
    """A number, or several, that say how well one kind of edit did; less is better, 0 is the exact answer.

    Attributes:
        name: its key in the JSON file.
        of: an image's value: a number, or a list with one for each point.
        summary: what is reported of all scenes' values, put in one list.
        text: format of that for people.
    """

    name: str
    of: Callable[[Truth, Tensor], Any]
    summary: Callable[[Sequence[float]], Row]
    text: str

    def worst(self, value: Any) -> float:
        """One number to rank scenes by: the value itself, or its mean over points; nan if there is none."""
        values = value if isinstance(value, list) else [value]
        return fmean(values) if values else math.nan

    def over(self, values: Sequence[Any]) -> Row:
        """The summary over scenes."""
        together = [x for v in values for x in (v if isinstance(v, list) else [v])]
        return self.summary([x for x in together if not math.isnan(x)])


def _spread(values: Sequence[float]) -> Row:
    x = torch.tensor(values, dtype=torch.float64)
    return (
        {"median": x.quantile(0.5).item(), "p90": x.quantile(0.9).item()}
        if len(x)
        else {"median": math.nan, "p90": math.nan}
    )


def _centre(values: Sequence[float]) -> Row:
    return {"mean": fmean(values), "median": median(values)} if values else {"mean": math.nan, "median": math.nan}


def _points(values: Sequence[float]) -> Row:
    return {**_centre(values), "points": len(values)}


PLACEMENT = Measure(
    "placement_px",
    lambda t, image: placement_error(image, t.case.after.image, t.case.target),
    _spread,
    "placement {median:.2f} px median, {p90:.2f} px p90",
)
SIZE = Measure(
    "size_error",
    lambda t, image: size_error(image, t.case.after.image, t.case.target, t.plate),
    _spread,
    "size error {median:.1%} median, {p90:.1%} p90",
)
COLOUR = Measure(
    "ciede2000",
    lambda t, image: ciede2000(image, t.case.after.image, t.case.target),
    _centre,
    "CIEDE2000 {mean:.1f} mean, {median:.1f} median",
)
REMAINING = Measure(
    "remaining",
    lambda t, image: t.way.remaining(image),
    _points,
    "remaining way {median:.1%} median, {mean:.1%} mean of {points} points",
)
MEASURES: dict[str, tuple[Measure, ...]] = {
    "move": (PLACEMENT, SIZE),
    "resize": (SIZE, PLACEMENT),
    "rotate": (REMAINING,),
    "appearance": (COLOUR,),
    "drag": (REMAINING,),
}
"""What is measured for each kind of edit; failures are ranked by the first."""
