"""The still picture of a GuidancePlayer: pictures in a row, where the edit looks, and the energies below as curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from dragonkit.trace import Look
from dragonkit.trace.look import cell_side

INK, DIM, PAPER = "#212121", "#757575", "white"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: told apart by all eyes
SIDE, LINE, GAP = 240, 16, 8  # pixels


def still(pictures: Mapping[str, Image.Image], energies: Mapping[str, Sequence[float]], step: int) -> Image.Image:
    """Draw it.

    Args:
        pictures: by title; made at most ``SIDE`` pixels high and wide.
        energies: each term's value by step, NaN where there is none.
        step: where the cursor is.
    """
    small = {title: image.copy() for title, image in pictures.items()}
    for image in small.values():
        image.thumbnail((SIDE, SIDE))
    curves = {name: values for name, values in energies.items() if any(map(math.isfinite, values))}
    width = max(sum(image.width + GAP for image in small.values()) + GAP, 2 * SIDE)
    top = max([image.height + LINE + GAP for image in small.values()], default=LINE)
    paper = Image.new("RGB", (width, top + (140 if curves else 0) + GAP), PAPER)
    pen, x = ImageDraw.Draw(paper), GAP
    if not small and not curves:
        pen.text((GAP, 4), "nothing to show yet", DIM)
    for title, image in small.items():
        pen.text((x, 2), title, INK)
        paper.paste(image, (x, LINE + 2))
        x += image.width + GAP
    if curves:
        _curves(pen, (GAP, top + LINE + GAP, width - GAP, paper.height - GAP), curves, step)
    return paper


def glow(source: Image.Image, looks: Sequence[Look]) -> Image.Image:
    """The source image under the attention that goes to it, the mean over layers: what is not looked at is darkened.

    Args:
        source: of the edited image's size.
        looks: one or more layers'.
    """
    import matplotlib

    density = np.zeros(source.size[::-1])
    for look in looks:
        (h, w), side = look.source.shape, cell_side(source.size, look.shapes[1])
        cells = Image.fromarray(look.source.float().cpu().numpy() / side**2)
        fine = cells.resize((w * side, h * side), Image.Resampling.BILINEAR)
        density += np.asarray(fine)[: source.height, : source.width]
    part = (density / (density.max() or 1))[..., None]
    colour, opacity = matplotlib.colormaps["viridis"](part[..., 0])[..., :3] * 255, 0.35 + 0.4 * part
    mixed = opacity * colour + (1 - opacity) * np.asarray(source)
    return Image.fromarray(mixed.round().astype(np.uint8))


def _curves(
    pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], curves: Mapping[str, Sequence[float]], step: int
) -> None:
    """The curves in a box (left, top, right, bottom), their names above it."""
    left, top, right, bottom = box
    known = [v for values in curves.values() for v in values if math.isfinite(v)]
    low, high, count = min(0.0, *known), max(known), max(map(len, curves.values()))
    span = (high - low) or 1.0

    def place(k: int, value: float) -> tuple[float, float]:
        return left + (right - left) * k / max(count - 1, 1), bottom - (bottom - top) * (value - low) / span

    pen.rectangle(box, outline="#bdbdbd")
    cursor = place(step, low)[0]
    pen.line([(cursor, top), (cursor, bottom)], DIM)
    x = float(left)
    for k, (name, values) in enumerate(curves.items()):
        colour = COLOURS[k % len(COLOURS)]
        points = [place(j, v) for j, v in enumerate(values) if math.isfinite(v)]
        pen.line(points, colour, 2) if len(points) > 1 else pen.point(points, colour)
        pen.text((x, top - LINE), name, colour)
        x += pen.textlength(name) + 2 * GAP
