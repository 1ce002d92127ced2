"""Text in the browser, shown as it is: what goes on and how far it is, what went wrong, and code to copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import traitlets
from PIL import Image, ImageDraw

from dragonkit_widgets.assets import module, styles
from dragonkit_widgets.base import Base


class Notice(Base):
    """One line that says what goes on; errors are marked, and read out at once."""

    _esm = module("common", "notice")
    _css = styles("common", "notice")

    text = traitlets.Unicode("").tag(sync=True)
    error = traitlets.Bool(False).tag(sync=True)
    fraction = traitlets.Float(-1.0, help="done, in [0, 1]; below 0 nothing is under way").tag(sync=True)

    def say(self, text: str, *, error: bool = False, fraction: float = -1.0) -> None:
        """Show a line instead of the last one."""
        with self.hold_sync():
            self.text, self.error, self.fraction = text, error, fraction

    def face(self) -> Image.Image:
        """The line as a picture."""
        return written(self.text)

    def __repr__(self) -> str:
        return f"Notice({self.text!r})"


class Snippet(Base):
    """Code with a button that copies it.

    Attributes:
        copied: called when it was copied; set it.
    """

    _esm = module("common", "snippet")
    _css = styles("common", "notice")

    code = traitlets.Unicode("").tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self.copied: Callable[[], object] = lambda: None
        self.on_msg(lambda widget, content, buffers: self.copied())

    def face(self) -> Image.Image:
        """The code as a picture."""
        return written(self.code)

    def __repr__(self) -> str:
        return f"Snippet({len(self.code.splitlines())} lines)"


def written(text: str, colour: str = "black") -> Image.Image:
    """Text as a picture."""
    ascii_only = text.encode("ascii", "replace").decode() or " "
    box = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((4, 4), ascii_only)
    image = Image.new("RGB", (int(box[2]) + 4, int(box[3]) + 6), "white")
    ImageDraw.Draw(image).multiline_text((4, 4), ascii_only, fill=colour)
    return image
