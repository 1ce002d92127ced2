"""Masks, points and images, and every conversion between image, latent and feature coordinates.

Points are (x, y) pixels of the input image, the origin at the centre of the top-left pixel, +x right, +y down,
fractions allowed. A cell grid has the same convention at its own scale: pixel x lies at cell (x + 1/2) / s - 1/2 if
a cell is s pixels wide. Masks are bool (H, W).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dragonkit.errors import InputError

SMALLEST = 64
"""Shortest side of an image, in pixels."""


def as_image(image: Any) -> Tensor:
    """Check an image and bring it to float32 (3, H, W) in [0, 1].

    Args:
        image: a PIL image of mode RGB, a uint8 array (H, W, 3), or a float tensor (3, H, W) in [0, 1].

    Raises:
        InputError: it is none of these, or a side is shorter than 64 pixels.
    """
    if isinstance(image, Image.Image):
        if image.mode != "RGB":
            raise InputError(f"image has mode {image.mode}: convert it with image.convert('RGB')")
        image = np.asarray(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"image is an array {image.dtype} {image.shape}: give uint8 (height, width, 3)")
        image = torch.tensor(image).permute(2, 0, 1).float() / 255
    if not isinstance(image, Tensor):
        raise InputError(f"image is a {type(image).__name__}: give a PIL image, a uint8 array or a float tensor")
    if not image.is_floating_point() or image.ndim != 3 or image.shape[0] != 3:
        raise InputError(f"image is a tensor {image.dtype} {tuple(image.shape)}: give float (3, height, width)")
    if min(image.shape[1:]) < SMALLEST:
        raise InputError(f"image is {image.shape[2]}x{image.shape[1]}: enlarge it to {SMALLEST} pixels a side or more")
    if not (image.min() >= 0 and image.max() <= 1):  # also false for NaN
        low, high = image.min().item(), image.max().item()
        raise InputError(f"image has values from {low:.3g} to {high:.3g}: scale it to [0, 1]")
    return image.detach().float()


def as_mask(mask: Any, name: str = "mask") -> Tensor:
    """Check a mask and bring it to bool (H, W) on the CPU.

    Args:
        mask: a bool tensor or array (H, W), one of 0 and 1 or 0 and 255, or a PIL image of mode 1 or L (set from 128).
        name: what to call it in an error.

    Raises:
        InputError: it is none of these, or nothing is set in it.
    """
    if isinstance(mask, Image.Image):
        if mask.mode not in ("1", "L"):
            raise InputError(f"{name} has mode {mask.mode}: convert it with mask.convert('L')")
        mask = np.asarray(mask.convert("L")) >= 128
    if isinstance(mask, np.ndarray):
        mask = torch.tensor(mask)
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(f"{name} is {shape}: give a bool array (height, width) or a black and white image")
    if mask.dtype != torch.bool:
        values = mask.unique().tolist()
        if not (set(values) <= {0, 1} or set(values) <= {0, 255}):
            raise InputError(f"{name} holds values such as {values[len(values) // 2]}: give True and False, or 0 and 1")
    mask = mask.detach().cpu() != 0
    if not mask.any():
        raise InputError(f"{name} is empty: mark the pixels of the object")
    return mask


def pad(image: Tensor, multiple: int) -> Tensor:
    """Extend an image (3, H, W) by reflection, right and below, to multiples of ``multiple``; crop it back after."""
    right, below = -image.shape[2] % multiple, -image.shape[1] % multiple
    while right or below:  # a reflection is shorter than the image, so a small one may need two
        r, b = min(right, image.shape[2] - 1), min(below, image.shape[1] - 1)
        image = F.pad(image[None], (0, r, 0, b), mode="reflect")[0]
        right, below = right - r, below - b
    return image


@dataclass(frozen=True)
class Frame:
    """An image's size and the grids laid over it.

    Args:
        height: of the image as given, pixels.
        width: of the image as given, pixels.
        factor: pixels per latent cell.
        multiple: the image is padded, right and below, to a multiple of this many pixels.
        device: where masks and positions are made.
    """

    height: int
    width: int
    factor: int = 8
    multiple: int = 64
    device: torch.device = torch.device("cpu")

    def like(self, height: int, width: int) -> Frame:
        """The frame of another image, for the same model."""
        return dataclasses.replace(self, height=height, width=width)

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width that the model sees, pixels."""
        return self.height + -self.height % self.multiple, self.width + -self.width % self.multiple

    @property
    def latent(self) -> tuple[int, int]:
        """The latent's grid (h, w)."""
        return self.padded[0] // self.factor, self.padded[1] // self.factor

    @property
    def grid(self) -> tuple[int, int]:
        """The feature grid (h, w): features are compared at twice the latent's resolution."""
        return 2 * self.latent[0], 2 * self.latent[1]

    def check(self, mask: Tensor, name: str = "mask") -> Tensor:
        """Return the mask, on the frame's device.

        Raises:
            InputError: the mask's size is not the image's.
        """
        if tuple(mask.shape) != (self.height, self.width):
            size = f"{mask.shape[1]}x{mask.shape[0]}"
            raise InputError(f"{name} is {size} but the image is {self.width}x{self.height}: draw it on this image")
        return mask.to(self.device)

    def extended(self, mask: Tensor) -> Tensor:
        """A pixel mask (H, W) on the padded image, whose padding it does not hold; one that is there already stays."""
        high, wide = self.padded
        return F.pad(mask, (0, wide - mask.shape[1], 0, high - mask.shape[0]))

    def cells(self, mask: Tensor, shape: tuple[int, int]) -> Tensor:
        """A pixel mask (H, W) on a grid: the cells at least half covered, or if there are none, every cell touched.

        Args:
            mask: bool (H, W), in the image's pixels, or :meth:`extended`.
            shape: (h, w) of the grid, for instance ``latent``, ``grid`` or a coarser power of two.

        Returns:
            Bool (h, w).
        """
        cover = F.adaptive_avg_pool2d(self.extended(mask).float()[None], shape)[0]
        cells = cover >= 0.5
        return cells if cells.any() else cover > 0

    def tokens(self, mask: Tensor) -> dict[int, Tensor]:
        """A pixel mask (H, W) as tokens of attention layers, which lie row by row on the latent and its halvings.

        What is outside a mask is ``~extended(mask)``, so that the padding, a mirror of the background, belongs to it.

        Returns:
            Number of tokens of a layer -> indices int64 of those in the mask.
        """
        (h, w), found = self.latent, {}
        while True:
            found[h * w] = (
                self.cells(mask, (h, w)).flatten().nonzero()[:, 0] if mask.any() else mask.new_zeros(0).long()
            )
            if h % 2 or w % 2:
                return found
            h, w = h // 2, w // 2

    def to_cells(self, xy: Tensor, shape: tuple[int, int]) -> Tensor:
        """Pixels (…, 2) to cell positions on a grid (h, w)."""
        return (xy + 0.5) / self._scale(shape) - 0.5

    def to_pixels(self, cells: Tensor, shape: tuple[int, int]) -> Tensor:
        """Cell positions (…, 2) on a grid (h, w) to pixels."""
        return (cells + 0.5) * self._scale(shape) - 0.5

    def centres(self, shape: tuple[int, int]) -> Tensor:
        """Pixel coordinates of the cell centres of a grid: float64 (h, w, 2), last axis (x, y)."""
        return self.to_pixels(positions(shape, self.device), shape)

    def _scale(self, shape: tuple[int, int]) -> Tensor:
        """Pixels per cell, (x, y)."""
        high, wide = self.padded
        return torch.tensor([wide / shape[1], high / shape[0]], dtype=torch.float64, device=self.device)


