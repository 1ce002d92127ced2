"""Keep the source's own pixels wherever an edit has left the content alone.

The autoencoder and the sampler touch every pixel a little. What an edit really changes is larger than that, and it
hangs together with the object's old and new places: the object, the hole it left, its shadows. So where the edited
image differs from the source seen through the autoencoder, and the difference is connected to those places, the edit
stands; elsewhere the source does. This is hysteresis thresholding [Canny, 1986] of the change, and a composite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np

STRONG = 0.2  # a change this large (of a range of 1) is the edit's doing if it touches the edited places
FAINT = 0.03  # and what surrounds it is, down to this
_SEAM = 0.6  # how much a pixel next to the edited places takes of the edit, times the share of its neighbours there


def preserve(
    edited: Tensor,
    through: Tensor,
    source: Tensor,
    was: Tensor,
    target: Tensor,
    within: Tensor | None = None,
    cell: int = 8,
) -> Tensor:
    """Composite an edited image with its source.

    Args:
        edited: (3, H, W) in [0, 1], the edit's result.
        through: (3, H, W) in [0, 1], the source encoded and decoded, so that ``edited - through`` is the edit's doing.
        source: (3, H, W) in [0, 1].
        was: (H, W) bool, where the object was.
        target: (H, W) bool, where it shall be. Its rim is held: what the edit draws just outside is taken as the
            background's change nearby, a shadow's for instance, and not as more of the object.
        within: (H, W) bool, all that may change; None if anything may.
        cell: pixels of a latent cell; distances scale with it.

    Returns:
        (3, H, W) in [0, 1]: ``source`` itself, bit for bit, where nothing changed.
    """
    change = edited - source
    size = _mean3((edited - through).abs().amax(0))
    was = _within(was, cell / 4)
    core = was | target
    near = _within(target, cell / 4) | core  # the object and its rim
    strong = _touching(_within((size > STRONG) | near, cell / 4), core) & (size > STRONG)
    faint = _touching((size > FAINT) | near, strong | core) & _within(strong, 1.25 * cell)
    # Blended, not added to the source: what the autoencoder smooths away of an old shadow's edge would stay as a line.
    kept = change * (_mean(_within(faint, cell / 4).float(), 5) * ~near)
    rim = near & ~core
    kept = torch.where(rim, _nearest(torch.where(was, change, kept), near & ~was), kept)
    share = torch.maximum(core.float(), _SEAM * _mean3(core.float()))
    background = (source + kept).clamp(0, 1)
    result = torch.where(share > 0, share * edited + (1 - share) * background, background)
    return result if within is None else torch.where(within, result, source)


def _mean3(x: Tensor) -> Tensor:
    return _mean(x, 3)


def _mean(x: Tensor, side: int) -> Tensor:
    """Mean over side × side pixels of (H, W); side is odd."""
    by = side // 2
    return F.avg_pool2d(F.pad(x[None, None], (by, by, by, by), mode="replicate"), side, stride=1)[0, 0]


def _within(mask: Tensor, reach: float) -> Tensor:
    """Pixels at most ``reach`` from a mask (H, W); none if the mask is empty."""
    from scipy.ndimage import distance_transform_edt

    if not mask.any():
        return mask
    return torch.from_numpy(distance_transform_edt(~mask.numpy()) <= reach)


def _touching(mask: Tensor, seeds: Tensor) -> Tensor:
    """The connected parts of a mask (H, W) that hold a seed."""
    from scipy.ndimage import label

    parts: np.ndarray = label(mask.numpy())[0]
    part = torch.from_numpy(parts)
    return mask & torch.isin(part, part[seeds & mask].unique())


def _nearest(values: Tensor, unknown: Tensor) -> Tensor:
    """Values (C, H, W) with those of unknown pixels (H, W) taken from the nearest known one."""
    from scipy.ndimage import distance_transform_edt

    if unknown.all():
        return values
    rows, columns = distance_transform_edt(unknown.numpy(), return_distances=False, return_indices=True)
    return values[:, torch.from_numpy(rows), torch.from_numpy(columns)]
