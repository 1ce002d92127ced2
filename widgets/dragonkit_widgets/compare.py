"""Two or three pictures of one size compared: by a wipe, by blinking, or side by side."""

from __future__ import annotations

from typing import Any

import traitlets
from PIL import Image

from dragonkit.errors import InputError
from dragonkit_widgets.assets import module, styles
from dragonkit_widgets.base import Base, binary, picture, png

MODES = ("wipe", "blink", "side by side")


class Compare(Base):
    """A picture before and after, and the exact answer if it is known.

    Args:
        before: whatever :func:`dragonkit.regions.as_image` takes.
        after: another image of its size.
        answer: what ``after`` should be.
        size: of the pictures' longer side, CSS pixels.

    Raises:
        InputError: an image is not usable, or their sizes differ.
    """

    _esm = module("common", "compare")
    _css = styles("common", "compare")

    mode = traitlets.Enum(MODES, MODES[0]).tag(sync=True)
    position = traitlets.Float(0.5, min=0, max=1, help="of the wipe's edge, from the left").tag(sync=True)
    against = traitlets.Enum(("before", "answer"), "before", help="what after is compared with").tag(sync=True)
    size = traitlets.Int(420, min=64, max=4096).tag(sync=True)
    _before, _after, _answer = (binary() for _ in range(3))

    def __init__(self, before: Any = None, after: Any = None, answer: Any = None, **traits: Any) -> None:
        super().__init__(**traits)
        self._pictures: dict[str, Image.Image] = {}
        if before is not None:
            self.show(before, before if after is None else after, answer)

    def show(self, before: Any, after: Any, answer: Any = None) -> None:
        """Show other pictures.

        Args:
            before: on the left of the wipe.
            after: on its right.
            answer: what ``after`` should be; None if that is not known.

        Raises:
            InputError: an image is not usable, or their sizes differ.
        """
        given = {"before": before, "after": after, "answer": answer}
        pictures = {name: picture(image) for name, image in given.items() if image is not None}
        if len({image.size for image in pictures.values()}) > 1:
            sizes = ", ".join(f"{name} {image.width}x{image.height}" for name, image in pictures.items())
            raise InputError(f"the pictures differ in size ({sizes}): give them in one")
        self._pictures = pictures
        with self.hold_sync():
            if answer is None:
                self.against = "before"
            for name in given:
                setattr(self, f"_{name}", png(pictures[name]) if name in pictures else b"")

    def clear(self) -> None:
        """Show no pictures."""
        self._pictures = {}
        with self.hold_sync():
            self._before = self._after = self._answer = b""

    def face(self) -> Image.Image:
        """The pictures side by side."""
        shown = list(self._pictures.values()) or [Image.new("RGB", (64, 64), "white")]
        gap = 6
        sheet = Image.new("RGB", (sum(image.width + gap for image in shown) - gap, shown[0].height), "white")
        for k, image in enumerate(shown):
            sheet.paste(image, (k * (image.width + gap), 0))
        return sheet

    def __repr__(self) -> str:
        sizes = {f"{image.width}x{image.height}" for image in self._pictures.values()}
        return f"Compare({', '.join([*sizes, *self._pictures])})"
