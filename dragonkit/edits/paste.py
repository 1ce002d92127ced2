"""Pasting an object from another image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dragonkit.edits.base import Branches, Edit, Places, Reference, Regions, content, reference
from dragonkit.edits.move import carried, centre, numbers, sourced, transplanted
from dragonkit.energy import Term, attract, similarity
from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.regions import Frame, Placement, flat


@dataclass(frozen=True, eq=False)
class Paste(Edit):
    """Put an object of a reference image into the edited one.

    The prompt of the run should say what the result shows, the pasted object too: a prompt that knows of another object
    only tends to give that one's look to what is pasted.

    Args:
        reference: another image, of any size, see :func:`dragonkit.regions.as_image`.
        reference_mask: the object in it, of its size.
        at: (x, y) in pixels of the edited image, where the object's centre (the mean of its mask's pixels) goes.
        scale: its new size over its old in pixels, more than 0.
        reference_prompt: what the reference shows.

    Raises:
        InputError: a value is not usable.
    """

    reference: Any
    reference_mask: Any
    at: tuple[float, float]
    scale: float = 1.0
    reference_prompt: str = ""
    kind = "paste"

    def __post_init__(self) -> None:
        object.__setattr__(self, "_reference", reference(self.reference, self.reference_mask, self.reference_prompt))
        object.__setattr__(self, "at", numbers("at", self.at, 2))
        object.__setattr__(self, "scale", numbers("scale", [self.scale], 1)[0])
        if self.scale <= 0:
            raise InputError(f"scale is {self.scale}: give a number above 0")

    @property
    def references(self) -> tuple[Reference]:
        """The image that the object comes from."""
        return (self._reference,)  # type: ignore[attr-defined]

    @property
    def placement(self) -> Placement:
        """The map from the object's place in the reference to its place in the image, in pixels."""
        x, y = centre(self.references[0].mask)
        return Placement((x, y), (self.at[0] - x, self.at[1] - y), self.scale)

    def places(self, frame: Frame) -> Places:
        """Where the object goes, twice: it was nowhere."""
        target = carried(self.references[0].mask, (frame.height, frame.width), self.placement)
        return Places(target, target)

    def regions(self, frame: Frame) -> Regions:
        """m_gen where the object goes, and where in the reference each of its cells comes from.

        Raises:
            InputError: nothing of the object would be on the image.
        """
        (ref,), placement = self.references, self.placement
        there, theirs = frame.like(*ref.image.shape[1:]), ref.mask.to(frame.device)
        target = carried(theirs, (frame.height, frame.width), placement)
        if not target.any():
            raise InputError(f"pasted at ({self.at[0]:g}, {self.at[1]:g}) the object is off the image: move it in")
        m_gen, gud = sourced(frame, target, placement, frame.grid, there)
        m_latent, source = sourced(frame, target, placement, frame.latent, there)
        return Regions(
            gen=flat(m_gen),
            gud=gud,
            share=flat(~m_gen),
            target=m_latent,
            landing=m_latent,
            source=source,
            edited=m_latent,
            tokens=frame.tokens(~frame.extended(target)),
            ref_tokens=(there.tokens(theirs),),
        )

    def terms(self, f: Branches, m: Regions, w: Guidance) -> Iterator[Term]:
        """S_edit between the target and the reference's object, S_share over the rest (Eq. 5)."""
        if w.w_edit:
            s = similarity(f.gen, f.refs[0], m.gen, m.gud)
            yield Term("edit", attract(s, w.w_edit, w.alpha, w.beta), "edit")
        yield from content(f, m, w)

    def start(self, z_T: Tensor, refs: tuple[Tensor, ...], m: Regions) -> Tensor:
        """z_T with the reference object's noise copied to its target."""
        return transplanted(z_T, refs[0], m)
