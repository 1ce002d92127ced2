"""Reconstruction from noise (Fig. 3): how much of an image do the features of some layers hold?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dragonkit.checks import check_seed
from dragonkit.edits.base import Branches, Edit, Regions, content
from dragonkit.energy import Term
from dragonkit.guidance import Guidance
from dragonkit.regions import Frame, flat


@dataclass(frozen=True, eq=False)
class Reconstruct(Edit):
    """Start from random noise, and let features alone lead back to the image: m_share is everywhere.

    Args:
        seed: of the noise, a whole number.

    Raises:
        InputError: the seed is not usable.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def regions(self, frame: Frame) -> Regions:
        """m_share is the whole grid; everything may change."""
        everywhere = torch.ones(frame.latent, dtype=torch.bool, device=frame.device)
        share = flat(torch.ones(frame.grid, dtype=torch.bool, device=frame.device))
        return Regions(share=share, target=~everywhere, edited=everywhere)

    def terms(self, f: Branches, m: Regions, w: Guidance) -> Iterator[Term]:
        """S_share everywhere (Eq. 5)."""
        yield from content(f, m, w)

    def start(self, z_T: Tensor, refs: tuple[Tensor, ...], m: Regions) -> Tensor:
        """Noise of this edit's seed, drawn on the CPU."""
        return torch.randn(z_T.shape, generator=torch.Generator().manual_seed(self.seed)).to(z_T)
