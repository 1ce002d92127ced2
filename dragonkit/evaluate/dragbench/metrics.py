"""The published scores of a drag: how far points ended from their targets, and what else changed.

Every function takes a sample and the edited image at the sample's own size. Lower is better for distances and DAI.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dragonkit.correspondence import FeatureMap
from dragonkit.evaluate.dragbench.features import Featurise
from dragonkit.evaluate.dragbench.sample import DragSample
from dragonkit.evaluate.scores import psnr
from dragonkit.regions import dilate

RADII = (1, 5, 10, 20)
"""Radii of the patches that DAI compares, in pixels."""
CLOSEST = 5.0  # pixels: the local search is never narrower
WINDOW = 7  # pixels: side of the window that SSIM looks through
_CHANNELS = 64  # feature channels brought to the image's size at once: a layer of SD's would take gigabytes


def global_distances(features: Featurise, sample: DragSample, result: Tensor) -> list[float]:
    """Mean distance as DragDiffusion publishes it: each point's, in pixels of the image.

    Features of both images at the sample's own size under its prompt, brought to that size bilinearly. A handle h is
    found again where the cosine with the source's feature at h is largest in the whole edited image; its distance is
    the Euclidean one to the target. The published number is the mean over all points of all samples.

    Source: Shi et al., "DragDiffusion", CVPR 2024, and its drag_bench_evaluation/run_eval_point_matching.py.

    Args:
        features: of an image, see :class:`dragonkit.evaluate.dragbench.Dift`.
        sample: the source image and its points.
        result: the edited image (3, H, W) in [0, 1].

    Returns:
        One distance a point.
    """
    source, edited = features(sample.image, sample.prompt, 0), features(result, sample.prompt, 1)
    found = best(cosines(source, edited, sample, "bilinear"))
    return (found - sample.ends[1]).norm(dim=1).tolist()


def local_distances(features: Featurise, sample: DragSample, result: Tensor, side: int) -> list[float]:
    """Mean distance as later work publishes it: each point's, as a share of the image's size.

    Both images are brought to a square of the feature model's own size, and features back to the image's size, both to
    nearest neighbours: the first pixel of a feature cell stands for all of it, so even a perfect edit is off by about
    half a cell. A handle is looked for only inside discs round handle and target, of radius |target - handle| / √2 and
    at least 5 pixels. The distance is √((Δx / W)² + (Δy / H)²). The published number is the mean over each sample's
    points, then over samples.

    Source: Lu et al., "RegionDrag", ECCV 2024, region_utils/evaluator.py; "Inpaint4Drag", ICCV 2025, evaluates the same
    way with an empty prompt. Both use Stable Diffusion 2.1, a square of 768 pixels.

    Args:
        features: of an image, see :class:`dragonkit.evaluate.dragbench.Dift`.
        sample: the source image and its points.
        result: the edited image (3, H, W) in [0, 1].
        side: of the square, in pixels.

    Returns:
        One distance a point.
    """
    square = [F.interpolate(image[None], (side, side), mode="nearest")[0] for image in (sample.image, result)]
    maps = [features(image, sample.prompt, which) for which, image in enumerate(square)]
    likeness = cosines(maps[0], maps[1], sample, "nearest")
    found = best(torch.where(discs(sample), likeness, -math.inf))
    height, width = sample.size
    return ((found - sample.ends[1]) / torch.tensor([width, height])).norm(dim=1).tolist()


def cosines(source: FeatureMap, edited: FeatureMap, sample: DragSample, mode: str) -> Tensor:
    """Cosine of the source's feature at each handle with the edited image's at every pixel: float32 (P, H, W).

    Args:
        source: features of the source image.
        edited: of the edited one.
        sample: whose handles, at the nearest pixels.
        mode: "bilinear" or "nearest", how features are brought to the image's size.
    """
    height, width = sample.size
    x, y = (sample.ends[0] + 0.5).floor().long().unbind(-1)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    dots, ours, theirs = torch.zeros(len(x), height, width), torch.zeros(len(x)), torch.zeros(height, width)
    for first in range(0, source.values.shape[0], _CHANNELS):
        a, b = (_at_size(f, slice(first, first + _CHANNELS), sample.size, mode).cpu() for f in (source, edited))
        handles = a[:, y, x]
        dots += torch.einsum("cp,chw->phw", handles, b)
        ours += handles.square().sum(dim=0)
        theirs += b.square().sum(dim=0)
    return dots / (ours[:, None, None] * theirs).sqrt().clamp(min=1e-30)


def _at_size(features: FeatureMap, channels: slice, size: tuple[int, int], mode: str) -> Tensor:
    """Some channels (C, H, W) at an image's size; what was padded to suit the model is cropped away."""
    frame, values = features.frame, features.values[channels][None]
    if (frame.height, frame.width) != size:  # the square of the local search
        return F.interpolate(values, size, mode=mode)[0]
    return F.interpolate(values, frame.padded, mode=mode)[0, :, : size[0], : size[1]]


