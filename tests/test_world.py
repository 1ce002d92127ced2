"""The world: exact geometry, exact answers, plain data."""

import dataclasses
import math

import pytest
import torch

from dragonkit.errors import InputError
from dragonkit.world import KINDS, SHAPES, Object, Scene, caption, counterfactual, render, sample_scene
from dragonkit.world.camera import CAMERA, camera_rays, project
from dragonkit.world.render import render_batch, to_world
from dragonkit.world.scene import COLOURS, GROUNDS, SKIES, stream
from dragonkit.world.shapes import SHAPES as GEOMETRY
from dragonkit.world.tracing import Packed, trace


def one(shape="ball", **changes):
    o = Object(shape=shape, x=0.2, z=0.1, size=1.0, yaw=0.7, colour="red", second="blue", deform=0.0)
    return Scene((dataclasses.replace(o, **changes),), "grass", "day", 0.3, 5)


@pytest.mark.parametrize("name", SHAPES)
def test_deformation_and_its_inverse_cancel(name):
    shape, generator = GEOMETRY[name], torch.Generator().manual_seed(1)
    q = tuple((torch.rand(3, 5000, generator=generator, dtype=torch.float64) * 3 - 1).unbind(0))
    d = torch.rand(5000, generator=generator, dtype=torch.float64) * 2 - 1
    for there, back in ((shape.bend, shape.rest), (shape.rest, shape.bend)):
        for a, b in zip(back(there(q, d), d), q, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("deform", [-1.0, 0.3, 1.0])
def test_tracing_finds_the_first_surface(name, deform):
    """Sphere tracing, which leaps, agrees with walking along each ray in small steps until the inside begins."""
    scene = one(name, deform=deform, yaw=2.1)
    packed = Packed.of([scene], "cpu")
    directions = camera_rays(40, [(0.0, 0.0)], "cpu")
    found = trace(packed, 1, directions).t[0]
    t = torch.arange(7.0, 13.0, 0.004)[:, None]
    p = tuple(c + t * d for c, d in zip(CAMERA, directions, strict=True))
    inside = packed.distance(GEOMETRY[name], torch.zeros(1, dtype=torch.int64), p) < 0
    first = torch.where(inside.any(0), t[inside.to(torch.uint8).argmax(0), 0], math.inf)
    assert int((torch.isfinite(first) != torch.isfinite(found)).sum()) <= 6  # grazing rays
    both = torch.isfinite(first) & torch.isfinite(found)
    assert int(both.sum()) > 30
    assert float(((first - found).abs()[both] > 0.03).float().mean()) < 0.01
    size, radius = scene.objects[0].size, GEOMETRY[name].radius
    span = torch.stack([c[:, both] for c in p]) - torch.tensor([0.2, size, 0.1]).view(3, 1, 1)
    assert float(span.norm(dim=0)[inside[:, both]].max()) <= radius * size


def test_ball_matches_the_analytic_sphere():
    scene = one("ball")
    picture = render(scene, 128)
    x, y, z = (c.double() for c in camera_rays(128, [(0.0, 0.0)], "cpu"))
    ox, oy, oz = CAMERA[0] - 0.2, CAMERA[1] - 1.0, CAMERA[2] - 0.1
    b = x * ox + y * oy + z * oz
    c = ox**2 + oy**2 + oz**2 - 1
    inside = (b * b - c).clamp(min=0)
    hit = (b * b > c).view(128, 128)
    assert int((hit != picture.mask(0)).sum()) <= 16  # a tenth of the rim: grazing rays
    both = hit & picture.mask(0) & (inside.view(128, 128) > 0.05)
    torch.testing.assert_close(
        picture.depth[both].double(), (-b - inside.sqrt()).view(128, 128)[both], atol=0.02, rtol=0
    )


@pytest.mark.parametrize("seed", range(6))
def test_canonical_coordinates_lead_back_to_their_pixels(seed):
    scene = sample_scene(seed)
    picture = render(scene, 96)
    for index, o in enumerate(scene.objects):
        mask = picture.mask(index)
        u, v = project(*to_world(o, picture.canonical[:, mask]), 96)
        row, column = torch.nonzero(mask, as_tuple=True)
        assert float((u - column).abs().max()) < 0.05
        assert float((v - row).abs().max()) < 0.05


def test_the_same_scene_is_the_same_picture_alone_and_in_a_batch():
    scenes = [sample_scene(seed, "test") for seed in range(5)]
    images, cover = render_batch(scenes, 64)
    for scene, image, share in zip(scenes, images, cover, strict=True):
        alone = render(Scene.from_json(scene.to_json()), 64)
        assert torch.equal(alone.image, image)
        assert torch.equal(render(scene, 64).image, image)
        assert abs(float(share.mean()) - float((alone.ids >= 0).float().mean())) < 0.01
    assert images.dtype == torch.float32
    assert float(images.min()) >= 0 and float(images.max()) <= 1


def test_objects_are_large_and_inside_the_picture():
    heights = []
    for seed in range(40):
        scene = sample_scene(seed)
        ids = render(scene, 64, 1).ids
        for index in range(len(scene.objects)):
            rows = torch.nonzero((ids == index).any(1)).flatten()
            if rows.numel():
                heights.append(float(rows.max() - rows.min() + 1) / 64)
    assert 0.25 < sum(heights) / len(heights) < 0.5
    assert sum(h > 0.2 for h in heights) > 0.95 * len(heights)


def test_nearer_objects_hide_farther_ones_and_cast_shadows():
    near = Object("cube", 0.0, 1.5, 0.8, 0.0, "red", "blue")
    far = dataclasses.replace(near, z=-1.2, colour="green")
    both = render(Scene((far, near), "concrete", "day", 0.0), 96)
    alone = render(Scene((far,), "concrete", "day", 0.0), 96)
    assert both.mask(0).sum() < alone.mask(0).sum()
    empty = alone.ids == -1
    assert float((alone.image - render(Scene((near,), "concrete", "day", 0.0), 96).image)[:, empty].abs().max()) > 0.1
    assert bool(torch.isinf(both.depth[0]).all())  # the top row is sky


def test_every_attribute_shows():
    base = one("duck", pattern="plain")
    for change in (
        {"objects": (dataclasses.replace(base.objects[0], pattern="dotted"),)},
        {"objects": (dataclasses.replace(base.objects[0], second="yellow"),)},
        {"objects": (dataclasses.replace(base.objects[0], deform=0.9),)},
        *({"ground": g} for g in GROUNDS if g != base.ground),
        *({"sky": s} for s in SKIES if s != base.sky),
        {"light": -0.5},
        {"seed": 6},
    ):
        other = render(dataclasses.replace(base, **change), 64)
        assert float((other.image - render(base, 64).image).abs().max()) > 0.02, change


def test_captions_name_what_is_there():
    for seed in range(50):
        scene = sample_scene(seed)
        words = caption(scene).split()
        for o in scene.objects:
            assert o.colour in words and o.shape in words
            assert o.pattern == "plain" or o.second in words
        assert words[-3:] == [scene.ground, "at", scene.sky]
    assert caption(one("ball", colour="orange")) == "an orange ball on grass at day"


def test_scene_json_round_trips_and_refuses_what_it_does_not_know():
    for seed in range(20):
        scene = sample_scene(seed)
        assert Scene.from_json(scene.to_json()) == scene
    good = one().to_json()
    for bad in (
        "not json",
        "[]",
        good.replace('"sky"', '"weather"'),
        good.replace('"ball"', '"banana"'),
        good.replace('"size": 1.0', '"size": 99'),
        good.replace('"yaw": 0.7', '"yaw": "left"'),
        good.replace('"deform": 0.0', '"deform": NaN'),
        good.replace('"seed": 5', '"seed": -1'),
        good.replace('"light": 0.3', '"light": 7'),
    ):
        with pytest.raises(InputError) as error:
            Scene.from_json(bad)
        assert "\n" not in str(error.value)


def test_splits_are_disjoint_and_seeds_are_kept():
    train, test = ({sample_scene(seed, split) for seed in range(300)} for split in ("train", "test"))
    assert len(train) == len(test) == 300
    assert not train & test
    assert stream("a", 1).random() != stream("a", 2).random()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: sample_scene(1, "validation"), "validation"),
        (lambda: sample_scene(1.5), "1.5"),
        (lambda: render(one(), size=4), "4"),
        (lambda: render(one(), supersample=0), "0"),
        (lambda: counterfactual("fold", 1), "fold"),
        (lambda: counterfactual("move", "x"), "x"),
        (lambda: one("ball", colour="mauve"), "mauve"),
        (lambda: Scene((), "grass", "day", 0.0), "0"),
    ],
)
def test_bad_input_is_named(call, word):
    with pytest.raises(InputError, match=word):
        call()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_counterfactuals_are_exact(kind, seed):
    c = counterfactual(kind, seed, "train", 96)
    again = counterfactual(kind, seed, "train", 96)
    assert again.scene == c.scene and torch.equal(again.after.image, c.after.image)
    assert torch.equal(c.before.image, render(c.scene, 96).image)
    assert torch.equal(c.after.image, render(c.scene_after, 96).image)
    assert c.prompt == ("" if c.kind == "appearance" else caption(c.scene))
    others = [k for k in range(len(c.scene.objects)) if k != c.index]
    assert all(c.scene.objects[k] == c.scene_after.objects[k] for k in others)
    assert c.scene.objects[c.index] != c.scene_after.objects[c.index]

    # The flow goes to the same point of the same object.
    known = torch.isfinite(c.flow[0])
    assert bool((known <= c.mask).all())
    assert float(known.sum() / c.mask.sum()) > 0.3
    x, y = c.flow[:, known].round().long()
    assert float(c.target[y, x].float().mean()) > 0.97
    gap = (c.after.canonical[:, y, x] - c.before.canonical[:, known]).norm(dim=0)
    assert float(gap.median()) < 0.08  # 1.5 pixels of this small picture


