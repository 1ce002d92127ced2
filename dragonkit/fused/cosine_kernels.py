"""Cosines of corresponding feature vectors (Eq. 4) as Triton kernels: vectors are read where they lie.

PyTorch first gathers the vectors of both regions, then normalises both, then multiplies them: at 512 px and 1280
channels each of these steps is another 80 MB, and so is each step of the way back. Here one kernel reads both vectors
of each pair, between cells where positions lie between them, and another adds the slopes where they belong.
"""

# Triton compiles these functions for each set of constants, in capitals here as in its own documentation.
# ruff: noqa: D103

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS = 8, 128
_SHORTEST = tl.constexpr(1e-8)  # as F.cosine_similarity: vectors shorter than this count as of this length

_ALL, _CELLS, _BETWEEN = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _corners(AT, n, there, h, w, HOW: tl.constexpr):
    """Cells that positions lie between, row-major: upper left, upper right, and below; and how far they lie there."""
    if HOW == _BETWEEN:
        x, y = tl.load(AT + 2 * n, there, 0.0), tl.load(AT + 2 * n + 1, there, 0.0)
        left, top = tl.floor(x), tl.floor(y)
        fx, fy = x - left, y - top
        x0 = tl.minimum(tl.maximum(left, 0.0), w - 1.0).to(tl.int64)
        x1 = tl.minimum(tl.maximum(left + 1.0, 0.0), w - 1.0).to(tl.int64)
        y0 = tl.minimum(tl.maximum(top, 0.0), h - 1.0).to(tl.int64) * w
        y1 = tl.minimum(tl.maximum(top + 1.0, 0.0), h - 1.0).to(tl.int64) * w
        return y0 + x0, y0 + x1, y1 + x0, y1 + x1, fx, fy
    cell = n.to(tl.int64)
    if HOW == _CELLS:
        cell = tl.load(AT + n, there, 0)
    none = tl.zeros_like(n).to(tl.float32)
    return cell, cell, cell, cell, none, none


@triton.jit
def _vectors(F, p, q, r, s, fx, fy, c, there, C, HOW: tl.constexpr):
    """The features' numbers c at the positions whose corners are p, q, r, s."""
    x = tl.load(F + p[:, None] * C + c, there, 0.0)
    if HOW == _BETWEEN:
        fx, fy = fx[:, None], fy[:, None]
        upper = x * (1.0 - fx) + tl.load(F + q[:, None] * C + c, there, 0.0) * fx
        lower = tl.load(F + r[:, None] * C + c, there, 0.0) * (1.0 - fx)
        lower += tl.load(F + s[:, None] * C + c, there, 0.0) * fx
        x = upper * (1.0 - fy) + lower * fy
    return x


