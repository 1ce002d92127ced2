"""Several edits in one run: their energies add, their starts and their attention contexts combine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dragonkit.edits.base import Branches, Edit, Places, Reference, Regions, content
from dragonkit.energy import Term
from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.regions import Frame


@dataclass(frozen=True, eq=False, kw_only=True)
class _Joint(Regions):
    """Regions of all edits together, and of each one."""

    parts: tuple[Regions, ...] = ()


@dataclass(frozen=True, eq=False)
class Several(Edit):
    """Carry out several edits at once.

    What stays is what stays under every one of them, and counts once. An edit's energy terms carry its number, from 1:
    "edit 1", "contrast 1", "edit 2". Attention looks at the guidance tokens that every edit leaves open, and at each
    edit's reference tokens.

    Args:
        edits: at least one; a :class:`Several` among them is opened up.

    Raises:
        InputError: there is none, or one is not an edit.
    """

    edits: Sequence[Edit]

    def __post_init__(self) -> None:
        given: Any = self.edits
        if not isinstance(given, Sequence) or isinstance(given, str) or not given:
            raise InputError(f"edits is {given!r}: give a list of at least one edit")
        for one in given:
            if not isinstance(one, Edit):
                raise InputError(f"an edit is a {type(one).__name__}: give edits such as Move(mask, by=(40, 0))")
        flat = tuple(e for one in given for e in (one.edits if isinstance(one, Several) else (one,)))
        object.__setattr__(self, "edits", flat)
        # Guided as its first edit that draws on a reference, for only such presets let attention look there.
        object.__setattr__(self, "kind", next((e.kind for e in flat if e.references), flat[0].kind))

    @property
    def references(self) -> tuple[Reference, ...]:
        """Those of all edits, in order."""
        return tuple(r for e in self.edits for r in e.references)

    @property
    def recordable(self) -> bool:
        """If all of them are."""
        return all(e.recordable for e in self.edits)

    def regions(self, frame: Frame) -> Regions:
        """The edits' own regions; what stays and what is vacated gives way to the other edits.

        Raises:
            InputError: as the edits do.
        """
        parts = [e.regions(frame) for e in self.edits]
        share = _in_all([m.share for m in parts if m.share is not None])
        vacated = [replace(m, inpaint=_without(m.inpaint, [o.gen for o in parts if o is not m])) for m in parts]
        return _Joint(
            share=share,
            target=_union([m.target for m in parts]),
            edited=_union([m.edited for m in parts]),
            tokens=_common([dict(m.tokens) for m in parts]),
            ref_tokens=tuple(tokens for m in parts for tokens in m.ref_tokens),
            parts=tuple(replace(m, share=None) for m in vacated),
        )

    def places(self, frame: Frame) -> Places | None:
        """All old and all new places, if every edit knows its own; anything may change if one edit says so."""
        known = [p for p in (e.places(frame) for e in self.edits) if p is not None]
        if len(known) < len(self.edits):
            return None
        was, target, within = (list(masks) for masks in zip(*known, strict=True))
        everywhere = any(mask is None for mask in within)
        return Places(
            torch.stack(was).any(0), torch.stack(target).any(0), None if everywhere else torch.stack(within).any(0)
        )

    def terms(self, f: Branches, m: Regions, w: Guidance) -> Iterator[Term]:
        """Every edit's terms, and what stays."""
        refs = iter(f.refs)
        for k, (one, part) in enumerate(zip(self.edits, _parts(m), strict=True), start=1):
            own = replace(f, refs=tuple(next(refs) for _ in one.references))
            for term in one.terms(own, part, w):
                yield replace(term, name=f"{term.name} {k}")
        yield from content(f, m, w)

    def start(self, z_T: Tensor, refs: tuple[Tensor, ...], m: Regions) -> Tensor:
        """z_T with every edit's own changes; where two land on one cell, the later edit's."""
        z, left = z_T, iter(refs)
        for one, part in zip(self.edits, _parts(m), strict=True):
            own = one.start(z_T, tuple(next(left) for _ in one.references), part)
            z = torch.where(own != z_T, own, z)
        return z


def _parts(m: Regions) -> tuple[Regions, ...]:
    assert isinstance(m, _Joint)
    return m.parts


def _union(masks: list[Tensor | None]) -> Tensor | None:
    known = [m for m in masks if m is not None]
    return torch.stack(known).any(0) if known else None


def _in_all(places: list[Tensor]) -> Tensor | None:
    """Cell indices that every tensor holds; None if that is none."""
    if not places:
        return None
    common = places[0]
    for other in places[1:]:
        common = common[torch.isin(common, other)]
    return common if len(common) else None


def _without(cells: Tensor | None, others: list[Tensor | None]) -> Tensor | None:
    """Cell indices that none of the others holds; places between cells (floating) stay as they are."""
    if cells is None or cells.is_floating_point():
        return cells
    for other in others:
        if other is not None and not other.is_floating_point():
            cells = cells[~torch.isin(cells, other)]
    return cells if len(cells) else None


def _common(tokens: list[dict[int, Tensor]]) -> dict[int, Tensor]:
    """By layer size: the indices that every edit which restricts that layer leaves open."""
    sizes = {n for table in tokens for n in table}
    found = {n: _in_all([table[n] for table in tokens if n in table]) for n in sizes}
    return {n: kept if kept is not None else torch.empty(0, dtype=torch.int64) for n, kept in found.items()}
