"""Reconstruction from noise with chosen layers, the paper's Fig. 3, as one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dragonkit.editor import edit
from dragonkit.edits.reconstruct import Reconstruct
from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.memory import Memory
from dragonkit.models import Model
from dragonkit.trace import Result


def reconstruct(
    model: Model,
    image: Any,
    prompt: str = "",
    *,
    layers: Sequence[int] = (2, 3),
    seed: int = 0,
    guidance: Guidance | None = None,
    trace: bool = False,
    progress: bool = True,
    memory: Memory = "full",
) -> Result:
    """Generate from random noise under S_share everywhere, and see what comes back of the image.

    Attention looks at nothing but itself, and nothing of the image's own noise, latents or pixels is used: what returns
    has passed through the features of ``layers``.

    Args:
        model: from :func:`dragonkit.load`.
        image: as for :func:`dragonkit.edit`.
        prompt: what it shows.
        layers: decoder layers whose features guide, of 1 to 4; none of them leaves plain generation.
        seed: of the noise.
        guidance: steps, energy scale, weights and windows; default the "paper" preset, whose guidance acts at all
            steps and through ε. What would let the image in by another way is switched off in it.
        trace: as for :func:`dragonkit.edit`.
        progress: show progress bars.
        memory: as for :func:`dragonkit.edit`.

    Raises:
        InputError: anything given cannot be used.
        OutOfMemoryError: the device's memory is too small; the message names what takes less.
    """
    w = Guidance.preset("paper") if guidance is None else guidance
    if not isinstance(w, Guidance):
        raise InputError(f"guidance is a {type(w).__name__}: give a Guidance, for instance Guidance.preset('paper')")
    if not isinstance(layers, Sequence) or isinstance(layers, str):
        raise InputError(f"layers is {layers!r}: give a list of layer numbers, from 1")
    alone = w.replace(attention_mode="off", start="copy", lock=False, preserve=False, regional=False)
    alone = alone.replace(layers=tuple(layers)) if layers else alone.replace(energy=0.0)
    options: dict[str, Any] = {"trace": trace, "progress": progress, "memory": memory}
    return edit(model, image, Reconstruct(seed), prompt, guidance=alone, **options)
