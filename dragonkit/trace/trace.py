"""The trace of a run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from dragonkit.checks import check_whole
from dragonkit.errors import InputError
from dragonkit.film import to_pil, write_gif, write_mp4
from dragonkit.trace.look import Look
from dragonkit.trace.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PathLike = str | os.PathLike[str]


class StepLike(Protocol):
    """What a trace reads of a :class:`dragonkit.editor.Step`; ``visit``, ``features``, ``attention`` may be absent."""

    i: int
    t: int
    x0: Tensor
    grad: Tensor | None
    energies: Mapping[str, Tensor]


class Trace:
    """Energies of every step, and what else was asked for, in the order of the run.

    Tensors stay where they are until looked at, so tracing waits for nothing and changes nothing. Time travel visits
    some steps several times; every visit has its own entry in each list.

    Args:
        decode: latent (1, C, h, w) to image (3, H, W) in [0, 1], for :meth:`frames`.
        record: what to keep; True for latents and gradients.

    Attributes:
        record: what is kept.
        steps: index of each step.
        visits: how often the run had been at that step before.
        timesteps: t of each step.
        x0: predicted clean latents (1, C, h, w), if kept.
        grads: ∂L/∂z_t (1, C, h, w), None where not guided, if kept.
        attention: by layer name where the target's cells look, and each edited cell alone; empty where attention was
            not rewired, or not kept.
        features: by decoder layer (1, C, h, w); empty where not kept.
    """

    def __init__(self, decode: Callable[[Tensor], Tensor] | None = None, record: Record | bool = False) -> None:
        self.record = Record.of(record)
        self.steps: list[int] = []
        self.visits: list[int] = []
        self.timesteps: list[int] = []
        self.x0: list[Tensor] = []
        self.grads: list[Tensor | None] = []
        self.attention: list[Mapping[str, Look]] = []
        self.features: list[Mapping[int, Tensor]] = []
        self._energies: list[Mapping[str, Tensor]] = []
        self._decode = decode
        self._frames: dict[int, Image.Image] = {}

    def __len__(self) -> int:
        return len(self.timesteps)

    def add(self, step: StepLike) -> None:
        """Keep what is wanted of a step."""
        self.steps.append(step.i)
        self.visits.append(getattr(step, "visit", 0))
        self.timesteps.append(step.t)
        self._energies.append(step.energies)
        if self.record.latents:
            self.x0.append(step.x0)
        if self.record.gradients:
            self.grads.append(step.grad)
        self.attention.append(getattr(step, "attention", None) or {})
        self.features.append(getattr(step, "features", None) or {})

    @property
    def energies(self) -> dict[str, list[float]]:
        """Each term's value, its weight included, by step; NaN where the step was not guided."""
        values = iter(_numbers([e for energies in self._energies for e in energies.values()]))
        known = [{name: next(values) for name in energies} for energies in self._energies]
        names = dict.fromkeys(name for energies in known for name in energies)
        return {name: [energies.get(name, math.nan) for energies in known] for name in names}

    @property
    def gradient_norms(self) -> list[float]:
        """‖∂L/∂z_t‖ by step, NaN where the step was not guided; empty if gradients were not kept."""
        norms = iter(_numbers([g.norm() for g in self.grads if g is not None]))
        return [math.nan if g is None else next(norms) for g in self.grads]

    def frames(self, every: int = 1) -> list[Image.Image]:
        """The predicted clean images, decoded now and then kept: each ``every``-th step's, the last one's always.

        Raises:
            InputError: latents were not kept, or ``every`` is not a whole number from 1.
        """
        check_whole("every", every, 1)
        chosen = range(len(self))[::-1][::every][::-1]
        missing = [k for k in chosen if k not in self._frames]
        if not len(self) or (missing and (not self.x0 or self._decode is None)):
            raise InputError("no latents were kept: run edit(..., trace=True) to look at frames")
        for k in missing:
            assert self._decode is not None
            self._frames[k] = to_pil(self._decode(self.x0[k]))
        return [self._frames[k] for k in chosen]

    def keep_frames(self, frames: list[Image.Image]) -> None:
        """Take frames that were decoded before, one for each step, or none."""
        self._frames = dict(enumerate(frames))

    def gif(self, path: PathLike, fps: float = 10, every: int = 1) -> Path:
        """Write :meth:`frames` as a GIF; see :func:`dragonkit.film.write_gif`."""
        return write_gif(self.frames(every), path, fps)

    def mp4(self, path: PathLike, fps: float = 10, every: int = 1) -> Path:
        """Write :meth:`frames` as a film; see :func:`dragonkit.film.write_mp4`."""
        return write_mp4(self.frames(every), path, fps)

    def plot(self) -> Figure:
        """Each energy term by step, and below it the gradient's norm if gradients were kept: a matplotlib figure."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        norms = self.gradient_norms
        figure = Figure(figsize=(6.4, 3.2 + 2.2 * bool(norms)), layout="constrained")
        ratios = [3, 2] if norms else [3]
        upper, *lower = figure.subplots(len(ratios), 1, squeeze=False, sharex=True, height_ratios=ratios)[:, 0]
        for name, values in self.energies.items():
            upper.plot(values, label=name, **_marker(values))
        _titled(upper, "energy terms", "energy, weighted")
        if upper.lines:
            upper.legend(frameon=False, ncols=2)
        for axes in lower:
            axes.plot(norms, color="0.25", **_marker(norms))
            _titled(axes, "gradient", r"norm of $\partial L/\partial z_t$")
        upper.xaxis.set_major_locator(MaxNLocator(integer=True))
        (lower or [upper])[-1].set(xlabel="step, in the order of the run", xlim=(0, max(len(self) - 1, 1)))
        return figure

    def to_json(self) -> str:
        """Steps, timesteps, energies and gradient norms (if kept) as JSON; null where a step was not guided."""
        return json.dumps(self.summary(), allow_nan=False)

    def summary(self) -> dict[str, Any]:
        """What :meth:`to_json` writes, as plain lists."""
        record: dict[str, Any] = {"steps": self.steps, "visits": self.visits, "timesteps": self.timesteps}
        record["energies"] = {name: _null(values) for name, values in self.energies.items()}
        if self.grads:
            record["gradient_norms"] = _null(self.gradient_norms)
        return record

    def save(self, folder: PathLike) -> Path:
        """Write the trace with its frames into a folder, whole or not at all; see :mod:`dragonkit.trace.folder`."""
        from dragonkit.trace.folder import save_trace

        return save_trace(self, Path(folder))

    @classmethod
    def load(cls, folder: PathLike, decode: Callable[[Tensor], Tensor] | None = None) -> Trace:
        """Read what :meth:`save` wrote; its frames show without a model. Tensors come to the CPU.

        Raises:
            InputError: the folder holds no trace, or a broken one.
        """
        from dragonkit.trace.folder import load_trace

        return load_trace(Path(folder), decode)

    def __repr__(self) -> str:
        return f"Trace({len(self)} steps, {', '.join(self.energies) or 'not guided'})"


def _numbers(values: list[Tensor]) -> list[float]:
    """0-d tensors as numbers, in one transfer."""
    return torch.stack([v.detach().double() for v in values]).tolist() if values else []


def _null(values: list[float]) -> list[float | None]:
    return [None if math.isnan(v) else v for v in values]


def _marker(values: list[float]) -> dict[str, Any]:
    """Points beside the line where a value has no neighbour, which a line alone would not show."""
    return {"marker": "."} if any(map(math.isnan, values[:-1])) or len(values) < 2 else {}


def _titled(axes: Axes, title: str, label: str) -> None:
    axes.set_title(title)
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
