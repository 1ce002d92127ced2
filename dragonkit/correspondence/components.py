"""Principal components of feature maps, as colours: what looks alike to the denoiser is coloured alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dragonkit.correspondence.extract import FeatureMap, on_image
from dragonkit.errors import InputError


@dataclass(frozen=True, eq=False)
class Components:
    """The leading principal components of several feature maps together.

    Args:
        mean: (C,), the mean feature vector, float64.
        axes: (k, C), orthonormal rows by falling variance, float64; each one's largest entry is positive.
        variance: (k,), the variance along each axis, float64.
        share: (k,), the same as a share of the total.
    """

    mean: Tensor
    axes: Tensor
    variance: Tensor
    share: Tensor

    def of(self, features: FeatureMap) -> Tensor:
        """A map's coordinates along the axes: float32 (k, h, w)."""
        values = features.values.double()
        centred = values.flatten(1) - self.mean[:, None]
        return (self.axes @ centred).view(-1, *features.shape).float()


def principal_components(maps: Sequence[FeatureMap], count: int = 3) -> Components:
    """The axes along which all places of all maps vary most.

    Args:
        maps: of one layer, of any sizes; every cell counts once.
        count: number of axes, at most C.

    Raises:
        InputError: no maps, maps of different layers, or more axes than channels.
    """
    widths = sorted({m.values.shape[0] for m in maps})
    if len(widths) != 1:
        raise InputError(f"maps have {widths or 'no'} channels: give one or more maps of one layer")
    if not isinstance(count, int) or not 1 <= count <= widths[0]:
        raise InputError(f"count is {count!r}: give a whole number from 1 to {widths[0]}, the number of channels")
    x = torch.cat([m.values.flatten(1) for m in maps], dim=1).double()
    mean = x.mean(dim=1)
    covariance = (x - mean[:, None]) @ (x - mean[:, None]).T / x.shape[1]
    variance, vectors = torch.linalg.eigh(covariance)
    variance, axes = variance.flip(0).clamp(min=0), vectors.T.flip(0)
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    total = variance.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return Components(mean, (axes * largest.sign())[:count], variance[:count], variance[:count] / total)


def colours(maps: Sequence[FeatureMap]) -> list[Tensor]:
    """Each map's first three principal components, fitted to all of them, as red, green and blue.

    Args:
        maps: of one layer with at least three channels, of one or several pictures; what is alike in two pictures gets
            one colour in both.

    Returns:
        For each map float32 (3, H, W) in [0, 1] at its picture's size; every component runs from 0 at its 1st
        percentile to 1 at its 99th, over all maps, so that single cells do not set the scale.

    Raises:
        InputError: see :func:`principal_components`.
    """
    components = principal_components(maps, 3)
    found = [components.of(m) for m in maps]
    everything = torch.cat([f.flatten(1) for f in found], dim=1)
    low, high = everything.quantile(torch.tensor([0.01, 0.99], device=everything.device), dim=1)[:, :, None, None]
    span = torch.where(high > low, high - low, 1)
    return [on_image(((f - low) / span).clamp(0, 1), m.frame) for f, m in zip(found, maps, strict=True)]
