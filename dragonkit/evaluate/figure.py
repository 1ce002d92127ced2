"""One picture of one run: the source, what it draws on, the edit, the exact answer if known, and the energies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import cycle, zip_longest
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dragonkit.edits import Drag, Edit, Move, Paste
from dragonkit.evaluate.report import Report
from dragonkit.regions import Frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from dragonkit.result import Result
    from dragonkit.spec import Task

OLD, NEW = "#ffffff", "#ffb000"  # outlines of what is there before, and of where it should go
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")  # told apart with colour-blind eyes too


def overview(task: Task, result: Result, report: Report) -> Figure:
    """Draw what `python -m dragonkit edit` writes as overview.png.

    Args:
        task: the edits as they were asked for, the image read or generated.
        result: what came of them.
        report: its scores.

    Returns:
        A figure: before, each reference image, the edit, the exact answer if it is known, and the energies.
    """
    references = [reference for edit in task.edits for reference in edit.references]
    panels = 3 + len(references) + bool(task.truth)
    figure = Figure(figsize=(4.2 * panels, 5.15), dpi=110, layout="constrained")
    before, *middle, energies = figure.subplots(1, panels)

    draw_picture(before, task.picture, "before")
    frame = Frame(task.picture.height, task.picture.width)
    for one in task.edits:
        draw_marks(before, one, frame)
    for axes, reference in zip(middle, references, strict=False):
        draw_picture(axes, reference.image.permute(1, 2, 0).cpu().numpy(), "reference")
        _outline(axes, reference.mask, OLD)
        axes.set_xlabel(reference.prompt)
    edited, *answer = middle[len(references) :]
    draw_picture(edited, result.image, "edit")
    edited.set_xlabel("\n".join(_facts(report)))
    if task.truth:
        draw_picture(answer[0], task.truth.image.permute(1, 2, 0).numpy(), "exact answer")
    _energies(energies, report.energies)
    figure.suptitle(task.prompt, fontsize=13)
    return figure


def draw_picture(axes: Axes, picture: Any, title: str) -> None:
    """Draw an image (H, W, 3), a mask or a map (H, W) under its title, without ticks."""
    axes.imshow(picture, cmap="gray" if str(getattr(picture, "dtype", "")) == "torch.bool" else "viridis")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=13)
    axes.xaxis.label.set_fontsize(11)
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_marks(axes: Axes, edit: Edit, frame: Frame) -> None:
    """Outlines of where things are and shall be, and arrows from there to there."""
    if isinstance(edit, Drag):
        if edit.mask is not None:
            _outline(axes, edit.mask, OLD)
        for x0, y0, x1, y1 in edit.points:
            axes.plot(x0, y0, "o", color=OLD, markeredgecolor=NEW, markersize=6)
            _arrow(axes, (x0, y0), (x1, y1))
        return
    places = edit.places(frame)
    if places is not None:
        was, shall, _ = places
        if not isinstance(edit, Paste):  # what is pasted was nowhere
            _outline(axes, was, OLD)
        if not torch.equal(was, shall) or isinstance(edit, Paste):
            _outline(axes, shall, NEW)
    if isinstance(edit, Move):
        (x, y), (dx, dy) = edit.placement.centre, edit.by
        _arrow(axes, (x, y), (x + dx, y + dy))


def _outline(axes: Axes, mask: Tensor, colour: str) -> None:
    if mask.any() and not mask.all():
        axes.contour(mask.numpy(), levels=[0.5], colors=[colour], linewidths=1.6)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    if math.dist(start, end) >= 1:
        style = {"arrowstyle": "-|>", "color": NEW, "linewidth": 2.2, "mutation_scale": 18, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xy=end, xytext=start, arrowprops=style)


def _facts(report: Report) -> list[str]:
    lines = [", ".join([*report.scores(), f"NFE {report.nfe}, {report.seconds:.1f} s"])]
    known = {name: value for name, value in report.psnr.items() if not math.isnan(value)}
    shown = {name: value for name, value in known.items() if name in ("target", "vacated", "kept")} or known
    if shown:
        lines.append("PSNR in dB: " + ", ".join(f"{name} {value:.1f}" for name, value in shown.items()))
    return lines


def _energies(axes: Axes, energies: dict[str, list[float]]) -> None:
    """Each term divided by its first value: they differ much in size, and what matters is which way they go."""
    for (name, values), colour, style in zip(energies.items(), cycle(COLOURS), _styles(), strict=False):
        first = next((v for v in values if not math.isnan(v)), 0.0)
        if first:
            axes.plot(
                [v / first for v in values],
                label=f"{name}, {first:.2g} at first",
                color=colour,
                linestyle=style,
                linewidth=2,
            )
    axes.set_title("energy terms, relative", fontsize=13)
    axes.set_xlabel("step", fontsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_box_aspect(1)
    if energies:
        axes.legend(frameon=False, fontsize=11)
    else:
        axes.text(0.5, 0.5, "not guided", ha="center", va="center", transform=axes.transAxes)


def _styles() -> Iterator[str]:
    """Solid lines for the first terms, another dash each time the colours start again."""
    return (style for style in cycle(("-", "--", ":", "-.")) for _ in COLOURS)


def gallery(pictures: Mapping[str, Any], columns: int = 5) -> Figure:
    """Pictures side by side, each under its name.

    Args:
        pictures: by name: PIL images, image tensors (3, H, W) in [0, 1], masks or maps (H, W); maps in false colours.
        columns: pictures in a row, at most.

    Returns:
        A figure, the pictures row by row.
    """
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    figure = Figure(figsize=(2.6 * columns, 2.9 * rows), dpi=80, layout="constrained")
    for axes, name in zip_longest(figure.subplots(rows, columns, squeeze=False).flat, pictures):
        if name is None:
            axes.set_visible(False)
            continue
        picture = pictures[name]
        draw_picture(axes, picture.permute(1, 2, 0) if getattr(picture, "ndim", 0) == 3 else picture, name)
    return figure
