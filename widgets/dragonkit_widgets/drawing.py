"""From what is drawn to the edit it means, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from dragonkit.edits import Appearance, Drag, Edit, Move, Paste, Resize, Rotate
from dragonkit.edits.move import centre
from dragonkit.errors import InputError
from dragonkit.film import to_pil
from dragonkit.guidance import KINDS

Arrow = tuple[float, float, float, float]
"""(x0, y0, x1, y1), pixels: from there to there."""

HINTS = {
    "move": "Paint the object, then drag an arrow from it to where it goes.",
    "resize": "Paint the object, then set its scale.",
    "rotate": "Paint the object, then drag arrows from points on it to where they turn to.",
    "appearance": "Paint the object, then choose a reference below and paint the object to take the looks from.",
    "drag": "Drag arrows from points to where they go. Painting marks what may change, if you wish to limit it.",
    "paste": "Click where the object goes, choose a reference below, paint the object in it and name it in the prompt.",
}
"""What to draw for each kind of edit."""

SCALED = ("move", "resize", "paste")
TURNED = ("move",)
REFERRED = ("appearance", "paste")


@dataclass(frozen=True, eq=False, kw_only=True)
class Drawing:
    """What stands on the canvas, and the sliders beside it.

    Args:
        kind: of edit, one of ``HINTS``.
        points: arrows.
        mask: bool (H, W); None or empty if nothing is painted.
        scale: of move, resize and paste.
        angle: of move, degrees clockwise.
        reference: the second image.
        reference_mask: bool, of its size.
        reference_prompt: what it shows.
    """

    kind: str
    points: tuple[Arrow, ...] = ()
    mask: np.ndarray | None = None
    scale: float = 1.0
    angle: float = 0.0
    reference: Image.Image | None = field(default=None)
    reference_mask: np.ndarray | None = None
    reference_prompt: str = ""

    @property
    def edit(self) -> Edit:
        """What is drawn, as an edit.

        Raises:
            InputError: something is missing; the message says what to draw.
        """
        return getattr(self, f"_{self.kind}")()

    @classmethod
    def of(cls, edit: Edit) -> Drawing | None:
        """How an edit would be drawn; None if it is of a kind that cannot be."""
        known: dict[str, Any] = {"kind": edit.kind}
        if getattr(edit, "mask", None) is not None:
            known["mask"] = edit.mask.numpy()  # type: ignore[attr-defined]
        if isinstance(edit, Move):
            x, y = centre(edit.mask)
            arrow = (x, y, x + edit.by[0], y + edit.by[1])
            kind = "move" if any(edit.by) or edit.angle else "resize"
            drawn = {"points": (arrow,) if kind == "move" else (), "scale": edit.scale, "angle": edit.angle}
            return cls(**known | {"kind": kind} | drawn)
        if isinstance(edit, Drag):
            return cls(**known, points=tuple(edit.points))  # type: ignore[arg-type]
        if isinstance(edit, (Appearance, Paste)):
            (ref,) = edit.references
            known |= {"reference": to_pil(ref.image), "reference_mask": ref.mask.numpy()}
            if isinstance(edit, Paste):
                known |= {"points": ((*edit.at, *edit.at),), "scale": edit.scale}
            return cls(**known, reference_prompt=ref.prompt)
        return None

    @property
    def painted(self) -> np.ndarray:
        """The mask.

        Raises:
            InputError: nothing is painted.
        """
        if self.mask is None or not self.mask.any():
            raise InputError("nothing is painted: paint the object with the brush, a box or the lasso")
        return self.mask

    def arrow(self, what: str) -> Arrow:
        """The only arrow.

        Args:
            what: to do, if there is none or another number of them.

        Raises:
            InputError: so it is.
        """
        if len(self.points) != 1:
            found = f"{len(self.points)} are" if self.points else "none is"
            raise InputError(f"{found} drawn: {what}")
        return self.points[0]

    def _theirs(self) -> tuple[Image.Image, np.ndarray]:
        if self.reference is None:
            raise InputError("there is no reference image: choose one under 'Reference'")
        if self.reference_mask is None or not self.reference_mask.any():
            raise InputError("nothing is painted in the reference: paint the object there")
        return self.reference, self.reference_mask

    def _arrows(self) -> list[Arrow]:
        if not self.points:
            raise InputError("no arrow is drawn: drag one from a point to where it goes")
        return list(self.points)

    def _move(self) -> Edit:
        mask = self.painted
        still = self.scale == 1 and self.angle == 0
        if not self.points and not still:
            return Move(mask, scale=self.scale, angle=self.angle)
        x0, y0, x1, y1 = self.arrow("drag one arrow from the object to where it goes")
        return Move(mask, by=(x1 - x0, y1 - y0), scale=self.scale, angle=self.angle)

    def _resize(self) -> Edit:
        if self.scale == 1:
            raise InputError("scale is 1, which changes nothing: set the scale")
        return Resize(self.painted, self.scale)

    def _rotate(self) -> Edit:
        return Rotate(self._arrows(), self.painted)

    def _drag(self) -> Edit:
        painted = self.mask is not None and self.mask.any()
        return Drag(self._arrows(), self.mask if painted else None)

    def _appearance(self) -> Edit:
        mask, (reference, theirs) = self.painted, self._theirs()
        return Appearance(mask, reference, theirs, self.reference_prompt)

    def _paste(self) -> Edit:
        *_, x, y = self.arrow("click the one spot where the object's centre goes")
        reference, theirs = self._theirs()
        return Paste(reference, theirs, (x, y), self.scale, self.reference_prompt)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of edit of one's own that the studio shall offer.

    Args:
        build: from what is drawn to the edit; what is missing it says by an :class:`dragonkit.InputError`, as
            :attr:`Drawing.painted` and :meth:`Drawing.arrow` do.
        hint: what to draw.
        guided: the kind, of :data:`dragonkit.guidance.KINDS`, with whose presets it begins.

    Raises:
        InputError: a value is not usable.
    """

    build: Callable[[Drawing], Edit]
    hint: str
    guided: str = "move"

    def __post_init__(self) -> None:
        if not callable(self.build):
            raise InputError(f"build is {self.build!r}: give a function from a Drawing to an edit")
        if self.guided not in KINDS:
            raise InputError(f"guided is {self.guided!r}: choose from {', '.join(KINDS)}")


def check_kinds(kinds: Any) -> None:
    """Refuse kinds of edit that cannot stand beside those in ``HINTS``.

    Raises:
        InputError: a name is taken or empty, or what it names is no :class:`Kind`.
    """
    for name, kind in dict(kinds).items():
        if not isinstance(name, str) or not name or name in HINTS:
            raise InputError(f"a kind is called {name!r}: give it a name that is none of {', '.join(HINTS)}")
        if not isinstance(kind, Kind):
            raise InputError(f"kind {name!r} is a {type(kind).__name__}: give a Kind(build=..., hint=...)")
