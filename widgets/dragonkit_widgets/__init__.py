"""Notebook widgets for dragonkit."""

from dragonkit_widgets.sketch import MaskPainter, PointPicker, Sketch

__all__ = [
    "MaskPainter",
    "PointPicker",
    "Sketch",
]
