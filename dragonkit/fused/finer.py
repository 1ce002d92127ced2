"""Feature maps on finer grids than their own, whose vectors are interpolated where somebody asks for them.

Energies compare features on a finer grid than the denoiser's, in float32: at 512 px and 1280 channels that is 80 MB a
map, and as much again for every slope of it. What the kernels here read and write instead is the map as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Finer:
    """A map as ``F.interpolate(coarse.float(), size, mode="bilinear")`` has it.

    Args:
        coarse: (B, C, h, w), channels last.
        size: (H, W), the grid.
    """

    coarse: Tensor
    size: tuple[int, int]

    def __getitem__(self, images: slice) -> Finer:
        """Some of the batch."""
        return Finer(self.coarse[images], self.size)

    def detach(self) -> Finer:
        """The same numbers, without a way back."""
        return Finer(self.coarse.detach(), self.size)

    def shared(self, weights: Tensor) -> Tensor:
        """What cells of the map count in a sum of the grid's with ``weights``, float32 (H · W,): (h · w,)."""
        from dragonkit.fused.resize_kernels import resized_back

        shape = torch.Size([1, 1, *self.coarse.shape[2:]])
        return resized_back(weights.reshape(1, 1, *self.size), shape, torch.float32).flatten()

    def whole(self) -> Tensor:
        """All of it, float32 (B, C, H, W)."""
        from dragonkit.fused.resize_kernels import Resized

        return Resized.apply(self.coarse, self.size)


def whole(x: Tensor | Finer) -> Tensor:
    """A map's numbers, wherever it has them."""
    return x.whole() if isinstance(x, Finer) else x
