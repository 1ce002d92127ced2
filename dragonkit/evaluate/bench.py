"""``bench edits``: edits of scenes outside training, scored against exact answers, beside ceilings and baselines.

How the numbers are made. For every kind, scenes with seeds S, S + 1, ..., S + n - 1 of the split are edited. PSNR is
computed per scene and region, then averaged over scenes, each counting once; a scene where a region is empty (nothing
was vacated, no shadow moved) is left out of that region's mean, and ``empty`` counts such scenes. The ceiling is the
autoencoder alone: the exact answer, encoded and decoded. ``placement_px`` gives median and 90th percentile of the
distance at which the true object's pixels match best in the result, looked for within ``scores.REACH`` pixels.
``nfe`` is the mean number of denoiser evaluations, ``seconds`` the median time of one edit, inversion included.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from dragonkit.editor import edit
from dragonkit.errors import InputError
from dragonkit.evaluate.baselines import BASELINES
from dragonkit.evaluate.report import made_with, tidy
from dragonkit.evaluate.scores import Regions, average, placement_error, region_psnr
from dragonkit.guidance import Guidance
from dragonkit.world import Counterfactual, counterfactual

if TYPE_CHECKING:
    from dragonkit.models import Model

Row = dict[str, Any]


def check_bench(kinds: Sequence[str], n: int, preset: str | None = None, steps: int | None = None) -> None:
    """Refuse a bench that cannot be run.

    Raises:
        InputError: an unknown kind or preset, fewer than one step or scene.
    """
    for kind in kinds:
        if kind not in BASELINES:
            raise InputError(f"unknown kind {kind!r}: choose from {', '.join(BASELINES)}")
        _guidance(kind, preset or "mini", steps)
    if n < 1:
        raise InputError(f"n is {n}: give the number of scenes, at least 1")


def bench_edits(
    model: Model,
    kinds: Sequence[str] = ("move",),
    n: int = 32,
    seed: int = 0,
    *,
    split: str = "test",
    preset: str | None = None,
    steps: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Edit ``n`` scenes of each kind and score them.

    Args:
        model: the model to edit with.
        kinds: kinds of edit, each a key of ``BASELINES``.
        n: scenes of each kind.
        seed: the first scene's seed.
        split: "test", or "train" for tuning.
        preset: name of a guidance preset; the model's own if None.
        steps: DDIM steps; the preset's if None.
        progress: whether to show a bar.

    Returns:
        What the JSON file holds: ``{"kinds": {kind: summary}, "made_with": ...}``; see `summary`.

    Raises:
        InputError: an unknown kind, preset or split, fewer than one step or scene.
    """
    check_bench(kinds, n, preset, steps)
    preset = preset or model.default_guidance
    seeds = range(seed, seed + n)
    report: dict[str, Any] = {"kinds": {}}
    for kind in kinds:
        guidance = _guidance(kind, preset, steps)
        bar = tqdm(seeds, desc=kind, disable=not progress)
        items = [{"seed": s, **bench_item(model, counterfactual(kind, s, split=split), guidance)} for s in bar]
        report["kinds"][kind] = {**summary(items), "guidance": asdict(guidance), "items": items}
    run = {"model": model.name, "preset": preset, "split": split, "seeds": list(seeds)}
    return tidy({**report, "run": run, "made_with": made_with()})


def _guidance(kind: str, preset: str, steps: int | None) -> Guidance:
    guidance = Guidance.preset(preset, kind=kind)
    return guidance if steps is None else guidance.replace(steps=steps)


def bench_item(model: Model, case: Counterfactual, guidance: Guidance) -> Row:
    """Edit one scene and score the edit, the ceiling and the baselines."""
    before, after = case.before.image, case.after.image
    regions = Regions.of(before, after, case.mask, case.target)
    result = edit(model, before, case.edit, case.prompt, guidance=guidance, progress=False)
    ceiling = model.decode(model.encode(after[None]))[0].cpu()
    others = {name: baseline(model, case, guidance) for name, baseline in BASELINES[case.kind].items()}
    return {
        "psnr": region_psnr(result.tensor, after, regions),
        "ceiling": region_psnr(ceiling, after, regions),
        "baselines": {name: region_psnr(other, after, regions) for name, other in others.items()},
        "placement_px": placement_error(result.tensor, after, case.target),
        "nfe": result.nfe,
        "seconds": result.seconds,
    }


def summary(items: Sequence[Row]) -> Row:
    """Means, median and percentile over scenes: n, psnr, ceiling, baselines, empty, placement_px, nfe, seconds."""
    scores = [item["psnr"] for item in items]
    placements = torch.tensor([item["placement_px"] for item in items], dtype=torch.float64)
    return {
        "n": len(items),
        "psnr": average(scores),
        "ceiling": average([item["ceiling"] for item in items]),
        "baselines": {name: average([item["baselines"][name] for item in items]) for name in items[0]["baselines"]},
        "empty": {key: sum(row[key] != row[key] for row in scores) for key in scores[0]},
        "placement_px": {"median": placements.quantile(0.5).item(), "p90": placements.quantile(0.9).item()},
        "nfe": statistics.fmean(item["nfe"] for item in items),
        "seconds": statistics.median(item["seconds"] for item in items),
    }


def table(report: dict[str, Any]) -> str:
    """The report as text: a line for the edit, its ceiling and each baseline."""
    lines = []
    for kind, scores in report["kinds"].items():
        rows = {"edit": scores["psnr"], "ceiling": scores["ceiling"], **scores["baselines"]}
        lines.append(f"{kind}, n = {scores['n']}, PSNR in dB")
        lines.append(f"{'':10}" + "".join(f"{region:>9}" for region in scores["psnr"]))
        for name, row in rows.items():
            lines.append(f"{name:10}" + "".join(f"{'-' if v is None else format(v, '.2f'):>9}" for v in row.values()))
        place = scores["placement_px"]
        lines.append(
            f"placement {place['median']:.2f} px median, {place['p90']:.2f} px p90; "
            f"NFE {scores['nfe']:g}; {scores['seconds']:.1f} s an edit"
        )
    return "\n".join(lines)
