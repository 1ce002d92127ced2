"""Scenes edited and scored, one after another or in several processes, and kept if so wished."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dragonkit.evaluate.ablations import ablated
from dragonkit.evaluate.baselines import BASELINES
from dragonkit.evaluate.parts import Parts
from dragonkit.evaluate.runs import runner
from dragonkit.evaluate.truth import Row, Truth
from dragonkit.guidance import Guidance
from dragonkit.world import Counterfactual, counterfactual

if TYPE_CHECKING:
    from dragonkit.models import Model


@dataclass(frozen=True)
class Job:
    """One scene to edit.

    Attributes:
        kind: of edit.
        seed: of the scene.
        split: "train" or "test".
        guidance: how to edit.
        ablations: names of the parts to switch off in turn.
        size: height and width of the picture, in pixels.
    """

    kind: str
    seed: int
    split: str
    guidance: Guidance
    ablations: tuple[str, ...] = ()
    size: int = 256


@dataclass(frozen=True, eq=False)
class Scored:
    """One scene edited.

    Attributes:
        job: what was asked for.
        row: its scores, as in the JSON file's ``items``.
        pictures: uint8 (3, H, W, 3): source, exact answer, result.
    """

    job: Job
    row: Row
    pictures: np.ndarray


def score(model: Model, job: Job) -> Scored:
    """Edit one scene and score the edit, the ceiling, the baselines and the ablations."""
    case = counterfactual(job.kind, job.seed, split=job.split, size=job.size)
    row, image = score_case(model, case, job.guidance, job.ablations)
    three = torch.stack([case.before.image, case.after.image, image])
    pictures = (three * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return Scored(job, {"seed": job.seed, **row}, pictures)


def score_case(
    model: Model, case: Counterfactual, guidance: Guidance, ablations: Sequence[str] = ()
) -> tuple[Row, Tensor]:
    """Edit and score one case: its row, and the edited image (3, H, W)."""
    truth, run = Truth(case), runner(model, case)
    result = run(guidance)  # the first run: its cost is a whole edit's
    ceiling = model.decode(model.encode(case.after.image[None]))[0].cpu()
    others = {name: baseline(case, run, guidance) for name, baseline in BASELINES[case.kind].items()}
    parts = {name: truth.scores(run(w).tensor) for name, w in ablated(guidance, ablations).items()}
    scores = {name: truth.scores(image) for name, image in {"ceiling": ceiling, **others}.items()}
    row = {
        **truth.scores(result.tensor),
        "ceiling": scores["ceiling"]["psnr"],
        "baselines": {name: scores[name]["psnr"] for name in others},
        "compared": {name: {k: v for k, v in row.items() if k != "psnr"} for name, row in scores.items()},
        "nfe": result.nfe,
        "seconds": result.seconds,
        **({"points": [list(point) for point in case.points()]} if case.kind in ("rotate", "drag") else {}),
    }
    return row | ({"ablations": parts} if ablations else {}), result.tensor


def score_all(model: Model, jobs: Sequence[Job], processes: int = 1, parts: Path | None = None) -> Iterator[Scored]:
    """Score many scenes.

    Args:
        model: the model to edit with.
        jobs: the scenes.
        processes: how many to work on at once; each gets its share of the cores.
        parts: a folder that keeps every finished scene, and from which finished ones are taken.

    Yields:
        Each scene as it is finished: in order if there is one process, in any order otherwise.

    Raises:
        InputError: the folder holds scenes of another run.
    """
    kept = Parts(parts, model) if parts else None
    found = [job for job in jobs if kept and kept.has(job)]
    yield from (Scored(job, *kept.get(job)) for job in found if kept)
    left = [job for job in jobs if job not in found]
    work = map(lambda job: score(model, job), left) if processes == 1 else _spread_out(model, left, processes)
    for scored in work:
        if kept:
            kept.put(scored.job, scored.row, scored.pictures)
        yield scored


def _spread_out(model: Model, jobs: Sequence[Job], processes: int) -> Iterator[Scored]:
    """Score in several processes; an interrupt or an error ends them at once."""
    threads = max(1, torch.get_num_threads() // processes)
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        min(processes, len(jobs)) or 1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(pickle.dumps(model), threads),
    )
    try:
        for done in as_completed([pool.submit(_work, job) for job in jobs]):
            yield done.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    pool.shutdown()


_worker: dict[str, Any] = {}


def _begin(model: bytes, threads: int) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears of it, and ends us
    torch.set_num_threads(threads)
    _worker["model"] = pickle.loads(model)


def _work(job: Job) -> Scored:
    return score(_worker["model"], job)
