"""One sample of a drag benchmark: an image, the points to drag, the mask of what may change."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dragonkit.edits import Drag
from dragonkit.errors import InputError
from dragonkit.regions import as_image, dilate

if TYPE_CHECKING:
    from dragonkit.world import Counterfactual

Points = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True, eq=False)
class DragSample:
    """An image and what to drag in it, checked when made.

    Args:
        image: anything :func:`dragonkit.regions.as_image` takes; kept as float32 (3, H, W) in [0, 1].
        points: (x0, y0, x1, y1) each, handle and target, pixels of the image.
        mask: bool (H, W), True where the image may change; all False if the annotator drew none.
        prompt: what the image shows.
        category: the benchmark's name for the kind of image, "" if it has none.
        name: of the sample, unique within its category.

    Raises:
        InputError: a point is off the image, or sizes do not agree; the message names the sample.
    """

    image: Any
    points: Sequence[Sequence[float]]
    mask: Tensor
    prompt: str = ""
    category: str = ""
    name: str = "sample"

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "image", as_image(self.image))
        except InputError as error:
            raise InputError(f"{self.label}: {error}") from None
        height, width = self.size
        if not isinstance(self.mask, Tensor) or self.mask.dtype != torch.bool or self.mask.shape != (height, width):
            shape = tuple(self.mask.shape) if isinstance(self.mask, Tensor) else type(self.mask).__name__
            raise InputError(f"{self.label}: mask is {shape}, the image {width}x{height}: give bool {(height, width)}")
        if not self.points:
            raise InputError(f"{self.label}: there are no points: give a handle and a target")
        object.__setattr__(self, "points", tuple(tuple(float(v) for v in pair) for pair in self.points))
        for pair in self.points:
            if len(pair) != 4:
                raise InputError(f"{self.label}: {pair} is not a pair of points: give (x0, y0, x1, y1)")
            for x, y in (pair[:2], pair[2:]):
                if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):  # also false for nan
                    raise InputError(
                        f"{self.label}: point ({x:g}, {y:g}) is off the {width}x{height} image: move it in"
                    )

    @property
    def label(self) -> str:
        """Category and name, for errors and tables."""
        return f"{self.category}/{self.name}" if self.category else self.name

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[1], self.image.shape[2]

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Handles and targets, float64 (P, 2) each, last axis (x, y)."""
        pairs = torch.tensor(self.points, dtype=torch.float64)
        return pairs[:, :2], pairs[:, 2:]

    @property
    def lengths(self) -> list[float]:
        """How far each point is to be dragged, in pixels."""
        return [math.hypot(x1 - x0, y1 - y0) for x0, y0, x1, y1 in self.points]

    @property
    def digest(self) -> str:
        """A fingerprint of the pixels, points, mask and prompt."""
        whole = hashlib.sha256(self.image.numpy().tobytes())
        whole.update(self.mask.numpy().tobytes())
        whole.update(repr((self.points, self.prompt)).encode())
        return whole.hexdigest()[:16]

    def as_edit(self) -> Drag:
        """The drag that the sample asks for; where no mask was drawn, `Drag`'s own default."""
        return Drag(self.points, self.mask if self.mask.any() else None)

    def resized(self, height: int, width: int) -> DragSample:
        """The sample at another size: pixels filtered, points and mask carried along.

        A point keeps its place relative to the image: x becomes (x + 1/2) · width / W - 1/2.
        """
        high, wide = self.size
        if (height, width) == (high, wide):
            return self
        sx, sy = width / wide, height / high
        ends = [((x0 + 0.5) * sx, (y0 + 0.5) * sy, (x1 + 0.5) * sx, (y1 + 0.5) * sy) for x0, y0, x1, y1 in self.points]
        cover = F.adaptive_avg_pool2d(self.mask[None].float(), (height, width))[0]
        mask = cover >= 0.5
        return replace(
            self,
            image=scaled(self.image, height, width),
            points=tuple(tuple(v - 0.5 for v in pair) for pair in ends),
            mask=mask if mask.any() else cover > 0,  # what was drawn thin does not vanish
        )


def scaled(image: Tensor, height: int, width: int) -> Tensor:
    """An image (3, H, W) at another size, bilinear, filtered where it shrinks."""
    if tuple(image.shape[1:]) == (height, width):
        return image
    return F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0].clamp(0, 1)


def sample_of(case: Counterfactual, count: int = 3) -> DragSample:
    """A drag case of the bundled world as a benchmark sample; its category is the kind of edit.

    Points are rounded to whole pixels, as benchmarks have them; the mask is the object before and after, a little
    grown.

    Args:
        case: what `dragonkit.world.counterfactual` returned, of a kind that moves points.
        count: how many points at most.

    Raises:
        InputError: nothing moves in the case.
    """
    if case.kind == "appearance":
        raise InputError("an edit of kind 'appearance' moves no points: choose move, resize, rotate or drag")
    size = case.mask.shape[0]
    last = size - 1
    pairs = [tuple(float(min(max(round(v), 0), last)) for v in pair) for pair in case.points(count)]
    return DragSample(
        image=case.before.image,
        points=pairs,
        mask=dilate(case.mask | case.target, max(1, size // 32)),
        prompt=case.prompt,
        category=case.kind,
        name=f"{case.kind}_{case.seed:04d}",
    )
