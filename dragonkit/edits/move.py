"""Moving an object, with growing, shrinking and turning it (Eq. 4 to 9)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dragonkit.edits.base import Branches, Edit, Places, Regions, content
from dragonkit.energy import Term, attract, mean_similarity, repel, similarity
from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.regions import Frame, Placement, as_mask, flat, inside, nearest, positions


@dataclass(frozen=True, eq=False)
class Move(Edit):
    """Move an object, and scale or turn it about its centre (the mean of the mask's pixels).

    Args:
        mask: the object, see :func:`dragonkit.regions.as_mask`; of the image's size.
        by: (dx, dy) in pixels, +x right, +y down, fractions allowed.
        scale: its new size over its old, more than 0 (Eq. 9: features are interpolated, then cropped to the frame).
        angle: degrees clockwise as seen.

    Raises:
        InputError: a value is not usable.
    """

    mask: Any
    by: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    angle: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", as_mask(self.mask))
        object.__setattr__(self, "by", numbers("by", self.by, 2))
        (scale,), (angle,) = numbers("scale", [self.scale], 1), numbers("angle", [self.angle], 1)
        if scale <= 0:
            raise InputError(f"scale is {scale}: give a number above 0")
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "angle", angle)

    @property
    def placement(self) -> Placement:
        """The map from the object's old place to its new one, in pixels."""
        return Placement(centre(self.mask), self.by, self.scale, self.angle)

    def target(self, device: torch.device | str = "cpu") -> Tensor:
        """The mask moved, bool (H, W): what leaves the image is cut off."""
        return carried(self.mask.to(device), tuple(self.mask.shape), self.placement)

    def places(self, frame: Frame) -> Places:
        """The mask, and the mask moved."""
        return Places(self.mask, self.target())

    def regions(self, frame: Frame) -> Regions:
        """m_gud, m_gen, m_share, m_inpaint (Eq. 4 to 8), and where each target cell's content comes from.

        Raises:
            InputError: the mask is not of the image's size, or nothing of the object would stay on the image.
        """
        mask, target = frame.check(self.mask), self.target(frame.device)
        if not target.any():
            dx, dy = self.by
            raise InputError(f"moved by ({dx:g}, {dy:g}) the object leaves the image: shorten the move")
        m_gud = frame.cells(mask, frame.grid)
        m_gen, gud = sourced(frame, target, self.placement, frame.grid)
        m_latent, source = sourced(frame, target, self.placement, frame.latent)
        return Regions(
            gen=flat(m_gen),
            gud=gud,
            share=flat(~(m_gen | m_gud)),
            inpaint=flat(m_gud & ~m_gen),
            outside=flat(~m_gud),
            target=m_latent,
            landing=m_latent,
            source=source,
            edited=m_latent | frame.cells(mask, frame.latent),
        )

    def terms(self, f: Branches, m: Regions, w: Guidance) -> Iterator[Term]:
        """S_edit over the target, S_share over what stays (Eq. 5), contrast (Eq. 7) and inpainting (Eq. 8)."""
        if w.w_edit:
            s = similarity(f.gen, f.gud, m.gen, m.gud)
            yield Term("edit", attract(s, w.w_edit, w.alpha, w.beta), "edit")
        yield from content(f, m, w)
        if w.w_contrast and m.inpaint is not None:
            s = similarity(f.gen, f.gud, m.inpaint, m.inpaint)
            yield Term("contrast", repel(s, w.w_contrast))
        if w.w_inpaint and m.inpaint is not None and m.outside is not None:
            s = mean_similarity(f.gen, f.gud, m.inpaint, m.outside)
            yield Term("inpaint", attract(s, w.w_inpaint, w.alpha, w.beta))

    def start(self, z_T: Tensor, refs: tuple[Tensor, ...], m: Regions) -> Tensor:
        """z_T with the object's noise copied to its target."""
        return transplanted(z_T, z_T, m)


def numbers(name: str, values: Any, count: int) -> tuple[float, ...]:
    """Check that ``values`` are ``count`` finite numbers.

    Raises:
        InputError: they are not.
    """
    try:
        found = tuple(float(v) for v in values)
    except (TypeError, ValueError):
        found = ()
    if len(found) != count or not all(map(math.isfinite, found)) or isinstance(values, str):
        shown = values if count > 1 else values[0]
        raise InputError(f"{name} is {shown!r}: give {'a finite number' if count == 1 else f'{count} finite numbers'}")
    return found


def centre(mask: Tensor) -> tuple[float, float]:
    """Mean (x, y) of a mask's pixels."""
    y, x = mask.nonzero().double().mean(dim=0).tolist()
    return x, y


def carried(mask: Tensor, size: tuple[int, ...], placement: Placement) -> Tensor:
    """A pixel mask (H, W) after a placement, on an image of ``size`` (height, width), which may be another image."""
    back = placement.back(positions((size[0], size[1]), mask.device)).reshape(-1, 2)
    moved = nearest(mask[None].float(), back)[0] > 0
    return (moved & inside(back, (mask.shape[0], mask.shape[1]))).reshape(size[0], size[1])


def sourced(
    frame: Frame, target: Tensor, placement: Placement, shape: tuple[int, int], origin: Frame | None = None
) -> tuple[Tensor, Tensor]:
    """The target's cells on a grid, and for each, row by row, the position that its content comes from.

    Args:
        frame: of the edited image.
        target: bool (H, W), pixels.
        placement: how the content came there.
        shape: (h, w), ``frame.grid`` or ``frame.latent``.
        origin: frame of the image that the content comes from, if another.

    Returns:
        Bool (h, w) and float32 (N, 2). Cells whose content would come from off the image are left out.

    Raises:
        InputError: no cell is left.
    """
    origin = origin or frame
    there = origin.grid if shape == frame.grid else origin.latent
    back = origin.to_cells(placement.back(frame.centres(shape)), there)
    cells = frame.cells(target, shape) & inside(back, there)
    if not cells.any():
        raise InputError("the target is too small for the model to see, or at the very edge: enlarge it or move it in")
    return cells, back[cells].float()


def transplanted(z: Tensor, source: Tensor, m: Regions) -> Tensor:
    """A latent (1, C, h, w) with ``source`` copied into its landing cells, uninterpolated: noise keeps its variance."""
    if m.landing is None or m.source is None:
        return z
    return z.masked_scatter(m.landing, nearest(source, m.source))
