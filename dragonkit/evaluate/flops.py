"""Floating-point operations of a piece of work: a measure of effort that other processes do not disturb."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

_aten = torch.ops.aten


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    """QKᵀ and its product with V: (B, heads, N, d) by (B, heads, M, d)."""
    return 2 * q[..., 0].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _attention_backward(_: Tensor, q: Tensor, k: Tensor, v: Tensor, *__: Any, **___: Any) -> int:
    """QKᵀ again, and the two products that each of the forward ones turns into."""
    return 2 * _attention(q, k, v) + 2 * q[..., 0].numel() * k.shape[-2] * q.shape[-1]


class Flops(TorchDispatchMode):
    """Counts the floating-point operations of convolutions, matrix products and attention inside a ``with`` block.

    PyTorch's own counter follows modules too, with hooks that ``torch.autograd.grad`` breaks, and passes over a
    CPU's fused attention; its formulas are used here.

    Attributes:
        total: operations so far, a multiplication and an addition counted as two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self._formulas = FlopCounterMode(display=False).flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry out an operation and count it."""
        out, packet = func(*args, **(kwargs or {})), func._overloadpacket
        if packet is _aten._scaled_dot_product_flash_attention_for_cpu:
            self.total += _attention(*args)
        elif packet is _aten._scaled_dot_product_flash_attention_for_cpu_backward:
            self.total += _attention_backward(*args)
        elif packet in self._formulas:
            self.total += self._formulas[packet](*args, **(kwargs or {}), out_val=out)
        return out