def discs(sample: DragSample) -> Tensor:
    """Where the local search looks for each point, bool (P, H, W)."""
    height, width = sample.size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    near = []
    for x0, y0, x1, y1 in sample.points:
        radius = max(math.hypot(x1 - x0, y1 - y0) / math.sqrt(2), CLOSEST)
        near.append(((x - x0).hypot(y - y0) < radius) | ((x - x1).hypot(y - y1) < radius))
    return torch.stack(near)


def best(maps: Tensor) -> Tensor:
    """The pixel of the largest value of each map (P, H, W), the first in reading order: float64 (P, 2), (x, y)."""
    index = maps.flatten(1).argmax(dim=1)
    return torch.stack([index % maps.shape[2], index // maps.shape[2]], dim=-1).double()


def dai(sample: DragSample, result: Tensor, radius: int) -> float:
    """Dragging accuracy index: how unlike the source's patch at a handle is the result's patch at its target.

    DAI = 1/k Σ_i ‖φ(source, handle_i, γ) - φ(result, target_i, γ)‖² / (1 + 2γ)², φ(I, p, γ) the square patch of radius
    γ round p, of values in [0, 1], three channels summed; 0 for a perfect copy, 3 at most. Of patches that cross the
    border, the pixels that both have are compared, and counted instead of (1 + 2γ)².

    Source: Zhang et al., "GoodDrag", ICLR 2025, and its evaluation/compute_DAI.py, which divides by the number of
    points k a second time: `dai_as_released` is that number, the one to compare with tables made by that script.

    Args:
        sample: the source image and its points, taken at their nearest pixels.
        result: the edited image (3, H, W) in [0, 1].
        radius: γ in pixels.
    """
    height, width = sample.size
    total = 0.0
    for pair in sample.points:
        x0, y0, x1, y1 = (math.floor(v + 0.5) for v in pair)
        x0, x1 = (min(max(x, 0), width - 1) for x in (x0, x1))
        y0, y1 = (min(max(y, 0), height - 1) for y in (y0, y1))
        left, up = min(radius, x0, x1), min(radius, y0, y1)
        right, down = min(radius, width - 1 - max(x0, x1)), min(radius, height - 1 - max(y0, y1))
        before = sample.image[:, y0 - up : y0 + down + 1, x0 - left : x0 + right + 1]
        after = result[:, y1 - up : y1 + down + 1, x1 - left : x1 + right + 1]
        total += (before.double() - after.double()).square().sum(dim=0).mean().item()
    return total / len(sample.points)


def dai_as_released(sample: DragSample, result: Tensor, radius: int) -> float:
    """`dai`, divided by the number of points once more, as the script that GoodDrag released does."""
    return dai(sample, result, radius) / len(sample.points)


def outside(sample: DragSample, result: Tensor) -> dict[str, float]:
    """How well the rest was kept: PSNR and SSIM between source and result outside the mask.

    PSNR in dB over the pixels outside, at most ``scores.PERFECT``. SSIM [Wang et al., 2004] with uniform windows of
    7 x 7 pixels, averaged over those pixels whose window lies outside the mask altogether.

    Returns:
        "psnr" and "ssim"; nan where no mask was drawn, or where nothing lies outside it.
    """
    from skimage.metrics import structural_similarity

    kept = ~sample.mask if sample.mask.any() else torch.zeros_like(sample.mask)
    scores = {"psnr": psnr(result, sample.image, kept), "ssim": math.nan}
    clear = kept & ~dilate(sample.mask, WINDOW // 2)
    if clear.any():
        a, b = (x.double().permute(1, 2, 0).numpy() for x in (sample.image, result))
        _, local = structural_similarity(a, b, win_size=WINDOW, channel_axis=-1, data_range=1.0, full=True)
        scores["ssim"] = float(local.mean(axis=-1)[clear.numpy()].mean())
    return scores