@triton.jit(do_not_specialize=["N", "ha", "wa", "hb", "wb"])
def _products(
    A,
    B,
    A_AT,
    B_AT,
    OUT,
    N,
    ha,
    wa,
    hb,
    wb,
    C,
    A_HOW: tl.constexpr,
    B_HOW: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    a0, a1, a2, a3, ax, ay = _corners(A_AT, n, n < N, ha, wa, A_HOW)
    b0, b1, b2, b3, bx, by = _corners(B_AT, n, n < N, hb, wb, B_HOW)
    aa = tl.zeros((ROWS,), tl.float32)
    ab = tl.zeros((ROWS,), tl.float32)
    bb = tl.zeros((ROWS,), tl.float32)
    for begin in range(0, C, COLUMNS):
        c = begin + tl.arange(0, COLUMNS)[None, :]
        there = (n < N)[:, None] & (c < C)
        a = _vectors(A, a0, a1, a2, a3, ax, ay, c, there, C, A_HOW)
        b = _vectors(B, b0, b1, b2, b3, bx, by, c, there, C, B_HOW)
        aa += tl.sum(a * a, 1)
        ab += tl.sum(a * b, 1)
        bb += tl.sum(b * b, 1)
    tl.store(OUT + 3 * n, aa, n < N)
    tl.store(OUT + 3 * n + 1, ab, n < N)
    tl.store(OUT + 3 * n + 2, bb, n < N)


@triton.jit(do_not_specialize=["N", "ha", "wa", "hb", "wb"])
def _back(
    A,
    B,
    A_AT,
    B_AT,
    OUT,
    G,
    DA,
    N,
    ha,
    wa,
    hb,
    wb,
    C,
    A_HOW: tl.constexpr,
    B_HOW: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    a0, a1, a2, a3, ax, ay = _corners(A_AT, n, n < N, ha, wa, A_HOW)
    b0, b1, b2, b3, bx, by = _corners(B_AT, n, n < N, hb, wb, B_HOW)
    long, wide = tl.sqrt(tl.load(OUT + 3 * n, n < N, 1.0)), tl.sqrt(tl.load(OUT + 3 * n + 2, n < N, 1.0))
    length = tl.maximum(long, _SHORTEST)
    slope = tl.load(G + n, n < N, 0.0) / (length * tl.maximum(wide, _SHORTEST))
    # What is shorter than the shortest is divided by a constant, so its own direction counts, too.
    along = tl.where(long > _SHORTEST, slope * tl.load(OUT + 3 * n + 1, n < N, 0.0) / (length * length), 0.0)
    for begin in range(0, C, COLUMNS):
        c = begin + tl.arange(0, COLUMNS)[None, :]
        there = (n < N)[:, None] & (c < C)
        a = _vectors(A, a0, a1, a2, a3, ax, ay, c, there, C, A_HOW)
        b = _vectors(B, b0, b1, b2, b3, bx, by, c, there, C, B_HOW)
        da = slope[:, None] * b - along[:, None] * a
        if A_HOW == _BETWEEN:
            left, upper = 1.0 - ax[:, None], 1.0 - ay[:, None]
            right, lower = ax[:, None], ay[:, None]
            tl.atomic_add(DA + a0[:, None] * C + c, da * left * upper, there, sem="relaxed")
            tl.atomic_add(DA + a1[:, None] * C + c, da * right * upper, there, sem="relaxed")
            tl.atomic_add(DA + a2[:, None] * C + c, da * left * lower, there, sem="relaxed")
            tl.atomic_add(DA + a3[:, None] * C + c, da * right * lower, there, sem="relaxed")
        else:  # a cell may be there twice
            tl.atomic_add(DA + a0[:, None] * C + c, da, there, sem="relaxed")


def suit(a: Tensor, b: Tensor, a_at: Tensor | None, b_at: Tensor | None) -> bool:
    """Whether features lie as the kernels read them, float32 (1, C, h, w), channels last, and places are no masks."""
    return all(
        x.dtype == torch.float32 and x.ndim == 4 and len(x) == 1 and x.is_contiguous(memory_format=torch.channels_last)
        for x in (a, b)
    ) and all(at is None or at.dtype in (torch.int64, torch.float32) for at in (a_at, b_at))


class Cosines(torch.autograd.Function):
    """The cosine of each pair of vectors, float32 (N,): what ``F.cosine_similarity`` makes of what is picked."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, a_at: Tensor | None, b_at: Tensor | None) -> Tensor:
        """Features, and as many places in each, that :func:`suit`; see :func:`dragonkit.regions.pick`.

        Differentiable in ``a`` only, once.
        """
        ctx.places = places = [_places(at) for at in (a_at, b_at)]
        (a_how, a_at), (b_how, b_at) = places
        n = a.shape[2] * a.shape[3] if a_at is None else len(a_at)
        products = a.new_empty((n, 3))
        with torch.cuda.device_of(a):  # Triton asks the current device, not the tensors'
            _products[_grid(n)](a, b, a_at, b_at, products, n, *_sizes(a, b), a_how, b_how, _ROWS, _COLUMNS)
        ctx.save_for_backward(a, b, products)
        aa, ab, bb = products.unbind(1)
        return ab / (aa.sqrt().clamp(min=_SHORTEST.value) * bb.sqrt().clamp(min=_SHORTEST.value))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        """∂L/∂a."""
        a, b, products = ctx.saved_tensors
        (a_how, a_at), (b_how, b_at) = ctx.places
        n, g, da = len(products), g.contiguous(), torch.zeros_like(a)
        with torch.cuda.device_of(a):
            _back[_grid(n)](a, b, a_at, b_at, products, g, da, n, *_sizes(a, b), a_how, b_how, _ROWS, _COLUMNS)
        return da, None, None, None


def _grid(n: int) -> tuple[int]:
    return (triton.cdiv(n, _ROWS),)


def _sizes(a: Tensor, b: Tensor) -> tuple[int, ...]:
    return *a.shape[2:], *b.shape[2:], a.shape[1]


def _places(at: Tensor | None) -> tuple[int, Tensor | None]:
    """How the kernels find places, and the places."""
    if at is None:
        return _ALL.value, None
    return (_CELLS if at.dtype == torch.int64 else _BETWEEN).value, at.contiguous()
