"""The bundled world: small 3-D scenes, rendered exactly, so that every edit has an exact answer."""

from .counterfactual import KINDS, Counterfactual, counterfactual
from .render import Render, render
from .scene import COLOURS, GROUNDS, PATTERNS, SHAPES, SKIES, Object, Scene, caption, sample_scene

__all__ = [
    "COLOURS",
    "GROUNDS",
    "KINDS",
    "PATTERNS",
    "SHAPES",
    "SKIES",
    "Counterfactual",
    "Object",
    "Render",
    "Scene",
    "caption",
    "counterfactual",
    "render",
    "sample_scene",
]
