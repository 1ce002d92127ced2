"""``bench dragbench``: edit a benchmark's samples and score them as published.

Each sample is brought to the model's own size (its aspect kept, sides rounded to what the model takes), edited with
points and mask carried along, brought back, and scored at its own size, as the 8-bit image that is also written. With
a folder to write to, every sample leaves ``<category>/<sample>/dragged_image.png`` and ``scores.json``, and a run that
was stopped goes on where it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from tqdm import tqdm

from dragonkit.editor import edit
from dragonkit.errors import InputError, NonFiniteError
from dragonkit.evaluate.dragbench.features import Dift, native_side
from dragonkit.evaluate.dragbench.fidelity import Fidelity, load_fidelity
from dragonkit.evaluate.dragbench.metrics import RADII, dai, dai_as_released, global_distances, local_distances, outside
from dragonkit.evaluate.dragbench.read import read_samples, sample_folders
from dragonkit.evaluate.dragbench.sample import DragSample, scaled
from dragonkit.evaluate.dragbench.summary import Row, summary
from dragonkit.evaluate.report import made_with, tidy
from dragonkit.files import check_folder, read_image, whole_folder
from dragonkit.guidance import Guidance
from dragonkit.regions import SMALLEST, as_image
from dragonkit.trace import to_pil

if TYPE_CHECKING:
    from dragonkit.models import Model


@dataclass(frozen=True, eq=False)
class Run:
    """What one run of the benchmark is made with: how samples are edited, how they are scored, where results go."""

    model: Model
    guidance: Guidance
    features: Dift
    fidelity: Fidelity | None
    out: Path | None

    @property
    def edited_with(self) -> Row:
        """What an edited image depends on."""
        return plain({"model": self.model.name, "guidance": asdict(self.guidance)})

    @property
    def scored_with(self) -> Row:
        """What a score depends on besides."""
        return plain({**self.features.describe(), "image_fidelity": self.fidelity is not None})


def bench_dragbench(
    model: Model,
    root: str | Path,
    layout: str = "dragbench",
    *,
    features: Dift | None = None,
    categories: Sequence[str] | None = None,
    limit: int | None = None,
    preset: str | None = None,
    steps: int | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> Row:
    """Edit and score the samples of a drag benchmark.

    Args:
        model: the model to edit with.
        root: the benchmark's folder.
        layout: "dragbench" or "drag100", see :mod:`dragonkit.evaluate.dragbench.read`.
        features: with which points are found again; the editing model's, as DragBench sets it, if None.
        categories: only these.
        limit: at most so many samples.
        preset: name of a guidance preset; the model's own if None.
        steps: DDIM steps; the preset's if None.
        out: folder for edited images and each sample's scores; what is there already is not made again.
        progress: whether to show a bar.

    Returns:
        What the JSON file holds: ``overall`` and ``categories`` (see `summary`), ``absent`` (scores that could not be
        computed, and why), ``items``, ``run`` and ``made_with``.

    Raises:
        InputError: a sample, an option or the content of ``out`` is not usable; raised before anything is edited.
        NonFiniteError: an edit failed; the message names the sample.
    """
    guidance = chosen(preset or model.default_guidance, steps)
    fidelity, reason = load_fidelity()
    run = Run(model, guidance, features or Dift(model=model), fidelity, Path(out) if out is not None else None)

    def samples() -> Iterator[DragSample]:
        return read_samples(root, layout, categories=categories, limit=limit)

    if run.out is not None:
        check_folder(run.out)
    count = 0
    for sample in samples():  # all that can be wrong is found before the first edit
        sample.as_edit()
        kept(run, sample)
        count += 1

    rows = [scored(run, sample) for sample in tqdm(samples(), desc=layout, total=count, disable=not progress)]
    return tidy(
        {
            "overall": summary(rows),
            "categories": {
                category: summary([row for row in rows if row["category"] == category])
                for category in sorted({row["category"] for row in rows})
            },
            "absent": {"image_fidelity": reason} if fidelity is None else {},
            "items": rows,
            "run": {"layout": layout, "edit": run.edited_with, "features": run.features.describe()},
            "made_with": made_with(),
        }
    )


def chosen(preset: str, steps: int | None) -> Guidance:
    """A preset's guidance for drags, with other steps if so wished."""
    guidance = Guidance.preset(preset, kind="drag")
    return guidance if steps is None else guidance.replace(steps=steps)


