"""Notebook widgets for dragonkit."""

from dragonkit_widgets.explorer import CorrespondenceExplorer
from dragonkit_widgets.player import GuidancePlayer
from dragonkit_widgets.sketch import MaskPainter, PointPicker, Sketch
from dragonkit_widgets.studio import EditStudio

__all__ = [
    "CorrespondenceExplorer",
    "EditStudio",
    "GuidancePlayer",
    "MaskPainter",
    "PointPicker",
    "Sketch",
]
