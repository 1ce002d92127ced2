"""Layers that a fused block may compute from their weights, without calling them."""

from __future__ import annotations

from torch import nn


def plain(*layers: nn.Module | None) -> bool:
    """Whether these are PyTorch's own layers and nobody wants them to be called.

    An adapter of a LoRA takes a layer's place and shows its weights as its own; hooks belong to whoever listens.
    """
    return all(
        type(layer) in (nn.Linear, nn.Conv2d, nn.LayerNorm)
        and not (layer._forward_hooks or layer._forward_pre_hooks or hasattr(layer, "_hf_hook"))
        for layer in layers
        if layer is not None
    )
