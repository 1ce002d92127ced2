"""Matching pixels: sums of products over every whole shift at once, by the fast Fourier transform."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shifts:
    """Whole shifts d = (dx, dy) to try, and sums over the pixels p of images (H, W) at each of them.

    Attributes:
        dx: to the right, in pixels.
        dy: down, in pixels.
    """

    dx: range
    dy: range

    @classmethod
    def within(cls, reach: int) -> Shifts:
        """Every shift by at most ``reach`` pixels in x and in y."""
        return cls(range(-reach, reach + 1), range(-reach, reach + 1))

    def transform(self, x: Tensor) -> Tensor:
        """The spectrum of images (..., H, W), padded so that no shift wraps round."""
        from scipy.fft import next_fast_len

        far = [max(abs(r.start), abs(r.stop - 1)) for r in (self.dy, self.dx)]
        return torch.fft.rfft2(
            x, s=[2 * next_fast_len(-(-(n + f) // 2)) for n, f in zip(x.shape[-2:], far, strict=True)]
        )

    def sums(self, weights: Tensor, images: Tensor) -> Tensor:
        """sum_p w(p) I(p + d), where I is 0 outside the image.

        Args:
            weights: spectra of w, from `transform`; broadcast against ``images``.
            images: spectra of I.

        Returns:
            (..., len(dy), len(dx)).
        """
        spectrum = weights.conj() * images
        height, width = spectrum.shape[-2], 2 * (spectrum.shape[-1] - 1)  # widths are even
        full = torch.fft.irfft2(spectrum, s=(height, width))
        return full[..., torch.tensor(self.dy) % height, :][..., torch.tensor(self.dx) % width]

    def least(self, cost: Tensor) -> tuple[float, float, float]:
        """The shift of least cost (len(dy), len(dx)), finer than a pixel: (dx, dy, its cost).

        A parabola through the least cost and its two neighbours is fitted in x and in y.
        """
        row, column = divmod(int(cost.argmin()), cost.shape[1])
        x, drop_x = vertex(cost[row], column)
        y, drop_y = vertex(cost[:, column], row)
        return self.dx[column] + x, self.dy[row] + y, float(cost[row, column]) - drop_x - drop_y


def vertex(line: Tensor, i: int) -> tuple[float, float]:
    """The vertex of the parabola through line[i-1], line[i], line[i+1]: its offset in [-0.5, 0.5], and its depth."""
    if not 0 < i < len(line) - 1:
        return 0.0, 0.0
    left, centre, right = line[i - 1 : i + 2].tolist()
    bend = left - 2 * centre + right
    if not (math.isfinite(bend) and bend > 1e-12):
        return 0.0, 0.0
    offset = 0.5 * (left - right) / bend
    return offset, 0.5 * bend * offset**2
