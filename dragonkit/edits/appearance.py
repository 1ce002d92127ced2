"""Giving an object the appearance of another, keeping its outline (Eq. 10)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dragonkit.edits.base import Branches, Edit, Places, Reference, Regions, content, reference
from dragonkit.energy import Term, attract, mean_similarity
from dragonkit.guidance import Guidance
from dragonkit.regions import Frame, as_mask, flat, nearest

COPIED = 0.4  # share of the reference object's own noise in the start


@dataclass(frozen=True, eq=False)
class Appearance(Edit):
    """Replace an object's appearance by that of an object in a reference image.

    Args:
        mask: the object, bool (H, W).
        reference: another image, of any size, see :func:`dragonkit.regions.as_image`.
        reference_mask: the object in it, of its size.
        reference_prompt: what it shows.

    Raises:
        InputError: a value is not usable.
    """

    mask: Any
    reference: Any
    reference_mask: Any
    reference_prompt: str = ""
    kind = "appearance"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", as_mask(self.mask))
        object.__setattr__(self, "_reference", reference(self.reference, self.reference_mask, self.reference_prompt))

    @property
    def references(self) -> tuple[Reference]:
        """The reference image."""
        return (self._reference,)  # type: ignore[attr-defined]

    def places(self, frame: Frame) -> Places:
        """The mask, thrice: the object stays, and nothing else changes."""
        return Places(self.mask, self.mask, self.mask)

    def regions(self, frame: Frame) -> Regions:
        """m_gen on the image, m_app on the reference; what is outside m_gen stays."""
        (ref,) = self.references
        mask, there = frame.check(self.mask), frame.like(*ref.image.shape[1:])
        theirs = ref.mask.to(frame.device)
        m_gen, m_latent = frame.cells(mask, frame.grid), frame.cells(mask, frame.latent)
        return Regions(
            gen=flat(m_gen),
            gud=flat(there.cells(theirs, there.grid)),
            share=flat(~m_gen),
            target=m_latent,
            landing=m_latent,
            source=self._opposite(there, m_latent),
            edited=m_latent,
            tokens=frame.tokens(~frame.extended(mask)),
            ref_tokens=(there.tokens(theirs),),
        )

    def _opposite(self, there: Frame, cells: Tensor) -> Tensor:
        """For the object's latent cells (h, w) the reference object's: positions (N, 2), row by row.

        The one's bounding box is laid over the other's; what then lies off the object goes to its nearest cell.
        """
        theirs = there.cells(self.references[0].mask.to(cells.device), there.latent).nonzero().flip(1).double()
        mine = cells.nonzero().flip(1).double()
        low, span = mine.amin(0) - 0.5, mine.amax(0) - mine.amin(0) + 1
        there_low, there_span = theirs.amin(0) - 0.5, theirs.amax(0) - theirs.amin(0) + 1
        across = (mine - low) / span * there_span + there_low
        return theirs[torch.cdist(across, theirs).argmin(1)].float()

    def start(self, z_T: Tensor, refs: tuple[Tensor, ...], m: Regions) -> Tensor:
        """z_T whose noise in m_gen is given each channel's mean and spread of the reference's, and a share of it.

        Inverted noise keeps a trace of the image's colours, which adaptive instance normalisation takes from the one
        object to the other (Huang and Belongie, ICCV 2017), and of its pattern: part of the noise is the reference
        object's own, cell by cell.
        """
        mine = m.landing
        if mine is None or m.source is None or mine.sum() < 2 or (m.source == m.source[0]).all():
            return z_T
        own, other, z = z_T[0][:, mine], nearest(refs[0], m.source), z_T.clone()
        mixed = _unit((1 - COPIED) * _unit(own) + COPIED * _unit(other))
        z[0][:, mine] = mixed * other.std(1, keepdim=True) + other.mean(1, keepdim=True)
        return z

    def terms(self, f: Branches, m: Regions, w: Guidance) -> Iterator[Term]:
        """S_app between the regions' mean features (Eq. 10), and S_share over the rest."""
        if w.w_edit:
            s = mean_similarity(f.gen, f.refs[0], m.gen, m.gud)
            yield Term("edit", attract(s, w.w_edit, w.alpha, w.beta), "edit")
        yield from content(f, m, w)


def _unit(x: Tensor) -> Tensor:
    """Each channel of (C, N) with mean 0 and spread 1."""
    return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True).clamp(min=1e-6)
