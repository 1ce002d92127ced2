"""Features of one or two pictures at several timesteps, each extracted when it is first wanted."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dragonkit.checks import check_seed, check_text, check_whole
from dragonkit.correspondence import FeatureMap, check_layers, extract
from dragonkit.errors import InputError
from dragonkit.regions import as_image
from dragonkit_widgets.twin import twin

if TYPE_CHECKING:
    from dragonkit.models import Model

Maps = list[dict[int, FeatureMap]]
"""For each picture: layer -> features."""


class Extraction:
    """Extracts and keeps; any thread may ask.

    Args:
        model: from :func:`dragonkit.load`; a twin of it is run.
        images: what :func:`dragonkit.regions.as_image` takes.
        prompts: one a picture.
        layers: decoder layers, any of 1 to 4.
        timesteps: training timesteps, from 0 to 999.
        draws: draws of noise whose features are averaged; each picture gets draws of its own.
        seed: of the first draw.

    Raises:
        InputError: anything given cannot be used.
    """

    def __init__(
        self,
        model: Model,
        images: Sequence[Any],
        prompts: Sequence[str],
        layers: Iterable[int],
        timesteps: Iterable[int],
        draws: int = 1,
        seed: int = 0,
    ) -> None:
        self.layers, self.timesteps = _numbers("layers", layers), _numbers("timesteps", timesteps)
        for t in self.timesteps:
            check_layers(model, self.layers, t)
        for name, text in zip(("prompt", "prompt_b"), prompts, strict=False):
            check_text(name, text)
        check_whole("draws", draws, 1)
        check_seed(seed)
        self._model, self._images, self._prompts = twin(model), [as_image(image) for image in images], prompts
        self._draws, self._seed = draws, seed
        self._lock, self._found = threading.Lock(), dict[int, Maps]()

    def __contains__(self, t: int) -> bool:
        return t in self._found

    def at(self, t: int) -> Maps:
        """Features at a timestep; whoever asks meanwhile waits for the same ones."""
        with self._lock:
            if t not in self._found:
                seeds = range(self._seed, self._seed + self._draws * len(self._images), self._draws)
                self._found[t] = [
                    extract(self._model, image, self.layers, t, prompt=prompt, draws=self._draws, seed=seed)
                    for image, prompt, seed in zip(self._images, self._prompts, seeds, strict=True)
                ]
            return self._found[t]

    def clear(self) -> None:
        """Forget all features."""
        self._found.clear()


def _numbers(name: str, values: Any) -> list[int]:
    """Each value once, in order; what they are is checked with the model at hand."""
    found = set(values) if isinstance(values, Iterable) else set()
    if not found or not all(isinstance(v, int) for v in found):
        raise InputError(f"{name} are {values!r}: give one or more whole numbers")
    return sorted(found)
