"""Convolutions of small maps as matrix products, with Triton kernels that lay their inputs out.

At 8 x 8 cells and 1280 channels a 3 x 3 convolution is all weights: 64 rows against 15 million numbers. Libraries'
convolutions share such work out by rows and leave most of a large GPU without any; their matrix products share it out
by what is added up, too. What is multiplied are nine neighbours of every cell, laid out beside each other.
"""

# Triton compiles these functions for each set of constants, in capitals here as in its own documentation.
# ruff: noqa: D103

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

_ROWS, _COLUMNS = 8, 128
_MOST = 256  # cells of all images: up to here products took an H200 0.45 to 0.9 of a convolution's time


@triton.jit
def _neighbour(cell, k, h, w):
    """The k-th neighbour of cells of images that follow each other, the first to the upper left, and if it is any."""
    y, x = cell // w % h + k // 3 - 1, cell % w + k % 3 - 1
    return cell + (k // 3 - 1) * w + k % 3 - 1, (y >= 0) & (y < h) & (x >= 0) & (x < w)


@triton.jit(do_not_specialize=["N", "h", "w"])
def _columns(X, OUT, N, h, w, C, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    cell, inside = _neighbour(row // 9, row % 9, h, w)
    real = row < 9 * N
    x = tl.load(X + cell.to(tl.int64)[:, None] * C + c, (real & inside)[:, None] & (c < C), 0.0)
    tl.store(OUT + row.to(tl.int64)[:, None] * C + c, x, real[:, None] & (c < C))


@triton.jit(do_not_specialize=["N", "h", "w"])
def _summed(D, DX, N, h, w, C, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    cell = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for k in tl.static_range(9):  # whose k-th neighbour this is, it is the neighbour of across from there
        other, inside = _neighbour(cell, 8 - k, h, w)
        there = ((cell < N) & inside)[:, None] & (c < C)
        total += tl.load(D + (other.to(tl.int64) * 9 + k)[:, None] * C + c, there, 0.0).to(tl.float32)
    tl.store(DX + cell.to(tl.int64)[:, None] * C + c, total.to(DX.dtype.element_ty), (cell < N)[:, None] & (c < C))


def suits(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether a convolution is of the kind that residual blocks have, and what it is given is small."""
    return (
        x.dtype in (torch.float16, torch.bfloat16)  # in float32 PyTorch's products and convolutions round otherwise
        and conv.kernel_size == (3, 3)
        and conv.stride == conv.padding == (1, 1)
        and conv.padding_mode == "zeros"
        and x.shape[0] * x.shape[2] * x.shape[3] <= _MOST
        and conv.weight.is_contiguous(memory_format=torch.channels_last)
    )


class Product(torch.autograd.Function):
    """``F.conv2d(x, weight, padding=1)`` of what :func:`suits`; the weights stay as they are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """``x`` is (B, C, h, w), channels last; so is the result."""
        b, c, h, w = ctx.shape = x.shape
        rows = x.new_empty((b * h * w, 9 * c))
        _launch(_columns, x, rows, 9 * len(rows), ctx.shape)
        ctx.save_for_backward(weight)
        return F.linear(rows, _matrix(weight)).unflatten(0, (b, h, w)).permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        """∂L/∂x, from the weights alone."""
        (weight,) = ctx.saved_tensors
        drows = dy.permute(0, 2, 3, 1).flatten(0, 2) @ _matrix(weight)
        dx = torch.empty(ctx.shape, dtype=dy.dtype, device=dy.device, memory_format=torch.channels_last)
        _launch(_summed, drows, dx, len(drows), ctx.shape)
        return dx, None


def _matrix(weight: Tensor) -> Tensor:
    """Weights (D, C, 3, 3), channels last, as (D, 9 C)."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _launch(kernel: Any, given: Tensor, out: Tensor, rows: int, shape: torch.Size) -> None:
    b, c, h, w = shape
    with torch.cuda.device_of(given):  # Triton asks the current device, not the tensors'
        kernel[(triton.cdiv(rows, _ROWS), triton.cdiv(c, _COLUMNS))](given, out, b * h * w, h, w, c, _ROWS, _COLUMNS)
