"""Weights that lie one after the other in memory, so that one matrix product serves them all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stack(weights: Sequence[Tensor]) -> None:
    """Put weights (D_k, C) one after the other in memory.

    They stay parameters of their own, with the same numbers: views of one tensor.
    """
    if joined(weights) is None:
        together = torch.cat([weight.data for weight in weights]).split([len(weight) for weight in weights])
        for weight, rows in zip(weights, together, strict=True):
            weight.data = rows


def joined(weights: Sequence[Tensor]) -> Tensor | None:
    """One matrix of all rows, if they lie one after the other in one piece of memory and nothing is trained."""
    first, end = weights[0], weights[0].data_ptr()
    for weight in weights:
        together = (
            weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() and weight.data_ptr() == end
        )
        if not together or not weight.is_contiguous() or weight.requires_grad or weight.shape[1] != first.shape[1]:
            return None
        end += weight.nbytes
    return first.as_strided((sum(len(weight) for weight in weights), first.shape[1]), first.stride())
