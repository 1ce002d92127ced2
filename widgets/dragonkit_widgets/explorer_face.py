"""The still picture of a CorrespondenceExplorer."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw
from torch import Tensor

from dragonkit.correspondence import on_image
from dragonkit.regions import Frame

GAP = 8  # pixels between the pictures
Place = tuple[float, ...]


def face(
    pictures: Sequence[Image.Image],
    maps: Sequence[tuple[Tensor, Frame]],
    marks: tuple[Place | None, Place | None, Place | None],
    opacity: float,
    size: int,
) -> Image.Image:
    """Draw the pictures side by side.

    Args:
        pictures: one or two.
        maps: for each a similarity map (h, w) in [0, 1] and its picture's frame; none leaves the pictures bare.
        marks: in pixels, (x, y, …): the point in the first picture, its match and the true place in the second.
        opacity: of the maps over the pictures.
        size: longest side of a picture as drawn, pixels.
    """
    panels = []
    low = min((float(s.min()) for s, _ in maps), default=0.0)
    for k, shown in enumerate(pictures):
        if maps:
            s, frame = maps[k]
            shown = Image.blend(shown, _viridis((on_image(s, frame) - low) / max(1 - low, 1e-6)), opacity)
        scale = size / max(shown.size)
        panel = shown.resize((round(shown.width * scale), round(shown.height * scale)), Image.Resampling.BICUBIC)
        _mark(panel, [marks[0], None, None] if k == 0 else [None, *marks[1:]], scale)
        panels.append(panel)
    width = sum(p.width for p in panels) + GAP * (len(panels) - 1)
    sheet = Image.new("RGB", (width, max(p.height for p in panels)), "white")
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, 0))
        left += panel.width + GAP
    return sheet


def _viridis(s: Tensor) -> Image.Image:
    from matplotlib import colormaps

    return Image.fromarray(colormaps["viridis"](s.clamp(0, 1).cpu().numpy(), bytes=True)[..., :3])


def _mark(panel: Image.Image, marks: list[Place | None], scale: float) -> None:
    """A ring at the point, a cross at the match, a diamond at the truth; each light on dark."""
    pen = ImageDraw.Draw(panel)
    for shape, place in zip(("ring", "cross", "diamond"), marks, strict=True):
        if place is None:
            continue
        x, y, r = (place[0] + 0.5) * scale, (place[1] + 0.5) * scale, 7
        for colour, width in (("black", 5), ("#ff9f43" if shape == "diamond" else "white", 2)):
            if shape == "ring":
                pen.ellipse([x - r, y - r, x + r, y + r], outline=colour, width=width)
            elif shape == "cross":
                pen.line([x - r, y - r, x + r, y + r], fill=colour, width=width)
                pen.line([x - r, y + r, x + r, y - r], fill=colour, width=width)
            else:
                pen.line([x - r, y, x, y - r, x + r, y, x, y + r, x - r, y], fill=colour, width=width)
