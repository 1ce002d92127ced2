"""Notebook widgets for dragonkit."""

from dragonkit_widgets.drawing import Drawing, Kind
from dragonkit_widgets.explorer import CorrespondenceExplorer
from dragonkit_widgets.player import GuidancePlayer
from dragonkit_widgets.sketch import MaskPainter, PointPicker, Sketch
from dragonkit_widgets.studio import EditStudio

__all__ = [
    "CorrespondenceExplorer",
    "Drawing",
    "EditStudio",
    "GuidancePlayer",
    "Kind",
    "MaskPainter",
    "PointPicker",
    "Sketch",
]
