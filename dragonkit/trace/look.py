"""Where edited cells look: attention as maps over the pictures, the mean of many cells' and each cell's own."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from dragonkit.checks import check_whole
from dragonkit.errors import InputError

Shapes = tuple[tuple[int, int], ...]
"""(h, w) of each map: the generation branch's own, the source image's, and each reference's."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Where single cells look in one rewired layer at one step: attention averaged over heads.

    Args:
        weights: float16 (N, M), a row a cell; each adds up to 1 but for rounding.
        cells: int64 (N,), which cells these are, counted row by row on the generation branch's grid.
        tokens: int64 (M,), where on the maps each column belongs, counted as :attr:`Look.weights` are. What is not
            attended to has no column.
    """

    weights: Tensor
    cells: Tensor
    tokens: Tensor


@dataclass(frozen=True, eq=False)
class Look:
    """Where cells of the edited picture look in one rewired layer at one step: their mean attention, as maps.

    Of a trace it is the mean over the target's cells, and :meth:`at` and :meth:`of` give each edited cell's own.

    Args:
        weights: float32 (P,), the maps below, row by row and one after the other; they add up to 1.
        shapes: (h, w) of each map: the generation branch's own, the source image's, and each reference's.
        rows: each cell's own attention, if it was kept.
    """

    weights: Tensor
    shapes: Shapes
    rows: Rows | None = None

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """All maps, float32 (h, w) each."""
        parts = self.weights.split([h * w for h, w in self.shapes])
        return tuple(part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True))

    @property
    def own(self) -> Tensor:
        """On the generation branch itself (h, w); 0 if its tokens are replaced."""
        return self.maps[0]

    @property
    def source(self) -> Tensor:
        """On the source image, the guidance branch (h, w)."""
        return self.maps[1]

    @property
    def references(self) -> tuple[Tensor, ...]:
        """On each reference image (h', w')."""
        return self.maps[2:]

    def at(self, cell: int) -> Look | None:
        """Where one cell looks.

        Args:
            cell: its index, counted row by row on the generation branch's grid, ``shapes[0]``.

        Returns:
            Its maps, or None if it was not observed: it is no edited cell, or single cells were not kept.

        Raises:
            InputError: the grid has no such cell.
        """
        h, w = self.shapes[0]
        check_whole("cell", cell, 0, h * w - 1)
        found = [] if self.rows is None else (self.rows.cells == cell).nonzero()[:, 0].tolist()
        if self.rows is None or not found:
            return None
        return Look(spread(self.rows.weights[found[0]].float(), self.rows.tokens, self.shapes), self.shapes)

    def of(self, xy: tuple[float, float], size: tuple[int, int]) -> Look | None:
        """Where the cell that a pixel lies in looks; as :meth:`at`.

        Args:
            xy: the pixel (x, y) of the edited picture.
            size: (width, height) of that picture, such as ``result.image.size``.

        Raises:
            InputError: the pixel is off the picture, or the maps are of a picture of another size.
        """
        (x, y), (width, height), (h, w) = xy, size, self.shapes[0]
        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            raise InputError(f"point ({x:g}, {y:g}) is off the {width}x{height} image: move it in")
        side = cell_side(size, self.shapes[0])
        column, row = (min(int((v + 0.5) // side), n - 1) for v, n in ((x, w), (y, h)))
        return self.at(row * w + column)


def cell_side(size: tuple[int, int], shape: tuple[int, int]) -> int:
    """Pixels a cell of attention's grids is wide and high.

    Args:
        size: (width, height) of the picture before it was padded.
        shape: (h, w) of the grid.

    Raises:
        InputError: the grid is not one of such a picture.
    """
    # The padded picture is less than twice as large, and a power of two as large as its grid.
    wide, high = (2 ** math.ceil(math.log2(pixels / cells)) for pixels, cells in zip(size, shape[::-1], strict=True))
    if wide != high:
        given, grid = "x".join(map(str, size)), "x".join(map(str, shape[::-1]))
        raise InputError(f"size is {given}, which no grid of {grid} cells covers: give the image's size")
    return wide


def spread(weights: Tensor, tokens: Tensor, shapes: Shapes) -> Tensor:
    """Attention to the tokens that are attended to (M,) -> to all places of all maps (P,), 0 elsewhere."""
    return weights.new_zeros(sum(h * w for h, w in shapes)).index_add(0, tokens, weights)
