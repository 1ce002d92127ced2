"""Group normalisation, and the SiLU after it, as Triton kernels for tensors whose channels lie together.

A tensor (B, C, h, w) in the layout "channels last" is B matrices of h·w rows and C columns, and a group some columns
beside each other. A program takes a stretch of rows of some whole groups, tile by tile (rows, groups, columns of a
group), so that neighbouring threads read neighbouring numbers. Every direction needs sums over a group first. Where
groups are small one program does a whole group, both the sums and what follows; where they are large they are shared
out, and a kernel before stores each program's sums. Sums are float32, as everything is between load and store.
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

_WHOLE = 65536  # numbers of a group that is not shared out
_TILE = 4096  # numbers a program holds at once
_PROGRAMS = 512  # about four for each multiprocessor of a large GPU
_SPLITS = 128  # stretches of rows at most


@triton.jit
def _channels(C, CG: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    """A program's channels, and which of its columns are any."""
    group, column = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS), tl.arange(0, WIDTH)
    return group[None, :, None] * CG + column[None, None, :], (column < CG)[None, None, :]


@triton.jit
def _shift(SHIFT, channel, real, C, SHIFTED: tl.constexpr):
    """What is to be added to each channel first."""
    shift = tl.zeros_like(channel).to(tl.float32)
    if SHIFTED:
        shift += tl.load(SHIFT + tl.program_id(0) * C + channel, real, 0.0).to(tl.float32)
    return shift


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
def _kept(SUMS, C, S, CG: tl.constexpr, GROUPS: tl.constexpr, SPLITS: tl.constexpr):
    """All programs' sums of each group, added."""
    group, split = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS), tl.arange(0, SPLITS)
    at = SUMS + ((tl.program_id(0) * (C // CG) + group)[:, None] * S + split[None, :]) * 2
    there = (split < S)[None, :]
    return tl.sum(tl.load(at, there, 0.0), 1), tl.sum(tl.load(at + 1, there, 0.0), 1)


@triton.jit
def _standard(first, second, near, HW, CG: tl.constexpr, eps):
    """Mean and 1/σ of each group, from the sums of differences to a number near and of their squares."""
    count = HW.to(tl.float32) * CG
    first, second = first / count, second / count
    return near + first, 1.0 / tl.sqrt(tl.maximum(second - first * first, 0.0) + eps)


@triton.jit
def _spread(
    X, shift, near, channel, real, begin, last, HW, C, R: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr
):
    """Sums of the differences to a number near, and of their squares, over a stretch of rows."""
    a = tl.zeros((R, GROUPS, WIDTH), tl.float32)
    b = tl.zeros((R, GROUPS, WIDTH), tl.float32)
    for row0 in range(begin, last, R):
        at, there = _rows(row0, last, channel, real, HW, C, R)
        x = tl.load(X + at, there, 0.0).to(tl.float32) + shift
        x = tl.where(there, x - near[None, :, None], 0.0)
        a += x
        b += x * x
    return tl.sum(tl.sum(a, 2), 0), tl.sum(tl.sum(b, 2), 0)


@triton.jit
def _inner(X, DY, w, bias, shift, at, there, mean, rstd, silu):
    """The normalised numbers x̂ of a tile, and ∂L/∂x̂."""
    x = tl.load(X + at, there, 0.0).to(tl.float32) + shift
    x = tl.where(there, (x - mean[None, :, None]) * rstd[None, :, None], 0.0)
    slope = tl.load(DY + at, there, 0.0).to(tl.float32)
    y = x * w + bias
    gate = tl.sigmoid(y)
    return x, tl.where(silu != 0, slope * gate * (1.0 + y * (1.0 - gate)), slope) * w


@triton.jit
def _slopes(
    X,
    DY,
    w,
    bias,
    shift,
    channel,
    real,
    begin,
    last,
    HW,
    C,
    mean,
    rstd,
    silu,
    R: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Sums of ∂L/∂x̂, and of it times x̂, over a stretch of rows."""
    a = tl.zeros((R, GROUPS, WIDTH), tl.float32)
    b = tl.zeros((R, GROUPS, WIDTH), tl.float32)
    for row0 in range(begin, last, R):
        at, there = _rows(row0, last, channel, real, HW, C, R)
        x, slope = _inner(X, DY, w, bias, shift, at, there, mean, rstd, silu)
        a += slope
        b += slope * x
    return tl.sum(tl.sum(a, 2), 0), tl.sum(tl.sum(b, 2), 0)


@triton.jit(do_not_specialize=["HW", "rows", "S"])
def _forward_sums(
    X,
    SHIFT,
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
    SHIFTED: tl.constexpr,
):
    begin = tl.program_id(2) * rows
    channel, real = _channels(C, CG, GROUPS, WIDTH)
    shift, near = _shift(SHIFT, channel, real, C, SHIFTED), _near(X, HW, C, CG, GROUPS)
    last = tl.minimum(begin + rows, HW)
    a, b = _spread(X, shift, near, channel, real, begin, last, HW, C, R, GROUPS, WIDTH)
    _keep(SUMS, a, b, C, S, CG, GROUPS)


@triton.jit(do_not_specialize=["HW", "rows", "S", "silu"])
def _forward(
    X,
    Y,
    W,
    B,
    SHIFT,
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
    SHIFTED: tl.constexpr,
):
    begin = tl.program_id(2) * rows
    last = tl.minimum(begin + rows, HW)
    channel, real = _channels(C, CG, GROUPS, WIDTH)
    shift, near = _shift(SHIFT, channel, real, C, SHIFTED), _near(X, HW, C, CG, GROUPS)
    if SPLITS == 1:
        first, second = _spread(X, shift, near, channel, real, begin, last, HW, C, R, GROUPS, WIDTH)
        _keep(SUMS, first, second, C, S, CG, GROUPS)
    else:
        first, second = _kept(SUMS, C, S, CG, GROUPS, SPLITS)
    mean, rstd = _standard(first, second, near, HW, CG, eps)
    w, bias = tl.load(W + channel, real, 0.0).to(tl.float32), tl.load(B + channel, real, 0.0).to(tl.float32)
    for row0 in range(begin, last, R):
        at, there = _rows(row0, last, channel, real, HW, C, R)
        x = tl.load(X + at, there, 0.0).to(tl.float32) + shift
        y = (x - mean[None, :, None]) * rstd[None, :, None] * w + bias
        y = tl.where(silu != 0, y * tl.sigmoid(y), y)
        tl.store(Y + at, y.to(Y.dtype.element_ty), there)


@triton.jit(do_not_specialize=["HW", "rows", "S", "silu"])
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
    rows,
    S,
    eps,
    silu,
    CG: tl.constexpr,
    R: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
    SHIFTED: tl.constexpr,
):
    begin = tl.program_id(2) * rows
    last = tl.minimum(begin + rows, HW)
    channel, real = _channels(C, CG, GROUPS, WIDTH)
    shift, near = _shift(SHIFT, channel, real, C, SHIFTED), _near(X, HW, C, CG, GROUPS)
    first, second = _kept(SUMS, C, S, CG, GROUPS, SPLITS)
    mean, rstd = _standard(first, second, near, HW, CG, eps)
    w, bias = tl.load(W + channel, real, 0.0).to(tl.float32), tl.load(B + channel, real, 0.0).to(tl.float32)
    a, b = _slopes(X, DY, w, bias, shift, channel, real, begin, last, HW, C, mean, rstd, silu, R, GROUPS, WIDTH)
    _keep(SLOPES, a, b, C, S, CG, GROUPS)


@triton.jit(do_not_specialize=["HW", "rows", "S", "silu"])
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
    rows,
    S,
    eps,
    silu,
    CG: tl.constexpr,
    R: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
    SHIFTED: tl.constexpr,
):
    begin = tl.program_id(2) * rows
    last = tl.minimum(begin + rows, HW)
    channel, real = _channels(C, CG, GROUPS, WIDTH)
    shift, near = _shift(SHIFT, channel, real, C, SHIFTED), _near(X, HW, C, CG, GROUPS)
    first, second = _kept(SUMS, C, S, CG, GROUPS, SPLITS)
    mean, rstd = _standard(first, second, near, HW, CG, eps)
    w, bias = tl.load(W + channel, real, 0.0).to(tl.float32), tl.load(B + channel, real, 0.0).to(tl.float32)
    if SPLITS == 1:
        a, b = _slopes(X, DY, w, bias, shift, channel, real, begin, last, HW, C, mean, rstd, silu, R, GROUPS, WIDTH)
    else:
        a, b = _kept(SLOPES, C, S, CG, GROUPS, SPLITS)
    count = HW.to(tl.float32) * CG
    a, b = (a / count)[None, :, None], (b / count)[None, :, None]
    for row0 in range(begin, last, R):
        at, there = _rows(row0, last, channel, real, HW, C, R)
        x, slope = _inner(X, DY, w, bias, shift, at, there, mean, rstd, silu)
        dx = (slope - a - x * b) * rstd[None, :, None]
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
        # Few different constants: each set of them is compiled, which takes half a second.
        if lines * size <= _WHOLE:
            constants = {"R": max(1, 2 * _TILE // columns), "GROUPS": 1, "SPLITS": 1, "num_warps": 8}
            grid, rows = (n, groups, 1), lines
        else:
            together = max(1, 64 // columns)
            while groups % together:
                together //= 2
            tile = max(1, _TILE // (together * columns))
            splits = max(1, min(triton.cdiv(lines, tile), _PROGRAMS // (n * groups // together), _SPLITS))
            rows = triton.cdiv(triton.cdiv(lines, splits), tile) * tile
            constants = {"R": tile, "GROUPS": together, "SPLITS": _SPLITS}
            grid = n, groups // together, triton.cdiv(lines, rows)
        return cls(grid, (lines, c, rows, grid[2]), {"CG": size, "WIDTH": columns, **constants})

    @property
    def shared(self) -> bool:
        """Whether several programs share a group, so that sums take a kernel of their own."""
        return self.constants["SPLITS"] > 1

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
            if plan.shared:
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
            if plan.shared:
                _backward_sums[plan.grid](x, dy, weight, bias, shift, sums, slopes, *numbers, **constants)
            _backward[plan.grid](x, dy, dx, weight, bias, shift, sums, slopes, *numbers, **constants)
        return dx, None, None, None, None, None, None
