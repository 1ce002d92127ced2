"""What a trace keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dragonkit.errors import InputError
from dragonkit.taps import attentions
from dragonkit.taps import features as tapped


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a trace keeps of every step, beside timesteps and energies. ``trace=True`` is ``Record()``.

    Args:
        latents: the predicted clean latents, for frames.
        gradients: ∂L/∂z_t.
        attention: where the target's cells look on average, and where each edited cell does, for every rewired
            decoder layer; see :class:`dragonkit.trace.Look`. Their share of those layers' attention is computed once
            more. A moved object of 50 cells on the bundled model's 32 x 32, in 50 steps, leaves 20 MB; on larger grids
            it grows as edited cells times all cells, to at most 8 MB a layer and step.
        features: decoder layers, from 1, whose output is kept: large, (1, C, h, w) a layer and step.
        half: keep features in half precision.

    Raises:
        InputError: a value is of the wrong type.
    """

    latents: bool = True
    gradients: bool = True
    attention: bool = False
    features: tuple[int, ...] = ()
    half: bool = False

    def __post_init__(self) -> None:
        for name in ("latents", "gradients", "attention", "half"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}: give True or False")
        layers = self.features
        whole = isinstance(layers, (tuple, list)) and all(type(k) is int and k >= 1 for k in layers)
        if not whole or len(set(layers)) < len(layers):
            raise InputError(f"features is {layers!r}: name decoder layers once, from 1")
        object.__setattr__(self, "features", tuple(layers))

    @classmethod
    def of(cls, trace: Any, unet: Any = None) -> Record:
        """What ``edit(..., trace=…)`` means: True the default, False nothing, or a record as it is.

        Args:
            trace: what was given.
            unet: the denoiser, to check that it has what is asked for.

        Raises:
            InputError: it is none of these, or the denoiser lacks a layer or has no attention to look at.
        """
        if not isinstance(trace, (bool, Record)):
            raise InputError(f"trace is {trace!r}: give True, False or a Record")
        record = trace if isinstance(trace, Record) else cls(latents=trace, gradients=trace)
        if unet is not None and record.attention:
            attentions(unet)
        if unet is not None and record.features:
            with tapped(unet, record.features):
                pass
        return record


NOTHING = Record(latents=False, gradients=False)
"""Timesteps and energies only."""
