"""A figure in a notebook, with words that say what it shows."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from dragonkit.errors import InputError
from dragonkit.evaluate.figure import gallery
from dragonkit.film import to_pil
from dragonkit.regions import as_image

COLOURS = 256
"""Of a stored picture: a palette makes it three times smaller, and notebooks are kept small."""


def paletted(image: Image.Image) -> Image.Image:
    """A picture in ``COLOURS`` colours: half of them are its frequent ones, half are spread over all that occur.

    The frequent ones alone would turn a small yellow hat orange; the spread ones alone would lay stripes over a sky.
    """
    import numpy as np
    from scipy.spatial import KDTree

    image, half, none = image.convert("RGB"), COLOURS // 2, Image.Dither.NONE
    ways = Image.Quantize.MEDIANCUT, Image.Quantize.MAXCOVERAGE
    palettes = [image.quantize(half, way, dither=none).getpalette() or [] for way in ways]
    palette = np.concatenate([np.asarray(p[: 3 * half], np.uint8).reshape(-1, 3) for p in palettes])
    pixels = np.asarray(image)
    nearest = KDTree(palette).query(pixels.reshape(-1, 3))[1].astype(np.uint8)
    result = Image.fromarray(nearest.reshape(pixels.shape[:2]))
    result.putpalette(palette.tobytes())
    return result


class Shown:
    """A picture and its alternative text; a notebook displays it as the last value of a cell.

    Args:
        image: the picture.
        alt: what it shows, in one sentence.
    """

    def __init__(self, image: Image.Image, alt: str) -> None:
        self.image, self.alt = image, alt

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        file = io.BytesIO()
        paletted(self.image).save(file, "PNG", optimize=True)
        return {"image/png": file.getvalue(), "text/plain": repr(self)}, {"image/png": {"alt": self.alt}}

    def __repr__(self) -> str:
        return f"[{self.alt}]"


def show(picture: Any, alt: str, columns: int = 5) -> Shown:
    """Show a picture in a notebook.

    Args:
        picture: a matplotlib figure; pictures by name, as :func:`dragonkit.evaluate.gallery` takes; or one image, as
            :func:`dragonkit.regions.as_image` takes.
        alt: what there is to see, in one sentence, for readers who cannot.
        columns: of a gallery.

    Raises:
        InputError: ``alt`` says nothing, or there is no picture.
    """
    if not isinstance(alt, str) or len(alt.split()) < 3:
        raise InputError(f"alt is {alt!r}: say in a sentence what the picture shows")
    if isinstance(picture, Mapping):
        picture = gallery(picture, columns)
    if not isinstance(picture, Figure):
        return Shown(to_pil(as_image(picture)), alt)
    file = io.BytesIO()
    picture.savefig(file, format="png")
    return Shown(Image.open(file), alt)
