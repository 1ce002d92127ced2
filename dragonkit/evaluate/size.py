"""How large an object came out: its size in the result over its size in the exact answer, found by matching pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from dragonkit.errors import InputError
from dragonkit.evaluate.matching import Shifts, vertex
from dragonkit.evaluate.scores import REACH, same_size
from dragonkit.regions import Placement, inside, pick, positions

OCTAVES = 1.0  # sizes from half to twice the right one
COARSE, FINE = 1 / 8, 1 / 128  # steps in octaves: 9% and 0.5%


def object_size(result: Tensor, answer: Tensor, target: Tensor, plate: Tensor, reach: int = REACH) -> float:
    """Find the exact answer's object in the result, at any size and place near the right ones.

    A template alone cannot tell a size: a plain object fits anywhere inside a larger one. So whole pictures are
    compared. For a size s and a shift d, let C be the exact answer with its object A taken out (B, where ``plate``
    shows what is behind it) and put back s times as large about its centre and moved by d,

        C_{s,d}(p + d) = B(p + d) + a_s(p) (A_s(p) - B(p + d)),

    a_s its mask, both interpolated bilinearly. The size at which C comes nearest to the result R is taken:

        E(s) = min_d sum_p |R - C_{s,d}|^2 - |R - B|^2,

    where the second summand only saves work: the sum then needs the object's pixels alone and is computed for all
    shifts at once by FFT. Sizes are searched from half to twice in steps of 1/8 octave, the steps halved down to
    1/128 about the best, and a parabola refines the last.

    Args:
        result: R, (3, H, W) in [0, 1].
        answer: the exact answer, (3, H, W) in [0, 1].
        target: the object in it, (H, W) bool.
        plate: the exact answer's scene without the object, (3, H, W) in [0, 1]; only what ``target`` hides is used.
        reach: largest shift searched in x and in y, in pixels.

    Returns:
        1 if the object is as large as it should be, 1.1 if it is a tenth larger in width and height.

    Raises:
        InputError: sizes differ, or the mask is empty.
    """
    same_size(result, answer, target, plate)
    if not target.any():
        raise InputError("the truth's mask is empty, so there is no object to look for: give a mask of the object")
    backdrop = torch.where(target, plate, answer).double()
    shifts = Shifts.within(reach)
    compared = _Compared(shifts, result.double(), backdrop)
    costs: dict[float, float] = {}

    def cost(octave: float) -> float:
        if octave not in costs:
            costs[octave] = compared.least(*_scaled(answer.double(), target, 2**octave))
        return costs[octave]

    count = round(OCTAVES / COARSE)
    best, step = min((k * COARSE for k in range(-count, count + 1)), key=cost), COARSE
    while step > FINE:
        step /= 2
        best = min((best - step, best, best + step), key=cost)
    offset, _ = vertex(torch.tensor([cost(best - step), cost(best), cost(best + step)]), 1)
    return 2 ** (best + step * offset)


def size_error(result: Tensor, answer: Tensor, target: Tensor, plate: Tensor, reach: int = REACH) -> float:
    """Relative error ``|s - 1|`` of the object's size; see :func:`object_size`."""
    return abs(object_size(result, answer, target, plate, reach) - 1)


def _scaled(answer: Tensor, target: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """An object and its mask, scaled about the mask's mean: (3, H, W), and (H, W) in [0, 1]."""
    height, width = target.shape
    y, x = target.nonzero().double().mean(0).tolist()
    back = Placement((x, y), (0.0, 0.0), scale).back(positions((height, width))).reshape(-1, 2)
    share = pick(target[None].double(), back).reshape(height, width) * inside(back, (height, width)).reshape(
        height, width
    )
    return pick(answer, back).reshape(answer.shape), share


class _Compared:
    """What `object_size` needs of the result and the backdrop, transformed once for all sizes."""

    def __init__(self, shifts: Shifts, result: Tensor, backdrop: Tensor) -> None:
        rest = result - backdrop
        self.shifts = shifts
        self.rest = shifts.transform(rest)
        self.shade = shifts.transform((rest * backdrop).sum(0))
        self.backdrop = shifts.transform(backdrop)
        self.light = shifts.transform(backdrop.square().sum(0))
        self.frame = shifts.transform(torch.ones_like(result[0]))

    def least(self, thing: Tensor, share: Tensor) -> float:
        """Min over d of ``sum |R - C|^2 - |R - B|^2``, as products of one weight and one image each."""
        t = self.shifts.transform
        pairs = (
            *zip(t(-2 * share * thing), self.rest, strict=True),
            (t(2 * share), self.shade),
            *zip(t(-2 * share.square() * thing), self.backdrop, strict=True),
            (t(share.square()), self.light),
            (t((share * thing).square().sum(0)), self.frame),
        )
        weights, images = (torch.stack(part) for part in zip(*pairs, strict=True))
        return self.shifts.least(self.shifts.sums(weights, images).sum(0))[2]
