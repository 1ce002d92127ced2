"""Attention whose projections of one input are one matrix product."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

from dragonkit.fused.plain import plain
from dragonkit.fused.switch import is_on


class Attend(Attention):
    """Attention of rows: queries, keys and values by as few matrix products as the weights' places allow."""

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
            (q,), (k, v) = _projected(x, self.to_q), _projected(context, self.to_k, self.to_v)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

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


def stack(attention: Attention) -> None:
    """Put the weights of keys and values one after the other in memory, and of queries before them where they fit.

    They stay parameters of their own, with the same numbers: views of one tensor.
    """
    parts = [attention.to_q, attention.to_k, attention.to_v]
    parts = parts if parts[0].weight.shape[1] == parts[1].weight.shape[1] else parts[1:]
    weights: list[Tensor] = [part.weight for part in parts]
    if _joined(weights) is None:
        for weight, rows in zip(
            weights, torch.cat([w.data for w in weights]).split([len(w) for w in weights]), strict=True
        ):
            weight.data = rows


def stackable(module: nn.Module) -> bool:
    """Whether it is attention with three plain projections of its own."""
    parts = [getattr(module, name, None) for name in ("to_q", "to_k", "to_v")]
    return type(module) is Attention and all(type(part) is nn.Linear and part.bias is None for part in parts)


def _projected(x: Tensor, *parts: nn.Linear) -> tuple[Tensor, ...]:
    """The projections of x, by one product if the weights lie one after the other."""
    weights: list[Tensor] = [part.weight for part in parts]
    joined = _joined(weights)
    if joined is None:
        return tuple(part(x) for part in parts)
    return F.linear(x, joined).split([len(weight) for weight in weights], dim=-1)


def _joined(weights: list[Tensor]) -> Tensor | None:
    """One matrix of all rows, if they lie one after the other in one piece of memory."""
    first, end = weights[0], weights[0].data_ptr()
    for weight in weights:
        together = (
            weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() and weight.data_ptr() == end
        )
        if not together or not weight.is_contiguous() or weight.requires_grad or weight.shape[1] != first.shape[1]:
            return None
        end += weight.nbytes
    return first.as_strided((sum(len(weight) for weight in weights), first.shape[1]), first.stride())
