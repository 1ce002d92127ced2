"""Notebook widgets for dragonkit."""

from dragonkit_widgets.player import GuidancePlayer
from dragonkit_widgets.sketch import MaskPainter, PointPicker, Sketch

__all__ = [
    "GuidancePlayer",
    "MaskPainter",
    "PointPicker",
    "Sketch",
]
