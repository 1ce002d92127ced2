"""Cosines of corresponding feature vectors (Eq. 4) as Triton kernels: vectors are read where they lie.

PyTorch first resizes both maps to the energy's grid, then gathers the vectors of both regions, then normalises both,
then multiplies them: at 512 px and 1280 channels each of these steps is another 80 MB, and so is each step of the way
back. Here one kernel reads both vectors of each pair from the maps as they are, between cells where they lie between
them, and another adds the slopes where they belong.
"""

# Triton compiles these functions for each set of constants, in capitals here as in its own documentation.
# ruff: noqa: D103

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dragonkit.fused.resize_kernels import _between

_ROWS, _COLUMNS = 8, 128
_SHORTEST = tl.constexpr(1e-8)  # as F.cosine_similarity: vectors shorter than this count as of this length

_ALL, _CELLS, _BETWEEN = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _corners(AT, n, there, H, W, HOW: tl.constexpr):
    """Columns and rows of the grid that positions lie between, and how far they lie there."""
    if HOW == _BETWEEN:
        x, y = tl.load(AT + 2 * n, there, 0.0), tl.load(AT + 2 * n + 1, there, 0.0)
        left, top = tl.floor(x), tl.floor(y)
        x0 = tl.minimum(tl.maximum(left, 0.0), W - 1.0).to(tl.int32)
        x1 = tl.minimum(tl.maximum(left + 1.0, 0.0), W - 1.0).to(tl.int32)
        y0 = tl.minimum(tl.maximum(top, 0.0), H - 1.0).to(tl.int32)
        y1 = tl.minimum(tl.maximum(top + 1.0, 0.0), H - 1.0).to(tl.int32)
        return x0, x1, y0, y1, x - left, y - top
    cell = n
    if HOW == _CELLS:
        cell = tl.load(AT + n, there, 0).to(tl.int32)
    none = tl.zeros_like(n).to(tl.float32)
    return cell % W, cell % W, cell // W, cell // W, none, none


@triton.jit
def _taps(x, y, h, w, H, W):
    """Of cells of the grid: the four cells of the map that they lie between, and what each counts there."""
    left, right, fx = _between(x, w * 1.0 / W, w)
    top, bottom, fy = _between(y, h * 1.0 / H, h)
    a, b, c, d = (1.0 - fx) * (1.0 - fy), fx * (1.0 - fy), (1.0 - fx) * fy, fx * fy
    return top * w + left, top * w + right, bottom * w + left, bottom * w + right, a, b, c, d


@triton.jit
def _read(F, cell, c, there, C):
    """Numbers c of the map's vectors at some of its cells."""
    return tl.load(F + cell.to(tl.int64)[:, None] * C + c, there, 0.0).to(tl.float32)


@triton.jit
def _vector(F, x, y, c, there, h, w, H, W, C, FINE: tl.constexpr):
    """Numbers c of the vectors at cells of the grid."""
    if FINE:
        p, q, r, s, wp, wq, wr, ws = _taps(x, y, h, w, H, W)
        upper = _read(F, p, c, there, C) * wp[:, None] + _read(F, q, c, there, C) * wq[:, None]
        return upper + _read(F, r, c, there, C) * wr[:, None] + _read(F, s, c, there, C) * ws[:, None]
    return _read(F, y * W + x, c, there, C)


@triton.jit
def _vectors(F, x0, x1, y0, y1, fx, fy, c, there, h, w, H, W, C, HOW: tl.constexpr, FINE: tl.constexpr):
    """The same at positions on the grid, between its cells."""
    x = _vector(F, x0, y0, c, there, h, w, H, W, C, FINE)
    if HOW == _BETWEEN:
        fx, fy = fx[:, None], fy[:, None]
        upper = x * (1.0 - fx) + _vector(F, x1, y0, c, there, h, w, H, W, C, FINE) * fx
        lower = _vector(F, x0, y1, c, there, h, w, H, W, C, FINE) * (1.0 - fx)
        lower += _vector(F, x1, y1, c, there, h, w, H, W, C, FINE) * fx
        x = upper * (1.0 - fy) + lower * fy
    return x


