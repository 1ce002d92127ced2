"""Cross-branch self-attention (Eq. 11): which tokens the generation branch looks at."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from dragonkit.edits.base import Edit, Regions
from dragonkit.guidance import Guidance
from dragonkit.inversion import Path
from dragonkit.models import Model
from dragonkit.taps import Ragged, repeated, rewire
from dragonkit.trace import Mixing


def mixing(edit: Edit, m: Regions, w: Guidance) -> Mixing:
    """Which tokens rewired self-attention takes its keys and values from: own, the guidance branch's, references'."""

    def mix(own: Tensor, gud: Tensor, refs: tuple[Tensor, ...]) -> Tensor | Ragged:
        if w.attention_mode == "replace":
            return gud
        if w.attention_mode == "concat":
            return torch.cat([own, repeated(gud, len(own))], dim=1)
        return edit.context(own, gud, refs, m)

    return mix


def attention(model: Model, path: Path, mix: Mixing, i: int, w: Guidance) -> AbstractContextManager[None]:
    """Decoder self-attention that looks at the guidance branch at step i (Eq. 11)."""
    tokens = path.tokens_at(model, i)
    others = [ref.tokens_at(model, i) for ref in path.references if w.attention_mode == "mix"]
    return rewire(model.unet, lambda name, own: mix(own, tokens[name], tuple(other[name] for other in others)))
