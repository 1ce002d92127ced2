"""Residual sums and the layer norms that follow them as Triton kernels of one: what is added is read and written once.

A program takes some rows whole. Sums are float32, as everything is between load and store. How wide a row is, is a
constant: so the compiler sees that numbers may be read several at a time.
"""

# Triton compiles these functions for each set of constants, in capitals here as in its own documentation.
# ruff: noqa: D103

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048  # numbers a program holds at once, or one row


@triton.jit
def _place(N, C: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """A program's rows, its columns, where its numbers lie, and which of them there are."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    at = row.to(tl.int64)[:, None] * C + column[None, :]
    return row, column, at, (row < N)[:, None] & (column < C)[None, :]


@triton.jit(do_not_specialize=["N"])
def _normalised(
    X,
    ADDED,
    W,
    B,
    SUM,
    Y,
    STATISTICS,
    N,
    eps,
    ADDS: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row, column, at, there = _place(N, C, ROWS, WIDTH)
    x = tl.load(X + at, there, 0.0).to(tl.float32)
    if ADDS:
        total = (x + tl.load(ADDED + at, there, 0.0).to(tl.float32)).to(SUM.dtype.element_ty)
        tl.store(SUM + at, total, there)
        x = total.to(tl.float32)  # rounded, as what is normalised by itself would be
    mean = tl.sum(x, 1) / C
    x = tl.where(there, x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(x * x, 1) / C + eps)
    w = tl.load(W + column, column < C, 0.0).to(tl.float32)[None, :]
    bias = tl.load(B + column, column < C, 0.0).to(tl.float32)[None, :]
    tl.store(Y + at, (x * rstd[:, None] * w + bias).to(Y.dtype.element_ty), there)
    tl.store(STATISTICS + 2 * row, mean, row < N)
    tl.store(STATISTICS + 2 * row + 1, rstd, row < N)


@triton.jit(do_not_specialize=["N"])
def _back(X, W, STATISTICS, DSUM, DY, DX, N, C: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row, column, at, there = _place(N, C, ROWS, WIDTH)
    mean = tl.load(STATISTICS + 2 * row, row < N, 0.0)[:, None]
    rstd = tl.load(STATISTICS + 2 * row + 1, row < N, 0.0)[:, None]
    x = tl.where(there, (tl.load(X + at, there, 0.0).to(tl.float32) - mean) * rstd, 0.0)
    slope = tl.load(DY + at, there, 0.0).to(tl.float32)
    slope *= tl.load(W + column, column < C, 0.0).to(tl.float32)[None, :]
    a, b = tl.sum(slope, 1) / C, tl.sum(slope * x, 1) / C
    dx = (slope - a[:, None] - x * b[:, None]) * rstd + tl.load(DSUM + at, there, 0.0).to(tl.float32)
    tl.store(DX + at, dx.to(DX.dtype.element_ty), there)


class AddedNorm(torch.autograd.Function):
    """``s = x + added`` and ``F.layer_norm(s, (C,), weight, bias, eps)``, both returned; weights stay as they are.

    s is rounded to x's dtype before it is normalised, as it would be by itself. Without ``added`` it is x.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """``x`` and ``added`` are contiguous, (..., C), of one shape and dtype; so are the results."""
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        total, y = x.view_as(x) if added is None else torch.empty_like(x), torch.empty_like(x)
        statistics = torch.empty((rows, 2), device=x.device, dtype=torch.float32)
        other = x if added is None else added
        with torch.cuda.device_of(x):  # Triton asks the current device, not the tensors'
            grid, constants = _shared_out(rows, width)
            _normalised[grid](x, other, weight, bias, total, y, statistics, rows, eps, added is not None, **constants)
        ctx.save_for_backward(total, weight, statistics)
        ctx.adds = added is not None
        return total, y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dsum: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
        """∂L/∂x, which is that of ``added``, too."""
        x, weight, statistics = ctx.saved_tensors
        dsum, dy, dx = dsum.contiguous(), dy.contiguous(), torch.empty_like(x)
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        with torch.cuda.device_of(x):
            grid, constants = _shared_out(rows, width)
            _back[grid](x, weight, statistics, dsum, dy, dx, rows, **constants)
        return dx, dx if ctx.adds else None, None, None, None


def _shared_out(rows: int, width: int) -> tuple[tuple[int], dict[str, int]]:
    """How rows are shared out among programs."""
    columns = triton.next_power_of_2(width)
    each = max(1, _TILE // columns)
    return (triton.cdiv(rows, each),), {"C": width, "ROWS": each, "WIDTH": columns, "num_warps": 4}
