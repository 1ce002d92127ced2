"""The published scores of a drag, against what they must be by construction and against plain evaluations."""

import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dragonkit.correspondence import FeatureMap, extract
from dragonkit.errors import InputError
from dragonkit.evaluate.dragbench import (
    Dift,
    DragSample,
    dai,
    dai_as_released,
    global_distances,
    load_fidelity,
    local_distances,
    outside,
)
from dragonkit.evaluate.dragbench.features import native_side
from dragonkit.evaluate.dragbench.fidelity import BACKBONE
from dragonkit.evaluate.dragbench.metrics import RADII, discs
from dragonkit.regions import Frame
from tests.tiny import box, picture, tiny_model

SIDE = 64


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def sample(points: Any, image: Tensor | None = None, mask: Tensor | None = None) -> DragSample:
    """By default every pixel of the image is unlike every other."""
    image = noise(3, SIDE, SIDE) if image is None else image
    return DragSample(image, points, torch.ones(image.shape[1:], dtype=torch.bool) if mask is None else mask)


def pixels(image: Tensor, prompt: str, which: int) -> FeatureMap:
    """The simplest features: each pixel's own colour."""
    return FeatureMap(image - 0.5, Frame(image.shape[1], image.shape[2], 1, 1), 1, 0)


def coarse(image: Tensor, prompt: str, which: int) -> FeatureMap:
    """Features of a grid of cells of 8 pixels, on an image padded to a multiple of 32."""
    frame = Frame(image.shape[1], image.shape[2], 8, 32)
    seed = round(1000 * image.mean().item())
    return FeatureMap(torch.randn(150, *frame.latent, generator=torch.Generator().manual_seed(seed)), frame, 1, 0)


points_64 = st.lists(st.tuples(*[st.integers(0, SIDE - 1)] * 4), min_size=1, max_size=4)


# Mean distance.


@given(points_64)
def test_an_untouched_image_is_as_far_off_as_the_drag_is_long(points: list[tuple[int, ...]]) -> None:
    given = sample(points)
    assert global_distances(pixels, given, given.image) == pytest.approx(given.lengths)
    assert local_distances(pixels, given, given.image, SIDE) == pytest.approx([n / SIDE for n in given.lengths])


@given(st.integers(-20, 20), st.integers(-20, 20), st.lists(st.tuples(*[st.integers(20, 43)] * 2), min_size=1))
def test_an_exactly_moved_image_is_no_way_off(dx: int, dy: int, handles: list[tuple[int, int]]) -> None:
    given = sample([(x, y, x + dx, y + dy) for x, y in handles])
    moved = given.image.roll((dy, dx), dims=(1, 2))
    assert global_distances(pixels, given, moved) == [0] * len(handles)
    assert local_distances(pixels, given, moved, SIDE) == [0] * len(handles)
    for radius in RADII:
        assert dai(given, moved, radius) == 0


def test_what_went_astray_is_measured_from_the_target() -> None:
    given = sample([(10, 20, 30, 20)])
    moved = given.image.roll((4, 23), dims=(1, 2))  # 3 too far right, 4 too low
    assert global_distances(pixels, given, moved) == [5]
    assert local_distances(pixels, given, moved, SIDE) == pytest.approx([5 / SIDE])


def test_the_local_search_does_not_look_far() -> None:
    given = sample([(10, 10, 20, 10)])
    far = given.image.roll((40, 40), dims=(1, 2))
    assert global_distances(pixels, given, far) == pytest.approx([math.hypot(30, 40)])
    assert local_distances(pixels, given, far, SIDE)[0] <= (10 + 10 / math.sqrt(2)) / SIDE


def test_local_distances_are_shares_of_width_and_height() -> None:
    image = noise(3, 64, 128)
    given = sample([(60, 30, 80, 30)], image)
    moved = image.roll((6, 24), dims=(1, 2))

    def features(picture: Tensor, prompt: str, which: int) -> FeatureMap:  # sees a square of twice the height
        assert picture.shape == (3, 128, 128) and prompt == ""
        assert torch.equal(picture[:, ::2], (image, moved)[which])
        return pixels(picture, prompt, which)

    assert local_distances(features, given, moved, 128) == pytest.approx([math.hypot(4 / 128, 6 / 64)])


@given(st.floats(0, 63), st.floats(0, 63), st.floats(0, 63), st.floats(0, 63))
def test_discs_are_round_handle_and_target(x0: float, y0: float, x1: float, y1: float) -> None:
    (near,) = discs(sample([(x0, y0, x1, y1)]))
    radius = max(5.0, math.dist((x0, y0), (x1, y1)) / 2**0.5)
    y, x = np.indices((SIDE, SIDE))
    nearest = np.minimum(np.hypot(x - x0, y - y0), np.hypot(x - x1, y - y1))
    sure = abs(nearest - radius) > 1e-4
    assert np.array_equal(near.numpy()[sure], (nearest < radius)[sure])


