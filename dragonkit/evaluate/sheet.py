"""Pictures of a bench: where it failed worst, and every scene small."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from dragonkit.evaluate.scored import Scored
from dragonkit.evaluate.truth import MEASURES
from dragonkit.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ERROR = 0.5  # error shown in the brightest colour, of a range of 1
ARROW = {"arrowstyle": "->", "color": "#ffb000", "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}  # of a dragged point
COLUMNS = ("source", "exact answer", "result", "error")


def save_sheets(done: Mapping[str, Sequence[Scored]], path: Path, rows: int = 6) -> list[Path]:
    """Draw two sheets for each kind: FILE-KIND.png, the worst scenes, and FILE-KIND-all.png.

    Args:
        done: scenes by kind, from ``bench.run``.
        path: FILE.png.
        rows: scenes on the first sheet.

    Returns:
        The files written.
    """
    written = []
    for kind, scenes in done.items():
        for figure, tail in ((worst_sheet(kind, scenes, rows), ""), (all_sheet(kind, scenes), "-all")):
            target = path.with_name(f"{path.stem}-{kind}{tail}{path.suffix}")
            with whole_file(target) as draft:
                figure.savefig(draft)
            written.append(target)
    return written


def ranked(kind: str, scenes: Sequence[Scored]) -> list[tuple[float, Scored]]:
    """Scenes with the kind's first measure, the worst first; those where it cannot be told come last."""
    measure = MEASURES[kind][0]
    values = [(measure.worst(scene.row[measure.name]), scene) for scene in scenes]
    return sorted(values, key=lambda pair: (math.isnan(pair[0]), -pair[0]))


def worst_sheet(kind: str, scenes: Sequence[Scored], rows: int = 6) -> Figure:
    """The worst scenes of a kind, by its first measure: source, exact answer, result, error map, and the numbers."""
    chosen = ranked(kind, scenes)[:rows]
    figure = Figure(figsize=(11.2, 2.2 * len(chosen) + 0.7), dpi=90, layout="constrained")
    figure.suptitle(f"{kind}: the worst {len(chosen)} of {len(scenes)} scenes by {MEASURES[kind][0].name}", fontsize=13)
    grid = figure.subplots(len(chosen), 4, squeeze=False)
    for axes, (_, scene) in zip(grid, chosen, strict=True):
        source, answer, result = scene.pictures
        for k, picture in enumerate((source, answer, result)):
            _show(axes[k], picture)
        for x0, y0, x1, y1 in scene.row.get("points", ()):
            axes[0].annotate("", xy=(x1, y1), xytext=(x0, y0), arrowprops=ARROW)
        error = np.abs(result.astype(float) - answer.astype(float)).max(axis=2) / 255
        shown = axes[3].imshow(error, cmap="magma", vmin=0, vmax=ERROR)
        _bare(axes[3])
        axes[0].set_ylabel("\n".join(_numbers(kind, scene)), rotation=0, ha="right", va="center", fontsize=9)
    for axis, name in zip(grid[0], COLUMNS, strict=True):
        axis.set_title(name, fontsize=11)
    bar = figure.colorbar(shown, ax=grid[:, 3], fraction=0.05, aspect=12 * len(chosen))
    bar.set_label("largest error of a channel", fontsize=9)
    return figure


def all_sheet(kind: str, scenes: Sequence[Scored], columns: int = 4) -> Figure:
    """Every scene of a kind, by seed: source, exact answer and result side by side, with its first measure."""
    rows = math.ceil(len(scenes) / columns)
    columns = min(columns, len(scenes))
    figure = Figure(figsize=(4.2 * columns, 1.65 * rows + 0.4), dpi=80, layout="constrained")
    figure.suptitle(f"{kind}: source, exact answer, result; {MEASURES[kind][0].name}", fontsize=12)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    values = {id(scene): value for value, scene in ranked(kind, scenes)}
    for axes, scene in zip(grid, scenes, strict=False):
        white = np.full_like(scene.pictures[0][:, :4], 255)
        source, answer, result = scene.pictures
        _show(axes, np.concatenate([source, white, answer, white, result], axis=1))
        value = values[id(scene)]
        axes.set_title(f"seed {scene.job.seed}: {'-' if math.isnan(value) else format(value, '.3g')}", fontsize=9)
    for axes in list(figure.axes)[len(scenes) :]:
        axes.set_visible(False)
    return figure


def _numbers(kind: str, scene: Scored) -> list[str]:
    lines = [f"seed {scene.job.seed}"]
    for measure in MEASURES[kind]:
        value = scene.row[measure.name]
        values = value if isinstance(value, list) else [value]
        lines.append(f"{measure.name} " + (", ".join(f"{v:.2f}" for v in values) or "-"))
    names = ("target", "vacated", "kept")
    psnr = [f"{name} {scene.row['psnr'][name]:.1f} dB" for name in names if not math.isnan(scene.row["psnr"][name])]
    return lines + psnr


def _show(axes: Axes, picture: np.ndarray) -> None:
    axes.imshow(picture)
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
