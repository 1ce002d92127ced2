"""A canvas to draw on: arrows from what moves to where it goes, and masks, in the image's own pixels."""

from __future__ import annotations

import io
import math
import numbers
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
import traitlets
from PIL import Image

from dragonkit.errors import InputError
from dragonkit.regions import as_mask
from dragonkit_widgets.assets import module, styles
from dragonkit_widgets.base import Base, binary, picture, png
from dragonkit_widgets.latest import Latest
from dragonkit_widgets.overlay import overlay
from dragonkit_widgets.segmenting import grown, lab

TOOLS = ("point", "brush", "eraser", "box", "lasso", "segment", "pan")
SHOWN, PLAIN = 4_000_000, 1_000_000
"""Pixels up to which an image is shown as it is, and up to which it travels as PNG (else as JPEG: ten times quicker)"""
Segment = Callable[[np.ndarray, float, float], Any]


class Sketch(Base):
    """Draw points and a mask on an image.

    Coordinates are (x, y) pixels of the image, the origin at the centre of the top-left pixel, fractions allowed. A
    pixel belongs to a box if its centre lies in it or on its edge, to a lasso if its centre lies in it, to a stroke if
    its centre lies under the brush. Images over 4 megapixels are shown smaller, but points and mask stay in the
    image's own pixels.

    ``observe`` the traits ``points`` and ``mask_data``; they change when a gesture ends.

    Args:
        image: whatever :func:`dragonkit.regions.as_image` takes.
        tools: of "point", "brush", "eraser", "box", "lasso", "segment" and "pan".
        points: (x0, y0, x1, y1) each, from a handle to its target; both equal: a point that stays.
        mask: bool (H, W), or None.
        size: of the canvas's longer side, CSS pixels, 64 to 4096.
        segment: the region of a click: a function of the image uint8 (H, W, 3) and the pixel (x, y), to bool (H, W).
            By default the connected region of similar colour. It is called in a thread of its own, one click at a time;
            of clicks that come meanwhile the last one counts. What it raises is shown in the widget. If it reads
            features of a model, give it a :func:`dragonkit_widgets.twin.twin`.
        traits: first values of ``tool``, ``brush``, ``tolerance`` and ``snap``.

    Raises:
        InputError: a value is not usable.
    """

    _esm = module("common", "mask", "overlay", "points", "masktools", "toolbar", "keys", "sketch")
    _css = styles("common", "sketch")

    points: Any = traitlets.List(help="(x0, y0, x1, y1) floats each, pixels of the image").tag(sync=True)
    mask_data = binary(help="the mask's bits, row by row, as numpy.packbits has them; nothing for an empty mask")
    tools = traitlets.List(traitlets.Enum(TOOLS)).tag(sync=True)
    tool = traitlets.Enum(TOOLS).tag(sync=True)
    selected = traitlets.Int(-1, help="the selected point's place in points, or -1").tag(sync=True)
    snap = traitlets.Bool(False, help="whether points go to whole pixels").tag(sync=True)
    brush = traitlets.Float(24.0, min=1, max=2000, help="the brush's width, pixels of the image").tag(sync=True)
    tolerance = traitlets.Float(12.0, min=0, max=100, help="of click-to-segment, in Lab").tag(sync=True)
    error = traitlets.Unicode("", help="shown in the widget").tag(sync=True)
    _picture = binary()
    _width, _height, _size = (traitlets.Int(1).tag(sync=True) for _ in range(3))

    def __init__(
        self,
        image: Any,
        *,
        tools: Sequence[str] = TOOLS,
        points: Sequence[Sequence[float]] = (),
        mask: Any = None,
        size: int = 512,
        segment: Segment | None = None,
        **traits: Any,
    ) -> None:
        if not tools or not set(tools) <= set(TOOLS):
            raise InputError(f"tools is {tools!r}: give some of {', '.join(TOOLS)}")
        if not isinstance(size, int) or not 64 <= size <= 4096:
            raise InputError(f"size is {size!r}: give the canvas's longer side, 64 to 4096 pixels")
        self.segment = segment
        self._latest = Latest()
        shown = self._take(picture(image))
        traits.setdefault("brush", min(2000, max(1, round(max(self._image.size) / 20))))
        traits.setdefault("tool", tools[0])
        super().__init__(tools=list(tools), _size=size, **shown, **traits)
        self.points, self.mask = list(points), mask
        self.on_msg(self._asked)

    @property
    def image(self) -> Image.Image:
        """The image drawn on. A new one keeps the points that lie on it, and the mask if it has the same size."""
        return self._image

    @image.setter
    def image(self, image: Any) -> None:
        before = self._image.size
        shown = self._take(picture(image))
        self._latest.drop()
        self.send({"segmented": None})
        with self.hold_sync():
            if self._image.size != before:
                self.mask_data = b""
                kept = [point for point in self.points if self._on(point)]
                self.points = kept if len(kept) < len(self.points) else self.points
            for name, value in shown.items():
                setattr(self, name, value)

    @property
    def mask(self) -> np.ndarray:
        """What is painted: bool (H, W), a copy; None clears it."""
        width, height = self._image.size
        bits = np.frombuffer(self.mask_data or bytes((width * height + 7) // 8), np.uint8)
        return np.unpackbits(bits, count=width * height).reshape(height, width).astype(bool)

    @mask.setter
    def mask(self, mask: Any) -> None:
        self.mask_data = b"" if mask is None else self._bits(mask)

    def face(self) -> Image.Image:
        """The image with mask and arrows over it."""
        return overlay(self._preview, self.mask, self.points, self._size)

    def __repr__(self) -> str:
        width, height = self._image.size
        return f"{type(self).__name__}({width}x{height}, {len(self.points)} points, {self.mask.sum()} pixels masked)"

    def _take(self, image: Image.Image) -> dict[str, Any]:
        """Keep an image, and give the traits that show it."""
        width, height = image.size
        smaller = math.sqrt(SHOWN / (width * height))
        self._image = self._preview = image
        if smaller < 1:
            self._preview = image.resize((round(width * smaller), round(height * smaller)), reducing_gap=2.0)
        self._lab: tuple[Image.Image, np.ndarray] | None = None
        file = io.BytesIO()
        if self._preview.width * self._preview.height > PLAIN:
            self._preview.save(file, format="JPEG", quality=92, subsampling=0)
        return {"_picture": file.getvalue() or png(self._preview), "_width": width, "_height": height}

    def _on(self, point: Any) -> bool:
        width, height = self._image.size
        return all(-0.5 <= v <= most - 0.5 for v, most in zip(point, (width, height, width, height), strict=True))

    def _bits(self, mask: Any) -> bytes:
        width, height = self._image.size
        array = as_mask(mask).numpy() if not isinstance(mask, np.ndarray) or mask.any() else mask
        if array.shape != (height, width):
            size = "x".join(str(side) for side in array.shape[::-1])
            raise InputError(f"mask is {size} but the image is {width}x{height}: draw it on this image")
        return np.packbits(array).tobytes() if array.any() else b""

    @traitlets.validate("points")
    def _check_points(self, proposal: Any) -> list[tuple[float, ...]]:
        width, height = self._image.size
        for point in proposal.value:
            if not isinstance(point, (Sequence, np.ndarray)) or isinstance(point, str) or len(point) != 4:
                raise InputError(f"point {point!r} is no (x0, y0, x1, y1): give four numbers")
            if not all(isinstance(v, numbers.Real) and math.isfinite(v) for v in point):
                raise InputError(f"point {tuple(point)!r} has a value that is no number: give four finite ones")
            if not self._on(point):
                raise InputError(f"point {tuple(point)!r} is off the {width}x{height} image: move it in")
        if self.selected >= len(proposal.value):
            self.selected = -1
        return [tuple(float(v) for v in point) for point in proposal.value]

    @traitlets.validate("mask_data")
    def _check_mask(self, proposal: Any) -> bytes:
        width, height = self._image.size
        if len(proposal.value) not in (0, (width * height + 7) // 8):
            raise InputError(f"mask_data has {len(proposal.value)} bytes: set mask, of the {width}x{height} image")
        return proposal.value

    @traitlets.validate("tool")
    def _check_tool(self, proposal: Any) -> str:
        if self.tools and proposal.value not in self.tools:
            raise InputError(f"tool is {proposal.value!r}: it is none of this canvas's tools {', '.join(self.tools)}")
        return proposal.value

    def close(self) -> None:
        """Take the widget away, and let nothing come of what is being segmented."""
        if hasattr(self, "_latest"):  # a widget that was refused is closed too
            self._latest.close()
        super().close()

    def _asked(self, widget: Any, content: dict[str, Any], buffers: Any) -> Future[None]:
        """The browser asks for the region of a click: {"segment": [x, y], "add": whether it joins the mask}."""
        x, y = (float(v) for v in content["segment"])

        def done(found: np.ndarray | None, error: Exception | None) -> None:
            self.error = "" if error is None else f"{type(error).__name__}: {error}"
            if found is not None:
                self.mask = self.mask | found if content.get("add", True) else self.mask & ~found
            self.send({"segmented": [x, y]})

        self.send({"segmenting": [x, y]})
        return self._latest.ask(partial(self._region, self._image, self._preview, x, y), done)

    def _region(self, image: Image.Image, preview: Image.Image, x: float, y: float) -> np.ndarray:
        width, height = image.size
        if self.segment is not None:
            found = as_mask(self.segment(np.asarray(image), x, y), "the region").numpy()
            if found.shape != (height, width):
                raise InputError(f"the region is {found.shape[1]}x{found.shape[0]}: give one of {width}x{height}")
            return found
        if self._lab is None or self._lab[0] is not preview:
            self._lab = preview, lab(np.asarray(preview))
        colours = self._lab[1]
        h, w = colours.shape[:2]
        found = grown(colours, _cell(x, width, w), _cell(y, height, h), self.tolerance)
        rows, columns = ((np.arange(full) * n) // full for full, n in ((height, h), (width, w)))
        return found[rows[:, None], columns]


def _cell(v: float, full: int, cells: int) -> int:
    """The cell, of so many along a side of ``full`` pixels, that a position lies in."""
    return min(cells - 1, max(0, math.floor((v + 0.5) * cells / full)))


class PointPicker(Sketch):
    """Draw handle → target arrows; the rest is :class:`Sketch`'s.

    Args:
        image: whatever :func:`dragonkit.regions.as_image` takes.
        points: (x0, y0, x1, y1) each, pixels of the image.
        options: of :class:`Sketch`.
    """

    def __init__(self, image: Any, points: Sequence[Sequence[float]] = (), **options: Any) -> None:
        super().__init__(image, points=points, **{"tools": ("point", "pan"), **options})


class MaskPainter(Sketch):
    """Paint a mask with brush, eraser, box, lasso and click-to-segment; the rest is :class:`Sketch`'s.

    Args:
        image: whatever :func:`dragonkit.regions.as_image` takes.
        mask: bool (H, W), or None.
        options: of :class:`Sketch`.
    """

    def __init__(self, image: Any, mask: Any = None, **options: Any) -> None:
        tools = ("brush", "eraser", "box", "lasso", "segment", "pan")
        super().__init__(image, mask=mask, **{"tools": tools, **options})
