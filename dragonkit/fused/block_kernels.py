"""What else of a U-Net's blocks takes several passes over memory in PyTorch, as Triton kernels of one."""

# Triton compiles these functions for each set of constants, in capitals here as in its own documentation.
# ruff: noqa: D103

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS = 16, 64  # of a program


@triton.jit
def _tile(M, D, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A program's rows and columns of (M, D), and which of them there are."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    return row.to(tl.int64)[:, None], column[None, :], (row < M)[:, None] & (column < D)[None, :]


@triton.jit
def _split(H, M, D, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Numbers and gates of some of the rows (M, 2 D), where they lie, and where their product does."""
    row, column, there = _tile(M, D, ROWS, COLUMNS)
    at = row * 2 * D + column
    h = tl.load(H + at, there, 0.0).to(tl.float32)
    gate = tl.load(H + at + D, there, 0.0).to(tl.float32)
    return row * D + column, at, there, h, gate


@triton.jit
def _below(x):
    """The standard normal distribution function: GELU is x times it."""
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit(do_not_specialize=["M"])
def _gated(H, Y, M, D, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    i, _, there, h, gate = _split(H, M, D, ROWS, COLUMNS)
    tl.store(Y + i, (h * gate * _below(gate)).to(Y.dtype.element_ty), there)


@triton.jit(do_not_specialize=["M"])
def _gated_back(H, DY, DH, M, D, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    i, at, there, h, gate = _split(H, M, D, ROWS, COLUMNS)
    dy = tl.load(DY + i, there, 0.0).to(tl.float32)
    below = _below(gate)
    density = 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
    tl.store(DH + at, (dy * gate * below).to(DH.dtype.element_ty), there)
    tl.store(DH + at + D, (dy * h * (below + gate * density)).to(DH.dtype.element_ty), there)


@triton.jit(do_not_specialize=["M"])
def _added(X, H, B, OTHER, Y, M, C, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row, column, there = _tile(M, C, ROWS, COLUMNS)
    at = row * C + column
    y = tl.load(X + at, there, 0.0).to(tl.float32) + tl.load(H + at, there, 0.0).to(tl.float32)
    bias = tl.load(B + column, column < C, 0.0).to(tl.float32)
    if OTHER is not None:
        bias += tl.load(OTHER + column, column < C, 0.0).to(tl.float32)
    tl.store(Y + at, (y + bias).to(Y.dtype.element_ty), there)


def _launch(kernel: Any, first: Tensor, *others: Tensor | None, rows: int, columns: int) -> None:
    """Let a kernel go over (rows, columns)."""
    with torch.cuda.device_of(first):  # Triton asks the current device, not the tensors'
        grid = triton.cdiv(rows, _ROWS), triton.cdiv(columns, _COLUMNS)
        kernel[grid](first, *others, rows, columns, ROWS=_ROWS, COLUMNS=_COLUMNS)


class Gated(torch.autograd.Function):
    """GEGLU's second half: of (..., 2 D) the first D numbers times the GELU of the last D."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        """``h`` is contiguous, (..., 2 D); the result is (..., D)."""
        y = h.new_empty((*h.shape[:-1], h.shape[-1] // 2))
        _launch(_gated, h, y, rows=y[..., 0].numel(), columns=y.shape[-1])
        ctx.save_for_backward(h)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        """∂L/∂h."""
        (h,) = ctx.saved_tensors
        dy, dh = dy.contiguous(), torch.empty_like(h)
        _launch(_gated_back, h, dy, dh, rows=dy[..., 0].numel(), columns=dy.shape[-1])
        return dh


class Added(torch.autograd.Function):
    """``x + h + bias[:, None, None]`` of two (B, C, h, w), channels last, and another bias, if there is one.

    The biases (C,) are not differentiated.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor, bias: Tensor, other: Tensor | None) -> Tensor:
        """All of one dtype; so is the result, rounded once."""
        y = torch.empty_like(x)
        _launch(_added, x, h, bias, other, y, rows=y[:, 0].numel(), columns=y.shape[1])
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """It goes to both as it is."""
        return dy, dy, None, None
