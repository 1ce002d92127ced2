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
        # The palette covers all colours, not the frequent ones alone: a yellow hat shall not turn orange.
        method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
        self.image.convert("RGB").quantize(COLOURS, method, kmeans=3, dither=dither).save(file, "PNG", optimize=True)
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
