"""Dragging content by points (Eq. 5 over small discs)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dragonkit.edits.base import Branches, Edit, Places, Regions, content
from dragonkit.edits.move import numbers, transplanted
from dragonkit.energy import Term, attract, repel, similarity
from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.regions import Frame, as_mask, flat, inside, positions


@dataclass(frozen=True, eq=False)
class Drag(Edit):
    """Drag what is at some points to other points.

    Args:
        points: (x0, y0, x1, y1) each, pixels: from there to there. One that goes nowhere holds what is there.
        mask: what may change, bool (H, W); without one, what is near the straight ways: within 16 pixels or half the
            longest way, whichever is more.

    Raises:
        InputError: a value is not usable.
    """

    points: Sequence[Sequence[float]]
    mask: Any = None
    kind = "drag"

    def __post_init__(self) -> None:
        if isinstance(self.points, str) or not isinstance(self.points, Sequence) or len(self.points) == 0:
            raise InputError(f"points is {self.points!r}: give at least one (x0, y0, x1, y1)")
        object.__setattr__(self, "points", tuple(numbers("a point", p, 4) for p in self.points))
        if self.mask is not None:
            object.__setattr__(self, "mask", as_mask(self.mask))

    def regions(self, frame: Frame) -> Regions:
        """Discs of 3 x 3 cells round the points; m_share is everything outside the mask.

        Raises:
            InputError: a point is off the image, or the mask is not of its size.
        """
        for x0, y0, x1, y1 in self.points:
            for x, y in ((x0, y0), (x1, y1)):
                if not (-0.5 <= x <= frame.width - 0.5 and -0.5 <= y <= frame.height - 0.5):
                    raise InputError(f"point ({x:g}, {y:g}) is off the {frame.width}x{frame.height} image: move it in")
        mask = self.editable(frame)
        pairs = torch.tensor(self.points, dtype=torch.float64, device=frame.device)
        start, end = frame.to_cells(pairs[:, :2], frame.grid), frame.to_cells(pairs[:, 2:], frame.grid)
        gud, gen = discs(start), discs(end)
        both = inside(gud, frame.grid) & inside(gen, frame.grid)
        vacated = (gud[:, None] - end[None]).abs().amax(dim=-1).amin(dim=1) > 1.5  # in no target's disc
        landing, source = self._patches(frame, pairs)
        editable = frame.cells(mask, frame.latent)
        return Regions(
            gen=gen[both].float(),
            gud=gud[both].float(),
            share=flat(~frame.cells(mask, frame.grid)),
            inpaint=gud[both & vacated].float() if (both & vacated).any() else None,
            target=editable,
            landing=landing,
            source=source,
            edited=editable | landing,
        )

    def terms(self, f: Branches, m: Regions, w: Guidance) -> Iterator[Term]:
        """S_edit between target and start discs, S_share outside the mask (Eq. 5), contrast where points left."""
        if w.w_edit:
            s = similarity(f.gen, f.gud, m.gen, m.gud)
            yield Term("edit", attract(s, w.w_edit, w.alpha, w.beta), "edit")
        yield from content(f, m, w)
        if w.w_contrast and m.inpaint is not None:
            s = similarity(f.gen, f.gud, m.inpaint, m.inpaint)
            yield Term("contrast", repel(s, w.w_contrast), "edit")

    def places(self, frame: Frame) -> Places:
        """Discs round the start points and round the targets, and what may change.

        Where the rest of the content ends up is for the method to say.
        """
        mask = self.editable(frame).cpu()
        xy, pairs = positions((frame.height, frame.width)), torch.tensor(self.points, dtype=torch.float64)

        def near(centres: Tensor) -> Tensor:
            away = torch.stack([(xy - c).norm(dim=-1) for c in centres]).amin(0)
            return (away < 0.75 * frame.factor) & mask

        return Places(near(pairs[:, :2]), near(pairs[:, 2:]), mask)

    def start(self, z_T: Tensor, refs: tuple[Tensor, ...], m: Regions) -> Tensor:
        """z_T with a patch of 3 x 3 cells copied from each start to its target."""
        return transplanted(z_T, z_T, m)

    def editable(self, frame: Frame) -> Tensor:
        """The mask, or if there is none, the pixels near the straight ways; bool (H, W)."""
        return self._ways(frame) if self.mask is None else frame.check(self.mask)

    def _ways(self, frame: Frame) -> Tensor:
        """The pixels near the straight ways from start to target, bool (H, W)."""
        xy = positions((frame.height, frame.width), frame.device)
        ways = torch.tensor(self.points, dtype=torch.float64, device=frame.device)
        reach = max(16.0, 0.5 * (ways[:, 2:] - ways[:, :2]).norm(dim=1).max().item())
        near = torch.zeros(xy.shape[:2], dtype=torch.bool, device=frame.device)
        for way in ways:
            along, offset = way[2:] - way[:2], xy - way[:2]
            part = ((offset @ along) / (along @ along).clamp(min=1e-9)).clamp(0, 1)
            near |= (offset - part[..., None] * along).norm(dim=-1) <= reach
        return near

    def _patches(self, frame: Frame, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """The latent cells round each target, bool (h, w), and where their noise comes from (N, 2), row by row."""
        h, w = frame.latent
        landing = torch.zeros(h, w, dtype=torch.bool, device=frame.device)
        came = positions(frame.latent, frame.device)
        start, end = frame.to_cells(pairs[:, :2], frame.latent), frame.to_cells(pairs[:, 2:], frame.latent)
        for a, b in zip(start, end, strict=True):
            x, y = (int(v) for v in (b + 0.5).floor().tolist())
            rows, columns = slice(max(y - 1, 0), y + 2), slice(max(x - 1, 0), x + 2)
            landing[rows, columns] = True
            came[rows, columns] = positions(frame.latent, frame.device)[rows, columns] + (a - b)
        return landing, came[landing].float()


def discs(centres: Tensor) -> Tensor:
    """The 3 x 3 cells round each centre: (P, 2) to (9 P, 2), fractions kept."""
    return (centres[:, None] + positions((3, 3), centres.device).reshape(1, 9, 2) - 1).reshape(-1, 2)