def positions(shape: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """Each cell's own position: float64 (h, w, 2), last axis (x, y)."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64, device=device) for n in shape), indexing="ij")
    return torch.stack([x, y], dim=-1)


@dataclass(frozen=True)
class Placement:
    """p' = centre + by + scale · R(angle) (p - centre): how an object moves, grows and turns in the image plane.

    Args:
        centre: the fixed point of growing and turning, (x, y) pixels.
        by: displacement (dx, dy), pixels.
        scale: more than 0.
        angle: degrees, from +x towards +y: clockwise as seen.
    """

    centre: tuple[float, float]
    by: tuple[float, float]
    scale: float = 1.0
    angle: float = 0.0

    def back(self, xy: Tensor) -> Tensor:
        """Where content that arrives at xy (…, 2) came from; exact in floating point for pure displacements."""
        c, s = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        m = torch.tensor([[c, s], [-s, c]], dtype=torch.float64, device=xy.device) / self.scale
        centre, by = (torch.tensor(v, dtype=torch.float64, device=xy.device) for v in (self.centre, self.by))
        return xy @ m.T + (centre - m @ centre) - m @ by


def inside(cells: Tensor, shape: tuple[int, int]) -> Tensor:
    """Which positions (…, 2) lie on a grid (h, w), its cells' outer halves included: bool (…)."""
    x, y = cells.unbind(-1)
    return (x >= -0.5) & (x <= shape[1] - 0.5) & (y >= -0.5) & (y <= shape[0] - 0.5)


def flat(mask: Tensor) -> Tensor | None:
    """The set cells of a mask (h, w) as row-major indices, int64 (N,); None if there are none."""
    index = mask.flatten().nonzero()[:, 0]
    return index if len(index) else None


def pick(features: Tensor, at: Tensor | None = None) -> Tensor:
    """F[m]: the feature vectors of a region.

    Args:
        features: (1, C, h, w) or (C, h, w).
        at: the region: a bool mask (h, w), row-major indices int64 (N,), positions (N, 2) in cells (x, y) between
            which features are interpolated bilinearly (held at the border), or None for all cells.

    Returns:
        (C, N), differentiable in ``features``.
    """
    features = features.squeeze(0) if features.ndim == 4 else features  # not [0]: its gradient would be a copy
    h, w = features.shape[-2:]
    vectors = features.flatten(1)
    if at is None:
        return vectors
    if at.dtype == torch.bool:
        return vectors[:, at.flatten()]
    rows = vectors.t()  # whole vectors lie together where channels come last, and are taken as such
    if at.dtype == torch.int64:
        return rows.index_select(0, at).t()
    left, top = at.floor().unbind(-1)
    fx, fy = (at - at.floor()).to(features.dtype).unbind(-1)

    def corner(x: Tensor, y: Tensor) -> Tensor:
        return rows.index_select(0, y.clamp(0, h - 1).long() * w + x.clamp(0, w - 1).long()).t()

    upper = corner(left, top) * (1 - fx) + corner(left + 1, top) * fx
    lower = corner(left, top + 1) * (1 - fx) + corner(left + 1, top + 1) * fx
    return upper * (1 - fy) + lower * fy


def nearest(features: Tensor, at: Tensor) -> Tensor:
    """Like :func:`pick` at positions (N, 2), without interpolating: for masks, and for noise, whose variance counts."""
    h, w = features.shape[-2:]
    x, y = (at + 0.5).floor().unbind(-1)
    return pick(features, y.clamp(0, h - 1).long() * w + x.clamp(0, w - 1).long())


def dilate(mask: Tensor, cells: int) -> Tensor:
    """A bool mask (..., h, w) grown by a number of cells in every direction, diagonals included."""
    if cells < 1:
        return mask
    planes = mask.float().reshape(1, -1, *mask.shape[-2:])
    return F.max_pool2d(planes, 2 * cells + 1, stride=1, padding=cells).reshape(mask.shape) > 0