@pytest.mark.parametrize("size", [(64, 64), (70, 96)])
def test_global_distances_are_the_plain_evaluation(size: tuple[int, int]) -> None:
    """All channels brought to the padded image's size at once, cropped, torch's own cosine, the largest place."""
    height, width = size
    image, result = picture(height, width), picture(height, width, seed=5)
    given = sample([(3, 4, 50, 60), (width - 1, height - 1, 0, 0), (30, 31, 40, 12)], image)
    a, b = coarse(image, "", 0), coarse(result, "", 1)
    ours, theirs = (
        F.interpolate(f.values[None], f.frame.padded, mode="bilinear")[..., :height, :width] for f in (a, b)
    )
    expected = []
    for x0, y0, x1, y1 in given.points:
        cosine = F.cosine_similarity(ours[:, :, int(y0), int(x0), None, None], theirs)[0]
        row, column = divmod(int(cosine.argmax()), width)
        expected.append(math.dist((column, row), (x1, y1)))
    assert global_distances(coarse, given, result) == pytest.approx(expected)


def test_points_between_pixels_and_at_the_rim_are_taken_at_their_pixel() -> None:
    given = sample([(-0.5, 63.4, 20.2, 20.4), (63.5, -0.2, 20, 20)])
    moved = given.image.clone()
    moved[:, 20, 20], moved[:, 63, 0] = given.image[:, 63, 0], 1 - given.image[:, 63, 0]
    distances = global_distances(pixels, given, moved)
    assert distances[0] == pytest.approx(math.hypot(0.2, 0.4))
    assert distances[1] == pytest.approx(math.dist((63, 0), (20, 20)))


# The feature model.


def test_source_and_edited_image_get_different_noise_and_always_the_same() -> None:
    features, image = Dift(model=tiny_model(), layer=2, t=261, draws=2, seed=3), picture(64, 64)
    source, edited = features(image, "a", 0), features(image, "a", 1)
    assert torch.equal(source.values, extract(tiny_model(), image, [2], 261, prompt="a", draws=2, seed=3)[2].values)
    assert torch.equal(edited.values, extract(tiny_model(), image, [2], 261, prompt="a", draws=2, seed=5)[2].values)
    assert not torch.equal(source.values, edited.values)
    assert features.describe() == {"model": "tiny", "layer": 2, "t": 261, "draws": 2, "seed": 3}


def test_a_models_own_size_comes_from_its_configuration() -> None:
    assert native_side(tiny_model()) == 128


@pytest.mark.parametrize(
    ("change", "message"), [({"layer": 5}, "5"), ({"t": 1000}, "1000"), ({"draws": 0}, "draws is 0")]
)
def test_features_that_a_model_lacks_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Dift(model=tiny_model(), **change)  # type: ignore[arg-type]


def test_an_untouched_image_is_scored_with_a_real_feature_model() -> None:
    given = sample([(8, 8, 40, 40)], picture(64, 64))
    features = Dift(model=tiny_model(), t=1, draws=1)
    assert 0 <= global_distances(features, given, given.image)[0] <= math.hypot(63, 63)
    assert 0 <= local_distances(features, given, given.image, 128)[0] <= math.sqrt(2)


# DAI.


@pytest.mark.parametrize("radius", RADII)
def test_dai_is_the_plain_evaluation(radius: int) -> None:
    image, result = noise(3, 96, 96), noise(3, 96, 96, seed=1)
    given = sample([(40, 45, 60, 50), (30, 60, 70, 25)], image)
    expected = 0.0
    for x0, y0, x1, y1 in np.array(given.points).astype(int):
        a = image[:, y0 - radius : y0 + radius + 1, x0 - radius : x0 + radius + 1].numpy()
        b = result[:, y1 - radius : y1 + radius + 1, x1 - radius : x1 + radius + 1].numpy()
        expected += np.square(a - b, dtype=float).sum() / (1 + 2 * radius) ** 2 / 2
    assert dai(given, result, radius) == pytest.approx(expected)
    assert dai_as_released(given, result, radius) == pytest.approx(expected / 2)


def test_dai_runs_from_0_to_3() -> None:
    given = sample([(30, 30, 40, 40)], torch.zeros(3, SIDE, SIDE))
    assert dai(given, torch.zeros(3, SIDE, SIDE), 5) == 0 and dai(given, torch.ones(3, SIDE, SIDE), 5) == 3


