"""What a run leaves behind. The sampler yields steps and keeps nothing; the trace decides what is kept."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from dragonkit.errors import InputError
from dragonkit.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class StepLike(Protocol):
    """What a trace reads of a :class:`dragonkit.editor.Step`."""

    t: int
    x0: Tensor
    grad: Tensor | None
    energies: Mapping[str, Tensor]


class Trace:
    """Energies of every step, and if asked for, the predicted clean latents and the gradients.

    Tensors stay where they are until looked at, so tracing waits for nothing and changes nothing.

    Args:
        decode: latent (1, C, h, w) to image (3, H, W) in [0, 1], for :meth:`frames`.
        latents: whether to keep latents and gradients.

    Attributes:
        timesteps: t of each step.
        x0: predicted clean latents (1, C, h, w) by step, if kept.
        grads: ∂L/∂z_t (1, C, h, w) by step, None where not guided, if kept.
    """

    def __init__(self, decode: Callable[[Tensor], Tensor] | None = None, *, latents: bool = False) -> None:
        self.timesteps: list[int] = []
        self.x0: list[Tensor] = []
        self.grads: list[Tensor | None] = []
        self._energies: list[Mapping[str, Tensor]] = []
        self._decode, self._latents = decode, latents

    def __len__(self) -> int:
        return len(self.timesteps)

    def add(self, step: StepLike) -> None:
        """Keep what is wanted of a step."""
        self.timesteps.append(step.t)
        self._energies.append(step.energies)
        if self._latents:
            self.x0.append(step.x0)
            self.grads.append(step.grad)

    @property
    def energies(self) -> dict[str, list[float]]:
        """Each term's value, its weight included, by step; NaN where the step was not guided."""
        names = dict.fromkeys(name for energies in self._energies for name in energies)
        return {n: [float(e[n]) if n in e else math.nan for e in self._energies] for n in names}

    @property
    def gradient_norms(self) -> list[float]:
        """‖∂L/∂z_t‖ by step, NaN where the step was not guided; empty if gradients were not kept."""
        return [math.nan if g is None else float(g.norm()) for g in self.grads]

    def frames(self, every: int = 1) -> list[Image.Image]:
        """The predicted clean images, decoded now: one for each ``every``-th step, the last one always.

        Raises:
            InputError: latents were not kept, or ``every`` is not a whole number from 1.
        """
        if not self.x0 or self._decode is None:
            raise InputError("no latents were kept: run edit(..., trace=True) to look at frames")
        if not isinstance(every, int) or every < 1:
            raise InputError(f"every is {every!r}: give a whole number from 1")
        chosen = self.x0[::-1][::every][::-1]
        return [to_pil(self._decode(z)) for z in chosen]

    def plot(self) -> Figure:
        """Each energy term against the step, as a matplotlib figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.2), layout="constrained")
        axes = figure.subplots()
        for name, values in self.energies.items():
            axes.plot(values, label=name)
        axes.set(xlabel="step", ylabel="energy", xlim=(0, max(len(self) - 1, 1)))
        if self.energies:
            axes.legend(frameon=False)
        return figure

    def to_json(self) -> str:
        """Timesteps and energies as JSON; null where a step was not guided."""
        energies = {n: [None if math.isnan(v) else v for v in vs] for n, vs in self.energies.items()}
        record: dict[str, Any] = {"timesteps": self.timesteps, "energies": energies}
        return json.dumps(record, allow_nan=False)


@dataclass(frozen=True, eq=False)
class Result:
    """An edited image and what it took.

    Args:
        tensor: float32 (3, H, W) in [0, 1], on the CPU.
        latent: (1, C, h, w), the edited latent.
        trace: energies by step, and more if the run was traced.
        nfe: denoiser evaluations, inversion included; a classifier-free pair counts once.
        seconds: wall clock, encoding and decoding included.
    """

    tensor: Tensor
    latent: Tensor
    trace: Trace
    nfe: int
    seconds: float

    @property
    def image(self) -> Image.Image:
        """The edited image, 8 bits a channel."""
        return to_pil(self.tensor)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the image whole or not at all; the suffix names the format.

        Raises:
            InputError: the suffix is not that of an image format.
        """
        path = Path(path)
        form = Image.registered_extensions().get(path.suffix.lower())
        if form is None or form not in Image.SAVE:
            raise InputError(f"{path.name!r} has no suffix of an image format: name it .png, .jpg or .webp")
        with whole_file(path) as draft:
            self.image.save(draft, format=form)
        return path

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        data = io.BytesIO()
        self.image.save(data, format="PNG")
        return {"image/png": data.getvalue(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        h, w = self.tensor.shape[1:]
        return f"Result({w}x{h}, {self.nfe} evaluations, {self.seconds:.1f} s)"


def to_pil(image: Tensor) -> Image.Image:
    """An image (3, H, W) in [0, 1] as a PIL image, rounded to 8 bits."""
    array = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return Image.fromarray(array.numpy())
