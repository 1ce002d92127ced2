"""What an inversion leaves behind: :class:`Path`, and the one evaluation that fills it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.models import Cond, Model
from dragonkit.passes import evaluate
from dragonkit.schedule import Schedule
from dragonkit.taps import Tokens, tap

Progress = Callable[[Iterable[int]], Iterable[int]]

Store = Callable[..., MutableMapping[int, Any]]
"""Makes what keeps tensors by step and name: ``dict``, or something as it that keeps them elsewhere; like ``dict`` it
may be given a mapping to begin with."""


@dataclass(frozen=True)
class Keep:
    """What to keep of an inversion; the default is nothing but latents.

    Args:
        layers: decoder layers whose features are kept, from 1.
        features: indices of the steps at which they are.
        tokens: indices of the steps at which self-attention inputs are kept.
        store: what makes the places where both are kept, see :func:`dragonkit.memory.economy`.
    """

    layers: tuple[int, ...] = ()
    features: range = range(0)
    tokens: range = range(0)
    store: Store = dict

    @classmethod
    def wanted(cls, w: Guidance, schedule: Schedule, store: Store = dict) -> Keep:
        """What a guided run will ask for, and no more."""
        cached = w.reference == "cached" and w.energy > 0
        return cls(
            layers=w.layers,
            features=schedule.window(w.guided) if cached else range(0),
            tokens=range(0) if w.attention_mode == "off" else schedule.window(w.attention),
            store=store,
        )


NOTHING = Keep()


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The denoiser evaluated once, with what was kept of it.

    Args:
        z: (B, C, h, w), where.
        eps: (B, C, h, w), ε_θ(z, t).
        tokens: what Eq. 11 needs, if it was to be kept.
        features: layer -> features, if they were to be kept.
    """

    z: Tensor
    eps: Tensor
    tokens: Tokens | None = None
    features: dict[int, Tensor] | None = None


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
        references: the paths of the other images that the edit draws on, in the order of ``Edit.references``.
        empty: by step: embedding of the empty prompt to use there, where an inversion found one of its own.
        cfg: the classifier-free guidance scale that those were found for; None if there are none.
    """

    schedule: Schedule
    cond: Cond
    latents: dict[int, Tensor] = field(default_factory=dict)
    inputs: dict[int, Tensor] = field(default_factory=dict)
    tokens: MutableMapping[int, Tokens] = field(default_factory=dict)
    features: MutableMapping[int, dict[int, Tensor]] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    references: tuple[Path, ...] = ()
    empty: dict[int, Cond] = field(default_factory=dict)
    cfg: float | None = None

    @property
    def z_T(self) -> Tensor:
        """The noisiest latent, where generation starts."""
        return self.latents[0]

    def kept_in(self, store: Store) -> Path:
        """The path with its tokens and features kept elsewhere; itself if they are kept as they are."""
        return self if store is dict else replace(self, tokens=store(self.tokens), features=store(self.features))

    def evaluate(self, model: Model, z: Tensor, i: int, keep: Keep) -> Evaluation:
        """Evaluate the denoiser at z under the path's prompt, as the guidance branch would at step i."""
        layers = keep.layers if i in keep.features else ()
        at = evaluate(model, z, self.schedule.timesteps[i], self.cond, tokens=i in keep.tokens, layers=layers)
        return Evaluation(z, at.eps, at.tokens or None, at.features or None)

    def visit(self, i: int, at: Evaluation) -> None:
        """Make an evaluation the one of step i."""
        self.latents[i] = self.inputs[i] = at.z
        if at.tokens is not None:
            self.tokens[i] = at.tokens
        if at.features is not None:
            self.features[i] = at.features

    def unconditional(self, model: Model, cfg: float) -> list[Cond]:
        """The empty prompt's embedding for each step of generation from this path.

        Args:
            model: the denoiser.
            cfg: classifier-free guidance scale of that generation; at 1 there is no empty prompt.

        Raises:
            InputError: the path has embeddings of its own, found for another scale.
        """
        if self.cfg is not None and self.cfg != cfg:
            raise InputError(f"cfg is {cfg:g}, but the inversion was made for cfg {self.cfg:g}: give both the same")
        plain = model.embed("", model.size_of(self.z_T)) if cfg != 1 else {}
        return [self.empty.get(i, plain) for i in range(len(self.schedule))]

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
            at = evaluate(model, self.inputs[i], self.schedule.timesteps[i], self.cond, tokens=True)
            self.tokens[i] = at.tokens
        return self.tokens[i]


class Inverter(Protocol):
    """Anything that inverts a latent: :func:`dragonkit.ddim_invert`, or your own."""

    def __call__(
        self,
        model: Model,
        z0: Tensor,
        cond: Cond,
        schedule: Schedule,
        *,
        keep: Keep,
        progress: Progress,
        cfg: float | None,
    ) -> Path:
        """See :func:`dragonkit.inversion.ddim_invert`.

        :func:`dragonkit.edit` says with ``cfg`` at which classifier-free guidance scale it will generate from the path,
        or None for a reference image, from which nothing is generated. An inverter whose path serves one scale only
        says so in ``Path.cfg``.
        """
        ...
