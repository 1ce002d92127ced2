"""A trace as a folder: trace.json, its tensors in one safetensors file, and every frame as PNG.

The frames are stored, not only the latents, so that a trace shows what happened where no model is at hand.
"""

from __future__ import annotations

import math
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
from dragonkit.trace.look import Look, Rows, Shapes
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
    """trace.json; lists have one entry a step, in the order of the run.

    Version 1 kept no attention of single cells. Its tensors lack what those of version 2 may lack too, so that both are
    read alike.
    """

    version: Literal[1, 2]
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
            "version": 2,
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

    def look(name: str, k: int) -> Look:
        found = _look(tensors, name, k, index.looks[name])
        if found is None:
            raise InputError(f"{folder / index.tensors} has maps of wrong sizes: save the trace again")
        return found

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
            attention={name: look(name, k) for name in taken("attention", k) if name in index.looks},
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
    """Everything kept, by "part/step" or "part/step/name"; which cells were seen is the same at every step."""
    found = {f"x0/{k}": x for k, x in enumerate(trace.x0)}
    found |= {f"grad/{k}": g for k, g in enumerate(trace.grads) if g is not None}
    for k, seen in enumerate(trace.attention):
        for name, look in seen.items():
            found[f"attention/{k}/{name}"] = look.weights
            if look.rows is not None:
                found[f"rows/{k}/{name}"] = look.rows.weights
                # Copies: layers of one size share these, and a safetensors file shares nothing.
                found[f"cells/{name}"], found[f"tokens/{name}"] = look.rows.cells.clone(), look.rows.tokens.clone()
    for k, features in enumerate(trace.features):
        found |= {f"features/{k}/{layer}": x for layer, x in features.items()}
    return {name: x.detach().cpu().contiguous() for name, x in found.items()}


def _look(tensors: dict[str, Tensor], name: str, k: int, shapes: Shapes) -> Look | None:
    """The attention of one layer at one step; None if its parts do not fit together."""
    weights, single = tensors[f"attention/{k}/{name}"], tensors.get(f"rows/{k}/{name}")
    places = sum(h * w for h, w in shapes)
    if len(shapes) < 2 or weights.shape != (places,):
        return None
    if single is None:
        return Look(weights, shapes)
    cells, tokens = (tensors.get(f"{part}/{name}", torch.zeros(0)) for part in ("cells", "tokens"))
    whole = cells.dtype == tokens.dtype == torch.int64 and single.shape == (len(cells), len(tokens))
    if not whole or any(((x < 0) | (x >= most)).any() for x, most in ((cells, math.prod(shapes[0])), (tokens, places))):
        return None
    return Look(weights, shapes, Rows(single, cells, tokens))
