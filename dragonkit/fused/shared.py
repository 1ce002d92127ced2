"""What many layers of a denoiser make of one and the same input in a pass, made once by one matrix product.

Each residual block projects the timestep's embedding, and each cross-attention the words: small products, each of which
takes a GPU longer to begin than to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dragonkit.fused.stacked import joined

_made: ContextVar[dict[int, tuple[Tensor, tuple[Tensor, ...]]] | None] = ContextVar("made", default=None)


@contextmanager
def one_pass() -> Iterator[None]:
    """What is inside is one pass: inputs that are the same tensor hold the same numbers all the while."""
    before = _made.set({})
    try:
        yield
    finally:
        _made.reset(before)


@dataclass(eq=False)
class Shared:
    """Layers that are given one input.

    Args:
        weights: of each, (D_k, C). No layers, for they hold this: what goes in a circle, Python frees late.
    """

    weights: Sequence[nn.Parameter]

    def __call__(self, x: Tensor, *wanted: nn.Parameter) -> list[Tensor] | None:
        """What the layers of some weights make of x; None where that is theirs to compute.

        That is outside of a pass, and where weights were exchanged or moved, each to a place of its own.
        """
        made = _made.get()
        places = [k for weight in wanted for k, mine in enumerate(self.weights) if mine is weight]
        if made is None or len(places) < len(wanted):
            return None
        if id(self) not in made or made[id(self)][0] is not x:
            weights = joined(self.weights)
            if weights is None:
                return None
            rows = [len(weight) for weight in self.weights]
            made[id(self)] = x, self._product(x, weights).split(rows, dim=-1)
        return [made[id(self)][1][k] for k in places]

    def _product(self, x: Tensor, weights: Tensor) -> Tensor:
        return F.linear(x, weights)


@dataclass(eq=False)
class Shifts(Shared):
    """Projections of a timestep's embedding, (B, C) to (B, D_k), with SiLU before and biases after.

    Args:
        biases: for each weight those that are added to its projection.
    """

    biases: Sequence[tuple[nn.Parameter, ...]] = field(default_factory=tuple)

    def _product(self, x: Tensor, weights: Tensor) -> Tensor:
        first, *others = (torch.cat(some) for some in zip(*self.biases, strict=True))
        y = F.linear(F.silu(x), weights, first)
        for bias in others:
            y = y + bias
        return y
