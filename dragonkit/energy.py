"""Similarities and energies (Eq. 4, 5, 7, 8, 10), and the gradient that guides.

An energy L falls as an edit is fulfilled; log q(m | z) = -L up to a constant, so the denoiser's ε moves by +η ∂L/∂z_t.
Everything here is float32, whatever the model computes in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dragonkit.errors import NonFiniteError
from dragonkit.fused.finer import Finer, whole
from dragonkit.fused.switch import is_on
from dragonkit.regions import pick

if TYPE_CHECKING:
    from dragonkit.passes import Watched


@dataclass(frozen=True)
class Term:
    """One named summand of the energy L.

    Args:
        name: "edit", "content", "contrast", "inpaint", or whatever an edit calls it.
        value: 0-d float32, its weight included, differentiable in the generation's features.
        region: where its gradient acts if gradients are regional: "edit" inside the target, "content" outside.
    """

    name: str
    value: Tensor
    region: Literal["edit", "content"] = "content"


Map = Tensor | Finer
"""A feature map; on a GPU the kit's own edits are given maps that are resized only where they are looked at."""


def similarity(gen: Map, gud: Map, gen_at: Tensor | None = None, gud_at: Tensor | None = None) -> Tensor:
    """S (Eq. 4): mean cosine of corresponding feature vectors, mapped to [0, 1].

    Args:
        gen: generation features (1, C, h, w); the gradient flows through these only.
        gud: guidance features (1, C, h', w').
        gen_at: a region of ``gen``, see :func:`dragonkit.regions.pick`; None for all of it.
        gud_at: as many places in ``gud``, in the same order.

    Returns:
        0-d; 1 if the two are equal up to positive factors.
    """
    if is_on():
        from dragonkit.fused.cosines import cosines

        found = cosines(gen, gud, gen_at, gud_at)
        if found is not None:
            return (found.mean() + 1) / 2
    a, b = pick(whole(gen), gen_at), pick(whole(gud), gud_at).detach()
    return (F.cosine_similarity(a.float(), b.float(), dim=0).mean() + 1) / 2


def mean_similarity(gen: Map, gud: Map, gen_at: Tensor | None = None, gud_at: Tensor | None = None) -> Tensor:
    """S_glob and S_app (Eq. 8, 10): cosine of two regions' mean feature vectors, mapped to [0, 1].

    Arguments as in :func:`similarity`, except that the regions may differ in size. Each mean divides by the size of the
    region it sums over (in Eq. 8 the paper prints another's).
    """
    a, b = _mean(gen, gen_at), _mean(gud.detach(), gud_at)
    return (F.cosine_similarity(a, b, dim=0) + 1) / 2


def _mean(features: Map, at: Tensor | None) -> Tensor:
    """The mean (C,) of a region's vectors."""
    if not is_on() or at is None or at.dtype != torch.int64:
        return pick(whole(features), at).float().mean(dim=1)
    # With weights instead of copies: most regions are most of the image.
    height, width = features.size if isinstance(features, Finer) else features.shape[-2:]
    weights = torch.zeros(height * width, device=at.device)
    weights = weights.index_add(0, at, torch.full_like(at, 1 / len(at), dtype=torch.float32))
    if isinstance(features, Finer):
        weights, features = features.shared(weights), features.coarse
    return weights @ pick(features).float().t()


def attract(s: Tensor, weight: float, alpha: float = 1.0, beta: float = 4.0) -> Tensor:
    """Pull: w / (α + β S), a summand of Eq. 5 and 8: least, w / (α + β), where S = 1."""
    return weight / (alpha + beta * s)


def repel(s: Tensor, weight: float) -> Tensor:
    """Push: w S (Eq. 7), least where S = 0, so what was there goes away."""
    return weight * s


