"""One picture of ``bench inversion``: how generation drifts off the path, and how near the image it ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from dragonkit.evaluate.figure import COLOURS
from dragonkit.evaluate.inversion import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BRIGHT, DARK = "#e69f00", "#444444"


def inversion_figure(report: dict[str, Any]) -> Figure:
    """Draw the drift by level and the PSNR of every method, beside the autoencoder's.

    Args:
        report: what :func:`dragonkit.evaluate.inversion.bench_inversion` returns.

    Returns:
        A figure of two panels.
    """
    methods, run = report["methods"], report["run"]
    colours = dict(zip(METHODS, [*COLOURS, BRIGHT], strict=True))  # a method's own, whichever others are there
    figure = Figure(figsize=(12, 4.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    _drift(left, methods, colours)
    _bars(right, methods, report["ceiling"], colours)
    count = len(run["seeds"])
    scenes = f"{count} scene{'s' if count > 1 else ''} ({run['split']})"
    figure.suptitle(f"Inversion and back: {scenes}, {run['steps']} steps, cfg {run['cfg']:g} where guided")
    return figure


def _drift(axes: Axes, methods: dict[str, Any], colours: dict[str, str]) -> None:
    for name, scores in methods.items():
        steps = range(1, len(scores["drift"]))  # both start from z_T, so there is none at level 0
        style = "--" if METHODS[name].guided else "-"
        axes.plot(steps, scores["drift"][1:], style, color=colours[name], linewidth=2, label=name)
    axes.set_yscale("log")
    axes.set(xlabel="steps generated, from noise to image", ylabel="RMS distance in the latent")
    axes.set_title("drift off the inverted path", fontsize=12)
    axes.legend(frameon=False, fontsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _bars(axes: Axes, methods: dict[str, Any], ceiling: dict[str, float | None], colours: dict[str, str]) -> None:
    for k, (name, scores) in enumerate(methods.items()):
        for region, offset in (("whole", -0.2), ("objects", 0.2)):
            value = scores["psnr"][region]
            if value is None:  # no object covers a pixel
                continue
            hatch = None if region == "whole" else "///"
            axes.bar(k + offset, value, 0.38, color=colours[name], hatch=hatch, edgecolor="white", linewidth=0.5)
            label = axes.annotate(
                f"{value:.1f}", (k + offset, value), (0, 2), textcoords="offset points", ha="center", fontsize=9
            )
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6})  # the ceiling's line may cross it
    for region, style in (("whole", "-"), ("objects", ":")):
        level = ceiling[region]
        if level is not None:
            axes.axhline(level, color=DARK, linestyle=style, linewidth=1.2, label=f"autoencoder alone, {region}")
    values = [v for row in (ceiling, *(m["psnr"] for m in methods.values())) for v in row.values() if v is not None]
    axes.set_ylim(max(0, 5 * math.floor(min(values) / 5) - 5), max(values) + 6)
    axes.set_xticks(range(len(methods)), list(methods), rotation=20)
    axes.set_ylabel("PSNR in dB")
    axes.set_title("PSNR: whole image (plain), objects (hatched)", fontsize=12)
    axes.legend(frameon=False, fontsize=10, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
