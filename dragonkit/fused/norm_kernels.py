"""Group normalisation, and the SiLU after it, as Triton kernels for tensors whose channels lie together.

A tensor (B, C, h, w) in the layout "channels last" is B matrices of h·w rows and C columns, and a group some columns
beside each other. A program takes a stretch of rows of some whole groups, tile by tile (rows, groups, columns of a
group), so that neighbouring threads read neighbouring numbers. Every direction takes two kernels: the first adds up,
for each stretch of rows and group, what the second needs the totals of. Sums are float32, as everything is between load
and store. How wide a group is, is a constant: so the compiler sees that numbers may be read several at a time.
"""

# Triton compiles these functions for each set of constants, in capitals here as in its own documentation.
# ruff: noqa: D103

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048  # numbers a program holds at once
_PROGRAMS = 512  # about four for each multiprocessor of a large GPU
_SPLITS = 128  # stretches of rows at most
_WARPS, _WARPS_BACK = 8, 4


@triton.jit
def _channels(C, CG: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    """A program's channels, and which of its columns are any."""
    group, column = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS), tl.arange(0, WIDTH)
    return group[None, :, None] * CG + column[None, None, :], (column < CG)[None, None, :]


@triton.jit
def _shift(SHIFT, shifted, channel, real, C):
    """What is to be added to each channel first: nothing, unless there is a way from one image's to the next."""
    wanted = real & (tl.zeros_like(channel) < shifted)
    return tl.load(SHIFT + tl.program_id(0) * shifted + channel, wanted, 0.0).to(tl.float32)


@triton.jit
def _rows(row0, last, channel, real, HW, C, R: tl.constexpr):
    """Where a tile's numbers lie, and which of them there are."""
    row = row0 + tl.arange(0, R)
    line = tl.program_id(0).to(tl.int64) * HW + row.to(tl.int64)
    return line[:, None, None] * C + channel, (row < last)[:, None, None] & real


@triton.jit
def _near(X, HW, C, CG: tl.constexpr, GROUPS: tl.constexpr):
    """A number of each group, near its mean or not: sums of differences to it do not cancel as sums of squares do."""
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    return tl.load(X + tl.program_id(0).to(tl.int64) * HW * C + group * CG).to(tl.float32)


