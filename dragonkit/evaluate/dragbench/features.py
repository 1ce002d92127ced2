"""The feature model with which the benchmarks find a point again in the edited image: DIFT, of any diffusion model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dragonkit.correspondence import FeatureMap, check_layers, extract
from dragonkit.errors import InputError
from dragonkit.models import Model

Featurise = Callable[[Tensor, str, int], FeatureMap]
"""(image (3, H, W), prompt, which: 0 the source, 1 the edited image) -> features."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Dift:
    """Features of one decoder layer at one timestep, averaged over noise draws [DIFT, Tang et al., 2023].

    The defaults are DragBench's: ``up_blocks[1]`` at t = 261, eight draws; there of Stable Diffusion 2.1. Source and
    edited image get different noise, as published, or the noise itself would be matched; but the same at every run.

    Args:
        model: any.
        layer: decoder layer from 1; layer k is ``up_blocks[k - 1]``.
        t: training timestep.
        draws: number of noise draws.
        seed: of the first of them.

    Raises:
        InputError: a layer or timestep that the model does not have, or no draws.
    """

    model: Model
    layer: int = 2
    t: int = 261
    draws: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        check_layers(self.model, [self.layer], self.t)
        if self.draws < 1:
            raise InputError(f"draws is {self.draws}: give the number of noise draws, at least 1")

    def __call__(self, image: Tensor, prompt: str, which: int = 0) -> FeatureMap:
        """Features of an image (3, H, W) under a prompt; ``which`` chooses the noise."""
        seed = self.seed + which * self.draws
        return extract(self.model, image, [self.layer], self.t, prompt=prompt, draws=self.draws, seed=seed)[self.layer]

    def describe(self) -> dict[str, Any]:
        """The settings, with the model's name."""
        numbers = {"layer": self.layer, "t": self.t, "draws": self.draws, "seed": self.seed}
        return {"model": self.model.name, **numbers}


def native_side(model: Model) -> int:
    """The side of the square images that a model was trained on, in pixels: 512 for SD 1.5, 768 for SD 2.1."""
    size = model.unet.config.sample_size
    return int(size if isinstance(size, int) else min(size)) * model.factor
