"""Attention blocks whose residual sums and norms are one."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor

from dragonkit.fused.plain import plain
from dragonkit.fused.switch import is_on


class Block(BasicTransformerBlock):
    """Attention to itself, attention to words, and a feed-forward network, each after a norm and added."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Any = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """As diffusers' own."""
        x, words, more = hidden_states, encoder_hidden_states, cross_attention_kwargs or {}
        if not is_on() or x.ndim != 3 or not x.is_contiguous() or "gligen" in more or not self._plain():
            return super().forward(
                x,
                attention_mask,
                words,
                encoder_attention_mask,
                timestep,
                cross_attention_kwargs,
                *args,
                **kwargs,
            )
        own = words if self.only_cross_attention else None
        x, y = _added(x, None, self.norm1)
        change = self.attn1(y, encoder_hidden_states=own, attention_mask=attention_mask, **more)
        if self.attn2 is not None:
            x, y = _added(x, change, self.norm2)
            change = self.attn2(y, encoder_hidden_states=words, attention_mask=encoder_attention_mask, **more)
        x, y = _added(x, change, self.norm3)
        return self.ff(y) + x

    def _plain(self) -> bool:
        """Whether it is of the one kind that Stable Diffusion has, and its norms need not be called."""
        norms = [self.norm1, self.norm3, *([] if self.attn2 is None else [self.norm2])]
        return (
            self.norm_type == "layer_norm"
            and self.pos_embed is None
            and self._chunk_size is None
            and plain(*norms)
            and not any(p is None or p.requires_grad for norm in norms for p in (norm.weight, norm.bias))
        )


# diffusers finds the blocks that it is to compile by the name of their class.
Block.__name__ = BasicTransformerBlock.__name__


def _added(x: Tensor, change: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
    """The sum, and the sum normalised."""
    from dragonkit.fused.layer_kernels import AddedNorm

    change = None if change is None else change.contiguous()
    return AddedNorm.apply(x, change, norm.weight, norm.bias, norm.eps)
