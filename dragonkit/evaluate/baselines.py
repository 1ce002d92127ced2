"""What an edit has to beat: images made from the source without the method, or with its energy switched off.

A baseline takes the model, the case and the guidance, and returns an image (3, H, W) in [0, 1]. A new kind of edit adds
its line to ``BASELINES``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from dragonkit.editor import edit
from dragonkit.edits import Move
from dragonkit.guidance import Guidance
from dragonkit.models import Model
from dragonkit.regions import pick, positions
from dragonkit.world import Counterfactual

Baseline = Callable[[Model, Counterfactual, Guidance], Tensor]


def none(model: Model, case: Counterfactual, guidance: Guidance) -> Tensor:
    """The source image as it is."""
    return case.before.image


def copy(model: Model, case: Counterfactual, guidance: Guidance) -> Tensor:
    """The mask's pixels pasted at the target, and the hole filled by inpainting: no model at all."""
    return paste(case.before.image, cast(Move, case.edit))


def energy0(model: Model, case: Counterfactual, guidance: Guidance) -> Tensor:
    """The same run without its energy: inversion, copied noise and shared attention only."""
    unguided = guidance.replace(energy=0.0)
    return edit(model, case.before.image, case.edit, case.prompt, guidance=unguided, progress=False).tensor


RIGID: dict[str, Baseline] = {"none": none, "copy": copy, "energy0": energy0}
BASELINES: dict[str, dict[str, Baseline]] = {"move": RIGID, "resize": RIGID}


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