def check_dragbench(
    root: str | Path,
    layout: str,
    categories: Sequence[str] | None = None,
    limit: int | None = None,
    preset: str | None = None,
    steps: int | None = None,
) -> None:
    """Refuse what can be seen to be wrong before a model is loaded; arguments as of `bench_dragbench`.

    Raises:
        InputError: there is no such layout, folder, category or preset, or fewer than one sample or step.
    """
    chosen(preset or "mini", steps)
    sample_folders(root, layout, categories=categories, limit=limit)


def scored(run: Run, sample: DragSample) -> Any:
    """One sample edited and scored; what an earlier run left is taken from it."""
    record = kept(run, sample)
    if record and run.out is not None:
        if record["scored_with"] == run.scored_with:
            return record["row"]
        result = as_image(read_image(run.out / sample.label / "dragged_image.png"))
        done = record["edit"]
    else:
        result, done = edited(run, sample)
    row = plain({"category": sample.category, "name": sample.name, **done, **scores(run, sample, result)})
    if run.out is not None:
        record = {
            "sample": sample.digest,
            "edited_with": run.edited_with,
            "scored_with": run.scored_with,
            "edit": done,
            "row": row,
        }
        with whole_folder(run.out / sample.label) as folder:
            to_pil(result).save(folder / "dragged_image.png")
            (folder / "scores.json").write_text(json.dumps(plain(record), indent=1) + "\n", encoding="utf-8")
    return row


def edited(run: Run, sample: DragSample) -> tuple[Tensor, Row]:
    """The edited image (3, H, W) at the sample's size, in 8-bit steps, and what it took."""
    height, width = working_size(*sample.size, run.model)
    small = sample.resized(height, width)
    try:
        made = edit(run.model, small.image, small.as_edit(), small.prompt, guidance=run.guidance, progress=False)
    except (InputError, NonFiniteError) as error:
        raise type(error)(f"{sample.label}: {error}") from error
    result = as_image(to_pil(scaled(made.tensor, *sample.size)))
    return result, {"edited_at": [width, height], "nfe": made.nfe, "seconds": made.seconds}


def working_size(height: int, width: int, model: Model) -> tuple[int, int]:
    """The size at which an image is edited: the aspect kept, the area the model's own, sides multiples of its."""
    scale = native_side(model) / math.sqrt(height * width)
    step = model.multiple
    least = math.ceil(SMALLEST / step) * step
    high, wide = (max(least, round(n * scale / step) * step) for n in (height, width))
    return high, wide


def scores(run: Run, sample: DragSample, result: Tensor) -> Row:
    """Every score of one edited image, by name."""
    rest = outside(sample, result)
    row: Row = {
        "drag_px": sample.lengths,
        "distance_px": global_distances(run.features, sample, result),
        "distance_local": local_distances(run.features, sample, result, native_side(run.features.model)),
        "dai": {str(r): dai(sample, result, r) for r in RADII},
        "dai_as_released": {str(r): dai_as_released(sample, result, r) for r in RADII},
        "psnr_outside": rest["psnr"],
        "ssim_outside": rest["ssim"],
    }
    if run.fidelity is not None:
        row["image_fidelity"] = run.fidelity(sample.image, result)
    return row


def kept(run: Run, sample: DragSample) -> Row | None:
    """What an earlier run left of a sample, if it is whole and of this very sample.

    Raises:
        InputError: it was edited with other settings.
    """
    if run.out is None or not (run.out / sample.label / "dragged_image.png").is_file():
        return None
    path = run.out / sample.label / "scores.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["sample"] != sample.digest or not {"scored_with", "edit", "row"} <= record.keys():
            return None
        before = record["edited_with"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if before != run.edited_with:
        changed = [f"{k} {v!r}, not {was(before, k)!r}" for k, v in flat(run.edited_with) if was(before, k) != v]
        raise InputError(f"{path} was made with other settings (now {', '.join(changed)}): give another --out")
    return record


def flat(settings: Row) -> list[tuple[str, Any]]:
    """Model and guidance as one list of names and values."""
    return [("model", settings["model"]), *settings["guidance"].items()]


def was(settings: Any, name: str) -> Any:
    """A setting of an earlier run, None if it had none of that name."""
    return settings.get(name, settings.get("guidance", {}).get(name)) if isinstance(settings, dict) else None


def plain(data: Any) -> Any:
    """Data as it is after being written to JSON and read again."""
    return json.loads(json.dumps(tidy(data)))
