"""The edits, one file each."""

from dragonkit.edits.appearance import Appearance
from dragonkit.edits.base import Branches, Edit, Places, Reference, Regions
from dragonkit.edits.drag import Drag
from dragonkit.edits.move import Move
from dragonkit.edits.paste import Paste
from dragonkit.edits.reconstruct import Reconstruct
from dragonkit.edits.resize import Resize
from dragonkit.edits.rotate import Rotate
from dragonkit.edits.several import Several

__all__ = [
    "Appearance",
    "Branches",
    "Drag",
    "Edit",
    "Move",
    "Paste",
    "Places",
    "Reconstruct",
    "Reference",
    "Regions",
    "Resize",
    "Several",
    "Rotate",
]
