"""The smoothest motion of a region that takes given points to their targets and leaves its border where it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_SPACING = 4  # pixels between pinned points of the border


def came_from(xy: Tensor, points: Sequence[Sequence[float]], mask: Tensor) -> Tensor:
    """Where the content that arrives at pixels comes from: a thin-plate spline [Bookstein, 1989].

    The spline interpolates, exactly, the ways back from the targets and zero along the mask's border.

    Args:
        xy: (N, 2), pixels.
        points: (x0, y0, x1, y1) each.
        mask: (H, W) bool.

    Returns:
        (N, 2) float64.
    """
    from scipy.interpolate import RBFInterpolator

    pairs = torch.tensor(points, dtype=torch.float64)
    apart = torch.cdist(pairs[:, 2:], pairs[:, 2:]) >= 0.5  # of targets closer together the first counts
    pairs = pairs[[k for k in range(len(pairs)) if apart[k, :k].all()]]
    pins = border(mask)
    pins = pins[torch.cdist(pins, pairs[:, 2:]).amin(1) >= 1]
    nodes = torch.cat([pairs[:, 2:], pins])
    back = torch.cat([pairs[:, :2] - pairs[:, 2:], torch.zeros_like(pins)])
    spline = RBFInterpolator(nodes.numpy(), back.numpy(), kernel="thin_plate_spline")
    return xy.double() + torch.from_numpy(spline(xy.double().numpy()))


def border(mask: Tensor) -> Tensor:
    """Pixels (N, 2) just outside a mask (H, W), the picture's frame included, some pixels apart."""
    padded = F.pad(mask[None].float(), (1, 1, 1, 1))
    ring = (F.max_pool2d(padded, 3, stride=1, padding=1) - padded)[0] > 0
    xy = ring.nonzero().flip(1) - 1
    if len(xy) < 8 * _SPACING:
        return xy.double()  # of a small mask all of them: a spline needs three, and a margin
    cells = torch.div(xy, _SPACING, rounding_mode="floor")
    seen: dict[tuple[int, int], int] = {}
    for k, (x, y) in enumerate(cells.tolist()):
        seen.setdefault((x, y), k)
    return xy[list(seen.values())].double()
