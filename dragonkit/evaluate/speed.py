"""``bench speed``: seconds of an edit, ours and the official implementation's shape of it, in one process.

Every variant edits the same scenes, one after the other, again and again (A B C A B C ...), so that whatever else the
machine does meets all alike; each scene counts with the median of its repetitions. "official" and "uncached" are the
two shapes of `official.official_edit`, "ours" is :func:`dragonkit.edit`, all three under the same guidance, with the
same result; "one pass" is "ours" with ``Guidance.one_pass``, which evaluates less and differs a little. Then come
presets, run by :func:`dragonkit.edit` too, with their own steps. Seconds are from image to image, without loading the
model; operations are those of one edit of the first scene, autoencoder included.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from dragonkit.editor import edit
from dragonkit.errors import InputError
from dragonkit.evaluate.baselines import BASELINES
from dragonkit.evaluate.flops import Flops
from dragonkit.evaluate.official import Shape, check_shape, official_edit
from dragonkit.evaluate.report import made_with, tidy
from dragonkit.evaluate.scores import Regions, average, region_psnr
from dragonkit.guidance import PRESETS, Guidance
from dragonkit.memory import frees
from dragonkit.trace import Result
from dragonkit.world import Counterfactual, counterfactual
from dragonkit.world.scene import SPLITS

if TYPE_CHECKING:
    from dragonkit.models import Model

SHAPES = ("official", "uncached")


@dataclass(frozen=True)
class Variant:
    """One way to edit.

    Attributes:
        preset: whose guidance it is.
        guidance: how.
        run: edits a case's picture.
    """

    preset: str
    guidance: Guidance
    run: Callable[[Counterfactual], Result]


def variants(model: Model, kind: str, preset: str, steps: int, presets: Sequence[str]) -> dict[str, Variant]:
    """Every way to edit, by name: those under one guidance, then the presets."""
    guidance = Guidance.preset(preset, kind=kind).replace(steps=steps, one_pass=False)
    shared = guidance.replace(one_pass=True)

    def ours(w: Guidance) -> Callable[[Counterfactual], Result]:
        return lambda c: edit(model, c.before.image, c.edit, c.prompt, guidance=w, progress=False)

    found = {
        "official": Variant(preset, guidance, _official(model, guidance, "official")),
        "uncached": Variant(preset, guidance, _official(model, guidance, "uncached")),
        "ours": Variant(preset, guidance, ours(guidance)),
        "one pass": Variant(preset, shared, ours(shared)),
    }
    for name in presets:
        w = Guidance.preset(name, kind=kind)
        found[f"preset {name}"] = Variant(name, w, ours(w))
    return found


def _official(model: Model, w: Guidance, shape: Shape) -> Callable[[Counterfactual], Result]:
    return lambda c: official_edit(model, c.before.image, c.edit, c.prompt, w, shape)


def check_speed(
    kind: str,
    n: int,
    repeats: int,
    split: str,
    preset: str | None,
    steps: int,
    presets: Sequence[str] | None,
) -> None:
    """Refuse a bench that cannot be run.

    Raises:
        InputError: an unknown kind, preset or split, fewer than one step, scene or repetition.
    """
    check_loops(kind, preset, steps, n=n, repeats=repeats)
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
    for name in presets or ():
        Guidance.preset(name, kind=kind)


def check_loops(kind: str, preset: str | None, steps: int, **counts: int) -> None:
    """Refuse what the loops that are compared cannot run.

    Raises:
        InputError: an unknown kind or preset, fewer than one step, or a count below 1.
    """
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} is {value}: give 1 or more")
    if kind not in BASELINES:
        raise InputError(f"unknown kind {kind!r}: choose from {', '.join(BASELINES)}")
    check_shape(Guidance.preset(preset or "mini", kind=kind).replace(steps=steps, one_pass=False))


@frees
def bench_speed(
    model: Model,
    kind: str = "move",
    n: int = 2,
    repeats: int = 3,
    seed: int = 0,
    *,
    split: str = "test",
    preset: str | None = None,
    steps: int = 50,
    presets: Sequence[str] | None = None,
    size: int = 256,
    progress: bool = True,
) -> dict[str, Any]:
    """Time edits.

    Args:
        model: the model to edit with.
        kind: of edit.
        n: scenes.
        repeats: how often each scene is edited by each variant.
        seed: the first scene's seed.
        split: "test" or "train".
        preset: guidance of those that are compared; the model's own if None.
        steps: their DDIM steps.
        presets: what to time beside them; if None, "mini" and "fast" as far as there are such.
        size: height and width of the pictures, in pixels.
        progress: whether to show a bar.

    Returns:
        What the JSON file holds. For each variant ``preset``, ``steps``, ``seconds`` (median over scenes), ``nfe``,
        ``flops`` (see :class:`dragonkit.evaluate.flops.Flops`), ``psnr`` by region against the exact answer (mean over
        scenes), ``times`` (all seconds, by scene), how many times faster than "official" and than "uncached" it is
        (median over scenes), how many times less work, by its operations, and how much nearer to the exact answer than
        "official", in dB.

    Raises:
        InputError: an unknown kind, preset or split, fewer than one step, scene or repetition.
    """
    presets = [p for p in ("mini", "fast") if p in PRESETS] if presets is None else presets
    check_speed(kind, n, repeats, split, preset, steps, presets)
    ways = variants(model, kind, preset or model.default_guidance, steps, presets)
    cases = [counterfactual(kind, seed + k, split=split, size=size) for k in range(n)]
    distinct = {w.guidance: name for name, w in reversed(ways.items()) if name not in SHAPES}
    timed = [name for name, w in ways.items() if name in SHAPES or distinct[w.guidance] == name]

    rows: dict[str, list[list[Result]]] = {name: [[] for _ in cases] for name in timed}
    flops: dict[str, int] = {}
    with tqdm(total=(repeats * n + 1) * len(timed), desc="edits", disable=not progress) as bar:
        for name in timed:  # this also warms up: the first edit of a process allocates and plans
            with Flops() as count:
                ways[name].run(cases[0])
            flops[name] = count.total
            bar.update()
        for _ in range(repeats):
            for k, case in enumerate(cases):
                for name in timed:
                    rows[name][k].append(ways[name].run(case))
                    bar.update()
    summaries = {name: _summary(ways[name], rows[name], cases) | {"flops": flops[name]} for name in timed}
    for name, way in ways.items():  # the same guidance is not run twice
        summaries.setdefault(name, summaries.get(distinct.get(way.guidance, ""), {}))
    for name in ways:
        summaries[name] = summaries[name] | _compared(summaries[name], summaries)
    run = {"model": model.name, "kind": kind, "n": n, "repeats": repeats, "seed": seed, "split": split}
    with_threads = {**made_with(), "threads": torch.get_num_threads()}
    return tidy({"variants": {name: summaries[name] for name in ways}, "run": run, "made_with": with_threads})


def _summary(way: Variant, runs: Sequence[Sequence[Result]], cases: Sequence[Counterfactual]) -> dict[str, Any]:
    def psnr(result: Result, case: Counterfactual) -> dict[str, float]:
        before, after = case.before.image, case.after.image
        return region_psnr(result.tensor, after, Regions.of(before, after, case.mask, case.target))

    medians = [statistics.median(result.seconds for result in results) for results in runs]
    return {
        "preset": way.preset,
        "steps": way.guidance.steps,
        "seconds": statistics.median(medians),
        "nfe": statistics.fmean(results[0].nfe for results in runs),
        "psnr": average([psnr(results[0], case) for results, case in zip(runs, cases, strict=True)]),
        "times": [[result.seconds for result in results] for results in runs],
    }


def _compared(row: dict[str, Any], rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    def faster(than: str) -> float:
        pairs = zip(rows[than]["times"], row["times"], strict=True)
        return statistics.median(statistics.median(a) / statistics.median(b) for a, b in pairs)

    return {
        "times_faster": {than: faster(than) for than in SHAPES},
        "times_less_work": {than: rows[than]["flops"] / row["flops"] for than in SHAPES},
        "psnr_gain": row["psnr"]["whole"] - rows["official"]["psnr"]["whole"],
    }


def table(report: dict[str, Any]) -> str:
    """The report as text: a line for each variant."""
    run, made = report["run"], report["made_with"]
    lines = [
        f"{run['kind']}, n = {run['n']}, {run['repeats']} repetitions; {made['hardware']}, {made['threads']} threads",
        "less time and less work (operations) than the official loop and than one that keeps nothing; dB to the truth",
        f"{'':14}{'preset':>12}{'steps':>7}{'NFE':>7}{'s':>8}{'x official':>12}{'x uncached':>12}"
        f"{'TFLOP':>8}{'x official':>12}{'x uncached':>12}{'dB':>8}{'gain':>7}",
    ]
    for name, row in report["variants"].items():
        faster, less = row["times_faster"], row["times_less_work"]
        lines.append(
            f"{name:14}{row['preset']:>12}{row['steps']:>7}{row['nfe']:>7g}{row['seconds']:>8.2f}"
            f"{faster['official']:>12.2f}{faster['uncached']:>12.2f}{row['flops'] / 1e12:>8.3f}"
            f"{less['official']:>12.2f}{less['uncached']:>12.2f}{row['psnr']['whole']:>8.2f}{row['psnr_gain']:>7.2f}"
        )
    return "\n".join(lines)
