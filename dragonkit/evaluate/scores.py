"""How near an edited image is to the exact answer: PSNR by region, and how far off the object was put.

Images are float32 tensors (3, H, W) in [0, 1]; masks are boolean (H, W).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from dragonkit.errors import InputError
from dragonkit.evaluate.matching import Shifts

UNCHANGED = 0.02  # source and answer "agree" at a pixel where no channel differs by more than this
PERFECT = 100.0  # dB given to a region without any error, so that averages and JSON stay finite
REACH = 48  # pixels searched for the object, in each direction


@dataclass(frozen=True)
class Regions:
    """The image cut into four parts that cover it without overlap.

    Attributes:
        target: where the object is in the exact answer.
        vacated: where the object was and no longer is.
        kept: outside both, where source and exact answer agree within ``UNCHANGED`` in every channel.
        shadow: outside both, where they do not: shadows, reflections, what the object hid or now hides.
    """

    target: Tensor
    vacated: Tensor
    kept: Tensor
    shadow: Tensor

    @classmethod
    def of(cls, before: Tensor, after: Tensor, mask: Tensor, target: Tensor) -> Regions:
        """Cut up the image of one edit.

        Args:
            before: the source image, (3, H, W).
            after: the exact answer, (3, H, W).
            mask: the object in the source, (H, W).
            target: the object in the exact answer, (H, W).

        Raises:
            InputError: the four are not of one size.
        """
        same_size(before, after, mask, target)
        vacated = mask & ~target
        outside = ~(mask | target)
        agree = (before - after).abs().amax(dim=0) <= UNCHANGED
        return cls(target=target, vacated=vacated, kept=outside & agree, shadow=outside & ~agree)

    def named(self) -> dict[str, Tensor]:
        """The four masks by name, in the order in which scores are reported."""
        return {"target": self.target, "vacated": self.vacated, "shadow": self.shadow, "kept": self.kept}


def psnr(image: Tensor, answer: Tensor, region: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in decibels, 10 log10(1 / MSE), over a region.

    Args:
        image: (3, H, W) in [0, 1].
        answer: (3, H, W) in [0, 1].
        region: (H, W), or None for the whole image.

    Returns:
        Decibels, at most ``PERFECT``; nan for an empty region.
    """
    same_size(image, answer)
    error = (image.double() - answer.double()).square().mean(dim=0)
    mse = (error if region is None else error[region]).mean().item()  # nan when nothing is selected
    return math.nan if math.isnan(mse) else min(PERFECT, -10 * math.log10(max(mse, 1e-300)))


def region_psnr(image: Tensor, answer: Tensor, regions: Regions) -> dict[str, float]:
    """PSNR of the whole image and of each region; nan where a region is empty."""
    named: dict[str, Tensor | None] = {"whole": None, **regions.named()}
    return {name: psnr(image, answer, region) for name, region in named.items()}


def average(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each key over scenes: every scene counts once, those with nan (an empty region) are left out."""
    return {key: _mean([row[key] for row in rows]) for key in (rows[0] if rows else ())}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan


def ciede2000(image: Tensor, answer: Tensor, region: Tensor) -> float:
    """Mean colour difference over a region, CIEDE2000 [Sharma et al., 2005].

    Args:
        image: (3, H, W) in [0, 1], sRGB.
        answer: (3, H, W) in [0, 1], sRGB.
        region: (H, W) bool.

    Returns:
        About 1 where the eye just sees a difference, 100 between black and white; nan for an empty region.
    """
    from skimage.color import deltaE_ciede2000, rgb2lab

    same_size(image, answer, region)
    if not region.any():
        return math.nan
    a, b = (rgb2lab(x[:, region].T.double().numpy()) for x in (image, answer))
    return float(deltaE_ciede2000(a, b).mean())


def placement_error(result: Tensor, answer: Tensor, target: Tensor, reach: int = REACH) -> float:
    """Distance in pixels between where the object is in ``result`` and where it should be; see `placement_shift`."""
    return math.hypot(*placement_shift(result, answer, target, reach))


def placement_shift(result: Tensor, answer: Tensor, target: Tensor, reach: int = REACH) -> tuple[float, float]:
    """Find the exact answer's object in the result by matching its pixels.

    The template is the object as it should look, A on its mask m. For every whole shift d within ``reach`` the mean
    squared difference over the part of the shifted mask that lies in the image,

        E(d) = sum_p m(p) |R(p + d) - A(p)|^2 / sum_p m(p) [p + d in the image],

    is computed by FFT; the least one wins, refined by a parabola through its neighbours in x and in y. Shifts that push
    more than half of the object out of the image do not count.

    Args:
        result: R, (3, H, W).
        answer: the exact answer, (3, H, W).
        target: m, the object's mask in the exact answer, (H, W).
        reach: largest shift searched in x and in y, in pixels.

    Returns:
        (dx, dy) in pixels: how far right and down of its right place the object was found.

    Raises:
        InputError: sizes differ, or the mask is empty.
    """
    same_size(result, answer, target)
    if not target.any():
        raise InputError("the truth's mask is empty, so there is no object to look for: give a mask of the object")
    shifts = Shifts.within(reach)
    dx, dy, _ = shifts.least(_mismatch(result.double(), answer.double(), target.double(), shifts))
    return dx, dy


def _mismatch(result: Tensor, answer: Tensor, mask: Tensor, shifts: Shifts) -> Tensor:
    """E(d) of `placement_shift`, (len(dy), len(dx)); inf where it does not count."""
    m, inside = shifts.transform(mask), shifts.transform(torch.ones_like(mask))
    area = shifts.sums(m, inside)
    squares = (
        shifts.sums(m, shifts.transform(result.square().sum(0)))
        - 2 * shifts.sums(shifts.transform(mask * answer), shifts.transform(result)).sum(0)
        + shifts.sums(shifts.transform(mask * answer.square().sum(0)), inside)
    )
    counts = area >= 0.5 * mask.sum()
    return torch.where(counts, squares / area.clamp(min=1), torch.inf)


def same_size(*tensors: Tensor) -> None:
    """Refuse images and masks of different sizes.

    Raises:
        InputError: their last two dimensions differ.
    """
    sizes = [tuple(t.shape[-2:]) for t in tensors]
    if len(set(sizes)) > 1:
        listed = ", ".join(f"{w}x{h}" for h, w in sizes)
        raise InputError(f"images and masks of sizes {listed} cannot be compared: give all of one size")
