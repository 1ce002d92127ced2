"""The remaining way and the size are right where the renderer knows them."""

import math
from dataclasses import replace
from statistics import mean

import pytest
import torch

from dragonkit.errors import InputError
from dragonkit.evaluate.matching import Shifts, vertex
from dragonkit.evaluate.scores import ciede2000
from dragonkit.evaluate.size import object_size, size_error
from dragonkit.evaluate.travel import Way, between, with_object, without_object
from dragonkit.evaluate.truth import MEASURES, Truth
from dragonkit.world import KINDS, Counterfactual, counterfactual, render
from dragonkit.world.camera import project
from dragonkit.world.render import to_world
from tests.tiny import picture

SIZE = 128


@pytest.fixture(scope="module", params=[("drag", 2), ("drag", 3), ("rotate", 5)])
def truth(request: pytest.FixtureRequest) -> Truth:
    kind, seed = request.param
    return Truth(counterfactual(kind, seed, split="train", size=SIZE))


def on_the_way(case: Counterfactual, part: float) -> tuple[torch.Tensor, list[tuple[float, float]]]:
    """The picture a part of the way along, and where the handles truly are in it."""
    now = between(case.scene.objects[case.index], case.scene_after.objects[case.index], part)
    handles = [case.before.canonical[:, round(y), round(x)] for x, y, *_ in case.points()]
    u, v = project(*to_world(now, torch.stack(handles, 1)), SIZE)
    return render(with_object(case.scene, case.index, now), SIZE).image, list(zip(u.tolist(), v.tolist(), strict=True))


def test_nothing_remains_of_the_exact_answer_and_everything_of_the_source(truth: Truth) -> None:
    case = truth.case
    assert all(truth.way.distinct)
    assert truth.way.remaining(case.after.image) == pytest.approx([0] * len(case.points()), abs=0.05)
    assert truth.way.remaining(case.before.image) == pytest.approx([1] * len(case.points()), abs=0.05)


