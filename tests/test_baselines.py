"""Baselines are what they are called: pixels moved, bent or recoloured as the formulas say."""

import pytest
import torch

from dragonkit.edits import Drag, Move
from dragonkit.evaluate.baselines import BASELINES, none, paste, recoloured
from dragonkit.evaluate.scores import placement_error
from dragonkit.evaluate.warp import warp
from dragonkit.spline import border, came_from
from dragonkit.world import KINDS, counterfactual
from tests.tiny import box, picture


@pytest.fixture(scope="module")
def case():
    return counterfactual("move", 1, split="train", size=128)


def test_every_kind_has_its_baselines() -> None:
    assert set(BASELINES) == set(KINDS)
    assert all(len(rows) == 3 and set(rows) >= {"none", "energy0"} for rows in BASELINES.values())


def test_none_is_the_source(case) -> None:
    assert torch.equal(none(case, None, None), case.before.image)


def test_paste_moves_whole_pixels_exactly() -> None:
    image, mask = picture(64, 80), box(64, 80, 10, 12, 30, 36)
    result = paste(image, Move(mask, by=(20, 5)))
    target = torch.roll(mask, (5, 20), (0, 1))
    assert torch.equal(result[:, target], image[:, mask])
    assert torch.equal(result[:, ~(mask | target)], image[:, ~(mask | target)])
    assert not torch.equal(result[:, mask & ~target], image[:, mask & ~target])


def test_paste_fills_a_smooth_hole_smoothly() -> None:
    x = torch.linspace(0, 1, 80).expand(64, 80)
    image = torch.stack([x, 1 - x, 0.5 * x])
    mask = box(64, 80, 20, 10, 34, 24)
    spotted = image + 0.3 * mask * (1 - 2 * image)
    result = paste(spotted, Move(mask, by=(40, 0)))
    vacated = mask & ~Move(mask, by=(40, 0)).target()
    assert (result - image)[:, vacated].abs().max() < 0.02


def test_paste_lands_where_it_should(case) -> None:
    assert placement_error(paste(case.before.image, case.edit), case.after.image, case.target) < 6


POINTS = [(30.0, 40.0, 44.0, 36.0), (60.0, 30.0, 60.5, 41.25), (20.0, 20.0, 20.0, 20.0)]


def test_the_spline_takes_every_point_to_its_target_and_pins_the_border() -> None:
    mask = box(80, 96, 8, 0, 70, 84)
    pairs = torch.tensor(POINTS, dtype=torch.float64)
    assert torch.allclose(came_from(pairs[:, 2:], POINTS, mask), pairs[:, :2], atol=1e-6)
    pins = border(mask)
    assert torch.allclose(came_from(pins, POINTS, mask), pins, atol=1e-6)
    ring = pins.round().long()
    inside = (ring >= 0).all(1) & (ring[:, 0] < 96) & (ring[:, 1] < 80)
    assert not mask[ring[inside, 1], ring[inside, 0]].any()
    assert (~inside).any()  # the mask touches the frame, which is pinned too


def test_warp_carries_pixels_and_leaves_the_rest_alone() -> None:
    image, mask = picture(80, 96), box(80, 96, 8, 8, 70, 84)
    result = warp(image, POINTS, mask)
    assert torch.equal(result[:, ~mask], image[:, ~mask])
    assert torch.allclose(result[:, 36, 44], image[:, 40, 30], atol=1e-5)
    assert torch.equal(warp(image, [(30, 40, 30, 40)], mask), image)
    again = warp(image, [*POINTS, (31.0, 41.0, 44.0, 36.0)], mask)  # two starts for one target: the first counts
    assert torch.equal(again, result)


def test_warp_bends_a_drag(case) -> None:
    drag = counterfactual("drag", 2, split="train", size=128)
    assert isinstance(drag.edit, Drag)
    result = BASELINES["drag"]["warp"](drag, None, None)
    assert not torch.equal(result, drag.before.image)
    assert torch.equal(result[:, ~drag.edit.mask], drag.before.image[:, ~drag.edit.mask])


def test_recolouring_takes_over_mean_and_spread() -> None:
    from skimage.color import rgb2lab

    image, reference = 0.3 + 0.2 * picture(64, 64, 1), 0.4 + 0.25 * picture(64, 80, 2)
    mask, other = box(64, 64, 10, 10, 40, 50), box(64, 80, 5, 20, 50, 70)
    result = recoloured(image, mask, reference, other)
    assert torch.equal(result[:, ~mask], image[:, ~mask])
    got, wanted = (rgb2lab(x.double().T.numpy()) for x in (result[:, mask], reference[:, other]))
    assert abs(got.mean(0) - wanted.mean(0)).max() < 0.1
    assert abs(got.std(0) - wanted.std(0)).max() < 0.1


def test_recolouring_a_plain_object_makes_it_plain() -> None:
    plain = torch.full((3, 64, 64), 0.2)
    mask = box(64, 64, 10, 10, 40, 50)
    result = recoloured(plain, mask, torch.full((3, 64, 64), 0.7), mask)
    assert torch.allclose(result[:, mask], torch.tensor(0.7), atol=1e-3)
