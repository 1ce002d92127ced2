"""Cross-branch self-attention (Eq. 11): which tokens the generation branch looks at."""

from __future__ import annotations

import torch
from torch import Tensor

from dragonkit.edits.base import Edit, Regions
from dragonkit.guidance import Guidance
from dragonkit.inversion import Path
from dragonkit.models import Model
from dragonkit.passes import Looking
from dragonkit.taps import Mixing, repeated


def replaced(own: Tensor, gud: Tensor, refs: tuple[Tensor, ...]) -> Tensor:
    """The guidance branch's tokens in place of one's own."""
    return gud


def joined(own: Tensor, gud: Tensor, refs: tuple[Tensor, ...]) -> Tensor:
    """One's own tokens and the guidance branch's."""
    return torch.cat([own, repeated(gud, len(own))], dim=1)


def mixing(edit: Edit, m: Regions, w: Guidance) -> Mixing:
    """Which tokens rewired self-attention takes its keys and values from: own, the guidance branch's, references'."""
    if w.attention_mode == "mix":
        return lambda own, gud, refs: edit.context(own, gud, refs, m)
    return joined if w.attention_mode == "concat" else replaced


def looking(model: Model, path: Path, mix: Mixing, i: int, w: Guidance) -> Looking:
    """What decoder self-attention looks at in step i (Eq. 11)."""
    refs = path.references if w.attention_mode == "mix" else ()
    return Looking(mix, path.tokens_at(model, i), tuple(ref.tokens_at(model, i) for ref in refs))