@pytest.mark.parametrize("part", [0.4, 0.6, 0.85])
def test_half_done_is_half_remaining(truth: Truth, part: float) -> None:
    image, places = on_the_way(truth.case, part)
    ends, starts = (truth.way.stages[k].points for k in (-1, 0))
    expected = [math.dist(p, e) / math.dist(s, e) for p, s, e in zip(places, starts, ends, strict=True)]
    noisy = (image + 0.03 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    for result in (image, noisy):
        found = truth.way.remaining(result)
        assert mean(found) == pytest.approx(mean(expected), abs=0.12)
        assert found == pytest.approx(expected, abs=0.25)  # a way of these small pictures is a few pixels long


def test_handles_are_where_the_flow_says(truth: Truth) -> None:
    for (x0, y0, x1, y1), start, end in zip(
        truth.case.points(), truth.way.stages[0].points, truth.way.stages[-1].points, strict=True
    ):
        assert start == pytest.approx((x0, y0), abs=0.05)
        assert end == pytest.approx((x1, y1), abs=0.05)


def test_an_object_that_only_slid_is_found_where_it_slid() -> None:
    case = counterfactual("drag", 2, split="train", size=SIZE)
    way = Way.of(case, without_object(case.scene, case.index, SIZE), case.points())
    start = case.scene.objects[case.index]
    slid = replace(start, x=start.x + 0.15)
    image = render(with_object(case.scene, case.index, slid), SIZE).image
    handles = torch.stack([case.before.canonical[:, round(y), round(x)] for x, y, *_ in case.points()], 1)
    u, v = project(*to_world(slid, handles), SIZE)
    for k in range(len(case.points())):
        assert way.locate(image, k) == pytest.approx((float(u[k]), float(v[k])), abs=1.0)


def test_a_plain_ball_that_turns_has_no_distinct_handles() -> None:
    case = counterfactual("rotate", 5, split="train", size=SIZE)
    ball = replace(case.scene.objects[case.index], shape="ball", pattern="plain", deform=0.0)
    scene, after = (with_object(case.scene, case.index, replace(ball, yaw=yaw)) for yaw in (0.0, 0.6))
    before = render(scene, SIZE)
    turned = replace(
        case, scene=scene, scene_after=after, before=before, after=render(after, SIZE), mask=before.mask(case.index)
    )
    y, x = turned.mask.nonzero().double().mean(0).round().int().tolist()
    way = Way.of(turned, without_object(scene, case.index, SIZE), [(x, y)])
    assert way.distinct == (False,)
    assert way.remaining(before.image) == []


def test_a_handle_off_the_object_is_refused() -> None:
    case = counterfactual("drag", 2, split="train", size=SIZE)
    with pytest.raises(InputError, match="not on the object"):
        Way.of(case, case.before.image, [(1.0, 1.0)])
    with pytest.raises(InputError, match="cannot be compared"):
        Truth(case).way.remaining(case.before.image[:, 1:])


@pytest.mark.parametrize(("kind", "seed"), [("resize", 0), ("move", 3)])
def test_size_is_right_where_it_is_known(kind: str, seed: int) -> None:
    case = counterfactual(kind, seed, split="train", size=SIZE)
    truth = Truth(case)
    assert size_error(case.after.image, case.after.image, case.target, truth.plate) < 0.005
    o = case.scene_after.objects[case.index]
    for factor in (0.9, 1.1):
        other = render(with_object(case.scene_after, case.index, replace(o, size=o.size * factor)), SIZE)
        height = [torch.nonzero(mask.any(1)).flatten() for mask in (other.mask(case.index), case.target)]
        seen = float(height[0][-1] - height[0][0] + 1) / float(height[1][-1] - height[1][0] + 1)
        found = object_size(other.image, case.after.image, case.target, truth.plate)
        assert found == pytest.approx(factor, abs=0.025)  # what grows towards the camera grows a little more
        assert found == pytest.approx(seen, abs=0.04)


def test_the_source_of_a_resize_has_the_wrong_size() -> None:
    case = counterfactual("resize", 3, split="train", size=SIZE)
    found = object_size(case.before.image, case.after.image, case.target, Truth(case).plate)
    assert found == pytest.approx(1 / case.similarity[2], abs=0.04)


def test_a_plain_object_does_not_pass_for_a_smaller_one() -> None:
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")

    def disc(radius: float) -> tuple[torch.Tensor, torch.Tensor]:
        share = (radius + 0.5 - ((x - 48) ** 2 + (y - 48) ** 2).sqrt()).clamp(0, 1)
        return ground * (1 - share) + 0.9 * share, share > 0.5

    ground = 0.3 + 0.3 * picture(96, 96)
    answer, target = disc(16)
    assert object_size(answer, answer, target, ground) == pytest.approx(1, abs=0.01)
    assert object_size(disc(20)[0], answer, target, ground) == pytest.approx(1.25, abs=0.03)
    assert object_size(disc(12)[0], answer, target, ground) == pytest.approx(0.75, abs=0.03)
    with pytest.raises(InputError, match="empty"):
        object_size(answer, answer, torch.zeros_like(target), ground)


def test_sums_over_shifts_are_the_plain_sums() -> None:
    weight, image = picture(17, 23, 1)[0].double(), picture(17, 23, 2).double()
    shifts = Shifts(range(-4, 3), range(2, 9))
    got = shifts.sums(shifts.transform(weight), shifts.transform(image))
    assert got.shape == (3, 7, 7)
    padded = torch.nn.functional.pad(image, (10, 10, 10, 10))
    for row, dy in enumerate(shifts.dy):
        for column, dx in enumerate(shifts.dx):
            part = padded[:, 10 + dy : 27 + dy, 10 + dx : 33 + dx]
            assert torch.allclose(got[:, row, column], (weight * part).sum((1, 2)), atol=1e-9)


def test_the_vertex_of_a_parabola() -> None:
    line = torch.tensor([(k - 2.3) ** 2 + 5 for k in range(6)], dtype=torch.float64)
    offset, depth = vertex(line, 2)
    assert (2 + offset, float(line[2]) - depth) == pytest.approx((2.3, 5.0))
    assert vertex(line, 0) == vertex(torch.ones(3), 1) == vertex(torch.tensor([1.0, 0, math.inf]), 1) == (0, 0)


def test_ciede2000_is_the_published_formula() -> None:
    assert ciede2000(torch.zeros(3, 64, 64), torch.ones(3, 64, 64), torch.ones(64, 64).bool()) == pytest.approx(100)
    half = torch.zeros(64, 64).bool()
    half[:32] = True
    image = picture(64, 64)
    other = torch.where(half, image, 1 - image)
    assert ciede2000(image, other, half) == 0
    assert ciede2000(image, other, ~half) > 10
    assert math.isnan(ciede2000(image, other, half & ~half))


@pytest.mark.parametrize("kind", KINDS)
def test_every_measure_is_nought_for_the_exact_answer(kind: str) -> None:
    case = counterfactual(kind, 3, split="train", size=SIZE)
    scores = Truth(case).scores(case.after.image)
    assert scores["psnr"]["whole"] == 100
    for measure in MEASURES[kind]:
        nought = 0.2 if measure.name.endswith("_px") else 0.05
        assert measure.worst(scores[measure.name]) == pytest.approx(0, abs=nought), measure.name
