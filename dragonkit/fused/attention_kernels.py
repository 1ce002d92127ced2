"""The way back through attention to words, as a Triton kernel: the words are few, and have no slope to be found.

Kernels for long sequences go through the keys stretch by stretch, and add up what every stretch of queries gives them;
at 64 x 64 queries and 77 words that takes over ten times as long as the way there. Here a program takes some queries
and all keys at once, finds their weights again and goes straight back to the queries.
"""

# Triton compiles these functions for each set of constants, in capitals here as in its own documentation.
# ruff: noqa: D103

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS = 64, 32
_MOST = 128  # keys that a program holds at once


@triton.jit
def _rows(X, x_image, x_head, x_row, row, there, column, H, D: tl.constexpr):
    """Some rows and columns of a program's head."""
    head, image = tl.program_id(1) % H, (tl.program_id(1) // H).to(tl.int64)
    at = image * x_image + head * x_head + row.to(tl.int64)[:, None] * x_row + column[None, :]
    return tl.load(X + at, there[:, None] & (column < D)[None, :], 0.0)


@triton.jit(do_not_specialize=["N", "M"])
def _queried_back(
    Q,
    K,
    V,
    DY,
    DQ,
    q_image,
    q_head,
    q_row,
    k_image,
    k_head,
    k_row,
    v_image,
    v_head,
    v_row,
    dy_image,
    dy_head,
    dy_row,
    N,
    M,
    H,
    scale,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    n, m = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, KEYS)
    s = tl.zeros((ROWS, KEYS), tl.float32)
    dp = tl.zeros((ROWS, KEYS), tl.float32)
    for begin in tl.static_range(0, D, COLUMNS):
        c = begin + tl.arange(0, COLUMNS)
        q = _rows(Q, q_image, q_head, q_row, n, n < N, c, H, D)
        k = _rows(K, k_image, k_head, k_row, m, m < M, c, H, D)
        s += tl.dot(q, tl.trans(k))
        dy = _rows(DY, dy_image, dy_head, dy_row, n, n < N, c, H, D)
        v = _rows(V, v_image, v_head, v_row, m, m < M, c, H, D)
        dp += tl.dot(dy, tl.trans(v))
    s = tl.where((m < M)[None, :], s * scale, float("-inf"))
    p = tl.exp(s - tl.max(s, 1)[:, None])
    p = p / tl.sum(p, 1)[:, None]
    ds = (p * (dp - tl.sum(p * dp, 1)[:, None]) * scale).to(Q.dtype.element_ty)
    head, image = tl.program_id(1) % H, (tl.program_id(1) // H).to(tl.int64)
    rows = (image * N + n) * H + head  # as they lie before heads are set apart
    for begin in tl.static_range(0, D, COLUMNS):
        c = begin + tl.arange(0, COLUMNS)
        dq = tl.dot(ds, _rows(K, k_image, k_head, k_row, m, m < M, c, H, D))
        at = rows.to(tl.int64)[:, None] * D + c[None, :]
        tl.store(DQ + at, dq.to(DQ.dtype.element_ty), (n < N)[:, None] & (c < D)[None, :])


def suit(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether there is a slope of the queries alone to be found, in half precision, and there are few keys."""
    return (
        torch.is_grad_enabled()
        and q.requires_grad
        and not k.requires_grad
        and not v.requires_grad
        and q.dtype in (torch.float16, torch.bfloat16)
        and k.shape[-2] <= _MOST
        and all(x.stride(-1) == 1 for x in (q, k, v))
    )


class Queried(torch.autograd.Function):
    """``F.scaled_dot_product_attention`` of what :func:`suit`; only the queries are differentiated, once."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``q`` is (B, H, N, D), ``k`` and ``v`` (B, H, M, D); so is the result (B, H, N, D)."""
        ctx.save_for_backward(q, k, v)
        return F.scaled_dot_product_attention(q, k, v)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        """∂L/∂q: with the weights P, dP = dY Vᵀ and dS = P ∘ (dP - rowsum(P ∘ dP)) it is dS K / √D."""
        q, k, v = ctx.saved_tensors
        b, heads, n, d = q.shape
        dy = dy if dy.stride(-1) == 1 else dy.contiguous()
        dq = q.new_empty((b, n, heads, d))
        strides = [step for x in (q, k, v, dy) for step in x.stride()[:3]]
        with torch.cuda.device_of(q):  # Triton asks the current device, not the tensors'
            _queried_back[(triton.cdiv(n, _ROWS), b * heads)](
                q, k, v, dy, dq, *strides, n, k.shape[-2], heads, d**-0.5, d, _ROWS, _MOST, _COLUMNS
            )
        return dq.transpose(1, 2), None, None
