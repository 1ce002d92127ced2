"""Cosines of two maps' vectors at the same cells of a grid much finer than theirs, as Triton kernels.

Each vector a of the grid lies between four of its map, a = Σ wᵢ Aᵢ, so that a·b = Σ wᵢ wⱼ Aᵢ·Bⱼ: the products of the
maps' own neighbours are all that is needed, and each is needed for many cells of the grid. The way back is as short:
∂L/∂a = s b - r a for each cell, so ∂L/∂Aᵢ = Σⱼ Sᵢⱼ Bⱼ - Rᵢⱼ Aⱼ over i itself and the eight cells j next to it, where
Sᵢⱼ adds up s wᵢ wⱼ of the grid's cells between the two, and Rᵢⱼ r wᵢ wⱼ. No vector of the grid is ever written.
"""

# Triton compiles these functions for each set of constants, in capitals here as in its own documentation.
# ruff: noqa: D103

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dragonkit.fused.cosine_kernels import Size, _corners, _finish, _read, _slopes, _taps, places

_ROWS, _COLUMNS = 4, 128
_PLACES = 128
_GRAMS = tl.constexpr(19)  # 5 pairs of two cells of one map, twice, and 9 of both
_NEIGHBOURS = tl.constexpr(9)  # itself among them


@triton.jit
def _dot(total, x, y):
    return total + tl.sum(x * y, 1)


