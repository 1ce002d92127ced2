"""What else of a U-Net's blocks takes several passes over memory in PyTorch, as Triton kernels of one."""

# Triton compiles these functions for each set of constants, in capitals here as in its own documentation.
# ruff: noqa: D103

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit
def _split(H, M, D, BLOCK: tl.constexpr):
    """Numbers and gates of a stretch of rows (M, 2 D), where they lie, and where their product does."""
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    i = begin + tl.arange(0, BLOCK)
    there = i < M * D
    near = (begin % D).to(tl.int32) + tl.arange(0, BLOCK)  # 64 bits take several times as long to divide
    at = begin // D * 2 * D + near // D * 2 * D + near % D
    h = tl.load(H + at, there, 0.0).to(tl.float32)
    gate = tl.load(H + at + D, there, 0.0).to(tl.float32)
    return i, at, there, h, gate


@triton.jit
def _below(x):
    """The standard normal distribution function: GELU is x times it."""
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit(do_not_specialize=["M"])
def _gated(H, Y, M, D, BLOCK: tl.constexpr):
    i, at, there, h, gate = _split(H, M, D, BLOCK)
    tl.store(Y + i, (h * gate * _below(gate)).to(Y.dtype.element_ty), there)


@triton.jit(do_not_specialize=["M"])
def _gated_back(H, DY, DH, M, D, BLOCK: tl.constexpr):
    i, at, there, h, gate = _split(H, M, D, BLOCK)
    dy = tl.load(DY + i, there, 0.0).to(tl.float32)
    below = _below(gate)
    density = 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
    tl.store(DH + at, (dy * gate * below).to(DH.dtype.element_ty), there)
    tl.store(DH + at + D, (dy * h * (below + gate * density)).to(DH.dtype.element_ty), there)


@triton.jit(do_not_specialize=["count"])
def _added(X, H, B, Y, count, C, BLOCK: tl.constexpr):
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    i = begin + tl.arange(0, BLOCK)
    there = i < count
    channel = ((begin % C).to(tl.int32) + tl.arange(0, BLOCK)) % C  # 64 bits take several times as long to divide
    y = tl.load(X + i, there, 0.0).to(tl.float32) + tl.load(H + i, there, 0.0).to(tl.float32)
    tl.store(Y + i, (y + tl.load(B + channel, there, 0.0).to(tl.float32)).to(Y.dtype.element_ty), there)


class Gated(torch.autograd.Function):
    """GEGLU's second half: of (..., 2 D) the first D numbers times the GELU of the last D."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        """``h`` is contiguous, (..., 2 D); the result is (..., D)."""
        y = h.new_empty((*h.shape[:-1], h.shape[-1] // 2))
        with torch.cuda.device_of(h):  # Triton asks the current device, not the tensors'
            _gated[(triton.cdiv(y.numel(), _BLOCK),)](h, y, y.numel() // y.shape[-1], y.shape[-1], BLOCK=_BLOCK)
        ctx.save_for_backward(h)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        """∂L/∂h."""
        (h,) = ctx.saved_tensors
        dy, dh = dy.contiguous(), torch.empty_like(h)
        rows, width = dy.numel() // dy.shape[-1], dy.shape[-1]
        with torch.cuda.device_of(h):
            _gated_back[(triton.cdiv(dy.numel(), _BLOCK),)](h, dy, dh, rows, width, BLOCK=_BLOCK)
        return dh


class Added(torch.autograd.Function):
    """``x + h + bias[:, None, None]`` of two (B, C, h, w), channels last; the bias (C,) is not differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor, bias: Tensor) -> Tensor:
        """All three of one dtype; so is the result, rounded once."""
        y = torch.empty_like(x)
        with torch.cuda.device_of(x):
            _added[(triton.cdiv(y.numel(), _BLOCK),)](x, h, bias, y, y.numel(), y.shape[1], BLOCK=_BLOCK)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        """It goes to both as it is."""
        return dy, dy, None
