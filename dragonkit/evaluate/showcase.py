"""One picture of every kind of edit: ``python -m dragonkit.evaluate.showcase FILE.png``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from dragonkit.editor import edit
from dragonkit.edits import Edit, Paste
from dragonkit.evaluate.figure import draw_marks, draw_picture
from dragonkit.files import whole_file
from dragonkit.models import load
from dragonkit.regions import Frame
from dragonkit.world import caption, counterfactual

if TYPE_CHECKING:
    from torch import Tensor

FIRST = 10**9
"""Training-split seed of the first scene; the model saw none from here on, and none was chosen by its result."""

KINDS = ("move", "resize", "drag", "rotate", "appearance")
TITLES = {"rotate": "rotate (in depth)"}


def showcase() -> Figure:
    """Edit the first scene of each kind with the bundled model, and paste from one scene into another.

    Returns:
        A figure with one column a kind: what was asked for, what came out, and the exact answer where there is one.
    """
    model = load("mini")
    columns = list(_cases())
    figure = Figure(figsize=(2.05 * len(columns), 6.6), dpi=100, layout="constrained")
    grid = figure.subplots(3, len(columns))
    for (before, result, after), (name, image, prompt, wanted, answer) in zip(grid.T, columns, strict=True):
        draw_picture(before, image.permute(1, 2, 0).numpy(), TITLES.get(name, name))
        draw_marks(before, wanted, Frame(*image.shape[-2:]))
        draw_picture(result, edit(model, image, wanted, prompt, progress=False).image, "")
        shown: Any = wanted.references[0].image if answer is None else answer
        draw_picture(after, shown.permute(1, 2, 0).numpy(), "")
        after.set_xlabel("pasted from here" if answer is None else "")
    for axes, name in zip(grid[:, 0], ("asked for", "edit", "exact answer"), strict=True):
        axes.set_ylabel(name, fontsize=13)
    return figure


def _cases() -> Iterator[tuple[str, Tensor, str, Edit, Tensor | None]]:
    """Kind, image, prompt, edit, and the exact answer."""
    for kind in KINDS:
        case = counterfactual(kind, FIRST, "train")
        yield kind, case.before.image, case.prompt, case.edit, case.after.image
    onto, source = (counterfactual("move", FIRST + k, "train") for k in (1, 2))
    x, y = onto.similarity[:2]
    rows, columns = onto.mask.nonzero().float().mean(0).tolist()
    paste = Paste(source.before.image, source.mask, at=(columns + x, rows + y), reference_prompt=source.prompt)
    objects = (*onto.scene.objects, source.scene.objects[source.index])
    yield "paste", onto.before.image, caption(replace(onto.scene, objects=objects)), paste, None


if __name__ == "__main__":
    with whole_file(Path(sys.argv[1])) as draft:
        showcase().savefig(draft, format="png")
