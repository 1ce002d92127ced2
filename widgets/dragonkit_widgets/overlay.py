"""Masks and arrows drawn over a picture: the still face of what the browser draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

FILL = (0, 200, 255)
HANDLE, TARGET = (255, 59, 48), (47, 107, 255)
LIGHT, DARK = (255, 255, 255), (20, 20, 20)
Arrow = Sequence[float]


def overlay(picture: Image.Image, mask: np.ndarray, points: Sequence[Arrow], size: int) -> Image.Image:
    """A picture with a translucent, outlined mask and handle → target arrows, at the size it is shown.

    Args:
        picture: RGB, of any size.
        mask: bool (H, W), of the image's own size, which the picture may be a smaller copy of.
        points: (x0, y0, x1, y1) each, pixels of the image.
        size: of the result's longer side, pixels.
    """
    height, width = mask.shape
    fit = size / max(width, height)
    shown = (max(1, round(width * fit)), max(1, round(height * fit)))
    pixels = np.asarray(picture.resize(shown, Image.Resampling.BICUBIC if fit > 1 else Image.Resampling.LANCZOS))
    x, y = ((np.arange(n) + 0.5) * full / n for n, full in zip(shown, (width, height), strict=True))
    inside = mask[y.astype(int)[:, None], x.astype(int)]
    around = np.pad(inside, 1, mode="edge")
    centre = (slice(1, -1), slice(1, -1))
    near = [np.roll(around, step, axis)[centre] for axis in (0, 1) for step in (-1, 1)]
    drawn = np.where(inside[..., None], (0.58 * pixels + 0.42 * np.array(FILL)).round().astype(np.uint8), pixels)
    drawn[inside & ~np.logical_and.reduce(near)] = LIGHT
    drawn[~inside & np.logical_or.reduce(near)] = DARK
    face = Image.fromarray(drawn)
    pen = ImageDraw.Draw(face)
    for arrow in points:
        _arrow(pen, [(v + 0.5) * fit for v in arrow])
    return face


def _arrow(pen: ImageDraw.ImageDraw, arrow: Arrow) -> None:
    x0, y0, x1, y1 = arrow
    length, angle = math.hypot(x1 - x0, y1 - y0), math.atan2(y1 - y0, x1 - x0)
    if length > 1:
        gap, barb = min(5, length / 3), min(11, length / 2)
        tip = (x1 - gap * math.cos(angle), y1 - gap * math.sin(angle))  # just before the target's dot
        ends = [
            (tip[0] - barb * math.cos(angle + turn), tip[1] - barb * math.sin(angle + turn)) for turn in (0.42, -0.42)
        ]
        for colour, wide in ((DARK, 5), (LIGHT, 2)):
            pen.line([(x0, y0), tip], fill=colour, width=wide)
            pen.polygon([tip, *ends], fill=LIGHT, outline=colour, width=2)
        pen.circle((x1, y1), 5, fill=TARGET, outline=LIGHT, width=2)
    pen.circle((x0, y0), 6, fill=HANDLE, outline=LIGHT, width=2)