@settings(max_examples=20)
@given(points_64, st.sampled_from(RADII))
def test_patches_that_cross_the_border_count_what_both_have(points: list[tuple[int, ...]], radius: int) -> None:
    image, result = noise(3, SIDE, SIDE), noise(3, SIDE, SIDE, seed=1)
    expected = []
    a, b = image.numpy(), result.numpy()
    for x0, y0, x1, y1 in points:
        squares = [
            np.square(a[:, y0 + v, x0 + u] - b[:, y1 + v, x1 + u]).sum()
            for v in range(-radius, radius + 1)
            for u in range(-radius, radius + 1)
            if all(0 <= n < SIDE for n in (x0 + u, y0 + v, x1 + u, y1 + v))
        ]
        expected.append(sum(squares) / len(squares))
    given = sample(points, image)
    assert dai(given, result, radius) == pytest.approx(sum(expected) / len(expected), rel=1e-4)


# The rest of the image.


def test_an_untouched_surrounding_is_perfect() -> None:
    mask = box(SIDE, SIDE, 20, 10, 40, 50)
    given = sample([(12, 22, 40, 30)], mask=mask)
    result = torch.where(mask, noise(3, SIDE, SIDE, seed=1), given.image)
    scores = outside(given, result)
    assert scores["psnr"] == 100 and scores["ssim"] == pytest.approx(1, abs=1e-9)


def test_changes_outside_the_mask_are_found() -> None:
    mask = box(SIDE, SIDE, 20, 10, 40, 50)
    given = sample([(12, 22, 40, 30)], torch.full((3, SIDE, SIDE), 0.5), mask)
    scores = outside(given, given.image + 0.1 * ~mask)
    assert scores["psnr"] == pytest.approx(20, abs=1e-4)
    # Flat windows of means 0.5 and 0.6: SSIM is (2ab + c) / (a² + b² + c) with c = 0.01².
    assert scores["ssim"] == pytest.approx((0.6 + 1e-4) / (0.61 + 1e-4), abs=1e-6)


@pytest.mark.parametrize("value", [False, True])
def test_without_a_mask_or_an_outside_there_is_nothing_to_say(value: bool) -> None:
    given = sample([(12, 22, 40, 30)], mask=torch.full((SIDE, SIDE), value))
    assert all(math.isnan(v) for v in outside(given, given.image).values())


# Image fidelity.


def test_what_fidelity_lacks_is_said_and_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    assert load_fidelity() == (None, "the package lpips is not installed (pip install lpips)")
    broken = tmp_path / "lpips.py"
    broken.write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.delitem(sys.modules, "lpips")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_fidelity() == (
        None,
        "the package lpips cannot be imported (operator torchvision::nms does not exist)",
    )
    broken.unlink()
    monkeypatch.setitem(sys.modules, "lpips", types.ModuleType("lpips"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    score, reason = load_fidelity()
    assert score is None and BACKBONE in reason
    assert not [p for p in tmp_path.rglob("*") if p.suffix == ".pth"]


def test_fidelity_is_one_less_lpips_with_the_stored_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trunk(nn.Module):
        """Slices of torchvision's AlexNet keep its numbers, as in the package."""

        def __init__(self) -> None:
            super().__init__()
            self.slice1 = nn.Sequential()
            self.slice1.add_module("0", nn.Conv2d(3, 2, 1))
            self.slice2 = nn.Sequential()
            self.slice2.add_module("3", nn.Conv2d(2, 1, 1))

    class LPIPS(nn.Module):
        def __init__(self, net: str, pnet_rand: bool, verbose: bool) -> None:
            super().__init__()
            assert net == "alex" and pnet_rand and not verbose
            self.net = Trunk()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            assert a.shape == b.shape == (1, 3, 224, 224) and a.min() >= -1 and a.max() <= 1
            x, y = (self.net.slice2(self.net.slice1(v)) for v in (a, b))
            return (x - y).abs().mean().reshape(1, 1, 1, 1)

    module = types.ModuleType("lpips")
    module.LPIPS = LPIPS  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", module)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    stored = {
        "features.0.weight": torch.ones(2, 3, 1, 1),
        "features.0.bias": torch.zeros(2),
        "features.3.weight": torch.ones(1, 2, 1, 1),
        "features.3.bias": torch.zeros(1),
        "classifier.1.weight": torch.zeros(4, 4),
    }
    torch.save(stored, tmp_path / "checkpoints" / BACKBONE)
    score, reason = load_fidelity()
    assert score is not None and reason == ""
    half = torch.full((3, SIDE, SIDE), 0.5)
    assert score(half, half) == 1
    assert score(half, half + 0.01) == pytest.approx(1 - 2 * 3 * 0.02, abs=1e-5)
