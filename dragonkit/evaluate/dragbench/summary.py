"""A benchmark's scores summed up: over points or samples as each score is published, as numbers and as a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from dragonkit.evaluate.dragbench.metrics import RADII

Row = dict[str, Any]


def summary(rows: Sequence[Row]) -> Row:
    """Means over samples, and over points where that is how a score is published.

    Returns:
        "n" samples and "points"; "drag_px" and "distance_px" (means over all points; the second is DragDiffusion's mean
        distance), "distance_local" (over each sample's points, then samples), "dai" and "dai_as_released" by radius,
        "psnr_outside", "ssim_outside", "image_fidelity" if it was computed, mean "nfe", median "seconds". A score is
        nan where no sample has it.
    """
    mean = {
        name: _mean([row[name] for row in rows if name in row])
        for name in ("psnr_outside", "ssim_outside", "image_fidelity")
    }
    if not any("image_fidelity" in row for row in rows):
        del mean["image_fidelity"]
    return {
        "n": len(rows),
        "points": sum(len(row["drag_px"]) for row in rows),
        "drag_px": _mean([d for row in rows for d in row["drag_px"]]),
        "distance_px": _mean([d for row in rows for d in row["distance_px"]]),
        "distance_local": _mean([_mean(row["distance_local"]) for row in rows]),
        **{
            name: {r: _mean([row[name][r] for row in rows]) for r in map(str, RADII)}
            for name in ("dai", "dai_as_released")
        },
        **mean,
        "nfe": _mean([row["nfe"] for row in rows]),
        "seconds": statistics.median(row["seconds"] for row in rows),
    }


def _mean(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None and not math.isnan(v)]  # nan is null once it has been in a file
    return statistics.fmean(known) if known else math.nan


def table(report: Row) -> str:
    """The report as text: a line for each category and one for all."""
    columns = [
        ("n", lambda s: format(s["n"], "d")),
        ("drag px", lambda s: _shown(s["drag_px"], ".1f")),
        ("MD px", lambda s: _shown(s["distance_px"], ".1f")),
        ("MD local", lambda s: _shown(s["distance_local"], ".4f")),
        *((f"DAI {r}", lambda s, r=r: _shown(s["dai"][str(r)], ".4f")) for r in RADII),
        ("PSNR out", lambda s: _shown(s["psnr_outside"], ".2f")),
        ("SSIM out", lambda s: _shown(s["ssim_outside"], ".4f")),
        ("IF", lambda s: _shown(s.get("image_fidelity"), ".4f")),
    ]
    lines = [f"{'':26}" + "".join(f"{name:>10}" for name, _ in columns)]
    for name, scores in [*report["categories"].items(), ("all", report["overall"])]:
        lines.append(f"{name or '-':26}" + "".join(f"{show(scores):>10}" for _, show in columns))
    overall = report["overall"]
    lines.append(f"NFE {overall['nfe']:g}; {overall['seconds']:.1f} s an edit (median)")
    lines += [f"{name} is absent: {reason}" for name, reason in report["absent"].items()]
    return "\n".join(lines)


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
