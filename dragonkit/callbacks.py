"""What a diffusers pipeline calls after each step: a function, or a ``PipelineCallback`` of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from dragonkit.editor import Step
from dragonkit.errors import InputError

TOLD = ("latents",)
"""The names of what a callback can ask for."""

Callback = Callable[[Any, int, int, dict[str, Tensor]], dict[str, Tensor] | None]


def asked_by(callback: Any, names: Any) -> list[str]:
    """What a callback is called with.

    Args:
        callback: a function, or one of diffusers' own, which says itself what it asks for; or None.
        names: what the function asks for, some of ``TOLD``.

    Raises:
        InputError: the callback cannot be called, or asks for anything else.
    """
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        names = callback.tensor_inputs
    elif callback is not None and not callable(callback):
        raise InputError(f"callback_on_step_end is a {type(callback).__name__}: give a function or a PipelineCallback")
    if not isinstance(names, (list, tuple)):
        raise InputError(f"callback_on_step_end_tensor_inputs is {names!r}: give ['latents'] or []")
    if unknown := [name for name in names if name not in TOLD]:
        raise InputError(f"callback_on_step_end_tensor_inputs has {unknown[0]!r}: it may hold 'latents' alone")
    return list(names)


def call_back(callback: Callback, pipe: Any, step: Step, asked: list[str]) -> None:
    """Call the user's function after a step, and put its latents in the place of the run's.

    Raises:
        InputError: it gave what is no dict, or latents of another shape.
    """
    given = callback(pipe, step.i, step.t, {"latents": step.z} if asked else {})
    if not isinstance(given, dict | None):
        raise InputError(f"callback_on_step_end gave a {type(given).__name__}: give a dict, or None")
    z = (given or {}).get("latents", step.z)
    if z is step.z:
        return
    if not isinstance(z, Tensor) or z.shape != step.z.shape:
        raise InputError(f"callback_on_step_end gave latents {_shape(z)}: give {_shape(step.z)}")
    step.z.copy_(z)  # the very tensor from which the run goes on


def _shape(x: Any) -> str:
    return str(tuple(x.shape)) if isinstance(x, Tensor) else f"a {type(x).__name__}"
