"""The picture of ``bench correspondence``: a heat map a change, decoder layers down, timesteps across."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

TITLES = {
    "move": "moved",
    "resize": "another size",
    "rotate": "turned (yaw)",
    "appearance": "repainted",
    "drag": "deformed",
    "instance": "another object of the shape",
}


def heat_maps(report: dict[str, Any]) -> Figure:
    """Draw the report of :func:`dragonkit.evaluate.correspondence.bench_correspondence`.

    Args:
        report: what that returned, or what its JSON file holds.

    Returns:
        A figure with a panel for each change, in colour PCK@0.1, in figures PCK@0.1 and below it PCK@0.05, in per cent;
        the best cell of each panel is framed.
    """
    changes, run = report["changes"], report["run"]
    columns = min(3, len(changes))
    rows = math.ceil(len(changes) / columns)
    wide = max(3.6, 0.56 * len(run["timesteps"]) + 0.9)
    size = (wide * columns + 0.9, (0.52 * len(run["layers"]) + 1.15) * rows + 0.7)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat[len(changes) :]:
        panel.set_visible(False)
    for panel, (change, scores) in zip(axes.flat, changes.items(), strict=False):
        shown = _panel(panel, scores["cells"], run)
        still = f"standing still {100 * scores['still']['pck_10']:.0f}"
        panel.set_title(f"{TITLES.get(change, change)}\n{scores['points']} points, {still}", fontsize=11)
    figure.colorbar(shown, ax=axes, label="PCK@0.1, %", shrink=0.8, pad=0.01)
    figure.supxlabel("timestep of the noise", fontsize=11)
    figure.supylabel("decoder layer", fontsize=11)
    draws = f"{run['draws']} noise draw{'s' if run['draws'] > 1 else ''}"
    figure.suptitle(f"Points found again, {run['model']}, {draws}: PCK@0.1 over PCK@0.05, %", fontsize=13)
    return figure


def _panel(axes: Axes, cells: list[dict[str, Any]], run: dict[str, Any]) -> AxesImage:
    layers, timesteps = run["layers"], run["timesteps"]
    by_place = {(cell["layer"], cell["t"]): cell for cell in cells}
    values = [[100 * by_place[layer, t]["pck_10"] for t in timesteps] for layer in layers]
    image = axes.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(timesteps)), timesteps)
    axes.set_yticks(range(len(layers)), layers)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    best = max(by_place, key=lambda place: by_place[place]["pck_10"])
    for (layer, t), cell in by_place.items():
        x, y = timesteps.index(t), layers.index(layer)
        colour = "black" if cell["pck_10"] > 0.6 else "white"
        axes.text(x, y - 0.17, f"{100 * cell['pck_10']:.0f}", ha="center", va="center", color=colour, fontsize=10)
        axes.text(x, y + 0.25, f"{100 * cell['pck_05']:.0f}", ha="center", va="center", color=colour, fontsize=7.5)
        if (layer, t) == best:
            axes.add_patch(_frame(x, y))
    return image


def _frame(x: float, y: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.48, y - 0.47), 0.96, 0.94, fill=False, edgecolor="#d55e00", linewidth=2.2)
