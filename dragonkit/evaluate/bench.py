"""``bench edits``: edits of scenes outside training, scored against exact answers, beside ceilings and baselines.

How the numbers are made. For every kind, scenes with seeds S, S + 1, ..., S + n - 1 of the split are edited. PSNR is
computed per scene and region, then averaged over scenes, each counting once; a scene where a region is empty (nothing
was vacated, no shadow moved) is left out of that region's mean, and ``empty`` counts such scenes. The ceiling is the
autoencoder alone: the exact answer, encoded and decoded. Beside PSNR every kind has its own measures, 0 for the exact
answer:

- ``placement_px`` (move, resize): the distance at which the true object's pixels match best in the result, looked for
  within ``scores.REACH`` pixels; median and 90th percentile.
- ``size_error`` (move, resize): how much too large or small the object is, relatively; see `size.object_size`.
- ``ciede2000`` (appearance): mean colour difference inside the mask; mean and median over scenes.
- ``remaining`` (rotate, drag): the share of its way that a dragged point still has to go; mean and median over all
  points of all scenes. See `travel`: 1 for the source. Points that one cannot see move do not count.

``compared`` has the same measures for the ceiling and the baselines, ``ablations`` everything for the edit with one of
its parts off, over the first scenes, beside "full", the edit itself over the same scenes. ``nfe`` is the mean number of
denoiser evaluations, ``seconds`` the median time of one edit, inversion included, beside ``processes`` others.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dragonkit.errors import InputError
from dragonkit.evaluate.ablations import check_ablations
from dragonkit.evaluate.baselines import BASELINES
from dragonkit.evaluate.report import made_with, tidy
from dragonkit.evaluate.scored import Job, Scored, score_all
from dragonkit.evaluate.scores import average
from dragonkit.evaluate.truth import MEASURES, Row
from dragonkit.guidance import Guidance
from dragonkit.world.scene import SPLITS

if TYPE_CHECKING:
    from dragonkit.models import Model


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to bench.

    Attributes:
        kinds: kinds of edit, each a key of ``BASELINES``.
        n: scenes of each kind.
        seed: the first scene's seed.
        split: "test", or "train" for tuning.
        preset: name of a guidance preset; the model's own if None.
        changes: fields of :class:`Guidance` to change in it, for every kind.
        ablate: names of the parts to switch off in turn, see ``ablations.ABLATIONS``.
        ablate_n: scenes of each kind to do that on; all if None.
        size: height and width of the pictures, in pixels.

    Raises:
        InputError: an unknown kind, preset, ablation or field, a value refused, fewer than one scene.
    """

    kinds: Sequence[str] = ("move",)
    n: int = 32
    seed: int = 0
    split: str = "test"
    preset: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    ablate: Sequence[str] = ()
    ablate_n: int | None = None
    size: int = 256

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in BASELINES:
                raise InputError(f"unknown kind {kind!r}: choose from {', '.join(BASELINES)}")
            self.guidance(kind, self.preset or "mini")
        if self.n < 1:
            raise InputError(f"n is {self.n}: give the number of scenes, at least 1")
        if self.ablate_n is not None and self.ablate_n < 1:
            raise InputError(f"ablate_n is {self.ablate_n}: give the number of scenes to ablate on, at least 1")
        if self.split not in SPLITS:
            raise InputError(f"unknown split {self.split!r}: choose from {', '.join(SPLITS)}")
        check_ablations(self.ablate)

    def guidance(self, kind: str, default: str) -> Guidance:
        """How a kind is edited; ``default`` is the preset if the plan names none."""
        return Guidance.preset(self.preset or default, kind=kind).replace(**self.changes)

    def jobs(self, default: str) -> list[Job]:
        """Every scene, kind by kind."""
        ablated = self.n if self.ablate_n is None else self.ablate_n
        return [
            Job(kind, self.seed + k, self.split, guidance, tuple(self.ablate) if k < ablated else (), self.size)
            for kind in self.kinds
            for guidance in [self.guidance(kind, default)]
            for k in range(self.n)
        ]


def run(
    model: Model, plan: Plan, *, processes: int = 1, parts: Path | None = None, progress: bool = True
) -> dict[str, list[Scored]]:
    """Edit and score every scene of a plan.

    Args:
        model: the model to edit with.
        plan: what to do.
        processes: scenes to work on at once.
        parts: a folder that keeps finished scenes and from which they are taken, to go on after an interrupt.
        progress: whether to show a bar.

    Returns:
        For each kind its scenes, by seed.
    """
    if processes < 1:
        raise InputError(f"jobs is {processes}: give the number of processes, at least 1")
    jobs = plan.jobs(model.default_guidance)
    done: dict[str, list[Scored]] = {kind: [] for kind in plan.kinds}
    for scored in tqdm(score_all(model, jobs, processes, parts), total=len(jobs), desc="scenes", disable=not progress):
        done[scored.job.kind].append(scored)
    return {kind: sorted(scenes, key=lambda s: s.job.seed) for kind, scenes in done.items()}


