"""Passes through the denoiser: what goes in, what is taken out on the way, and what may be differentiated.

:func:`evaluate` predicts noise, and on the way keeps tokens and features, or lets attention look elsewhere.
The energy needs the generation branch's features with a way back to z. They come either from a plain pass of their own
that ends after the last tapped layer (:func:`separate`), or from the pass that predicts the noise and is evaluated
anyway (:func:`joint`). Both let autograd see the layers up to the last tapped one only.

A model with :class:`dragonkit.graphs.Graphs` replays what it has recorded of the first two instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dragonkit.models import Cond, Model
from dragonkit.taps import Mixing, Ragged, Tokens, features, heard, record, rewire, tap


@dataclass(frozen=True, eq=False)
class Looking:
    """What rewired self-attention takes its keys and values from, in one pass (Eq. 11).

    Args:
        mix: chooses from the tokens of the branches; the same object in every pass of a run.
        gud: the guidance branch's tokens.
        refs: the reference branches'.
    """

    mix: Mixing
    gud: Tokens
    refs: tuple[Tokens, ...] = ()

    def __call__(self, name: str, own: Tensor) -> Tensor | Ragged:
        """The tokens that module ``name``, whose own are (B, N, C), attends to."""
        return self.mix(own, self.gud[name], tuple(ref[name] for ref in self.refs))


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass gave.

    Args:
        eps: ε_θ(z, t), float32 (B, C, h, w).
        tokens: every decoder self-attention's input, if asked for.
        features: by decoder layer, those asked for, in the model's dtype.
    """

    eps: Tensor
    tokens: Tokens = field(default_factory=dict)
    features: dict[int, Tensor] = field(default_factory=dict)


def evaluate(
    model: Model,
    z: Tensor,
    t: int,
    cond: Cond,
    *,
    tokens: bool = False,
    layers: tuple[int, ...] = (),
    look: Looking | None = None,
) -> Pass:
    """Predict the noise in z.

    Args:
        model: the denoiser.
        z: (B, C, h, w), at timestep t.
        t: training timestep.
        cond: the prompt's embedding, of batch B.
        tokens: keep what self-attention reads.
        layers: decoder layers whose features to keep, from 1.
        look: where self-attention looks, if elsewhere.

    Raises:
        InputError: a layer, or attention, that the model does not have.
    """
    return begin(model, z, t, cond, tokens=tokens, layers=layers, look=look)()


def begin(
    model: Model,
    z: Tensor,
    t: int,
    cond: Cond,
    *,
    tokens: bool = False,
    layers: tuple[int, ...] = (),
    look: Looking | None = None,
) -> Callable[[], Pass]:
    """:func:`evaluate`, begun where a GPU can do it beside what comes next; call the result to wait for it, once."""
    if model.graphs is not None and model.graphs.usable():
        return model.graphs.begin(z, t, cond, tokens=tokens, layers=layers, look=look)
    with taking(model.unet, tokens=tokens, layers=layers, look=look) as kept:
        done = Pass(model.predict(z, t, cond), *kept)
    return lambda: done


@contextmanager
def taking(
    unet: Any, *, tokens: bool = False, layers: tuple[int, ...] = (), look: Looking | None = None
) -> Iterator[tuple[Tokens, dict[int, Tensor]]]:
    """Let a pass inside the block look elsewhere, and yield what it fills: tokens and features."""
    with ExitStack() as stack:
        if look:
            stack.enter_context(rewire(unet, look))
        kept = stack.enter_context(record(unet)) if tokens else {}
        found = stack.enter_context(features(unet, layers)) if layers else {}
        yield kept, found


Slopes = Sequence[Tensor]
"""∂L/∂F of an energy L, one for each of the features F."""