def total(per_layer: Iterable[tuple[float, Iterable[Term]]]) -> list[Term]:
    """Sum terms over layers by name.

    Args:
        per_layer: for each tapped layer its weight and its terms.

    Returns:
        One term a name, in order of appearance.
    """
    terms: dict[str, Term] = {}
    for weight, found in per_layer:
        for term in found:
            value = weight * term.value
            if term.name in terms:
                value = value + terms[term.name].value
            terms[term.name] = Term(term.name, value, term.region)
    return list(terms.values())


def acting(target: Tensor | None) -> list[tuple[tuple[str, ...], Tensor | None]]:
    """Regions of terms, and the cells where these terms' gradient acts: bool (h, w), or None for all."""
    return [(("edit", "content"), None)] if target is None else [(("edit",), target), (("content",), ~target)]


def slopes(terms: Sequence[Term], features: Sequence[Tensor]) -> list[Tensor]:
    """∂L/∂F of the terms' sum L, float32, for every one of the features F, leaves that they were computed from."""
    value = torch.stack([term.value for term in terms]).sum()
    return list(torch.autograd.grad(value, features, retain_graph=True, materialize_grads=True))


def joined(gradients: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
    """The gradient that each part's is where it acts."""
    parts = [dz if mask is None else dz * mask for dz, mask in zip(gradients, masks, strict=True)]
    return torch.stack(parts).sum(0)


def gradient(terms: list[Term], at: Watched, target: Tensor | None = None) -> Tensor:
    """∂L/∂z_t, whole or by region.

    Args:
        terms: of one evaluation, at least one; L is their sum.
        at: z_t and the features that the terms were computed from, see :func:`dragonkit.passes.separate`.
        target: bool (h, w). If given, terms of region "edit" act inside it and the others outside, which takes one
            vector-Jacobian product for each kind; if None, one for all.

    Returns:
        Float32 (B, C, h, w).
    """
    parts = [([t for t in terms if t.region in regions], mask) for regions, mask in acting(target)]
    parts = [(some, mask) for some, mask in parts if some]
    found = list(at.features.values())
    return joined(at.pull([slopes(some, found) for some, _ in parts]), [mask for _, mask in parts])


def clipped(shift: Tensor, most: float) -> Tensor:
    """A change of ε (1, C, h, w) with cells longer than ``most`` shortened to it; 0 sets no limit."""
    length = shift.norm(dim=1, keepdim=True)
    return shift * (most / length.clamp(min=most)) if most else shift


class Watch:
    """Notices numbers that are not finite, without waiting for the device at every step."""

    def __init__(self) -> None:
        self.healthy: list[Tensor] = []
        self.labels: list[str] = []

    def add(self, i: int, t: int, terms: list[Term], grad: Tensor | None, z: Tensor) -> None:
        """Note one step; on a CPU, where looking is free, check it at once.

        Args:
            i: index of the step.
            t: its timestep.
            terms: of the energy, if it was evaluated.
            grad: ∂L/∂z_t, if it was.
            z: the latent after the step.

        Raises:
            NonFiniteError: see :meth:`check`.
        """
        for term in terms:
            self.healthy.append(term.value.detach().isfinite())
            self.labels.append(f"step {i} (t = {t}): energy term {term.name!r} is not finite")
        if grad is not None:
            names = ", ".join(repr(term.name) for term in terms)
            self.healthy.append(grad.isfinite().all())
            self.labels.append(f"step {i} (t = {t}): the gradient of {names} is not finite")
        self.healthy.append(z.isfinite().all())
        self.labels.append(f"step {i} (t = {t}): the latent is not finite")
        if z.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Look at everything noted since the last look: one synchronisation.

        Raises:
            NonFiniteError: something was not finite; the message names the step and the term.
        """
        if self.healthy:
            for ok, label in zip(torch.stack(self.healthy).tolist(), self.labels, strict=True):
                if not ok:
                    raise NonFiniteError(f"{label}; lower the energy scale or cfg, or use a wider dtype")
        self.healthy, self.labels = [], []
