"""Turning an object in depth by points: every cell follows, not the points alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dragonkit.edits.base import Regions
from dragonkit.edits.drag import Drag
from dragonkit.errors import InputError
from dragonkit.regions import Frame, inside, positions
from dragonkit.spline import came_from

STILL = 0.3  # latent cells that move less keep their own noise


@dataclass(frozen=True, eq=False)
class Rotate(Drag):
    """Drag the surface of an object that turns: some points say how it goes, and a thin-plate spline the rest.

    A :class:`Drag` compares discs round its points; the rest of the object is free to come along, which is what is
    wanted where content is drawn out. Where a surface turns, its look all over is known, and here every cell of the
    mask is compared (Eq. 5) with the place that its content comes from: see :func:`dragonkit.spline.came_from`.

    Args:
        points: (x0, y0, x1, y1) each, pixels: from there to there.
        mask: what may change, bool (H, W), its border held; without one, as for :class:`Drag`.

    Raises:
        InputError: a value is not usable.
    """

    kind = "rotate"

    def regions(self, frame: Frame) -> Regions:
        """The mask's cells, and where the content of each comes from; m_share is everything outside the mask.

        Raises:
            InputError: a point is off the image, the mask is not of its size, or nothing on the image would be turned.
        """
        m = super().regions(frame)
        cells, gud = self._sources(frame, frame.grid)
        landing, source = self._sources(frame, frame.latent)
        if not len(cells):
            raise InputError("by these points all content of the mask comes from off the image: draw shorter ways")
        moved = (source - landing).norm(dim=-1) > STILL
        noise = torch.zeros(frame.latent, dtype=torch.bool, device=frame.device)
        x, y = landing[moved].long().unbind(-1)
        noise[y, x] = True
        return replace(m, gen=cells, gud=gud, inpaint=None, landing=noise, source=source[moved])

    def _sources(self, frame: Frame, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The mask's cells on a grid and where their content comes from, (N, 2) both, row by row."""
        mask = self.editable(frame)
        cells = frame.cells(mask, shape)
        back = came_from(frame.centres(shape)[cells].cpu(), self.points, mask.cpu()).to(frame.device)
        source = frame.to_cells(back, shape)
        known = inside(source, shape)
        return positions(shape, frame.device)[cells][known].float(), source[known].float()