@dataclass(frozen=True, eq=False)
class Watched:
    """A latent, and features that autograd has seen being computed from it.

    An energy's gradient is taken in two parts: its slopes ∂L/∂F, in float32, and :meth:`pull`, which brings them to z.

    Args:
        z: (B, C, h, w), a leaf.
        tapped: F_gen, by decoder layer (B, C_k, h_k, w_k), in the model's dtype.
        back: what pulls slopes back to z, where something knows better than autograd; see :meth:`pull`.
    """

    z: Tensor
    tapped: dict[int, Tensor]
    back: Callable[[Sequence[Slopes]], list[Tensor]] | None = None

    @cached_property
    def features(self) -> dict[int, Tensor]:
        """F_gen in float32, for an energy: leaves each, for autograd would also see the deeper computed from others."""
        return {layer: x.detach().float().requires_grad_() for layer, x in self.tapped.items()}

    def pull(self, energies: Sequence[Slopes]) -> list[Tensor]:
        """∂L/∂z of each energy L, float32 (B, C, h, w).

        Args:
            energies: for each the slopes ∂L/∂F, float32, in the order of ``features``. All of them at once: a recorded
                pass pulls two at a time, and the next pass overwrites what it needs for that.
        """
        return (self.back or self._back)(energies)

    def _back(self, energies: Sequence[Slopes]) -> list[Tensor]:
        found, last = list(self.tapped.values()), len(energies) - 1
        return [pulled(found, self.z, slopes, retain=k < last) for k, slopes in enumerate(energies)]


def pulled(features: Sequence[Tensor], z: Tensor, slopes: Slopes, *, retain: bool) -> Tensor:
    """The vector-Jacobian product ∂L/∂z, float32, of slopes ∂L/∂F of features that autograd has seen computed from z.

    Half precision ends at 6e-8, and slopes may be less, since an energy is a mean over many cells. So there they travel
    scaled, image by image, by the power of two that brings the largest to 1, which changes no digit.
    """
    if features[0].dtype == torch.float32:
        return torch.autograd.grad(features, z, slopes, retain_graph=retain)[0]
    scale = _unit(slopes)
    halved = [(s * scale).to(x.dtype) for s, x in zip(slopes, features, strict=True)]
    return torch.autograd.grad(features, z, halved, retain_graph=retain)[0] / scale


def _unit(slopes: Slopes) -> Tensor:
    """The powers of two, (B, 1, 1, 1), that bring the largest slope of each of the batch to between 1/2 and 1."""
    largest = torch.stack([torch.linalg.vector_norm(x, torch.inf, (1, 2, 3), keepdim=True) for x in slopes]).amax(0)
    return torch.ldexp(torch.ones_like(largest), -largest.frexp().exponent.clamp(min=-126))


def separate(model: Model, z: Tensor, t: int, cond: Cond, layers: Iterable[int]) -> Watched:
    """F_gen at (z, t) by a pass of its own, ended after the last tapped layer."""
    leaf = z.detach().requires_grad_()
    if model.graphs is not None and model.graphs.usable():
        return Watched(leaf, *model.graphs.tap(layers, leaf, t, cond))
    with torch.enable_grad():
        return Watched(leaf, tap(model.unet, layers, leaf, t, cond))


def joint(
    model: Model,
    z: Tensor,
    t: int,
    cond: Cond,
    empty: Cond,
    cfg: float,
    layers: Iterable[int],
    look: Looking | None = None,
) -> tuple[Tensor, Watched]:
    """The noise and F_gen by one pass, which looks where it is told.

    Under classifier-free guidance ε_∅ + cfg (ε_c - ε_∅) the other half, ε_∅, is a pass of its own: in a batch with the
    first, autograd would go back through both.

    Args:
        model: the denoiser.
        z: (B, C, h, w), at timestep t.
        t: training timestep.
        cond: the prompt's embedding.
        empty: the empty prompt's; not read if ``cfg`` is 1.
        cfg: classifier-free guidance scale.
        layers: decoder layers to tap, from 1.
        look: where self-attention looks, if elsewhere.

    Returns:
        ε, float32 (B, C, h, w), as :func:`dragonkit.generation.denoise` gives it, and the features.
    """
    layers = tuple(layers)
    eps_empty = None
    if cfg != 1:
        eps_empty = evaluate(model, z, t, {k: empty[k].expand_as(cond[k]) for k in cond}, look=look).eps
    leaf = z.detach().requires_grad_()

    def enough(module: Any, args: Any, output: Any) -> None:
        torch.set_grad_enabled(False)  # until the block below ends: what follows is not differentiated

    as_written = heard(model.unet, model.unet.modules())  # as in dragonkit.taps.tap
    with as_written, taking(model.unet, layers=layers, look=look) as (_, found), torch.enable_grad():
        handle = model.unet.up_blocks[max(layers) - 1].register_forward_hook(enough)
        try:
            eps = model.predict(leaf, t, cond)
        finally:
            handle.remove()
    eps = eps.detach()
    return eps if eps_empty is None else eps_empty + cfg * (eps - eps_empty), Watched(leaf, dict(sorted(found.items())))