def report(model: Model, plan: Plan, done: Mapping[str, Sequence[Scored]], processes: int = 1) -> dict[str, Any]:
    """What the JSON file holds: ``{"kinds": {kind: summary}, "run": ..., "made_with": ...}``; see `summary`."""
    kinds: dict[str, Any] = {}
    for kind, scenes in done.items():
        items = [scene.row for scene in scenes]
        kinds[kind] = {**summary(kind, items), "guidance": asdict(scenes[0].job.guidance), "items": items}
    ran = {
        "model": model.name,
        "preset": plan.preset or model.default_guidance,
        "changes": dict(plan.changes),
        "split": plan.split,
        "seeds": list(range(plan.seed, plan.seed + plan.n)),
        "processes": processes,
    }
    return tidy({"kinds": kinds, "run": ran, "made_with": made_with()})


def bench_edits(
    model: Model, plan: Plan, *, processes: int = 1, parts: Path | None = None, progress: bool = True
) -> dict[str, Any]:
    """Edit and score a plan's scenes: `report` of `run`."""
    return report(model, plan, run(model, plan, processes=processes, parts=parts, progress=progress), processes)


def summary(kind: str, items: Sequence[Row]) -> Row:
    """Means, medians and percentiles over scenes: what the JSON file has for one kind, but for guidance and items."""
    scores = [item["psnr"] for item in items]
    others = items[0]["compared"]
    ablated = [item for item in items if "ablations" in item]
    parts = {name: _scores(kind, [item["ablations"][name] for item in ablated]) for name in _names(ablated)}
    full = {"full": {"n": len(ablated), **_scores(kind, ablated)}} if ablated else {}
    return {
        "n": len(items),
        **_scores(kind, items),
        "ceiling": average([item["ceiling"] for item in items]),
        "baselines": {name: average([item["baselines"][name] for item in items]) for name in items[0]["baselines"]},
        "compared": {name: _measures(kind, [item["compared"][name] for item in items]) for name in others},
        "empty": {key: sum(row[key] != row[key] for row in scores) for key in scores[0]},
        "nfe": statistics.fmean(item["nfe"] for item in items),
        "seconds": statistics.median(item["seconds"] for item in items),
        **({"ablations": full | parts} if ablated else {}),
    }


def _names(ablated: Sequence[Row]) -> list[str]:
    return list(ablated[0]["ablations"]) if ablated else []


def _scores(kind: str, rows: Sequence[Row]) -> Row:
    return {"psnr": average([row["psnr"] for row in rows]), **_measures(kind, rows)}


def _measures(kind: str, rows: Sequence[Row]) -> Row:
    return {m.name: m.over([row[m.name] for row in rows]) for m in MEASURES[kind]}


def table(report: dict[str, Any]) -> str:
    """The report as text: for each kind a line for the edit, its ceiling, each baseline and each ablation."""
    lines = []
    for kind, scores in report["kinds"].items():
        compared = scores["compared"]
        rows = {
            "edit": scores,
            "ceiling": {"psnr": scores["ceiling"], **compared["ceiling"]},
            **{name: {"psnr": row, **compared[name]} for name, row in scores["baselines"].items()},
        }
        lines += [f"{kind}, n = {scores['n']}, PSNR in dB", *_rows(kind, rows)]
        lines += _said(kind, scores)
        if "ablations" in scores:
            full = scores["ablations"]["full"]
            lines += [f"{kind}, one part off, n = {full['n']}", *_rows(kind, scores["ablations"])]
    return "\n".join(lines)


def _rows(kind: str, rows: Mapping[str, Row]) -> list[str]:
    """A table of PSNR by region and the measures' first numbers."""
    regions = list(next(iter(rows.values()))["psnr"])
    first = {m.name: next(iter(rows.values()))[m.name] for m in MEASURES[kind]}
    columns = [f"{name} {next(iter(stats))}" for name, stats in first.items()]
    lines = [f"{'':10}" + "".join(f"{region:>9}" for region in regions) + "".join(f"{c:>22}" for c in columns)]
    for name, row in rows.items():
        numbers = [_cell(row["psnr"][region], ".2f", 9) for region in regions]
        numbers += [_cell(next(iter(row[m].values())), ".3f", 22) for m in first]
        lines.append(f"{name:10}" + "".join(numbers))
    return lines


def _cell(value: float | None, form: str, width: int) -> str:
    return f"{'-' if value is None else format(value, form):>{width}}"


def _said(kind: str, scores: Row) -> list[str]:
    found = [m.text.format(**scores[m.name]) for m in MEASURES[kind] if None not in scores[m.name].values()]
    if None not in (kept := scores["psnr"]["kept"], ceiling := scores["ceiling"]["kept"]):
        found.append(f"kept {ceiling - kept:.2f} dB below the ceiling")
    return ["; ".join(found), f"NFE {scores['nfe']:g}; {scores['seconds']:.1f} s an edit"]
