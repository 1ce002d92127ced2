"""``bench correspondence``: how well features find the place they came from, against the renderer's exact dense truth.

How the numbers are made. For every change, scenes with seeds S, S + 1, ..., S + n - 1 of the split are rendered twice,
before and after it (for "instance" two scenes with different objects of one shape). Points are drawn well inside the
object, at least 1/64 of the picture from its rim in both pictures, where the renderer says that the point is seen in
both. Each is looked for in the whole second picture: the most similar place (Eq. 4) of one layer's features at one
timestep, on the grid on which guidance compares features (twice the latent's), refined within the cell. PCK@α is the
share of points, over all scenes, found within α times the longer side of the object's bounding box in the second
picture. The two pictures never share their noise. ``still`` is what one gets by leaving every point where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from dragonkit.correspondence import check_layers, extract, match
from dragonkit.errors import InputError
from dragonkit.evaluate.report import made_with, tidy
from dragonkit.regions import dilate
from dragonkit.world import KINDS, counterfactual
from dragonkit.world.instances import instances
from dragonkit.world.scene import SPLITS, stream

if TYPE_CHECKING:
    from dragonkit.models import Model

CHANGES = (*KINDS, "instance")
ALPHAS = {"pck_05": 0.05, "pck_10": 0.1}
TIMESTEPS = (1, 61, 121, 181, 261, 341, 421, 521, 621, 721)

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two pictures of one object, or of two of one shape, and which point is which.

    Attributes:
        images: float32 (3, H, W) in [0, 1] each.
        prompts: their captions.
        masks: bool (H, W), the object in each.
        flow: float32 (2, H, W), where (x, y) each pixel of the first mask is in the second picture; nan if not seen.
    """

    images: tuple[Tensor, Tensor]
    prompts: tuple[str, str]
    masks: tuple[Tensor, Tensor]
    flow: Tensor

    @classmethod
    def of(cls, change: str, seed: int, split: str, size: int) -> Pair:
        """Draw one; see :func:`dragonkit.world.counterfactual` and :func:`dragonkit.world.instances.instances`."""
        if change == "instance":
            two = instances(seed, split, size)
            return cls((two.renders[0].image, two.renders[1].image), two.prompts, two.masks, two.flow)
        from dragonkit.world import caption

        c = counterfactual(change, seed, split=split, size=size)
        return cls((c.before.image, c.after.image), (c.prompt, caption(c.scene_after)), (c.mask, c.target), c.flow)

    @property
    def extent(self) -> int:
        """The longer side of the object's bounding box in the second picture, in pixels."""
        where = self.masks[1].nonzero()
        return int((where.amax(dim=0) - where.amin(dim=0)).max()) + 1

    def points(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Up to ``count`` points well inside the object, seen in both pictures: where they are and will be, (N, 2)."""
        rim = max(1, self.flow.shape[-1] // 64)
        inner, landing = (~dilate(~mask, rim) for mask in self.masks)
        y, x = (inner & torch.isfinite(self.flow[0])).nonzero(as_tuple=True)
        start, end = torch.stack([x, y], dim=-1).double(), self.flow[:, y, x].T.double()
        column, row = end.round().long().clamp(0, self.flow.shape[-1] - 1).unbind(-1)
        good = landing[row, column].nonzero()[:, 0].tolist()
        chosen = sorted(stream("points", seed).sample(good, min(count, len(good))))
        return start[chosen], end[chosen]


def check_bench(
    changes: Sequence[str], n: int, seed: int, split: str, timesteps: Sequence[int], points: int, draws: int
) -> None:
    """Refuse, before a model is loaded, a bench that cannot be run.

    Raises:
        InputError: an unknown or repeated change or split, a number too small, or a timestep given twice.
    """
    for change in changes:
        if change not in CHANGES:
            raise InputError(f"unknown change {change!r}: choose from {', '.join(CHANGES)}")
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    for name, value, least in (("n", n, 1), ("seed", seed, 0), ("points", points, 1), ("draws", draws, 1)):
        if value < least:
            raise InputError(f"{name} is {value}: give a whole number, at least {least}")
    for name, values in (("changes", changes), ("timesteps", timesteps)):
        if not values or len(set(values)) < len(values):
            raise InputError(f"{name} are {list(values)}: give each once, and at least one")


def bench_correspondence(
    model: Model,
    n: int = 16,
    seed: int = 0,
    *,
    changes: Sequence[str] = CHANGES,
    layers: Sequence[int] = (1, 2, 3, 4),
    timesteps: Sequence[int] = TIMESTEPS,
    points: int = 32,
    draws: int = 1,
    prompted: bool = True,
    split: str = "test",
    size: int = 256,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure PCK by layer and timestep.

    Args:
        model: whose features.
        n: pairs of pictures a change.
        seed: the first pair's seed.
        changes: of ``CHANGES``.
        layers: decoder layers, any of 1 to 4.
        timesteps: training timesteps, 0 (clean) to 999.
        points: points a pair, at most; fewer where fewer are seen in both pictures.
        draws: noise draws over which features are averaged.
        prompted: whether features are taken under each picture's caption, or under "".
        split: "test", or "train" to choose a layer and a timestep by.
        size: height and width of the pictures, in pixels.
        progress: whether to show a bar.

    Returns:
        What the JSON file holds: ``{"changes": {change: {n, points, still, cells}}, "mean": cells, ...}``; a cell has
        layer, t, pck_05, pck_10 (shares), mean_px, median_px and mutual (the share of points whose match leads back).

    Raises:
        InputError: anything given cannot be used; raised before anything is rendered.
    """
    check_bench(changes, n, seed, split, timesteps, points, draws)
    for t in timesteps:
        check_layers(model, layers, t)
    model.check_weights()
    layers, timesteps = sorted(set(layers)), sorted(timesteps)
    report: dict[str, Any] = {"changes": {}}
    for change in changes:
        found: dict[tuple[int, int], list[Tensor]] = {(layer, t): [] for layer in layers for t in timesteps}
        still: list[Tensor] = []
        for s in tqdm(range(seed, seed + n), desc=change, disable=not progress):
            pair = Pair.of(change, s, split, size)
            start, end = pair.points(points, s)
            if not len(start):
                continue
            still.append(_errors(start, end, pair.extent))
            for t in timesteps:
                a, b = (
                    extract(model, pair.images[k], layers, t, prompt=prompt, draws=draws, seed=(2 * s + k) * draws)
                    for k, prompt in enumerate(pair.prompts if prompted else ("", ""))
                )
                for layer in layers:
                    m = match(a[layer].upsampled(), b[layer].upsampled(), start)
                    found[layer, t].append(_errors(m.found.cpu(), end, pair.extent, m.mutual.cpu()))
        if not still:
            raise InputError(f"no point of {change!r} is seen in both pictures: give more scenes than n = {n}")
        cells = [{"layer": layer, "t": t, **_scores(rows)} for (layer, t), rows in found.items()]
        total = sum(len(rows) for rows in still)
        report["changes"][change] = {"n": n, "points": total, "still": _scores(still), "cells": cells}
    report["mean"] = _mean([report["changes"][change]["cells"] for change in changes])
    run = dict(model=model.name, split=split, seeds=list(range(seed, seed + n)), layers=layers, timesteps=timesteps)
    report["run"] = {**run, "points": points, "draws": draws, "prompted": prompted, "size": size}
    return tidy({**report, "made_with": made_with()})


def _errors(found: Tensor, truth: Tensor, extent: int, mutual: Tensor | None = None) -> Tensor:
    """Per point (N, 3): distance in pixels, distance in object sizes, whether the match leads back."""
    distance = (found - truth).norm(dim=1)
    back = torch.full_like(distance, torch.nan) if mutual is None else mutual.double()
    return torch.stack([distance, distance / extent, back], dim=1)


def _scores(rows: Sequence[Tensor]) -> Row:
    pixels, relative, mutual = torch.cat(list(rows)).unbind(1)
    scores = {name: float((relative <= alpha).double().mean()) for name, alpha in ALPHAS.items()}
    scores |= {"mean_px": float(pixels.mean()), "median_px": float(pixels.quantile(0.5))}
    return scores if mutual.isnan().any() else {**scores, "mutual": float(mutual.mean())}


def _mean(by_change: Sequence[Sequence[Row]]) -> list[Row]:
    """Cell by cell the mean over changes, each counting once."""
    names = [name for name in by_change[0][0] if name not in ("layer", "t")]
    return [
        {"layer": same[0]["layer"], "t": same[0]["t"]}
        | {name: sum(cell[name] for cell in same) / len(same) for name in names}
        for same in zip(*by_change, strict=True)
    ]


def table(report: dict[str, Any]) -> str:
    """The report as text: a line for each change and layer, a column for each timestep."""
    timesteps, lines = report["run"]["timesteps"], ["PCK@0.1 / PCK@0.05 in per cent / mean distance in pixels"]
    blocks = {name: (f"{name}: {c['n']} pairs, {c['points']} points", c) for name, c in report["changes"].items()}
    blocks["mean"] = ("mean of the changes", {"cells": report["mean"]})
    for title, block in blocks.values():
        still = f"; standing still: {_cell(block['still'])}" if "still" in block else ""
        lines += ["", title + still, f"{'layer':7}" + "".join(f"{f't = {t}':>15}" for t in timesteps)]
        cells = {(cell["layer"], cell["t"]): cell for cell in block["cells"]}
        for layer in report["run"]["layers"]:
            lines.append(f"{layer:<7}" + "".join(f"{_cell(cells[layer, t]):>15}" for t in timesteps))
        best = max(block["cells"], key=lambda cell: cell["pck_10"])
        lines.append(f"best: layer {best['layer']} at t = {best['t']}, {_cell(best)}")
    return "\n".join(lines)


def _cell(scores: Row) -> str:
    return f"{100 * scores['pck_10']:.0f}/{100 * scores['pck_05']:.0f}/{scores['mean_px']:.1f}"