def test_counterfactual_kinds_do_what_they_say():
    for seed in range(3):
        move, resize = counterfactual("move", seed, "train", 96), counterfactual("resize", seed, "train", 96)
        dx, dy, scale = move.similarity
        assert math.hypot(dx, dy) > 8 and abs(scale - 1) < 0.06
        ratio = resize.scene_after.objects[resize.index].size / resize.scene.objects[resize.index].size
        assert abs(resize.similarity[2] - ratio) < 0.05
        drag = counterfactual("drag", seed, "train", 96)
        for x0, y0, x1, y1 in drag.points():
            assert bool(drag.mask[round(y0), round(x0)]) and bool(drag.target[round(y1), round(x1)])
        start, end = (torch.tensor(drag.anchors())[:, k : k + 2] for k in (0, 2))
        handles = torch.tensor(drag.points())[:, :2]
        assert 1 <= len(start) <= 3 and torch.cdist(start, handles).min() > 9.6
        assert (end - start).norm(dim=1).max() < math.dist(drag.points()[0][:2], drag.points()[0][2:])
        assert list(drag.edit.points) == drag.points() + drag.anchors()
        assert (drag.edit.mask & (drag.mask | drag.target)).sum() == (drag.mask | drag.target).sum()
        look = counterfactual("appearance", seed, "train", 96)
        worn, source = look.scene_after.objects[look.index], look.reference
        assert source is not None and look.reference_mask is not None and bool(look.reference_mask.any())
        assert look.prompt == look.reference_prompt == ""  # words would hold the old look fast
        paint = torch.tensor(COLOURS[worn.colour])
        shown = source.image[:, look.reference_mask].mean(1)
        if worn.pattern == "plain":  # the reference wears the new colour, under whatever light
            assert torch.cosine_similarity(shown, paint, dim=0) > 0.8
        assert torch.equal(look.mask, look.target)
        assert set(COLOURS) >= {worn.colour, worn.second}
