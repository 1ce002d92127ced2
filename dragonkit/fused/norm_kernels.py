"""Group normalisation, and the SiLU after it, as Triton kernels for tensors whose channels lie together.

A tensor (B, C, h, w) in the layout "channels last" is B matrices of h·w rows and C columns, and a group some columns
beside each other. A program takes some rows of some whole groups as a tile (rows, groups, columns of a group), so that
neighbouring threads read neighbouring numbers. Every direction takes two kernels: the first adds up, for each stretch
of rows and group, what the second needs the totals of. Sums are float32, as everything is between load and store.
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

_TILE = 4096  # numbers a program holds at once
_PROGRAMS = 512  # about four for each multiprocessor of a large GPU


@triton.jit
def _tile(row0, last, HW, C, CG, R: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    """Where a tile's numbers lie, their channels, and which of them there are."""
    row, column = row0 + tl.arange(0, R), tl.arange(0, WIDTH)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    channel = group[None, :, None] * CG + column[None, None, :]
    line = tl.program_id(0).to(tl.int64) * HW + row.to(tl.int64)
    there = (row < last)[:, None, None] & (column < CG)[None, None, :]
    return line[:, None, None] * C + channel, channel, there & (group < C // CG)[None, :, None]


@triton.jit
def _near(X, HW, C, CG, GROUPS: tl.constexpr):
    """A number of each group, near its mean or not: sums of differences to it do not cancel as sums of squares do."""
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    return tl.load(X + tl.program_id(0).to(tl.int64) * HW * C + group * CG).to(tl.float32)


@triton.jit
def _load(X, SHIFT, at, channel, there, C, SHIFTED: tl.constexpr):
    """A tile's numbers, with what is to be added to each channel first."""
    x = tl.load(X + at, there, 0.0).to(tl.float32)
    if SHIFTED:
        x += tl.load(SHIFT + tl.program_id(0) * C + channel, there, 0.0).to(tl.float32)
    return x


@triton.jit
def _keep(SUMS, a, b, C, CG, S, GROUPS: tl.constexpr):
    """Store this program's two sums of each group."""
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    at = SUMS + ((tl.program_id(0) * (C // CG) + group) * S + tl.program_id(2)) * 2
    tl.store(at, a)
    tl.store(at + 1, b)


@triton.jit
def _means(SUMS, HW, C, CG, S, GROUPS: tl.constexpr, SPLITS: tl.constexpr):
    """Of all programs' sums, divided by how many numbers a group has."""
    group, split = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS), tl.arange(0, SPLITS)
    at = SUMS + ((tl.program_id(0) * (C // CG) + group)[:, None] * S + split[None, :]) * 2
    there = (group < C // CG)[:, None] & (split < S)[None, :]
    count = HW.to(tl.float32) * CG
    return tl.sum(tl.load(at, there, 0.0), 1) / count, tl.sum(tl.load(at + 1, there, 0.0), 1) / count


@triton.jit
def _standard(X, SUMS, HW, C, CG, S, eps, GROUPS: tl.constexpr, SPLITS: tl.constexpr):
    """Mean and 1/σ of each group."""
    first, second = _means(SUMS, HW, C, CG, S, GROUPS, SPLITS)
    variance = tl.maximum(second - first * first, 0.0)
    return _near(X, HW, C, CG, GROUPS) + first, 1.0 / tl.sqrt(variance + eps)


@triton.jit
def _inner(X, DY, W, B, SHIFT, at, channel, there, C, mean, rstd, silu, SHIFTED: tl.constexpr):
    """The normalised numbers x̂ of a tile, and ∂L/∂x̂."""
    x = (_load(X, SHIFT, at, channel, there, C, SHIFTED) - mean[None, :, None]) * rstd[None, :, None]
    w = tl.load(W + channel, there, 0.0).to(tl.float32)
    slope = tl.load(DY + at, there, 0.0).to(tl.float32)
    y = x * w + tl.load(B + channel, there, 0.0).to(tl.float32)
    gate = tl.sigmoid(y)
    slope = tl.where(silu != 0, slope * gate * (1.0 + y * (1.0 - gate)), slope)
    return tl.where(there, x, 0.0), slope * w


@triton.jit(do_not_specialize=["HW", "CG", "rows", "S"])
def _forward_sums(
    X,
    SHIFT,
    SUMS,
    HW,
    C,
    CG,
    rows,
    S,
    R: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
    SHIFTED: tl.constexpr,
):
    begin = tl.program_id(2) * rows
    last = tl.minimum(begin + rows, HW)
    near = _near(X, HW, C, CG, GROUPS)
    a = tl.zeros((GROUPS,), tl.float32)
    b = tl.zeros((GROUPS,), tl.float32)
    for row0 in range(begin, last, R):
        at, channel, there = _tile(row0, last, HW, C, CG, R, GROUPS, WIDTH)
        x = tl.where(there, _load(X, SHIFT, at, channel, there, C, SHIFTED) - near[None, :, None], 0.0)
        a += tl.sum(tl.sum(x, 2), 0)
        b += tl.sum(tl.sum(x * x, 2), 0)
    _keep(SUMS, a, b, C, CG, S, GROUPS)


@triton.jit(do_not_specialize=["HW", "CG", "rows", "S", "silu"])
def _forward(
    X,
    Y,
    W,
    B,
    SHIFT,
    SUMS,
    HW,
    C,
    CG,
    rows,
    S,
    eps,
    silu,
    R: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
    SHIFTED: tl.constexpr,
):
    begin = tl.program_id(2) * rows
    last = tl.minimum(begin + rows, HW)
    mean, rstd = _standard(X, SUMS, HW, C, CG, S, eps, GROUPS, SPLITS)
    for row0 in range(begin, last, R):
        at, channel, there = _tile(row0, last, HW, C, CG, R, GROUPS, WIDTH)
        x = (_load(X, SHIFT, at, channel, there, C, SHIFTED) - mean[None, :, None]) * rstd[None, :, None]
        w, b = tl.load(W + channel, there, 0.0).to(tl.float32), tl.load(B + channel, there, 0.0).to(tl.float32)
        y = x * w + b
        y = tl.where(silu != 0, y * tl.sigmoid(y), y)
        tl.store(Y + at, y.to(Y.dtype.element_ty), there)


@triton.jit(do_not_specialize=["HW", "CG", "rows", "S", "silu"])
def _backward_sums(
    X,
    DY,
    W,
    B,
    SHIFT,
    SUMS,
    SLOPES,
    HW,
    C,
    CG,
    rows,
    S,
    eps,
    silu,
    R: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
    SHIFTED: tl.constexpr,
):
    begin = tl.program_id(2) * rows
    last = tl.minimum(begin + rows, HW)
    mean, rstd = _standard(X, SUMS, HW, C, CG, S, eps, GROUPS, SPLITS)
    a = tl.zeros((GROUPS,), tl.float32)
    b = tl.zeros((GROUPS,), tl.float32)
    for row0 in range(begin, last, R):
        at, channel, there = _tile(row0, last, HW, C, CG, R, GROUPS, WIDTH)
        x, slope = _inner(X, DY, W, B, SHIFT, at, channel, there, C, mean, rstd, silu, SHIFTED)
        a += tl.sum(tl.sum(slope, 2), 0)
        b += tl.sum(tl.sum(slope * x, 2), 0)
    _keep(SLOPES, a, b, C, CG, S, GROUPS)


@triton.jit(do_not_specialize=["HW", "CG", "rows", "S", "silu"])
def _backward(
    X,
    DY,
    DX,
    W,
    B,
    SHIFT,
    SUMS,
    SLOPES,
    HW,
    C,
    CG,
    rows,
    S,
    eps,
    silu,
    R: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
    SHIFTED: tl.constexpr,
):
    begin = tl.program_id(2) * rows
    last = tl.minimum(begin + rows, HW)
    mean, rstd = _standard(X, SUMS, HW, C, CG, S, eps, GROUPS, SPLITS)
    a, b = _means(SLOPES, HW, C, CG, S, GROUPS, SPLITS)
    for row0 in range(begin, last, R):
        at, channel, there = _tile(row0, last, HW, C, CG, R, GROUPS, WIDTH)
        x, slope = _inner(X, DY, W, B, SHIFT, at, channel, there, C, mean, rstd, silu, SHIFTED)
        dx = (slope - a[None, :, None] - x * b[None, :, None]) * rstd[None, :, None]
        tl.store(DX + at, dx.to(DX.dtype.element_ty), there)


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
        splits = max(1, min(triton.cdiv(lines, tile), _PROGRAMS // (n * groups // together)))
        rows = triton.cdiv(triton.cdiv(lines, splits), tile) * tile
        splits = triton.cdiv(lines, rows)
        # Few different constants: each set of them is compiled, which takes half a second.
        constants = {"R": tile, "GROUPS": together, "WIDTH": columns, "SPLITS": 64 if splits <= 64 else 512}
        return cls((n, groups // together, splits), (lines, c, size, rows, splits), constants)

    def sums(self, x: Tensor, groups: int) -> Tensor:
        return torch.empty((x.shape[0], groups, self.grid[2], 2), device=x.device, dtype=torch.float32)


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
        constants = {**plan.constants, "SHIFTED": shift is not None}
        with torch.cuda.device_of(x):  # Triton asks the current device, not the tensors'
            _forward_sums[plan.grid](x, shift, sums, *plan.numbers, **constants)
            _forward[plan.grid](x, y, weight, bias, shift, sums, *plan.numbers, eps, int(silu), **constants)
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
        numbers, constants = (*plan.numbers, ctx.eps, int(ctx.silu)), {**plan.constants, "SHIFTED": shift is not None}
        with torch.cuda.device_of(x):
            _backward_sums[plan.grid](x, dy, weight, bias, shift, sums, slopes, *numbers, **constants)
            _backward[plan.grid](x, dy, dx, weight, bias, shift, sums, slopes, *numbers, **constants)
        return dx, None, None, None, None, None, None
