"""What edits from a spec are reported to have done: in words for the terminal, as JSON for the next program."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dragonkit import __version__
from dragonkit.edits import Appearance, Drag, Edit, Move
from dragonkit.evaluate.scores import Regions, ciede2000, placement_error, psnr, region_psnr
from dragonkit.regions import as_image, positions

if TYPE_CHECKING:
    from dragonkit.result import Result
    from dragonkit.spec import Task, Truth


RADIUS = 16  # pixels of a picture whose shorter side has 256: what is sought round a dragged point


@dataclass(frozen=True)
class Report:
    """What edits cost, and their scores if the exact answer is known.

    Attributes:
        spec: the spec as it was read.
        nfe: evaluations of the denoiser, inversion included.
        seconds: from image to image, without loading the model.
        energies: each energy term by name, one value a step, nan where it did not guide.
        placement_px: for one move or resize, the distance between where the object is and where it should be, in
            pixels; else None.
        ciede2000: for changes of appearance, the mean colour difference to the exact answer in their masks; else None.
        points_px: for drags, the mean distance in pixels from each target to the place that looks most like the exact
            answer's object there; else None.
        psnr: dB of the whole image and of each region, nan where a region is empty; empty without a truth, only the
            whole if nothing says where the object was.
    """

    spec: dict[str, Any]
    nfe: int
    seconds: float
    energies: dict[str, list[float]]
    placement_px: float | None
    ciede2000: float | None
    points_px: float | None
    psnr: dict[str, float]

    @classmethod
    def of(cls, task: Task, result: Result) -> Report:
        """Score a result against the task's truth, if it has one."""
        spec, scores = task.spec.model_dump(mode="json", exclude_none=True), dict.fromkeys(_SCORES)
        psnr: dict[str, float] = {}
        if task.truth:
            psnr = _psnr(task, result.tensor)
            scores |= {name: score(task.edits, result.tensor, task.truth) for name, score in _SCORES.items()}
        return cls(spec, result.nfe, result.seconds, result.trace.energies, psnr=psnr, **scores)

    def scores(self) -> list[str]:
        """The scores that there are, in words."""
        named = {
            "placement error {:.1f} px": self.placement_px,
            "colour difference {:.1f}": self.ciede2000,
            "points off by {:.1f} px": self.points_px,
        }
        return [words.format(value) for words, value in named.items() if value is not None]

    def __str__(self) -> str:
        lines = self.scores()
        known = [f"{name} {value:.1f}" for name, value in self.psnr.items() if not math.isnan(value)]
        if known:
            lines.append(f"PSNR in dB: {', '.join(known)}")
        return "\n".join([*lines, f"NFE {self.nfe}, {self.seconds:.1f} s"])

    def to_json(self) -> str:
        """Everything, with null for nan, and what it was computed with."""
        data = {
            "spec": self.spec,
            "nfe": self.nfe,
            "seconds": round(self.seconds, 3),
            "placement_px": self.placement_px,
            "ciede2000": self.ciede2000,
            "points_px": self.points_px,
            "psnr": self.psnr,
            "energies": self.energies,
            "made_with": made_with(),
        }
        return json.dumps(tidy(data), indent=1, allow_nan=False)


def _psnr(task: Task, image: Tensor) -> dict[str, float]:
    assert task.truth is not None
    if task.mask is None:
        return {"whole": psnr(image, task.truth.image)}
    regions = Regions.of(as_image(task.picture), task.truth.image, task.mask, task.truth.mask)
    return region_psnr(image, task.truth.image, regions)


def _placement(edits: tuple[Edit, ...], image: Tensor, truth: Truth) -> float | None:
    alone = len(edits) == 1 and isinstance(edits[0], Move)
    return placement_error(image, truth.image, truth.mask) if alone else None


def _colour(edits: tuple[Edit, ...], image: Tensor, truth: Truth) -> float | None:
    masks = [edit.mask for edit in edits if isinstance(edit, Appearance)]
    return ciede2000(image, truth.image, torch.stack(masks).any(0)) if masks else None


def _points(edits: tuple[Edit, ...], image: Tensor, truth: Truth) -> float | None:
    height, width = truth.mask.shape
    xy, radius = positions((height, width)), RADIUS * min(height, width) / 256
    targets = [torch.tensor(p[2:], dtype=torch.float64) for e in edits if isinstance(e, Drag) for p in e.points]
    discs = [((xy - target).norm(dim=-1) <= radius) & truth.mask for target in targets]
    found = [placement_error(image, truth.image, disc) for disc in discs if disc.any()]
    return fmean(found) if found else None


_SCORES: dict[str, Callable[[tuple[Edit, ...], Tensor, Truth], float | None]] = {
    "placement_px": _placement,
    "ciede2000": _colour,
    "points_px": _points,
}


def made_with() -> dict[str, str]:
    """Versions and hardware, for whoever compares two runs."""
    import os

    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return {
        "dragonkit": __version__,
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "python": platform.python_version(),
        "hardware": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores{gpu}",
    }


def tidy(data: Any) -> Any:
    """The same data, numbers to six decimals, with None for nan and infinity, which JSON does not have."""
    if isinstance(data, float):
        return round(data, 6) if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: tidy(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [tidy(value) for value in data]
    return data
