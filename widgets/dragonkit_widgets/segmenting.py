"""Click-to-segment without a model: the region of one colour round a pixel."""

from __future__ import annotations

import numpy as np


def lab(pixels: np.ndarray) -> np.ndarray:
    """An image uint8 (H, W, 3) in CIE Lab, float32: distances there are differences as seen."""
    from skimage.color import rgb2lab

    return rgb2lab(pixels).astype(np.float32)


def grown(colours: np.ndarray, x: int, y: int, tolerance: float) -> np.ndarray:
    """The connected region of pixels whose colour is near that of (x, y), its small holes filled.

    A hole is filled if it is at most a hundredth of the image: specks, but no objects on a background.

    Args:
        colours: (H, W, 3), of :func:`lab`.
        x: column of the seed.
        y: row of the seed. Its colour is the median of the 3 x 3 pixels round it, so that a speck does not decide.
        tolerance: most distance in Lab (CIE76); about 2 is just seen.

    Returns:
        Bool (H, W), set at the seed.
    """
    from scipy.ndimage import binary_fill_holes, label
    from skimage.segmentation import flood

    patch = colours[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].reshape(-1, 3)
    apart = np.linalg.norm(colours - np.median(patch, axis=0), axis=-1)
    apart[y, x] = 0
    region = flood(apart, (y, x), tolerance=tolerance, connectivity=1)
    holes, _ = label(binary_fill_holes(region) & ~region)
    small = np.bincount(holes.ravel()) <= region.size / 100
    return region | ((holes > 0) & small[holes])
