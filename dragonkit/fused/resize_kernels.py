"""Bilinear resizing of feature maps as Triton kernels for tensors whose channels lie together.

Energies compare features on a finer grid than the denoiser's, in float32: at 512 px and 1280 channels 80 MB a map. The
kit's own look at them where they lie (:mod:`dragonkit.fused.finer`), all others get them whole. What takes time then is
to write them, and to read their slopes; PyTorch's kernels take several times as long as that.
"""

# Triton compiles these functions for each set of constants, in capitals here as in its own documentation.
# ruff: noqa: D103

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_CELLS, _COLUMNS = 16, 64


@triton.jit
def _between(o, scale, n):
    """The two cells of n that a cell o of the other grid lies between, and how far it lies there."""
    at = tl.maximum((o + 0.5) * scale - 0.5, 0.0)
    first = tl.minimum(at.to(tl.int32), n - 1)
    return first, tl.minimum(first + 1, n - 1), at - first


@triton.jit
def _share(o, scale, n, cell):
    """How much of a cell's number goes to a cell o of the other grid."""
    first, second, far = _between(o, scale, n)
    return tl.where(first == cell, 1.0 - far, 0.0) + tl.where(second == cell, far, 0.0)


@triton.jit
def _reached(cell, scale, n):
    """Where the cells of the other grid begin that a cell may give to, and where they end; the outermost give more."""
    begin = tl.floor((cell - 0.5) / scale - 0.5)
    end = tl.floor((cell + 1.5) / scale - 0.5) + 2.0
    return tl.maximum(begin, 0.0).to(tl.int32), tl.minimum(end, n * 1.0).to(tl.int32)


@triton.jit(do_not_specialize=["h", "w", "H", "W", "down", "right"])
def _resized(X, Y, h, w, H, W, C, down, right, CELLS: tl.constexpr, COLUMNS: tl.constexpr):
    line, image = tl.program_id(0) % H, (tl.program_id(0) // H).to(tl.int64)
    cell = tl.program_id(1) * CELLS + tl.arange(0, CELLS)
    c = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    there = (cell < W)[:, None] & (c < C)
    top, bottom, fy = _between(line, down, h)
    left, rest, fx = _between(cell, right, w)
    fx = fx[:, None]
    upper, lower = X + (image * h + top) * w * C, X + (image * h + bottom) * w * C
    left, rest = left[:, None] * C + c, rest[:, None] * C + c
    a = tl.load(upper + left, there, 0.0).to(tl.float32) * (1.0 - fx)
    a += tl.load(upper + rest, there, 0.0).to(tl.float32) * fx
    b = tl.load(lower + left, there, 0.0).to(tl.float32) * (1.0 - fx)
    b += tl.load(lower + rest, there, 0.0).to(tl.float32) * fx
    at = Y + ((image * H + line) * W + cell)[:, None] * C + c
    tl.store(at, (a * (1.0 - fy) + b * fy).to(Y.dtype.element_ty), there)


@triton.jit(do_not_specialize=["h", "w", "H", "W", "down", "right"])
def _resized_back(DY, DX, h, w, H, W, C, down, right, CELLS: tl.constexpr, COLUMNS: tl.constexpr):
    line, image = tl.program_id(0) % h, (tl.program_id(0) // h).to(tl.int64)
    cell = tl.program_id(1) * CELLS + tl.arange(0, CELLS)
    c = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    real = (cell < w)[:, None] & (c < C)
    first, last = _reached(line, down, H)
    begin, end = _reached(cell, right, W)
    steps = tl.max(tl.where(cell < w, end - begin, 0), 0)
    total = tl.zeros((CELLS, COLUMNS), tl.float32)
    for o in range(first, last):
        row = DY + (image * H + o) * W * C
        part = tl.zeros((CELLS, COLUMNS), tl.float32)
        for step in range(0, steps):
            at = begin + step
            share = tl.where(at < end, _share(at, right, w, cell), 0.0)[:, None]
            part += share * tl.load(row + at[:, None] * C + c, real & (at < end)[:, None], 0.0).to(tl.float32)
        total += part * _share(o, down, h, line)
    tl.store(DX + ((image * h + line) * w + cell)[:, None] * C + c, total.to(DX.dtype.element_ty), real)


class Resized(torch.autograd.Function):
    """``F.interpolate(x.float(), size, mode="bilinear")`` of a map (B, C, h, w), channels last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Float32 (B, C, *size), channels last."""
        ctx.shape, ctx.dtype = x.shape, x.dtype
        b, c, h, w = x.shape
        y = torch.empty((b, c, *size), device=x.device, memory_format=torch.channels_last)
        with torch.cuda.device_of(x):  # Triton asks the current device, not the tensors'
            _resized[_grid(b, *size, c)](x, y, h, w, *size, c, h / size[0], w / size[1], _CELLS, _COLUMNS)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        """∂L/∂x."""
        return resized_back(dy, ctx.shape, ctx.dtype), None


def resized_back(dy: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """∂L/∂x, of x's ``shape`` (B, C, h, w), channels last, and ``dtype``, from ∂L/∂y (B, C, H, W)."""
    (b, c, h, w), size = shape, tuple(dy.shape[2:])
    dy = dy.contiguous(memory_format=torch.channels_last)
    dx = torch.empty(shape, dtype=dtype, device=dy.device, memory_format=torch.channels_last)
    with torch.cuda.device_of(dy):
        _resized_back[_grid(b, h, w, c)](dy, dx, h, w, *size, c, h / size[0], w / size[1], _CELLS, _COLUMNS)
    return dx


def _grid(images: int, height: int, width: int, channels: int) -> tuple[int, int, int]:
    return images * height, triton.cdiv(width, _CELLS), triton.cdiv(channels, _COLUMNS)
