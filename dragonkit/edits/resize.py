"""Growing or shrinking an object where it is (Eq. 9)."""

from __future__ import annotations

from typing import Any

from dragonkit.edits.move import Move


class Resize(Move):
    """Scale an object about its centre: a :class:`Move` that goes nowhere.

    Args:
        mask: the object, bool (H, W).
        scale: its new size over its old, more than 0.
    """

    kind = "resize"

    def __init__(self, mask: Any, scale: float) -> None:
        super().__init__(mask, scale=scale)
