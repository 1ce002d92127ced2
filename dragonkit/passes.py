"""The generation branch's passes through the denoiser at a guided step: where F_gen comes from.

The energy needs the generation branch's features with a way back to z. They come either from a plain pass of their own
that ends after the last tapped layer (:func:`separate`), or from the pass that predicts the noise and is evaluated
anyway (:func:`joint`). Both let autograd see the layers up to the last tapped one only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dragonkit.models import Cond, Model
from dragonkit.taps import features, tap


@dataclass(frozen=True, eq=False)
class Watched:
    """A latent, and features that autograd has seen being computed from it.

    Args:
        z: (1, C, h, w), a leaf.
        features: F_gen, by decoder layer (1, C_k, h_k, w_k), in the model's dtype.
    """

    z: Tensor
    features: dict[int, Tensor]


def separate(model: Model, z: Tensor, t: int, cond: Cond, layers: Iterable[int]) -> Watched:
    """F_gen at (z, t) by a pass of its own, ended after the last tapped layer."""
    leaf = z.detach().requires_grad_()
    with torch.enable_grad():
        return Watched(leaf, tap(model.unet, layers, leaf, t, cond))


def joint(
    model: Model, z: Tensor, t: int, cond: Cond, empty: Cond, cfg: float, layers: Iterable[int]
) -> tuple[Tensor, Watched]:
    """The noise and F_gen by one pass, with whatever attention is rewired round it.

    Under classifier-free guidance ε_∅ + cfg (ε_c - ε_∅) the other half, ε_∅, is a pass of its own: in a batch with the
    first, autograd would go back through both.

    Args:
        model: the denoiser.
        z: (1, C, h, w), at timestep t.
        t: training timestep.
        cond: the prompt's embedding.
        empty: the empty prompt's; not read if ``cfg`` is 1.
        cfg: classifier-free guidance scale.
        layers: decoder layers to tap, from 1.

    Returns:
        ε, float32 (1, C, h, w), as :func:`dragonkit.generation.denoise` gives it, and the features.
    """
    layers = tuple(layers)
    eps_empty = model.predict(z, t, {k: empty[k].expand_as(cond[k]) for k in cond}) if cfg != 1 else None
    leaf = z.detach().requires_grad_()

    def enough(module: Any, args: Any, output: Any) -> None:
        torch.set_grad_enabled(False)  # until the block below ends: what follows is not differentiated

    with features(model.unet, layers) as found, torch.enable_grad():
        handle = model.unet.up_blocks[max(layers) - 1].register_forward_hook(enough)
        try:
            eps = model.predict(leaf, t, cond)
        finally:
            handle.remove()
    eps = eps.detach()
    return eps if eps_empty is None else eps_empty + cfg * (eps - eps_empty), Watched(leaf, dict(sorted(found.items())))
