"""Cosines of two maps' vectors by the kernels that suit them."""

from __future__ import annotations

import torch
from torch import Tensor

from dragonkit.fused.finer import Finer

_PLACES = (torch.int64, torch.float32)


def cosines(gen: Tensor | Finer, gud: Tensor | Finer, gen_at: Tensor | None, gud_at: Tensor | None) -> Tensor | None:
    """The cosine of each pair of vectors, float32 (N,), differentiable in ``gen``; None if no kernel suits.

    Args:
        gen: (1, C, h, w), or a finer map of that.
        gud: the same, of as many channels.
        gen_at: places on its grid, see :func:`dragonkit.regions.pick`, or None for all of it.
        gud_at: as many places on the other's.
    """
    pair = (gen, gen_at), (gud, gud_at)
    if not all(_suits(x, at) for x, at in pair) or len({_count(x, at) for x, at in pair}) == 2:
        return None
    from dragonkit.fused.cosine_kernels import Cosines
    from dragonkit.fused.gram_kernels import GramCosines

    (a, a_size), (b, b_size) = _parts(gen), _parts(gud.detach())
    together = gen_at is gud_at and (gen_at is None or gen_at.dtype == torch.int64)
    # Products of a map's cells with each other serve several places then.
    many = _count(gen, gen_at) > a.shape[2] * a.shape[3]
    if together and many and a.shape == b.shape and a_size == b_size:
        return GramCosines.apply(a, b, gen_at, a_size)
    return Cosines.apply(a, b, gen_at, gud_at, a_size, b_size)


def _parts(x: Tensor | Finer) -> tuple[Tensor, tuple[int, int]]:
    """A map as it lies in memory, and its grid."""
    return (x.coarse, x.size) if isinstance(x, Finer) else (x, (x.shape[-2], x.shape[-1]))


def _suits(x: Tensor | Finer, at: Tensor | None) -> bool:
    """Whether the kernels read such a map at such places; on its own grid float32, for PyTorch rounds to what it is."""
    f, _ = _parts(x)
    return (
        (isinstance(x, Finer) or f.dtype == torch.float32)
        and f.ndim == 4
        and len(f) == 1
        and f.is_contiguous(memory_format=torch.channels_last)
        and (at is None or at.dtype in _PLACES)
    )


def _count(x: Tensor | Finer, at: Tensor | None) -> int:
    """How many places there are."""
    _, (height, width) = _parts(x)
    return height * width if at is None else len(at)
