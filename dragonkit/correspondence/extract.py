"""Features of a picture: the outputs of decoder layers, at a timestep of choice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dragonkit.checks import check_seed, check_text, check_whole
from dragonkit.editor import frame_of
from dragonkit.errors import InputError
from dragonkit.inversion import Path
from dragonkit.regions import Frame, as_image, pad
from dragonkit.schedule import alphas_cumprod
from dragonkit.taps import features, tap

if TYPE_CHECKING:
    from dragonkit.models import Model

_TOGETHER = 8  # noise draws in one forward pass, at most


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Features of one picture at one decoder layer and timestep.

    Args:
        values: float32 (C, h, w).
        frame: of the picture: it converts between its pixels and this map's cells.
        layer: number of the decoder layer, from 1.
        t: training timestep.
    """

    values: Tensor
    frame: Frame
    layer: int
    t: int

    @property
    def shape(self) -> tuple[int, int]:
        """The map's grid (h, w)."""
        return self.values.shape[-2], self.values.shape[-1]

    def upsampled(self, shape: tuple[int, int] | None = None) -> FeatureMap:
        """The same features on another grid, bilinearly.

        Args:
            shape: (h, w); if None twice the latent's resolution, where guidance compares features.
        """
        values = F.interpolate(self.values[None], shape or self.frame.grid, mode="bilinear")[0]
        return replace(self, values=values)


@torch.no_grad()
def extract(
    model: Model,
    image: Any,
    layers: Iterable[int] = (2, 3),
    t: int = 261,
    *,
    prompt: str = "",
    draws: int = 1,
    seed: int = 0,
) -> dict[int, FeatureMap]:
    """Features of a picture, noised to timestep t (Eq. 1) and looked at by the denoiser [DIFT, Tang et al., 2023].

    z_t = √ᾱ_t z_0 + √(1 - ᾱ_t) ε. Averaging over several draws of ε keeps what depends on the picture alone.

    Args:
        model: from :func:`dragonkit.load`.
        image: a PIL image of mode RGB, a uint8 array (H, W, 3), or a float tensor (3, H, W) in [0, 1].
        layers: decoder layers, any of 1 to 4; layer k is the output of ``up_blocks[k - 1]``.
        t: training timestep, from 0 (clean) to 999.
        prompt: what the picture shows; "" says nothing.
        draws: number of draws of ε whose features are averaged.
        seed: draw k comes from seed + k, so the average of several is the mean of the single ones. Two pictures to be
            compared want different seeds, or the noise they share is matched as well.

    Returns:
        layer -> float32 features at the layer's own size.

    Raises:
        InputError: anything given cannot be used; raised before a network runs.
    """
    source, layers = as_image(image), tuple(layers)
    check_layers(model, layers, t)
    check_text("prompt", prompt)
    check_whole("draws", draws, 1)
    check_seed(seed)
    frame = Frame(source.shape[1], source.shape[2], model.factor, model.multiple, model.device)
    z0 = model.encode(pad(source, model.multiple)[None])
    cond = model.embed(prompt, model.size_of(z0))
    a = alphas_cumprod(model.schedule_config)[t]
    sums: dict[int, Tensor] = {}
    for first in range(0, draws, _TOGETHER):
        some = range(seed + first, seed + min(first + _TOGETHER, draws))
        # Drawn on the CPU, one generator a draw: the same noise on every device, alone or among others.
        noise = torch.cat([torch.randn(z0.shape, generator=torch.Generator().manual_seed(s)) for s in some])
        z = a**0.5 * z0 + (1 - a) ** 0.5 * noise.to(z0.device)
        found = tap(model.unet, layers, z, t, {k: v.expand(len(some), *v.shape[1:]) for k, v in cond.items()})
        for layer, batch in found.items():
            sums[layer] = batch.float().sum(dim=0) + sums.get(layer, 0.0)
    return {layer: FeatureMap(total / draws, frame, layer, t) for layer, total in sums.items()}


def extract_path(model: Model, path: Path, layers: Iterable[int] = (2, 3), t: int = 261) -> dict[int, FeatureMap]:
    """Features of an inverted picture at one of its own timesteps: what guidance compares with, no noise drawn.

    Args:
        model: the one it was inverted with.
        path: from :func:`dragonkit.ddim_invert`; its prompt is used, and features that it kept are not evaluated again.
        layers: decoder layers, any of 1 to 4.
        t: a timestep of the path's schedule.

    Returns:
        layer -> float32 features at the layer's own size.

    Raises:
        InputError: a layer that the model does not have, or a timestep that the path did not visit.
    """
    layers = tuple(layers)
    check_layers(model, layers, t)
    timesteps = path.schedule.timesteps
    if t not in timesteps:
        near = min(timesteps, key=lambda other: abs(other - t))
        raise InputError(f"t is {t}, where the path has not been: the nearest of its {len(timesteps)} steps is {near}")
    found = path.features_at(model, timesteps.index(t), layers)
    frame = frame_of(model, path)
    return {layer: FeatureMap(value[0].float(), frame, layer, t) for layer, value in sorted(found.items())}


def check_layers(model: Model, layers: Iterable[int], t: int) -> None:
    """Refuse layers and timesteps that a model does not have.

    Raises:
        InputError: the message names those it has.
    """
    with features(model.unet, layers):
        pass
    count = model.schedule_config["num_train_timesteps"]
    check_whole("timestep t", t, 0, count - 1)


def on_image(cells: Tensor, frame: Frame) -> Tensor:
    """Maps (…, h, w) on any grid over a picture, bilinearly brought to its pixels: (…, H, W)."""
    lead = cells.shape[:-2]
    full = F.interpolate(cells.reshape(1, -1, *cells.shape[-2:]).float(), frame.padded, mode="bilinear")
    return full[0, :, : frame.height, : frame.width].reshape(*lead, frame.height, frame.width)
