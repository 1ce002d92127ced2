"""A button that takes an image file, or one dropped on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image

from dragonkit_widgets.assets import module, styles
from dragonkit_widgets.base import Base
from dragonkit_widgets.notice import written


class Opener(Base):
    """Takes an image file of any size.

    Files over 4 MB are scaled down in the browser, to 1024 pixels a side: a Jupyter server cuts the line to its kernel
    when a message has more than 10 MiB.

    Args:
        opened: called with the file's bytes, its name, and the (width, height) that it had if it was scaled, else None.
    """

    _esm = module("common", "opener")
    _css = styles("common", "opener")

    def __init__(self, opened: Callable[[bytes, str, tuple[int, int] | None], object], **traits: Any) -> None:
        super().__init__(**traits)
        self._opened = opened
        self.on_msg(self._told)

    def face(self) -> Image.Image:
        """What the button says."""
        return written("Choose an image file")

    def _told(self, widget: Any, content: dict[str, Any], buffers: Any) -> None:
        size = content.get("size")
        self._opened(bytes(buffers[0]), str(content["name"]), (int(size[0]), int(size[1])) if size else None)
