"""What one edit from a spec is reported to have done: in words for the terminal, as JSON for the next program."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from dragonkit import __version__
from dragonkit.evaluate.scores import Regions, placement_error, region_psnr
from dragonkit.regions import as_image

if TYPE_CHECKING:
    from dragonkit.editor import Result
    from dragonkit.spec import Task


@dataclass(frozen=True)
class Report:
    """One edit's cost, and its scores if the exact answer is known.

    Attributes:
        spec: the spec as it was read.
        nfe: evaluations of the denoiser, inversion included.
        seconds: from image to image, without loading the model.
        energies: each energy term by name, one value a step, nan where it did not guide.
        placement_px: distance between where the object is and where it should be, in pixels; None without a truth.
        psnr: dB of the whole image and of each region, nan where a region is empty; empty without a truth.
    """

    spec: dict[str, Any]
    nfe: int
    seconds: float
    energies: dict[str, list[float]]
    placement_px: float | None
    psnr: dict[str, float]

    @classmethod
    def of(cls, task: Task, result: Result) -> Report:
        """Score a result against the task's truth, if it has one."""
        placement, psnr = None, {}
        if task.truth:
            truth, image = task.truth, result.tensor
            regions = Regions.of(as_image(task.image), truth.image, task.mask, truth.mask)
            placement, psnr = placement_error(image, truth.image, truth.mask), region_psnr(image, truth.image, regions)
        spec = task.spec.model_dump(mode="json")
        return cls(spec, result.nfe, result.seconds, result.trace.energies, placement, psnr)

    def __str__(self) -> str:
        lines = []
        if self.placement_px is not None:
            scores = ", ".join(f"{name} {value:.1f}" for name, value in self.psnr.items() if not math.isnan(value))
            lines = [f"placement error {self.placement_px:.1f} px", f"PSNR in dB: {scores}"]
        return "\n".join([*lines, f"NFE {self.nfe}, {self.seconds:.1f} s"])

    def to_json(self) -> str:
        """Everything, with null for nan, and what it was computed with."""
        data = {
            "spec": self.spec,
            "nfe": self.nfe,
            "seconds": round(self.seconds, 3),
            "placement_px": self.placement_px,
            "psnr": self.psnr,
            "energies": self.energies,
            "made_with": made_with(),
        }
        return json.dumps(tidy(data), indent=1, allow_nan=False)


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
