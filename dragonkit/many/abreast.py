"""Edits of different images, side by side in one batch: the denoiser sees them all, each energy its own image only.

The energy of a batch is the sum of its images' energies. Each depends on its own image's latent alone, so the gradient
of the sum is every image's own gradient, from one backward pass. What remains is bookkeeping: :class:`Abreast` hands
each edit its own rows, :func:`stacked` lays inversion paths side by side, :func:`apart` takes a step to pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from dragonkit.editor import Step
from dragonkit.edits.base import Branches, Edit, Reference, Regions
from dragonkit.energy import Term
from dragonkit.guidance import Guidance
from dragonkit.inversion import Path
from dragonkit.inversion.path import Store
from dragonkit.regions import Frame
from dragonkit.taps import Ragged

K = TypeVar("K")


@dataclass(frozen=True, eq=False, kw_only=True)
class _Rows(Regions):
    """Every image's own regions; ``target`` and ``edited`` are (B, 1, h, w), to be used beside a latent."""

    parts: tuple[Regions, ...] = ()


@dataclass(frozen=True, eq=False)
class Abreast(Edit):
    """One edit for each image of a batch; the images are of one size.

    An edit's energy terms carry its number, from 0, and a slash: "0/edit", "0/content", "1/edit".

    Args:
        edits: at least one, all of them with or all without ``Regions.target`` and ``Regions.edited``.
    """

    edits: Sequence[Edit]

    @property
    def references(self) -> tuple[Reference, ...]:
        """Those of all edits, in order."""
        return tuple(r for e in self.edits for r in e.references)

    @property
    def recordable(self) -> bool:
        """If all of them are."""
        return all(e.recordable for e in self.edits)

    def regions(self, frame: Frame) -> Regions:
        """Each edit's own regions.

        Raises:
            InputError: as the edits do.
        """
        parts = tuple(e.regions(frame) for e in self.edits)
        return _Rows(target=_planes([m.target for m in parts]), edited=_planes([m.edited for m in parts]), parts=parts)

    def terms(self, f: Branches, m: Regions, w: Guidance) -> Iterator[Term]:
        """Every edit's terms, of its own image's features."""
        for k, (one, part, refs) in enumerate(self._each(f.refs, m)):
            own = Branches(f.gen[k : k + 1], f.gud[k : k + 1], refs, f.layer)
            for term in one.terms(own, part, w):
                yield replace(term, name=f"{k}/{term.name}")

    def start(self, z_T: Tensor, refs: tuple[Tensor, ...], m: Regions) -> Tensor:
        """Every edit's own start."""
        each = enumerate(self._each(refs, m))
        return torch.cat([one.start(z_T[k : k + 1], own, part) for k, (one, part, own) in each])

    def context(self, own: Tensor, gud: Tensor, refs: tuple[Tensor, ...], m: Regions) -> Tensor | Ragged:
        """Every edit's own context; where they are of different lengths, padded.

        ``own`` holds the batch once, or twice under classifier-free guidance.
        """
        count = len(self.edits)
        found = [
            one.context(own[k::count], gud[k : k + 1], theirs, part)
            for k, (one, part, theirs) in enumerate(self._each(refs, m))
        ]
        return _padded([x.tokens if isinstance(x, Ragged) else x for x in found], len(own) // count)

    def _each(self, refs: tuple[K, ...], m: Regions) -> Iterator[tuple[Edit, Regions, tuple[K, ...]]]:
        """Each edit with its regions and what belongs to its own references."""
        assert isinstance(m, _Rows)
        left = iter(refs)
        for one, part in zip(self.edits, m.parts, strict=True):
            yield one, part, tuple(next(left) for _ in one.references)


def _planes(masks: list[Tensor | None]) -> Tensor | None:
    known = [m for m in masks if m is not None]
    return torch.stack(known)[:, None] if known else None


def _padded(contexts: list[Tensor], times: int) -> Tensor | Ragged:
    """Contexts (1 or R, M_k, C) of a batch's images for R times that batch: (R · B, M, C)."""
    lengths = [x.shape[1] for x in contexts]
    most = max(lengths)
    rows = [torch.nn.functional.pad(x.expand(times, -1, -1), (0, 0, 0, most - x.shape[1])) for x in contexts]
    tokens = torch.stack(rows, dim=1).flatten(0, 1)
    if min(lengths) == most:
        return tokens
    # Made where it is used, by filling: what is recorded as a CUDA graph must not copy from the host.
    bias = [torch.nn.functional.pad(tokens.new_zeros(1, n), (0, most - n), value=-torch.inf) for n in lengths]
    return Ragged(tokens, torch.stack(bias))


def beside(singles: Sequence[Mapping[K, Tensor]]) -> dict[K, Tensor]:
    """What single images have by name, embeddings for instance, as a batch's; of names that all of them have."""
    return {name: torch.cat([x[name] for x in singles]) for name in singles[0] if all(name in x for x in singles)}


def stacked(paths: Sequence[Path], store: Store = dict) -> Path:
    """Paths of single images as one of a batch; of one schedule, one size and one guidance scale, without references.

    Args:
        paths: at least one.
        store: what makes the places where tokens and features are kept.
    """
    first = paths[0]

    def named(kept: Callable[[Path], MutableMapping[int, Any]]) -> MutableMapping[int, dict[Any, Tensor]]:
        found = store()
        for i in kept(first):
            if all(i in kept(p) for p in paths):
                found[i] = beside([kept(p)[i] for p in paths])
        return found

    return replace(
        first,
        cond=beside([p.cond for p in paths]),
        latents=beside([p.latents for p in paths]),
        inputs=beside([p.inputs for p in paths]),
        tokens=named(lambda p: p.tokens),
        features=named(lambda p: p.features),
        empty={i: beside([p.empty[i] for p in paths]) for i in first.empty},
    )


def apart(step: Step, count: int) -> list[Step]:
    """A step of a batch as each of its images' own."""

    def energies(k: int) -> Mapping[str, Tensor]:
        own = f"{k}/"
        return {name.removeprefix(own): value for name, value in step.energies.items() if name.startswith(own)}

    def part(k: int) -> Step:
        one, found = slice(k, k + 1), energies(k)
        grad = step.grad[one] if step.grad is not None and found else None
        return Step(step.i, step.t, step.z[one], step.x0[one], found, grad, step.visit)

    return [part(k) for k in range(count)]
