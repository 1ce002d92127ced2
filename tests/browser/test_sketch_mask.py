"""The mask's arithmetic, in the browser but without a notebook, against numpy, scipy and scikit-image."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion
from skimage.measure import points_in_poly

from dragonkit_widgets.assets import module

WIDTH, HEIGHT = 53, 37
Y, X = np.mgrid[:HEIGHT, :WIDTH].astype(float)


@pytest.fixture
def mask_of(tab):
    """What a piece of JavaScript makes of a mask, which it calls ``mask``: bool (H, W)."""
    source = module("common", "mask")

    def run(code, start=None):
        packed = [] if start is None else np.packbits(start).tolist()
        bits = tab.evaluate(
            f"""([width, height, start]) => {{ {source}
                const mask = new Mask(width, height);
                mask.load(Uint8Array.from(start));
                {code};
                return [Array.from(mask.packed()), mask.count()];
            }}""",
            [WIDTH, HEIGHT, packed],
        )
        data = np.array(bits[0] or [0] * ((WIDTH * HEIGHT + 7) // 8), np.uint8)
        found = np.unpackbits(data, count=WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(bool)
        assert found.sum() == bits[1]
        return found

    return run


def random(seed):
    return np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.3


def test_bits_go_to_and_fro(mask_of):
    assert not mask_of("").any()
    assert np.array_equal(mask_of("", random(0)), random(0))
    assert np.array_equal(mask_of("mask.invert()", random(1)), ~random(1))
    assert not mask_of("mask.invert(); mask.invert()").any()
    assert not mask_of("mask.load(new Uint8Array())", random(2)).any()


def test_boxes_take_the_pixels_whose_centres_they_hold(mask_of):
    rng = np.random.default_rng(3)
    corners = rng.integers(-5, (WIDTH + 5, HEIGHT + 5, WIDTH + 5, HEIGHT + 5), (20, 4)) + rng.uniform(0.1, 0.9, (20, 4))
    for x0, y0, x1, y1 in [*corners.tolist(), [10, 20, 30, 25], [10.4, 20.4, 10.45, 20.45], [5, 5, 5, 5]]:
        left, right, top, bottom = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
        held = (X >= left) & (X <= right) & (Y >= top) & (Y <= bottom)
        assert np.array_equal(mask_of(f"mask.box([{x0}, {y0}], [{x1}, {y1}], 1)"), held)
        taken = mask_of(f"mask.box([{x0}, {y0}], [{x1}, {y1}], 0)", random(4))
        assert np.array_equal(taken, random(4) & ~held)


def test_strokes_take_the_pixels_within_their_radius(mask_of):
    rng = np.random.default_rng(5)
    lines = [[*rng.uniform(-5, 50, 4), rng.uniform(0.7, 15)] for _ in range(20)]
    for x0, y0, x1, y1, radius in [*lines, [7, 7, 7, 7, 3], [3, 9, 40, 9, 4], [9, 3, 9, 30, 4]]:
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((X - x0) * dx + (Y - y0) * dy) / ((dx * dx + dy * dy) or 1), 0, 1)
        far = np.hypot(X - x0 - along * dx, Y - y0 - along * dy)
        found = mask_of(f"mask.stroke([{x0}, {y0}], [{x1}, {y1}], {radius}, 1)")
        sure = np.abs(far - radius) > 0.02  # the edge has some play, where it is flat the most
        assert np.array_equal(found[sure], (far <= radius)[sure])


def test_lassos_take_what_they_run_round(mask_of):
    rng = np.random.default_rng(6)
    for _ in range(20):  # star-shaped, so that they do not cross themselves
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        corners = np.stack([25 + 22 * np.cos(angles), 18 + 22 * np.sin(angles)], 1)
        corners = (corners - (25, 18)) * rng.uniform(0.3, 1, (9, 1)) + (25, 18)
        inner = points_in_poly(np.stack([X.ravel(), Y.ravel()], 1), corners).reshape(HEIGHT, WIDTH)
        found = mask_of(f"mask.lasso({corners.tolist()}, 1)")
        assert (found ^ inner).sum() <= 1  # a centre within a thousandth of the line may be taken
    twice = "[[5, 5], [30.5, 5], [30.5, 30.5], [5, 30.5]]"
    loop = np.array_equal(mask_of(f"mask.lasso([...{twice}, ...{twice}], 1)"), mask_of(f"mask.lasso({twice}, 1)"))
    assert loop and mask_of(f"mask.lasso({twice}, 1)").sum() > 600


@pytest.mark.parametrize("seed", range(3))
def test_masks_grow_and_shrink_by_a_pixel(mask_of, seed):
    around = np.ones((3, 3), bool)
    assert np.array_equal(mask_of("mask.grow(1)", random(seed)), binary_dilation(random(seed), around))
    whole = binary_dilation(random(seed), around)
    assert np.array_equal(mask_of("mask.grow(0)", whole), binary_erosion(whole, around, border_value=1))
