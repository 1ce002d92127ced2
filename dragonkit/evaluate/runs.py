"""Editing one picture many times: inverted once, edited under any guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dragonkit.editor import edit
from dragonkit.guidance import Guidance
from dragonkit.inversion import Inverter, Keep, Path, Progress, ddim_invert
from dragonkit.models import Cond, Model
from dragonkit.schedule import Schedule
from dragonkit.trace import Result
from dragonkit.world import Counterfactual

Run = Callable[[Guidance], Result]
"""Carries out one case's edit under some guidance."""


def runner(model: Model, case: Counterfactual) -> Run:
    """Prepare to carry out a case's edit again and again.

    Args:
        model: the model to edit with.
        case: the edit and its picture.

    Returns:
        A function of the guidance. Every call gives, bit for bit, what :func:`dragonkit.editor.edit` alone would give;
        but inversions are shared, so only the first call's ``nfe`` and ``seconds`` are those of a whole edit.
    """
    once = Once()

    def run(guidance: Guidance) -> Result:
        return edit(model, case.before.image, case.edit, case.prompt, guidance=guidance, invert=once, progress=False)

    return run


class Once:
    """An inverter that remembers: the same picture, prompt and steps are inverted once, if that kept enough.

    So are they for every guidance scale, unless the path serves one only.

    Args:
        invert: the inverter to ask the first time.
    """

    def __init__(self, invert: Inverter = ddim_invert) -> None:
        self.invert = invert
        self.known: list[tuple[Keep, Path]] = []

    def __call__(
        self,
        model: Model,
        z0: Tensor,
        cond: Cond,
        schedule: Schedule,
        *,
        keep: Keep,
        progress: Progress,
        cfg: float | None = None,
    ) -> Path:
        """See :func:`dragonkit.inversion.ddim_invert`."""
        for kept, path in self.known:
            if _same(path, z0, cond, schedule) and covers(kept, keep) and path.cfg in (None, cfg):
                return replace(path)  # the caller may hang its own things on it
        path = self.invert(model, z0, cond, schedule, keep=keep, progress=progress, cfg=cfg)
        self.known.append((keep, replace(path)))
        return path


def covers(kept: Keep, wanted: Keep) -> bool:
    """Whether everything that is wanted of an inversion has been kept."""
    features = set(wanted.features) <= set(kept.features) and set(wanted.layers) <= set(kept.layers)
    return (features or not wanted.features) and set(wanted.tokens) <= set(kept.tokens)


def _same(path: Path, z0: Tensor, cond: Cond, schedule: Schedule) -> bool:
    same_levels = path.schedule.timesteps == schedule.timesteps
    same_words = cond.keys() == path.cond.keys() and all(torch.equal(cond[k], path.cond[k]) for k in cond)
    return same_levels and same_words and torch.equal(path.latents[len(schedule)], z0)
