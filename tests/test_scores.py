"""Scores against slow, independent references, and the properties that make them scores."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio

from dragonkit.errors import InputError
from dragonkit.evaluate.scores import (
    PERFECT,
    UNCHANGED,
    Regions,
    average,
    placement_error,
    placement_shift,
    psnr,
    region_psnr,
)


def image(seed: int, height: int = 64, width: int = 80) -> torch.Tensor:
    """A smooth random picture: noise of a few pixels' size."""
    noise = torch.rand((1, 3, height // 4, width // 4), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, size=(height, width), mode="bicubic").clamp(0, 1)[0]


def box(x: int, y: int, w: int, h: int, height: int = 64, width: int = 80) -> torch.Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y : y + h, x : x + w] = True
    return mask


def test_psnr_is_scikit_images() -> None:
    a, b = image(0), image(1)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1.0), abs=1e-4)


def test_psnr_of_a_region_sees_only_the_region() -> None:
    a, mask = image(0), box(10, 20, 30, 15)
    inside = a + 0.1 * mask
    assert psnr(inside, a, mask) == pytest.approx(20.0, abs=1e-4)
    assert psnr(inside, a, ~mask) == PERFECT
    assert math.isnan(psnr(a, inside, torch.zeros_like(mask)))


@settings(max_examples=25, deadline=None)
@given(x=st.integers(0, 50), y=st.integers(0, 40), dx=st.integers(-20, 20), dy=st.integers(-15, 15))
def test_regions_cover_the_image_once(x: int, y: int, dx: int, dy: int) -> None:
    mask, target = box(x, y, 20, 16), box(max(x + dx, 0), max(y + dy, 0), 20, 16)
    before = image(2)
    after = (before + 0.5 * box(0, 0, 40, 64)).clamp(0, 1)
    regions = Regions.of(before, after, mask, target).named()
    assert (sum(r.int() for r in regions.values()) == 1).all()
    assert torch.equal(regions["target"], target)
    assert torch.equal(regions["vacated"], mask & ~target)
    outside = ~(mask | target)
    same = ((before - after).abs() <= UNCHANGED).all(dim=0)
    assert torch.equal(regions["kept"], outside & same)


def test_whole_error_is_the_regions_errors_put_together() -> None:
    before, after, result = image(3), image(4), image(5)
    regions = Regions.of(before, after, box(5, 5, 20, 20), box(15, 10, 20, 20))
    scores = region_psnr(result, after, regions)
    mse = {name: 10 ** (-scores[name] / 10) for name in scores if not math.isnan(scores[name])}
    areas = {name: int(mask.sum()) for name, mask in regions.named().items()}
    together = sum(areas[name] * mse[name] for name in areas if name in mse) / sum(areas.values())
    assert together == pytest.approx(mse["whole"], rel=1e-6)


def test_average_leaves_out_empty_regions() -> None:
    rows = [{"a": 1.0, "b": math.nan}, {"a": 3.0, "b": 5.0}]
    assert average(rows) == {"a": 2.0, "b": 5.0}
    assert math.isnan(average([{"a": math.nan}])["a"])


def brute_force(result: np.ndarray, answer: np.ndarray, mask: np.ndarray, reach: int) -> tuple[int, int]:
    best, where = math.inf, (0, 0)
    ys, xs = np.nonzero(mask)
    height, width = mask.shape
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            ok = (ys + dy >= 0) & (ys + dy < height) & (xs + dx >= 0) & (xs + dx < width)
            if ok.sum() < 0.5 * len(ys):
                continue
            there = result[:, ys[ok] + dy, xs[ok] + dx].astype(np.float64)
            error = ((there - answer[:, ys[ok], xs[ok]]) ** 2).sum() / ok.sum()
            if error < best:
                best, where = error, (dx, dy)
    return where


@pytest.mark.parametrize("seed", range(4))
def test_placement_is_the_brute_force_search(seed: int) -> None:
    result, answer, mask = image(seed), image(seed + 10), box(30, 3, 24, 20)
    dx, dy = placement_shift(result, answer, mask, reach=12)
    expected = brute_force(result.numpy(), answer.numpy(), mask.numpy(), 12)
    assert (abs(dx - expected[0]) <= 0.5) and (abs(dy - expected[1]) <= 0.5)


@settings(max_examples=25, deadline=None)
@given(dx=st.integers(-20, 20), dy=st.integers(-20, 20))
def test_placement_finds_a_shifted_object(dx: int, dy: int) -> None:
    answer, target = image(6, 96, 96), box(34, 34, 28, 28, 96, 96)
    background = image(7, 96, 96)
    moved = torch.roll(target, (dy, dx), (0, 1))
    result = torch.where(moved, torch.roll(answer, (dy, dx), (1, 2)), background)
    assert placement_shift(result, answer, target, reach=24) == pytest.approx((dx, dy), abs=0.35)
    assert placement_error(result, answer, target, reach=24) == pytest.approx(math.hypot(dx, dy), abs=0.5)


def test_placement_is_finer_than_a_pixel() -> None:
    x = torch.arange(96.0)

    def blob(cx: float) -> torch.Tensor:
        row = torch.exp(-((x - cx) ** 2) / 200)
        return (row[None, :] * torch.exp(-((x - 48) ** 2) / 200)[:, None]).expand(3, -1, -1)

    dx, dy = placement_shift(blob(48.4), blob(48.0), blob(48.0)[0] > 0.3, reach=10)
    assert dx == pytest.approx(0.4, abs=0.05)
    assert dy == pytest.approx(0.0, abs=0.05)


def test_sizes_and_empty_masks_are_refused() -> None:
    with pytest.raises(InputError, match="80x64, 64x80"):
        psnr(image(0), image(0).mT)
    with pytest.raises(InputError, match="empty"):
        placement_shift(image(0), image(0), torch.zeros(64, 80, dtype=torch.bool))
