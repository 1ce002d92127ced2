"""One picture of one edit: the source, the edit, the exact answer if it is known, and the energies by step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from dragonkit.evaluate.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from dragonkit.editor import Result
    from dragonkit.spec import Task

OLD, NEW = "#ffffff", "#ffb000"  # outlines of the object before, and of where it should go
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")  # told apart with colour-blind eyes too


def overview(task: Task, result: Result, report: Report) -> Figure:
    """Draw what `python -m dragonkit edit` writes as overview.png.

    Args:
        task: the edit as it was asked for.
        result: what came of it.
        report: its scores.

    Returns:
        A figure of three or, with a truth, four panels.
    """
    panels = 4 if task.truth else 3
    figure = Figure(figsize=(4.2 * panels, 5.15), dpi=110, layout="constrained")
    axes = figure.subplots(1, panels)
    target = task.edit.target()

    _picture(axes[0], task.image, "before")
    _outline(axes[0], task.mask, OLD)
    _outline(axes[0], target, NEW)
    _arrow(axes[0], task)
    _picture(axes[1], result.image, "edit")
    axes[1].set_xlabel("\n".join(_facts(report)))
    if task.truth:
        _picture(axes[2], task.truth.image.permute(1, 2, 0).numpy(), "exact answer")
    _energies(axes[-1], report.energies)
    figure.suptitle(task.prompt, fontsize=13)
    return figure


def _picture(axes: Axes, picture: Any, title: str) -> None:
    axes.imshow(picture, cmap="gray" if str(getattr(picture, "dtype", "")) == "torch.bool" else "viridis")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=13)
    axes.xaxis.label.set_fontsize(11)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _outline(axes: Axes, mask: Tensor, colour: str) -> None:
    axes.contour(mask.numpy(), levels=[0.5], colors=[colour], linewidths=1.6)


def _arrow(axes: Axes, task: Task) -> None:
    x, y = task.edit.placement.centre
    dx, dy = task.edit.by
    if math.hypot(dx, dy) >= 1:
        style = {"arrowstyle": "-|>", "color": NEW, "linewidth": 2.2, "mutation_scale": 18, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xy=(x + dx, y + dy), xytext=(x, y), arrowprops=style)


def _facts(report: Report) -> list[str]:
    cost = f"NFE {report.nfe}, {report.seconds:.1f} s"
    if report.placement_px is None:
        return [cost]
    regions = ", ".join(f"{name} {report.psnr[name]:.1f}" for name in ("target", "vacated", "kept"))
    return [f"placement error {report.placement_px:.1f} px, {cost}", f"PSNR in dB: {regions}"]


def _energies(axes: Axes, energies: dict[str, list[float]]) -> None:
    """Each term divided by its first value: they differ much in size, and what matters is which way they go."""
    for (name, values), colour in zip(energies.items(), COLOURS, strict=False):
        first = next((v for v in values if not math.isnan(v)), 0.0)
        if first:
            axes.plot([v / first for v in values], label=f"{name}, {first:.2g} at first", color=colour, linewidth=2)
    axes.set_title("energy terms, relative", fontsize=13)
    axes.set_xlabel("step", fontsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_box_aspect(1)
    if energies:
        axes.legend(frameon=False, fontsize=11)
    else:
        axes.text(0.5, 0.5, "not guided", ha="center", va="center", transform=axes.transAxes)


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
        _picture(axes, picture.permute(1, 2, 0) if getattr(picture, "ndim", 0) == 3 else picture, name)
    return figure
