"""Inversion: from an image's latent to the noise that generates it, keeping what the guidance branch will need.

Inversion evaluates the denoiser at every level on the way up, and the guidance branch would evaluate it at the same
places on the way down. So the decoder's tokens and features are kept here, and the guidance branch costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.models import Cond, Model
from dragonkit.schedule import Schedule
from dragonkit.taps import Tokens, features, record, tap

Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True)
class Keep:
    """What to keep of an inversion; the default is nothing but latents.

    Args:
        layers: decoder layers whose features are kept, from 1.
        features: indices of the steps at which they are.
        tokens: indices of the steps at which self-attention inputs are kept.
    """

    layers: tuple[int, ...] = ()
    features: range = range(0)
    tokens: range = range(0)

    @classmethod
    def wanted(cls, w: Guidance, schedule: Schedule) -> Keep:
        """What a guided run will ask for, and no more."""
        cached = w.reference == "cached" and w.energy > 0
        return cls(
            layers=w.layers,
            features=schedule.window(w.guided) if cached else range(0),
            tokens=range(0) if w.attention_mode == "off" else schedule.window(w.attention),
        )


@dataclass(eq=False)
class Path:
    """An inverted image: the guidance branch.

    Args:
        schedule: its levels.
        cond: the prompt it was inverted under.
        latents: (1, C, h, w) by level: 0 is z_T, ``len(schedule)`` the image's own latent.
        inputs: by step: the latent at which the denoiser was evaluated there.
        tokens: by step: what Eq. 11 needs.
        features: by step: layer -> features, in the model's dtype at their own size.
        size: the image's (height, width) in pixels, before padding; None if it is the latent's.
        reference: the second image's path, for edits that have one.
    """

    schedule: Schedule
    cond: Cond
    latents: dict[int, Tensor] = field(default_factory=dict)
    inputs: dict[int, Tensor] = field(default_factory=dict)
    tokens: dict[int, Tokens] = field(default_factory=dict)
    features: dict[int, dict[int, Tensor]] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    reference: Path | None = None

    @property
    def z_T(self) -> Tensor:
        """The noisiest latent, where generation starts."""
        return self.latents[0]

    @torch.no_grad()
    def features_at(self, model: Model, i: int, layers: tuple[int, ...], *, live: bool = False) -> dict[int, Tensor]:
        """Guidance features at step i: as kept, or evaluated again at the same place, which gives the same bits."""
        kept = self.features.get(i, {})
        if not live and all(layer in kept for layer in layers):
            return {layer: kept[layer] for layer in layers}
        return tap(model.unet, layers, self.inputs[i], self.schedule.timesteps[i], self.cond)

    @torch.no_grad()
    def tokens_at(self, model: Model, i: int) -> Tokens:
        """Guidance tokens at step i: as kept, or evaluated again if they were not."""
        if i not in self.tokens:
            with record(model.unet) as tokens:
                model.predict(self.inputs[i], self.schedule.timesteps[i], self.cond)
            self.tokens[i] = tokens
        return self.tokens[i]


class Inverter(Protocol):
    """Anything that inverts a latent: :func:`ddim_invert`, or your own."""

    def __call__(
        self, model: Model, z0: Tensor, cond: Cond, schedule: Schedule, *, keep: Keep, progress: Progress
    ) -> Path:
        """See :func:`ddim_invert`."""
        ...


@torch.no_grad()
def ddim_invert(
    model: Model,
    z0: Tensor,
    cond: Cond,
    schedule: Schedule,
    *,
    keep: Keep = Keep(),
    progress: Progress = iter,
    order: int = 2,
) -> Path:
    """DDIM inversion: run the deterministic sampler backwards.

    z_{t+} = √ᾱ_{t+} · x0(z_t, ε) + √(1 - ᾱ_{t+}) · ε, for t = 1, 21, … of 50 steps. Generation will step from z_{t+}
    with ε = ε_θ(z_{t+}, t+), which is not known yet. At ``order`` 1 it is taken to be ε_θ(z_t, t), as in the DDIM
    paper; at order 2 it is extrapolated from the last two evaluations, 2 ε_θ(z_t, t) - ε_θ(z_{t-}, t-), which costs
    nothing and leaves an error an order smaller. Either way there are ``steps`` evaluations: the first, at the clean
    latent, carries it through level t = 1 (all but clean too) to the next; the last, at z_T, moves nothing: it is the
    guidance branch's.

    Args:
        model: the denoiser.
        z0: (1, C, h, w), the image's latent.
        cond: its prompt's embedding. No classifier-free guidance: it would drift.
        schedule: the levels.
        keep: which features and tokens to keep.
        progress: wraps the loop over steps, for a progress bar.
        order: 1 or 2, see above.

    Returns:
        The path from image to noise.

    Raises:
        InputError: ``order`` is neither.
    """
    if order not in (1, 2):
        raise InputError(f"order is {order!r}: give 1 (the plain formula) or 2 (extrapolated)")
    last, before = len(schedule) - 1, None
    path = Path(schedule, cond, latents={last + 1: z0})
    z = z0
    for i in progress(range(last, -1, -1)):
        with ExitStack() as stack:
            if i in keep.tokens:
                path.tokens[i] = stack.enter_context(record(model.unet))
            if i in keep.features:
                path.features[i] = stack.enter_context(features(model.unet, keep.layers))
            eps = model.predict(z, schedule.timesteps[i], cond)
        path.inputs[i] = z
        if i == last:
            z = path.latents[last] = schedule.carry(z, eps, last + 1, last)
        if i > 0:
            ahead = eps if before is None or order == 1 else 2 * eps - before
            z = path.latents[i - 1] = schedule.carry(z, ahead, i, i - 1)
        before = eps
    return path
