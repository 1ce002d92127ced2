"""dragonkit: drag-style image editing by diffusion feature guidance.

    import dragonkit as dk

    model = dk.load("mini")
    result = dk.edit(model, image, dk.Move(mask, by=(60, 0)), "a red ball on grass at day")
    result.save("moved.png")

Names are looked up when first used, so that ``import dragonkit`` is quick: no torch, no diffusers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # what _HOME says below, for editors and type checkers
    from dragonkit import correspondence as correspondence
    from dragonkit import world as world
    from dragonkit.data import data_path as data_path
    from dragonkit.editor import Result as Result
    from dragonkit.editor import edit as edit
    from dragonkit.editor import edit_steps as edit_steps
    from dragonkit.edits import Appearance as Appearance
    from dragonkit.edits import Drag as Drag
    from dragonkit.edits import Move as Move
    from dragonkit.edits import Paste as Paste
    from dragonkit.edits import Resize as Resize
    from dragonkit.edits import Rotate as Rotate
    from dragonkit.edits import Several as Several
    from dragonkit.energy import similarity as similarity
    from dragonkit.errors import InputError as InputError
    from dragonkit.errors import NonFiniteError as NonFiniteError
    from dragonkit.errors import OutOfMemoryError as OutOfMemoryError
    from dragonkit.generation import generate as generate
    from dragonkit.guidance import Guidance as Guidance
    from dragonkit.inversion import ddim_invert as ddim_invert
    from dragonkit.inversion import fixed_point_invert as fixed_point_invert
    from dragonkit.inversion import null_text_invert as null_text_invert
    from dragonkit.many import Job as Job
    from dragonkit.many import edit_many as edit_many
    from dragonkit.models import Model as Model
    from dragonkit.models import load as load
    from dragonkit.pipeline import DragonDiffusionPipeline as DragonDiffusionPipeline
    from dragonkit.reconstruction import reconstruct as reconstruct
    from dragonkit.schedule import Schedule as Schedule
    from dragonkit.session import Session as Session
    from dragonkit.taps import rewire as rewire
    from dragonkit.taps import tap as tap
    from dragonkit.trace import Record as Record
    from dragonkit.trace import Trace as Trace

_HOME = {
    "Appearance": "edits",
    "Drag": "edits",
    "DragonDiffusionPipeline": "pipeline",
    "Guidance": "guidance",
    "InputError": "errors",
    "Job": "many",
    "Model": "models",
    "Move": "edits",
    "NonFiniteError": "errors",
    "OutOfMemoryError": "errors",
    "Paste": "edits",
    "Record": "trace",
    "Resize": "edits",
    "Result": "editor",
    "Rotate": "edits",
    "Schedule": "schedule",
    "Session": "session",
    "Several": "edits",
    "Trace": "trace",
    "data_path": "data",
    "ddim_invert": "inversion",
    "edit": "editor",
    "edit_many": "many",
    "edit_steps": "editor",
    "fixed_point_invert": "inversion",
    "generate": "generation",
    "load": "models",
    "null_text_invert": "inversion",
    "reconstruct": "reconstruction",
    "rewire": "taps",
    "similarity": "energy",
    "tap": "taps",
}

_PACKAGES = ("correspondence", "world")

__all__ = ["__version__", *_PACKAGES, *_HOME]


def __getattr__(name: str) -> Any:
    """Import the module that a public name lives in, and keep the name here for the next time."""
    if name in _PACKAGES:
        return importlib.import_module(f"dragonkit.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'dragonkit' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"dragonkit.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
