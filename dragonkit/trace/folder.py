"""A trace as a folder: trace.json, its tensors in one safetensors file, and every frame as PNG.

The frames are stored, not only the latents, so that a trace shows what happened where no model is at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dragonkit.errors import InputError
from dragonkit.files import check_folder, read_image
from dragonkit.shelf import document, read_index
from dragonkit.strict import FileName, Strict
from dragonkit.trace.observe import Look
from dragonkit.trace.record import Record
from dragonkit.trace.trace import Trace

INDEX = "trace.json"


class _Record(Strict):
    latents: bool
    gradients: bool
    attention: bool
    features: tuple[int, ...]
    half: bool


class _Index(Strict):
    """trace.json, version 1; lists have one entry a step, in the order of the run."""

    version: Literal[1]
    record: _Record
    steps: tuple[int, ...]
    visits: tuple[int, ...]
    timesteps: tuple[int, ...]
    energies: dict[str, tuple[float | None, ...]]
    gradient_norms: tuple[float | None, ...] = ()
    frames: tuple[FileName, ...]
    looks: dict[str, tuple[tuple[int, int], ...]]
    tensors: FileName
    files: tuple[FileName, ...]


def save_trace(trace: Trace, folder: Path) -> Path:
    """Write a trace, whole or not at all; frames are decoded if latents were kept.

    Raises:
        InputError: the folder cannot be written to.
    """
    check_folder(folder)
    frames = trace.frames() if trace.x0 else []
    tensors, looks = _tensors(trace), dict[str, Any]()
    for seen in trace.attention:
        looks.update({name: look.shapes for name, look in seen.items()})
    with document(folder, INDEX) as draft:
        draft.index = {
            "version": 1,
            "record": vars(trace.record),
            **trace.summary(),
            "frames": [draft.put("frame", ".png", frame.save) for frame in frames],
            "looks": looks,
            "tensors": draft.put("tensors", ".safetensors", lambda path: save_file(tensors, path)),
        }
    return folder


def load_trace(folder: Path, decode: Callable[[Tensor], Tensor] | None = None) -> Trace:
    """Read a trace; see :meth:`Trace.load`."""
    index = read_index(folder / INDEX, _Index)
    try:
        tensors = load_file(folder / index.tensors)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{folder / index.tensors} is broken ({error}): save the trace again") from None
    count, trace = len(index.steps), Trace(decode, Record(**dict(index.record)))
    listed = [index.visits, index.timesteps, *index.energies.values(), *([index.frames] if index.frames else [])]
    if any(len(values) != count for values in listed):
        raise InputError(f"{folder / INDEX} has lists of different lengths: save the trace again")

    def taken(part: str, k: int) -> dict[str, Tensor]:
        start = f"{part}/{k}/"
        return {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}

    for k in range(count):
        energies = {name: values[k] for name, values in index.energies.items()}
        step = _Step(
            i=index.steps[k],
            t=index.timesteps[k],
            visit=index.visits[k],
            x0=tensors.get(f"x0/{k}"),
            grad=tensors.get(f"grad/{k}"),
            energies={n: torch.tensor(v, dtype=torch.float64) for n, v in energies.items() if v is not None},
            attention={n: Look(x, index.looks[n]) for n, x in taken("attention", k).items() if n in index.looks},
            features={int(layer): x for layer, x in taken("features", k).items()},
        )
        trace.add(step)
    trace.keep_frames([read_image(folder / name) for name in index.frames])
    return trace


@dataclass
class _Step:
    """A step as it was traced."""

    i: int
    t: int
    visit: int
    x0: Any
    grad: Tensor | None
    energies: Mapping[str, Tensor]
    attention: dict[str, Look]
    features: dict[int, Tensor]


def _tensors(trace: Trace) -> dict[str, Tensor]:
    """Everything kept, by "part/step" or "part/step/name"."""
    found = {f"x0/{k}": x for k, x in enumerate(trace.x0)}
    found |= {f"grad/{k}": g for k, g in enumerate(trace.grads) if g is not None}
    for k, seen in enumerate(trace.attention):
        found |= {f"attention/{k}/{name}": look.weights for name, look in seen.items()}
    for k, features in enumerate(trace.features):
        found |= {f"features/{k}/{layer}": x for layer, x in features.items()}
    return {name: x.detach().cpu().contiguous() for name, x in found.items()}
