"""Attention whose projections of one input are one matrix product."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

from dragonkit.fused.plain import plain
from dragonkit.fused.shared import Shared
from dragonkit.fused.stacked import joined
from dragonkit.fused.switch import is_on


class Attend(Attention):
    """Attention of rows: queries, keys and values by as few matrix products as the weights' places allow."""

    words: Shared | None = None
    """With it all cross-attention of a network projects its words."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """As diffusers' own."""
        x, context = hidden_states, encoder_hidden_states
        if not is_on() or attention_mask is not None or x.ndim != 3 or not self._plain():
            return super().forward(x, context, attention_mask, **kwargs)
        if context is None:
            q, k, v = _projected(x, self.to_q, self.to_k, self.to_v)
        else:
            made = self.words(context, self.to_k.weight, self.to_v.weight) if self.words else None
            (q,), (k, v) = _projected(x, self.to_q), made or _projected(context, self.to_k, self.to_v)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        return self.to_out[0](_attended(q, k, v).transpose(1, 2).flatten(2))

    def _plain(self) -> bool:
        """Whether diffusers' own would do the same, and its projections need not be called."""
        return (
            type(self.processor) is AttnProcessor2_0
            and not (self.group_norm or self.spatial_norm or self.norm_cross or self.norm_q or self.norm_k)
            and not self.residual_connection
            and self.rescale_output_factor == 1
            and not self.training
            and plain(self.to_q, self.to_k, self.to_v)
        )


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from dragonkit.fused.attention_kernels import Queried, suit

    return Queried.apply(q, k, v) if suit(q, k, v) else F.scaled_dot_product_attention(q, k, v)


def stackable(module: nn.Module) -> bool:
    """Whether it is attention with three plain projections of its own."""
    parts = [getattr(module, name, None) for name in ("to_q", "to_k", "to_v")]
    return type(module) is Attention and all(type(part) is nn.Linear and part.bias is None for part in parts)


def _projected(x: Tensor, *parts: nn.Linear) -> tuple[Tensor, ...]:
    """The projections of x, by one product if the weights lie one after the other."""
    weights: list[Tensor] = [part.weight for part in parts]
    together = joined(weights)
    if together is None:
        return tuple(part(x) for part in parts)
    return F.linear(x, together).split([len(weight) for weight in weights], dim=-1)