@triton.jit
def _add(DF, x, y, dx, c, there, h, w, H, W, C, FINE: tl.constexpr):
    """Slopes of vectors at cells of the grid go to what these were made of; many may go to one."""
    if FINE:
        p, q, r, s, wp, wq, wr, ws = _taps(x, y, h, w, H, W)
        tl.atomic_add(DF + p.to(tl.int64)[:, None] * C + c, dx * wp[:, None], there, sem="relaxed")
        tl.atomic_add(DF + q.to(tl.int64)[:, None] * C + c, dx * wq[:, None], there, sem="relaxed")
        tl.atomic_add(DF + r.to(tl.int64)[:, None] * C + c, dx * wr[:, None], there, sem="relaxed")
        tl.atomic_add(DF + s.to(tl.int64)[:, None] * C + c, dx * ws[:, None], there, sem="relaxed")
    else:
        tl.atomic_add(DF + (y * W + x).to(tl.int64)[:, None] * C + c, dx, there, sem="relaxed")


@triton.jit
def _finish(COSINES, PRODUCTS, n, there, aa, ab, bb):
    """Keep |a|², a·b and |b|², and the cosine."""
    tl.store(PRODUCTS + 3 * n, aa, there)
    tl.store(PRODUCTS + 3 * n + 1, ab, there)
    tl.store(PRODUCTS + 3 * n + 2, bb, there)
    lengths = tl.maximum(tl.sqrt(aa), _SHORTEST) * tl.maximum(tl.sqrt(bb), _SHORTEST)
    tl.store(COSINES + n, ab / lengths, there)


@triton.jit
def _slopes(PRODUCTS, G, n, there):
    """How much of b, and how much less of a, the slope of a is: ∂L/∂a = slope b - along a."""
    aa, ab = tl.load(PRODUCTS + 3 * n, there, 1.0), tl.load(PRODUCTS + 3 * n + 1, there, 0.0)
    long, wide = tl.sqrt(aa), tl.sqrt(tl.load(PRODUCTS + 3 * n + 2, there, 1.0))
    length = tl.maximum(long, _SHORTEST)
    slope = tl.load(G + n, there, 0.0) / (length * tl.maximum(wide, _SHORTEST))
    # What is shorter than the shortest is divided by a constant, so its own direction counts, too.
    return slope, tl.where(long > _SHORTEST, slope * ab / (length * length), 0.0)


