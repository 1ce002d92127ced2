"""Giving an object the appearance of another, keeping its outline (Eq. 10)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dragonkit.edits.base import Branches, Edit, Reference, Regions, content, reference
from dragonkit.energy import Term, attract, mean_similarity
from dragonkit.guidance import Guidance
from dragonkit.regions import Frame, as_mask, flat


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

    def places(self, frame: Frame) -> tuple[Tensor, Tensor]:
        """The mask, twice: the object stays."""
        return self.mask, self.mask

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
            source=there.cells(theirs, there.latent),
            edited=m_latent,
            tokens=frame.tokens(~mask),
            ref_tokens=(there.tokens(theirs),),
        )

    def start(self, z_T: Tensor, refs: tuple[Tensor, ...], m: Regions) -> Tensor:
        """z_T whose noise in m_gen has each channel's mean and spread from the reference's noise in m_app.

        Inverted noise keeps a trace of the image's colours there, and this is the adaptive instance normalisation
        that takes it from the one object to the other (Huang and Belongie, ICCV 2017).
        """
        mine, theirs = m.landing, m.source
        if mine is None or theirs is None or mine.sum() < 2 or theirs.sum() < 2:
            return z_T
        own, other, z = z_T[0][:, mine], refs[0][0][:, theirs], z_T.clone()
        unit = (own - own.mean(1, keepdim=True)) / own.std(1, keepdim=True).clamp(min=1e-6)
        z[0][:, mine] = unit * other.std(1, keepdim=True) + other.mean(1, keepdim=True)
        return z

    def terms(self, f: Branches, m: Regions, w: Guidance) -> Iterator[Term]:
        """S_app between the regions' mean features (Eq. 10), and S_share over the rest."""
        if w.w_edit:
            s = mean_similarity(f.gen, f.refs[0], m.gen, m.gud)
            yield Term("edit", attract(s, w.w_edit, w.alpha, w.beta), "edit")
        yield from content(f, m, w)