@triton.jit
def _keep(SUMS, a, b, C, S, CG: tl.constexpr, GROUPS: tl.constexpr):
    """Store this program's two sums of each group."""
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    at = SUMS + ((tl.program_id(0) * (C // CG) + group) * S + tl.program_id(2)) * 2
    tl.store(at, a)
    tl.store(at + 1, b)


@triton.jit
def _means(SUMS, HW, C, S, CG: tl.constexpr, GROUPS: tl.constexpr, SPLITS: tl.constexpr):
    """Of all programs' sums, divided by how many numbers a group has."""
    group, split = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS), tl.arange(0, SPLITS)
    at = SUMS + ((tl.program_id(0) * (C // CG) + group)[:, None] * S + split[None, :]) * 2
    there = (split < S)[None, :]
    count = HW.to(tl.float32) * CG
    return tl.sum(tl.load(at, there, 0.0), 1) / count, tl.sum(tl.load(at + 1, there, 0.0), 1) / count


@triton.jit
def _standard(X, SUMS, HW, C, S, eps, CG: tl.constexpr, GROUPS: tl.constexpr, SPLITS: tl.constexpr):
    """Mean and 1/σ of each group."""
    first, second = _means(SUMS, HW, C, S, CG, GROUPS, SPLITS)
    variance = tl.maximum(second - first * first, 0.0)
    return _near(X, HW, C, CG, GROUPS) + first, 1.0 / tl.sqrt(variance + eps)


@triton.jit
def _inner(x, dy, w, bias, shift, there, mean, rstd, silu):
    """The normalised numbers x̂ of a tile, and ∂L/∂x̂."""
    x = tl.where(there, (x.to(tl.float32) + shift - mean[None, :, None]) * rstd[None, :, None], 0.0)
    slope = dy.to(tl.float32)
    y = x * w + bias
    gate = tl.sigmoid(y)
    return x, tl.where(silu != 0, slope * gate * (1.0 + y * (1.0 - gate)), slope) * w


@triton.jit(do_not_specialize=["shifted", "HW", "rows", "S"])
def _forward_sums(
    X,
    SHIFT,
    shifted,
    SUMS,
    HW,
    C,
    rows,
    S,
    CG: tl.constexpr,
    R: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
):
    begin = tl.program_id(2) * rows
    last = tl.minimum(begin + rows, HW)
    channel, real = _channels(C, CG, GROUPS, WIDTH)
    shift, near = _shift(SHIFT, shifted, channel, real, C), _near(X, HW, C, CG, GROUPS)
    a = tl.zeros((R, GROUPS, WIDTH), tl.float32)
    b = tl.zeros((R, GROUPS, WIDTH), tl.float32)
    for row0 in range(begin, last, R):
        at, there = _rows(row0, last, channel, real, HW, C, R)
        x = tl.load(X + at, there, 0.0).to(tl.float32) + shift
        x = tl.where(there, x - near[None, :, None], 0.0)
        a += x
        b += x * x
    _keep(SUMS, tl.sum(tl.sum(a, 2), 0), tl.sum(tl.sum(b, 2), 0), C, S, CG, GROUPS)


@triton.jit(do_not_specialize=["shifted", "HW", "rows", "S", "silu"])
def _forward(
    X,
    Y,
    W,
    B,
    SHIFT,
    shifted,
    SUMS,
    HW,
    C,
    rows,
    S,
    eps,
    silu,
    CG: tl.constexpr,
    R: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
):
    begin = tl.program_id(2) * rows
    last = tl.minimum(begin + rows, HW)
    channel, real = _channels(C, CG, GROUPS, WIDTH)
    at, there = _rows(begin, last, channel, real, HW, C, R)
    x = tl.load(X + at, there, 0.0)  # before the totals: both are on their way at once
    shift = _shift(SHIFT, shifted, channel, real, C)
    w, bias = tl.load(W + channel, real, 0.0).to(tl.float32), tl.load(B + channel, real, 0.0).to(tl.float32)
    mean, rstd = _standard(X, SUMS, HW, C, S, eps, CG, GROUPS, SPLITS)
    for row0 in range(begin, last, R):
        y = (x.to(tl.float32) + shift - mean[None, :, None]) * rstd[None, :, None] * w + bias
        y = tl.where(silu != 0, y * tl.sigmoid(y), y)
        tl.store(Y + at, y.to(Y.dtype.element_ty), there)
        at, there = _rows(row0 + R, last, channel, real, HW, C, R)
        x = tl.load(X + at, there, 0.0)


@triton.jit(do_not_specialize=["shifted", "HW", "rows", "S", "silu"])
def _backward_sums(
    X,
    DY,
    W,
    B,
    SHIFT,
    shifted,
    SUMS,
    SLOPES,
    HW,
    C,
    rows,
    S,
    eps,
    silu,
    CG: tl.constexpr,
    R: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
):
    begin = tl.program_id(2) * rows
    last = tl.minimum(begin + rows, HW)
    channel, real = _channels(C, CG, GROUPS, WIDTH)
    at, there = _rows(begin, last, channel, real, HW, C, R)
    x, dy = tl.load(X + at, there, 0.0), tl.load(DY + at, there, 0.0)  # before the totals, as above
    shift = _shift(SHIFT, shifted, channel, real, C)
    w, bias = tl.load(W + channel, real, 0.0).to(tl.float32), tl.load(B + channel, real, 0.0).to(tl.float32)
    mean, rstd = _standard(X, SUMS, HW, C, S, eps, CG, GROUPS, SPLITS)
    a = tl.zeros((R, GROUPS, WIDTH), tl.float32)
    b = tl.zeros((R, GROUPS, WIDTH), tl.float32)
    for row0 in range(begin, last, R):
        inner, slope = _inner(x, dy, w, bias, shift, there, mean, rstd, silu)
        a += slope
        b += slope * inner
        at, there = _rows(row0 + R, last, channel, real, HW, C, R)
        x, dy = tl.load(X + at, there, 0.0), tl.load(DY + at, there, 0.0)
    _keep(SLOPES, tl.sum(tl.sum(a, 2), 0), tl.sum(tl.sum(b, 2), 0), C, S, CG, GROUPS)


@triton.jit(do_not_specialize=["shifted", "HW", "rows", "S", "silu"])
def _backward(
    X,
    DY,
    DX,
    W,
    B,
    SHIFT,
    shifted,
    SUMS,
    SLOPES,
    HW,
    C,
    rows,
    S,
    eps,
    silu,
    CG: tl.constexpr,
    R: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
):
    begin = tl.program_id(2) * rows
    last = tl.minimum(begin + rows, HW)
    channel, real = _channels(C, CG, GROUPS, WIDTH)
    at, there = _rows(begin, last, channel, real, HW, C, R)
    x, dy = tl.load(X + at, there, 0.0), tl.load(DY + at, there, 0.0)  # before the totals, as above
    shift = _shift(SHIFT, shifted, channel, real, C)
    w, bias = tl.load(W + channel, real, 0.0).to(tl.float32), tl.load(B + channel, real, 0.0).to(tl.float32)
    mean, rstd = _standard(X, SUMS, HW, C, S, eps, CG, GROUPS, SPLITS)
    a, b = _means(SLOPES, HW, C, S, CG, GROUPS, SPLITS)
    for row0 in range(begin, last, R):
        inner, slope = _inner(x, dy, w, bias, shift, there, mean, rstd, silu)
        dx = (slope - a[None, :, None] - inner * b[None, :, None]) * rstd[None, :, None]
        tl.store(DX + at, dx.to(DX.dtype.element_ty), there)
        at, there = _rows(row0 + R, last, channel, real, HW, C, R)
        x, dy = tl.load(X + at, there, 0.0), tl.load(DY + at, there, 0.0)


@dataclass(frozen=True)
class _Plan:
    """How a tensor is shared out among programs."""

    grid: tuple[int, int, int]
    numbers: tuple[int, ...]
    constants: dict[str, int]

    @classmethod
    def of(cls, x: Tensor, groups: int) -> _Plan:
        n, c, height, width = x.shape
        size, lines = c // groups, height * width
        columns = triton.next_power_of_2(size)
        together = max(1, 64 // columns)
        while groups % together:
            together //= 2
        tile = max(1, _TILE // (together * columns))
        splits = max(1, min(triton.cdiv(lines, tile), _PROGRAMS // (n * groups // together), _SPLITS))
        rows = triton.cdiv(triton.cdiv(lines, splits), tile) * tile
        # Few different constants: each set of them is compiled, which takes a third of a second.
        constants = {"CG": size, "R": tile, "GROUPS": together, "WIDTH": columns, "SPLITS": _SPLITS}
        grid = n, groups // together, triton.cdiv(lines, rows)
        return cls(grid, (lines, c, rows, grid[2]), constants)

    def sums(self, x: Tensor, groups: int) -> Tensor:
        return torch.empty((x.shape[0], groups, self.grid[2], 2), device=x.device, dtype=torch.float32)


def _spaced(shift: Tensor | None) -> Tensor | None:
    """A shift (B, C) whose images follow each other in memory, its numbers side by side; itself, if it is so."""
    return (
        shift if shift is None or (shift.stride(0) >= shift.shape[1] and shift.stride(1) == 1) else shift.contiguous()
    )


class Normalised(torch.autograd.Function):
    """Group normalisation of what lies with its channels last, differentiable in x once; all else stays as it is.

    ``Normalised.apply(x, shift, weight, bias, groups, eps, silu)`` is ``F.group_norm(x, groups, weight, bias, eps)``,
    of ``x + shift[:, :, None, None]`` if there is a shift (B, C), and with ``silu`` ``F.silu`` of that, computed in
    float32 and rounded once, to x's dtype.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
    ) -> Tensor:
        """``x`` is (B, C, h, w), channels last; so is the result."""
        plan = _Plan.of(x, groups)
        y, sums = torch.empty_like(x), plan.sums(x, groups)
        shift = _spaced(shift)
        shifting = (x, 0) if shift is None else (shift, shift.stride(0) or 1)
        with torch.cuda.device_of(x):  # Triton asks the current device, not the tensors'
            options = {**plan.constants, "num_warps": _WARPS}
            _forward_sums[plan.grid](x, *shifting, sums, *plan.numbers, **options)
            _forward[plan.grid](x, y, weight, bias, *shifting, sums, *plan.numbers, eps, int(silu), **options)
        ctx.save_for_backward(x, shift, weight, bias, sums)
        ctx.groups, ctx.eps, ctx.silu = groups, eps, silu
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """∂L/∂x; the statistics are those of the way there."""
        x, shift, weight, bias, sums = ctx.saved_tensors
        dy, plan = dy.contiguous(memory_format=torch.channels_last), _Plan.of(x, ctx.groups)
        dx, slopes = torch.empty_like(x), plan.sums(x, ctx.groups)
        shifting = (x, 0) if shift is None else (shift, shift.stride(0) or 1)
        given = (weight, bias, *shifting, sums, slopes, *plan.numbers, ctx.eps, int(ctx.silu))
        with torch.cuda.device_of(x):
            options = {**plan.constants, "num_warps": _WARPS_BACK}
            _backward_sums[plan.grid](x, dy, *given, **options)
            _backward[plan.grid](x, dy, dx, *given, **options)
        return dx, None, None, None, None, None, None
