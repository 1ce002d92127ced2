"""Exercises of notebook 02: similarities, sub-pixel peaks, mutual matches, PCK, and which layer to trust."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dragonkit.course.exercise import Wrong, called, exercise


def grid(found: Any, shape: tuple[int, ...], what: str) -> Tensor:
    """What a reader's function gave, as a tensor of the shape that it should have.

    Raises:
        Wrong: it is no tensor, or of another shape.
    """
    if not isinstance(found, (Tensor, np.ndarray)):
        raise Wrong(f"give a tensor of shape {shape}, {what}; this is a {type(found).__name__}")
    result = torch.as_tensor(found)
    if tuple(result.shape) != shape:
        raise Wrong(f"the result has the shape {tuple(result.shape)} and should have {shape}: {what}")
    return result


@exercise
def check_similarities(mine: Callable[..., Any]) -> str:
    """Write S of Eq. 4 between all places of two pictures: (C, N) and (C, M) give (N, M)."""
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(6, n, generator=generator) * 3 for n in (4, 5))
    a[:, 1], b[:, 2], b[:, 3] = b[:, 0], -a[:, 0], 7 * a[:, 2]
    s = grid(called(mine, a, b), (4, 5), "a row for each place of the first picture").double()
    for i, j, right, hint in (
        (1, 0, 1.0, "two equal vectors must give 1"),
        (2, 3, 1.0, "vectors that point the same way must give 1, however long: divide by their lengths"),
        (0, 2, 0.0, "opposite vectors must give 0: map the cosine from [-1, 1] to [0, 1]"),
    ):
        if abs(float(s[i, j]) - right) > 1e-4:
            raise Wrong(f"S[{i}, {j}] is {float(s[i, j]):.3f}: {hint}")
    for i in range(4):
        for j in range(5):
            u, v = a[:, i].tolist(), b[:, j].tolist()
            dot = math.fsum(p * q for p, q in zip(u, v, strict=True))
            right = dot / math.hypot(*u) / math.hypot(*v) / 2 + 0.5
            if abs(float(s[i, j]) - right) > 1e-4:
                raise Wrong(f"S[{i}, {j}] is {float(s[i, j]):.3f} and should be {right:.3f}: (cosine + 1) / 2")
    return "every pair of places agrees"


@exercise
def check_vertex(mine: Callable[..., Any]) -> str:
    """Write where, in cells from the middle one, a parabola through three values is highest."""
    for at, bend, top in ((0.0, 0.1, 0.9), (0.3, 0.1, 0.9), (-0.45, 0.02, 0.7), (0.5, 0.4, 1.0)):
        left, middle, right = (top - bend * (x - at) ** 2 for x in (-1, 0, 1))
        found = float(called(mine, left, middle, right))
        if abs(found - at) < 1e-6:
            continue
        given = f"for the similarities {left:.4f}, {middle:.4f}, {right:.4f}"
        if abs(found + at) < 1e-6:
            raise Wrong(
                f"{given} the peak is {at:+.2f} cells away, not {found:+.2f}: it leans to the *larger* neighbour"
            )
        hint = "set the derivative of the parabola through (-1, left), (0, middle), (1, right) to zero"
        raise Wrong(f"{given} the peak is {at:+.2f} cells away, not {found:+.2f}: {hint}")
    return "four parabolas, four peaks, to a millionth of a cell"


@exercise
def check_mutual(mine: Callable[..., Any]) -> str:
    """Write which rows of a matrix S (N, M) have a mutual nearest neighbour, as bools."""
    for n, m, seed in ((5, 5, 0), (6, 9, 1), (9, 6, 2)):
        s = torch.rand(n, m, generator=torch.Generator().manual_seed(seed))
        found = grid(called(mine, s), (n,), "True or False for each row")
        rows = s.tolist()
        best = [row.index(max(row)) for row in rows]
        columns = [[row[j] for row in rows] for j in range(m)]
        right = [columns[best[i]].index(max(columns[best[i]])) == i for i in range(n)]
        wrong = [i for i in range(n) if bool(found[i]) != right[i]]
        if wrong:
            i = wrong[0]
            back = columns[best[i]].index(max(columns[best[i]]))
            raise Wrong(
                f"row {i} of a {n} x {m} matrix: its best column is {best[i]}, whose best row is {back}, "
                f"so it is {'' if right[i] else 'not '}mutual"
            )
    return "three matrices, square and not"


@exercise
def check_pck(mine: Callable[..., Any]) -> str:
    """Write PCK@alpha: the share of points found within alpha times the object's size."""
    truth = torch.tensor([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0], [70.0, 10.0], [5.0, 5.0]], dtype=torch.float64)
    away = torch.tensor([[0.0, 0.0], [3.0, 4.0], [4.0, 4.0], [-40.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    for extent, alpha in ((50, 0.1), (100, 0.1), (50, 0.05), (40, 1.0)):
        pairs = zip((truth + away).tolist(), truth.tolist(), strict=True)
        right = sum(math.dist(p, q) <= alpha * extent for p, q in pairs) / len(truth)
        found = float(called(mine, truth + away, truth, extent, alpha))
        if abs(found - right) < 1e-9:
            continue
        distances = "5 points are 0, 5, 5.7, 40 and 2 px off"
        hint = "the share, from 0 to 1, of distances (Pythagoras) that are at most alpha * extent"
        raise Wrong(f"{distances}: PCK@{alpha} of an object of {extent} px is {right:.1f}, not {found:.3g}; {hint}")
    return "four thresholds, the borderline case included"


@exercise
def check_best(mine: tuple[int, int], report: Mapping[str, Any]) -> str:
    """Predict the layer (1 to 4) and timestep (1 to 721) at which most points are found."""
    try:
        layer, t = (int(value) for value in mine)
    except (TypeError, ValueError):
        raise Wrong(f"give a pair (layer, timestep) such as (4, 1); this is {mine!r}") from None
    run, cells = report["run"], {(cell["layer"], cell["t"]): cell["pck_10"] for cell in report["mean"]}
    if layer not in run["layers"]:
        raise Wrong(f"there is no layer {layer}: choose one of {run['layers']}")
    near = min(run["timesteps"], key=lambda known: abs(known - t))
    best, found = max(cells.values()), cells[layer, near]
    of_layer = max(value for (k, _), value in cells.items() if k == layer)
    if found < best - 0.02:
        hint = "this layer, but with less noise" if of_layer >= best - 0.02 else "another layer does better"
        raise Wrong(
            f"layer {layer} at t = {near} finds {found:.0%} of the points within a tenth of the object; "
            f"{best:.0%} are possible: {hint}"
        )
    return f"layer {layer} at t = {near} finds {found:.0%} of the points again, and nothing does better than {best:.0%}"