@triton.jit(do_not_specialize=["N", "ha", "wa", "Ha", "Wa", "hb", "wb", "Hb", "Wb"])
def _products(
    A,
    B,
    A_AT,
    B_AT,
    COSINES,
    PRODUCTS,
    N,
    ha,
    wa,
    Ha,
    Wa,
    hb,
    wb,
    Hb,
    Wb,
    C,
    A_HOW: tl.constexpr,
    B_HOW: tl.constexpr,
    A_FINE: tl.constexpr,
    B_FINE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ax0, ax1, ay0, ay1, afx, afy = _corners(A_AT, n, n < N, Ha, Wa, A_HOW)
    bx0, bx1, by0, by1, bfx, bfy = _corners(B_AT, n, n < N, Hb, Wb, B_HOW)
    aa = tl.zeros((ROWS,), tl.float32)
    ab = tl.zeros((ROWS,), tl.float32)
    bb = tl.zeros((ROWS,), tl.float32)
    for begin in range(0, C, COLUMNS):
        c = begin + tl.arange(0, COLUMNS)[None, :]
        there = (n < N)[:, None] & (c < C)
        a = _vectors(A, ax0, ax1, ay0, ay1, afx, afy, c, there, ha, wa, Ha, Wa, C, A_HOW, A_FINE)
        b = _vectors(B, bx0, bx1, by0, by1, bfx, bfy, c, there, hb, wb, Hb, Wb, C, B_HOW, B_FINE)
        aa += tl.sum(a * a, 1)
        ab += tl.sum(a * b, 1)
        bb += tl.sum(b * b, 1)
    _finish(COSINES, PRODUCTS, n, n < N, aa, ab, bb)


@triton.jit(do_not_specialize=["N", "ha", "wa", "Ha", "Wa", "hb", "wb", "Hb", "Wb"])
def _back(
    A,
    B,
    A_AT,
    B_AT,
    PRODUCTS,
    G,
    DA,
    N,
    ha,
    wa,
    Ha,
    Wa,
    hb,
    wb,
    Hb,
    Wb,
    C,
    A_HOW: tl.constexpr,
    B_HOW: tl.constexpr,
    A_FINE: tl.constexpr,
    B_FINE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ax0, ax1, ay0, ay1, afx, afy = _corners(A_AT, n, n < N, Ha, Wa, A_HOW)
    bx0, bx1, by0, by1, bfx, bfy = _corners(B_AT, n, n < N, Hb, Wb, B_HOW)
    slope, along = _slopes(PRODUCTS, G, n, n < N)
    for begin in range(0, C, COLUMNS):
        c = begin + tl.arange(0, COLUMNS)[None, :]
        there = (n < N)[:, None] & (c < C)
        a = _vectors(A, ax0, ax1, ay0, ay1, afx, afy, c, there, ha, wa, Ha, Wa, C, A_HOW, A_FINE)
        b = _vectors(B, bx0, bx1, by0, by1, bfx, bfy, c, there, hb, wb, Hb, Wb, C, B_HOW, B_FINE)
        da = slope[:, None] * b - along[:, None] * a
        if A_HOW == _BETWEEN:
            left, upper, right, lower = 1.0 - afx[:, None], 1.0 - afy[:, None], afx[:, None], afy[:, None]
            _add(DA, ax0, ay0, da * left * upper, c, there, ha, wa, Ha, Wa, C, A_FINE)
            _add(DA, ax1, ay0, da * right * upper, c, there, ha, wa, Ha, Wa, C, A_FINE)
            _add(DA, ax0, ay1, da * left * lower, c, there, ha, wa, Ha, Wa, C, A_FINE)
            _add(DA, ax1, ay1, da * right * lower, c, there, ha, wa, Ha, Wa, C, A_FINE)
        else:
            _add(DA, ax0, ay0, da, c, there, ha, wa, Ha, Wa, C, A_FINE)


Size = tuple[int, int]


class Cosines(torch.autograd.Function):
    """The cosine of each pair of vectors, float32 (N,): what ``F.cosine_similarity`` makes of what is picked."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, a_at: Tensor | None, b_at: Tensor | None, a_size: Size, b_size: Size
    ) -> Tensor:
        """Maps, as many places on the grid of each, see :func:`dragonkit.regions.pick`, and the grids.

        The maps are (1, C, h, w), channels last, resized as :class:`dragonkit.fused.finer.Finer` has it. Differentiable
        in ``a`` only, once.
        """
        (a_how, a_at), (b_how, b_at) = places(a_at), places(b_at)
        n = a_size[0] * a_size[1] if a_at is None else len(a_at)
        cosines, products = (torch.empty(shape, device=a.device) for shape in ((n,), (n, 3)))
        sizes = *a.shape[2:], *a_size, *b.shape[2:], *b_size, a.shape[1]
        ctx.rest = n, *sizes, a_how, b_how, a.shape[2:] != a_size, b.shape[2:] != b_size, _ROWS, _COLUMNS
        with torch.cuda.device_of(a):  # Triton asks the current device, not the tensors'
            _products[(triton.cdiv(n, _ROWS),)](a, b, a_at, b_at, cosines, products, *ctx.rest)
        ctx.places = a_at, b_at
        ctx.save_for_backward(a, b, products)
        return cosines

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        """∂L/∂a."""
        a, b, products = ctx.saved_tensors
        g, da = g.contiguous(), torch.zeros_like(a, dtype=torch.float32)
        with torch.cuda.device_of(a):
            _back[(triton.cdiv(len(products), _ROWS),)](a, b, *ctx.places, products, g, da, *ctx.rest)
        return da.to(a.dtype), None, None, None, None, None


def places(at: Tensor | None) -> tuple[int, Tensor | None]:
    """How the kernels find places, and the places."""
    if at is None:
        return _ALL.value, None
    return (_CELLS if at.dtype == torch.int64 else _BETWEEN).value, at.contiguous()
