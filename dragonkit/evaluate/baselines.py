"""What an edit has to beat: images made from the source without the method, or with its energy switched off.

A baseline takes the case, a function that carries out its edit under some guidance, and the guidance of the edit it is
compared with; it returns an image (3, H, W) in [0, 1]. A new kind of edit adds its line to ``BASELINES``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from dragonkit.edits import Drag, Move
from dragonkit.evaluate.runs import Run
from dragonkit.evaluate.warp import warp as warped
from dragonkit.guidance import Guidance
from dragonkit.regions import pick, positions
from dragonkit.world import Counterfactual

Baseline = Callable[[Counterfactual, Run, Guidance], Tensor]


def none(case: Counterfactual, run: Run, guidance: Guidance) -> Tensor:
    """The source image as it is."""
    return case.before.image


def energy0(case: Counterfactual, run: Run, guidance: Guidance) -> Tensor:
    """The same run without its energy: inversion, copied noise and shared attention only."""
    return run(guidance.replace(energy=0.0)).tensor


def copy(case: Counterfactual, run: Run, guidance: Guidance) -> Tensor:
    """The mask's pixels pasted at the target, and the hole filled by inpainting: no model at all."""
    return paste(case.before.image, cast(Move, case.edit))


def warp(case: Counterfactual, run: Run, guidance: Guidance) -> Tensor:
    """The editable region bent so that every handle arrives at its target, its border pinned: no model at all."""
    drag = cast(Drag, case.edit)
    return warped(case.before.image, drag.points, drag.mask)


def reinhard(case: Counterfactual, run: Run, guidance: Guidance) -> Tensor:
    """The object's colours given the mean and spread of the reference object's: no model at all."""
    assert case.reference is not None and case.reference_mask is not None
    return recoloured(case.before.image, case.mask, case.reference.image, case.reference_mask)


RIGID: dict[str, Baseline] = {"none": none, "copy": copy, "energy0": energy0}
BENT: dict[str, Baseline] = {"none": none, "warp": warp, "energy0": energy0}
BASELINES: dict[str, dict[str, Baseline]] = {
    "move": RIGID,
    "resize": RIGID,
    "rotate": BENT,
    "appearance": {"none": none, "reinhard": reinhard, "energy0": energy0},
    "drag": BENT,
}


def paste(image: Tensor, move: Move) -> Tensor:
    """Carry a mask's pixels to where a `Move` puts them, bilinearly, over the source without the object.

    Args:
        image: (3, H, W) in [0, 1].
        move: of this image.

    Returns:
        (3, H, W): the object at its target; its old place filled by biharmonic inpainting [Damelin and Hoang, 2018].
    """
    from skimage.restoration import inpaint_biharmonic

    pixels, mask = image.permute(1, 2, 0).double().numpy(), move.mask.numpy()
    filled = torch.from_numpy(inpaint_biharmonic(pixels, mask, channel_axis=-1)).permute(2, 0, 1)
    came_from = move.placement.back(positions((mask.shape[0], mask.shape[1]))).reshape(-1, 2)
    moved = pick(image, came_from).reshape(image.shape)
    return torch.where(move.target(), moved, filled.to(image.dtype)).clamp(0, 1)


def recoloured(image: Tensor, mask: Tensor, reference: Tensor, reference_mask: Tensor) -> Tensor:
    """Colour transfer [Reinhard et al., 2001] between two objects: each channel's mean and spread, in CIELAB.

    Args:
        image: (3, H, W) in [0, 1].
        mask: the object to recolour, (H, W) bool.
        reference: (3, H', W') in [0, 1].
        reference_mask: the object whose colours are wanted, (H', W') bool.

    Returns:
        (3, H, W) in [0, 1], bit for bit the image outside the mask.
    """
    import warnings

    from skimage.color import lab2rgb, rgb2lab

    own = torch.from_numpy(rgb2lab(image[:, mask].T.double().numpy()))
    wanted = torch.from_numpy(rgb2lab(reference[:, reference_mask].T.double().numpy()))
    spread = wanted.std(0, correction=0) / own.std(0, correction=0).clamp(min=1e-6)
    mapped = (own - own.mean(0)) * spread + wanted.mean(0)
    result = image.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # colours that a screen cannot show are clipped
        result[:, mask] = torch.from_numpy(lab2rgb(mapped.numpy())).T.to(image.dtype).clamp(0, 1)
    return result