@triton.jit(do_not_specialize=["h", "w"])
def _grams(A, B, GRAMS, h, w, C, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Of each cell p with its neighbours q on the right, r below and s below on the right; the last have themselves."""
    p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = p < h * w
    right, down = tl.where(p % w < w - 1, 1, 0), tl.where(p // w < h - 1, w, 0)
    q, r, s = p + right, p + down, p + right + down
    none = tl.zeros((ROWS,), tl.float32)
    app, apq, apr, aps, aqr = none, none, none, none, none
    bpp, bpq, bpr, bps, bqr = none, none, none, none, none
    pp, pq, qp, pr, rp, ps, sp, qr, rq = none, none, none, none, none, none, none, none, none
    for begin in range(0, C, COLUMNS):
        c = begin + tl.arange(0, COLUMNS)[None, :]
        there = real[:, None] & (c < C)
        ap, aq = _read(A, p, c, there, C), _read(A, q, c, there, C)
        ar, a_s = _read(A, r, c, there, C), _read(A, s, c, there, C)
        bp, bq = _read(B, p, c, there, C), _read(B, q, c, there, C)
        br, bs = _read(B, r, c, there, C), _read(B, s, c, there, C)
        app, apq, apr = _dot(app, ap, ap), _dot(apq, ap, aq), _dot(apr, ap, ar)
        aps, aqr = _dot(aps, ap, a_s), _dot(aqr, aq, ar)
        bpp, bpq, bpr = _dot(bpp, bp, bp), _dot(bpq, bp, bq), _dot(bpr, bp, br)
        bps, bqr = _dot(bps, bp, bs), _dot(bqr, bq, br)
        pp, pq, qp = _dot(pp, ap, bp), _dot(pq, ap, bq), _dot(qp, aq, bp)
        pr, rp, ps = _dot(pr, ap, br), _dot(rp, ar, bp), _dot(ps, ap, bs)
        sp, qr, rq = _dot(sp, a_s, bp), _dot(qr, aq, br), _dot(rq, ar, bq)
    at = GRAMS + p * _GRAMS
    tl.store(at, app, real)
    tl.store(at + 1, apq, real)
    tl.store(at + 2, apr, real)
    tl.store(at + 3, aps, real)
    tl.store(at + 4, aqr, real)
    tl.store(at + 5, bpp, real)
    tl.store(at + 6, bpq, real)
    tl.store(at + 7, bpr, real)
    tl.store(at + 8, bps, real)
    tl.store(at + 9, bqr, real)
    tl.store(at + 10, pp, real)
    tl.store(at + 11, pq, real)
    tl.store(at + 12, qp, real)
    tl.store(at + 13, pr, real)
    tl.store(at + 14, rp, real)
    tl.store(at + 15, ps, real)
    tl.store(at + 16, sp, real)
    tl.store(at + 17, qr, real)
    tl.store(at + 18, rq, real)


@triton.jit
def _gram(GRAMS, cell, k, there):
    return tl.load(GRAMS + cell * _GRAMS + k, there, 0.0)


@triton.jit
def _square(GRAMS, k, p, q, r, s, wp, wq, wr, ws, there):
    """|a|² of vectors between four cells, from a map's five products from k on."""
    own = wp * wp * _gram(GRAMS, p, k, there) + wq * wq * _gram(GRAMS, q, k, there)
    own += wr * wr * _gram(GRAMS, r, k, there) + ws * ws * _gram(GRAMS, s, k, there)
    pairs = wp * wq * _gram(GRAMS, p, k + 1, there) + wr * ws * _gram(GRAMS, r, k + 1, there)
    pairs += wp * wr * _gram(GRAMS, p, k + 2, there) + wq * ws * _gram(GRAMS, q, k + 2, there)
    pairs += wp * ws * _gram(GRAMS, p, k + 3, there) + wq * wr * _gram(GRAMS, p, k + 4, there)
    return tl.maximum(own + 2.0 * pairs, 0.0)


@triton.jit
def _placed(AT, N, h, w, H, W, HOW: tl.constexpr, CELLS: tl.constexpr):
    """A program's places, which of them there are, and the map's cells that they lie between, with their shares."""
    n = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    x, _, y, _, _, _ = _corners(AT, n, n < N, H, W, HOW)
    p, q, r, s, wp, wq, wr, ws = _taps(x, y, h, w, H, W)
    return n, n < N, p, q, r, s, wp, wq, wr, ws


@triton.jit(do_not_specialize=["N", "h", "w", "H", "W"])
def _from_grams(GRAMS, AT, COSINES, PRODUCTS, N, h, w, H, W, HOW: tl.constexpr, CELLS: tl.constexpr):
    n, there, p, q, r, s, wp, wq, wr, ws = _placed(AT, N, h, w, H, W, HOW, CELLS)
    aa = _square(GRAMS, 0, p, q, r, s, wp, wq, wr, ws, there)
    bb = _square(GRAMS, 5, p, q, r, s, wp, wq, wr, ws, there)
    ab = wp * wp * _gram(GRAMS, p, 10, there) + wq * wq * _gram(GRAMS, q, 10, there)
    ab += wr * wr * _gram(GRAMS, r, 10, there) + ws * ws * _gram(GRAMS, s, 10, there)
    ab += wp * wq * (_gram(GRAMS, p, 11, there) + _gram(GRAMS, p, 12, there))
    ab += wr * ws * (_gram(GRAMS, r, 11, there) + _gram(GRAMS, r, 12, there))
    ab += wp * wr * (_gram(GRAMS, p, 13, there) + _gram(GRAMS, p, 14, there))
    ab += wq * ws * (_gram(GRAMS, q, 13, there) + _gram(GRAMS, q, 14, there))
    ab += wp * ws * (_gram(GRAMS, p, 15, there) + _gram(GRAMS, p, 16, there))
    ab += wq * wr * (_gram(GRAMS, p, 17, there) + _gram(GRAMS, p, 18, there))
    _finish(COSINES, PRODUCTS, n, there, aa, ab, bb)


@triton.jit
def _add(SHARES, i, j, s, r, w, there):
    """Add to what cell i has of its neighbour j."""
    at = SHARES + i * (2 * _NEIGHBOURS) + (j // w - i // w + 1) * 3 + j % w - i % w + 1
    tl.atomic_add(at, s, there, sem="relaxed")
    tl.atomic_add(at + _NEIGHBOURS, r, there, sem="relaxed")


@triton.jit
def _add_both(SHARES, i, j, s, r, w, there):
    """The same, and to what j has of i."""
    _add(SHARES, i, j, s, r, w, there)
    _add(SHARES, j, i, s, r, w, there)


@triton.jit(do_not_specialize=["N", "h", "w", "H", "W"])
def _shares(PRODUCTS, G, AT, SHARES, N, h, w, H, W, HOW: tl.constexpr, CELLS: tl.constexpr):
    """The sums S and R of every cell and its neighbours."""
    n, there, p, q, r, s, wp, wq, wr, ws = _placed(AT, N, h, w, H, W, HOW, CELLS)
    slope, along = _slopes(PRODUCTS, G, n, there)
    _add(SHARES, p, p, slope * wp * wp, along * wp * wp, w, there)
    _add(SHARES, q, q, slope * wq * wq, along * wq * wq, w, there)
    _add(SHARES, r, r, slope * wr * wr, along * wr * wr, w, there)
    _add(SHARES, s, s, slope * ws * ws, along * ws * ws, w, there)
    _add_both(SHARES, p, q, slope * wp * wq, along * wp * wq, w, there)
    _add_both(SHARES, p, r, slope * wp * wr, along * wp * wr, w, there)
    _add_both(SHARES, p, s, slope * wp * ws, along * wp * ws, w, there)
    _add_both(SHARES, q, r, slope * wq * wr, along * wq * wr, w, there)
    _add_both(SHARES, q, s, slope * wq * ws, along * wq * ws, w, there)
    _add_both(SHARES, r, s, slope * wr * ws, along * wr * ws, w, there)


@triton.jit(do_not_specialize=["h", "w"])
def _stencil(A, B, SHARES, DA, h, w, C, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    x, y, real = i % w, i // w, i < h * w
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for k in tl.static_range(_NEIGHBOURS):
        left, up = x + (k % 3 - 1), y + (k // 3 - 1)
        near = real & (left >= 0) & (left < w) & (up >= 0) & (up < h)
        there = near[:, None] & (c < C)
        j = up * w + left
        total += tl.load(SHARES + i * (2 * _NEIGHBOURS) + k, near, 0.0)[:, None] * _read(B, j, c, there, C)
        total -= tl.load(SHARES + i * (2 * _NEIGHBOURS) + _NEIGHBOURS + k, near, 0.0)[:, None] * _read(
            A, j, c, there, C
        )
    tl.store(DA + i.to(tl.int64)[:, None] * C + c, total.to(DA.dtype.element_ty), real[:, None] & (c < C))


class GramCosines(torch.autograd.Function):
    """:class:`dragonkit.fused.cosine_kernels.Cosines` of two maps of one shape, at the same cells of the same grid."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, at: Tensor | None, size: Size) -> Tensor:
        """Maps (1, C, h, w), channels last, cells of the grid, int64 (N,) or None for all, and its size."""
        _, c, h, w = a.shape
        how, ctx.at = places(at)
        n = size[0] * size[1] if at is None else len(at)
        grams, cosines, products = (
            torch.empty(some, device=a.device) for some in ((h * w, _GRAMS.value), (n,), (n, 3))
        )
        ctx.rest = n, h, w, *size, how, _PLACES
        with torch.cuda.device_of(a):  # Triton asks the current device, not the tensors'
            _grams[(triton.cdiv(h * w, _ROWS),)](a, b, grams, h, w, c, _ROWS, _COLUMNS)
            _from_grams[(triton.cdiv(n, _PLACES),)](grams, ctx.at, cosines, products, *ctx.rest)
        ctx.save_for_backward(a, b, products)
        return cosines

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        """∂L/∂a."""
        a, b, products = ctx.saved_tensors
        _, c, h, w = a.shape
        g, da = g.contiguous(), torch.empty_like(a)
        shares = torch.zeros((h * w, 2 * _NEIGHBOURS.value), device=a.device)
        with torch.cuda.device_of(a):
            _shares[(triton.cdiv(len(products), _PLACES),)](products, g, ctx.at, shares, *ctx.rest)
            _stencil[(triton.cdiv(h * w, _ROWS), triton.cdiv(c, _COLUMNS))](a, b, shares, da, h, w, c, _ROWS, _COLUMNS)
        return da, None, None, None
