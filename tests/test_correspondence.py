"""Correspondence: peaks and shifts of features that are known, components against an SVD, weights against attention."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonkit.correspondence import (
    FeatureMap,
    attention_weights,
    colours,
    describe,
    extract,
    extract_path,
    gaze,
    match,
    mutual_matches,
    on_image,
    principal_components,
    similarity_map,
)
from dragonkit.correspondence.gaze import grid_of
from dragonkit.correspondence.place import shares
from dragonkit.errors import InputError
from dragonkit.inversion import Keep, ddim_invert
from dragonkit.regions import Frame
from dragonkit.schedule import Schedule, alphas_cumprod
from dragonkit.taps import attentions, record, rewire, tap
from tests.tiny import box, fresh_model, hooks, picture, tiny_model

CELL = 4  # pixels per cell of the synthetic features


def smooth(shift=(0.0, 0.0), height=24, width=32, channels=192, seed=0):
    """Band-limited random features over 4-pixel cells, their content moved by ``shift`` cells, to any fraction."""
    generator = torch.Generator().manual_seed(seed)
    waves = torch.randn(channels, 2, 6, generator=generator, dtype=torch.float64) * 0.25
    phases = torch.rand(channels, 6, generator=generator, dtype=torch.float64) * 2 * math.pi
    y, x = torch.meshgrid(
        torch.arange(height).double() - shift[1], torch.arange(width).double() - shift[0], indexing="ij"
    )
    angle = waves[:, 0, :, None, None] * x + waves[:, 1, :, None, None] * y + phases[..., None, None]
    return synthetic(torch.cos(angle).sum(1).float())


def synthetic(values):
    """A map of features (C, h, w) over 4-pixel cells."""
    frame = Frame(values.shape[1] * CELL, values.shape[2] * CELL, factor=8, multiple=8)
    return FeatureMap(values, frame, layer=2, t=261)


# Places


@given(st.floats(-0.5, 95.5), st.floats(-0.5, 63.5))
def test_a_points_shares_are_bilinear(x, y):
    frame, grid = Frame(64, 96, 8, 8), (16, 24)
    index, share = shares((x, y), frame, grid)
    assert share.sum() == pytest.approx(1) and (share >= 0).all()
    rows, columns = index // grid[1], index % grid[1]
    centre = frame.to_cells(torch.tensor([x, y], dtype=torch.float64), grid)
    assert float((columns * share).sum()) == pytest.approx(float(centre[0].clamp(0, grid[1] - 1)), abs=1e-4)
    assert float((rows * share).sum()) == pytest.approx(float(centre[1].clamp(0, grid[0] - 1)), abs=1e-4)


def test_a_regions_cells_count_alike():
    mask = box(96, 128, 8, 16, 24, 40)
    index, share = shares(mask, Frame(96, 128, 8, 8), (24, 32))
    expected = box(24, 32, 2, 4, 6, 10).flatten().nonzero()[:, 0]
    assert torch.equal(index, expected) and torch.allclose(share, torch.full((24,), 1 / 24))


@pytest.mark.parametrize(
    "at", [(128, 3), (-1, 3), (float("nan"), 3), (1, 2, 3), (1,), "ab", torch.zeros(96, 128).bool()]
)
def test_places_off_the_picture_are_refused(at):
    with pytest.raises(InputError):
        describe(smooth(), at)
    with pytest.raises(InputError, match="mask is 10x10 but the image is 128x96"):
        describe(smooth(), box(10, 10, 0, 0, 5, 5))


# Similarity


@given(st.floats(8, 119), st.floats(8, 87))
@settings(max_examples=40)
def test_a_point_is_most_like_itself(x, y):
    features = smooth()
    similar = similarity_map(describe(features, (x, y)), features)
    assert similar.shape == features.shape and 0 <= similar.min() and similar.max() <= 1
    m = match(features, features, [(x, y)])
    assert (m.found - m.points).abs().max() < 0.1 * CELL  # what interpolation and the fit lose
    assert m.score[0] > 0.97 and m.mutual.all()


def test_a_cell_has_similarity_one_with_itself_and_its_opposite_zero():
    features = smooth()
    opposite = synthetic(-features.values)
    at = features.frame.centres(features.shape)[5, 7].tolist()
    assert similarity_map(describe(features, at), features)[5, 7] == pytest.approx(1, abs=1e-6)
    assert similarity_map(describe(features, at), opposite)[5, 7] == pytest.approx(0, abs=1e-6)
    a, b = features.values[:, 5, 7], features.values[:, 9, 1]
    expected = (a @ b / a.norm() / b.norm() + 1) / 2
    assert similarity_map(a, features)[9, 1] == pytest.approx(float(expected), abs=1e-6)


def test_a_region_is_described_by_its_mean():
    features, mask = smooth(), box(96, 128, 8, 16, 24, 40)
    expected = features.values[:, 2:6, 4:10].mean(dim=(1, 2))
    torch.testing.assert_close(describe(features, mask), expected)
    torch.testing.assert_close(describe(features, mask.numpy()), expected)


def test_one_layer_is_not_compared_with_another():
    a, b = smooth(channels=8), smooth(channels=16)
    for call in (
        lambda: similarity_map(describe(a, (5, 5)), b),
        lambda: match(a, b, [(5, 5)]),
        lambda: mutual_matches(a, b),
    ):
        with pytest.raises(InputError, match="channels"):
            call()


# Matches


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.0, -2.0), (1.3, 0.8), (-2.45, 1.5), (0.5, 0.5)])
def test_a_shift_is_recovered_to_a_tenth_of_a_cell(shift):
    source, target = smooth(), smooth(shift)
    points = source.frame.centres(source.shape)[6:18:3, 6:26:4].reshape(-1, 2)
    m = match(source, target, points)
    error = (m.found - m.points) / CELL - torch.tensor(shift, dtype=torch.float64)
    assert error.abs().max() < 0.1
    assert m.mutual.all() and (m.score > 0.9).all() and len(m) == len(points)
    coarse = match(source, target, points, subpixel=False)
    assert coarse.found.sub(1.5).remainder(CELL).abs().max() == 0  # centres of cells
    assert torch.equal(coarse.score, m.score)


def test_a_tilted_peak_is_found_where_it_is():
    """One paraboloid with axes oblique to the grid: a fit along x and y alone would miss its top."""
    from dragonkit.correspondence.matching import _vertex

    y, x = torch.meshgrid(torch.arange(9.0).double(), torch.arange(9.0).double(), indexing="ij")
    u, v = x - 4.3, y - 3.75
    s = 1 - 0.02 * (u**2 + v**2 + 1.6 * u * v)
    found = _vertex(s[None], torch.tensor([4]), torch.tensor([4]))
    torch.testing.assert_close(found, torch.tensor([[0.3, -0.25]], dtype=torch.float64))


def test_a_peak_on_the_border_stays_there():
    from dragonkit.correspondence.matching import _vertex

    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    s = (1 - 0.02 * ((x + 0.4) ** 2 + (y - 4.25) ** 2))[None]
    found = _vertex(s, torch.tensor([4]), torch.tensor([0]))
    assert found[0, 0] == 0 and found[0, 1] == pytest.approx(0.25, abs=1e-4)
    assert torch.equal(_vertex(torch.ones(1, 9, 9), torch.tensor([4]), torch.tensor([4])), torch.zeros(1, 2).double())


@pytest.mark.parametrize("seed", range(3))
def test_mutual_neighbours_are_symmetric(seed):
    generator = torch.Generator().manual_seed(seed)
    a = synthetic(torch.randn(6, 9, 12, generator=generator))
    b = synthetic(torch.randn(6, 7, 10, generator=generator))
    here, there, score = mutual_matches(a, b)
    back_there, back_here, back_score = mutual_matches(b, a)

    def pairs(p, q):
        return {(*x, *y) for x, y in zip(p.tolist(), q.tolist(), strict=True)}

    assert pairs(here, there) == pairs(back_here, back_there) and len(pairs(here, there)) == len(here) > 5
    torch.testing.assert_close(score, back_score)
    assert torch.equal(score, score.sort(descending=True).values)
    m = match(a, b, here, subpixel=False)
    assert torch.equal(m.found, there) and torch.equal(m.back, here) and m.mutual.all()


def test_what_pads_a_picture_is_never_a_match():
    """Of a 70 x 90 picture padded to 128 x 128 only the cells on the picture can be found."""
    frame = Frame(70, 90, factor=8, multiple=64)
    values = torch.randn(8, 32, 32, generator=torch.Generator().manual_seed(0))
    a = FeatureMap(values, frame, 2, 1)
    b = FeatureMap(values.flip(1, 2), frame, 2, 1)
    points = torch.rand(50, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([89.0, 69.0])
    found = match(a, b, points).found
    assert (found >= -0.5).all() and (found <= torch.tensor([89.5, 69.5])).all()
    here, there, _ = mutual_matches(a, b)
    assert (torch.cat([here, there]) <= torch.tensor([89.5, 69.5])).all()
    assert on_image(a.values, frame).shape == (8, 70, 90)


# Components


def test_components_are_those_of_an_svd():
    maps = [smooth(seed=0, channels=12), smooth(seed=1, channels=12, height=10, width=14)]
    maps = [synthetic(m.values * torch.linspace(1, 3, 12).view(-1, 1, 1) + 2) for m in maps]
    found = principal_components(maps, 5)
    x = torch.cat([m.values.flatten(1) for m in maps], dim=1).double().numpy()
    centred = x - x.mean(axis=1, keepdims=True)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close(found.axes @ found.axes.T, torch.eye(5, dtype=torch.float64))
    np.testing.assert_allclose(np.abs((u[:, :5] * found.axes.T.numpy()).sum(axis=0)), 1, atol=1e-8)
    np.testing.assert_allclose(found.variance, s[:5] ** 2 / x.shape[1], rtol=1e-8)
    np.testing.assert_allclose(found.share, (s**2 / (s**2).sum())[:5], rtol=1e-8)
    assert (found.variance.diff() <= 0).all()
    assert (found.axes.gather(1, found.axes.abs().argmax(1, keepdim=True)) > 0).all()
    coordinates = torch.cat([found.of(m).flatten(1) for m in maps], dim=1).double()
    torch.testing.assert_close(coordinates.var(dim=1, correction=0), found.variance, rtol=1e-4, atol=0)


def test_colours_are_the_same_for_the_same_features():
    a, b = smooth(seed=3), smooth(seed=4)
    first, second = colours([a, b])
    assert first.shape == (3, 96, 128) and 0 <= first.min() and first.max() <= 1 and first.std() > 0.1
    again, swapped = colours([a, b]), colours([b, a])
    assert torch.equal(again[0], first) and torch.equal(again[1], second)
    torch.testing.assert_close(swapped[1], first, atol=1e-4, rtol=0)
    twin, same = colours([a, synthetic(a.values.clone())])
    assert torch.equal(twin, same)


def test_components_refuse_what_does_not_fit():
    with pytest.raises(InputError, match="no channels"):
        colours([])
    with pytest.raises(InputError, match=r"\[8, 192\]"):
        colours([smooth(channels=8), smooth()])
    with pytest.raises(InputError, match="from 1 to 2"):
        colours([smooth(channels=2)])


# Extraction


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_features_are_the_taps_of_the_noised_latent(model):
    image = picture(100, 120)  # padded to 128 x 128
    found = extract(model, image, (1, 3), 401, prompt="a ball", seed=5)
    z0 = model.encode(torch.nn.functional.pad(image[None], (0, 8, 0, 28), mode="reflect"))
    a = alphas_cumprod(model.schedule_config)[401]
    z = a**0.5 * z0 + (1 - a) ** 0.5 * torch.randn(z0.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = tap(model.unet, (1, 3), z, 401, model.embed("a ball"))
    assert list(found) == [1, 3]
    for layer, features in found.items():
        assert torch.equal(features.values, expected[layer][0])
        assert (features.layer, features.t, features.frame.height) == (layer, 401, 100)
        assert features.upsampled().shape == features.frame.grid == (32, 32)
        assert on_image(features.values, features.frame).shape == (features.values.shape[0], 100, 120)
    assert hooks(model) == 0


def test_averaging_is_the_mean_of_single_draws(model):
    draws = 11  # more than go into one pass
    mean = extract(model, picture(), (2, 4), 601, draws=draws, seed=3)
    single = [extract(model, picture(), (2, 4), 601, seed=3 + k) for k in range(draws)]
    for layer in (2, 4):
        expected = torch.stack([s[layer].values for s in single]).mean(0)
        torch.testing.assert_close(mean[layer].values, expected, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(single[0][layer].values, single[1][layer].values, atol=1e-3)


@pytest.mark.parametrize(
    ("layers", "t", "words"),
    [
        ((5,), 1, r"\[5\] cannot be tapped: choose from 1 \(up_blocks\[0\]\)"),
        ((), 1, "choose from 1"),
        ((2,), 1000, "t is 1000: give a whole number from 0 to 999"),
        ((2,), -1, "from 0 to 999"),
        ((2,), 1.5, "from 0 to 999"),
    ],
)
def test_what_a_model_does_not_have_is_refused_by_name(model, layers, t, words):
    path = inverted(model)
    for call in (lambda: extract(model, picture(), layers, t), lambda: extract_path(model, path, layers, t)):
        with pytest.raises(InputError, match=words):
            call()
    assert hooks(model) == 0


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"draws": 1.5}, {"seed": -1}, {"seed": True}, {"prompt": None}])
def test_unusable_options_are_refused(model, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        extract(model, picture(), (2,), 1, **wrong)


def test_no_hook_survives_an_interrupt():
    model = fresh_model()

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = model.unet.mid_block.register_forward_hook(interrupt)
    path = inverted(tiny_model())
    path.tokens = {i: dict(path.tokens[i]) for i in path.tokens}
    for call in (lambda: extract(model, picture(), (2,), 1), lambda: gaze(model, path, 1, (5, 5))):
        with pytest.raises(KeyboardInterrupt):
            call()
    assert hooks(model) == 1
    handle.remove()


def inverted(model, size=(128, 192), **keep):
    """A short inversion of a picture that is not square."""
    schedule = Schedule(model, 3)
    keep = Keep(**{"tokens": range(3)} | keep)
    path = ddim_invert(model, model.encode(picture(*size)[None]), model.embed("a ball"), schedule, keep=keep)
    path.size = size
    return path


@pytest.mark.parametrize("keep", [{}, {"layers": (2, 3), "features": range(3)}])
def test_a_paths_features_are_the_guidance_branchs(model, keep):
    path = inverted(model, **keep)
    t = path.schedule.timesteps[1]
    found = extract_path(model, path, (3, 2), t)
    with torch.no_grad():
        expected = tap(model.unet, (2, 3), path.inputs[1], t, path.cond)
    assert list(found) == [2, 3]
    assert all(torch.equal(found[k].values, expected[k][0]) for k in found)
    assert (found[2].frame.height, found[2].frame.width) == (128, 192)
    with pytest.raises(InputError, match=f"nearest of its 3 steps is {t}"):
        extract_path(model, path, (2,), t + 1)


# Gaze


@pytest.mark.parametrize("mode", ["replace", "concat", "off"])
def test_weights_and_values_make_the_attention_there_was(model, mode):
    """softmax(Q K^T / sqrt d) V, projected out, is what every module put out in the rewired pass."""
    path, z = inverted(model), torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(2))
    contexts, outputs, handles = {}, {}, []

    def context(name, own):
        there = path.tokens[1][name]
        contexts[name] = {"replace": there, "concat": torch.cat([own, there], 1), "off": own}[mode]
        return contexts[name]

    for name, module in attentions(model.unet).items():
        hook = lambda m, a, out, name=name: outputs.__setitem__(name, out)  # noqa: E731
        handles.append(module.register_forward_hook(hook))
    with torch.no_grad(), record(model.unet) as own, rewire(model.unet, context):
        model.predict(z, path.schedule.timesteps[1], path.cond)
    for handle in handles:
        handle.remove()

    looks = gaze(model, path, 1, box(128, 192, 0, 0, 128, 192), z=z, join=mode)
    for name, module in attentions(model.unet).items():
        weights = attention_weights(module, own[name][0], contexts[name][0])
        v = module.to_v(contexts[name][0]).view(-1, module.heads, module.inner_dim // module.heads).transpose(0, 1)
        mixed = (weights @ v).transpose(0, 1).flatten(1)
        torch.testing.assert_close(module.to_out[1](module.to_out[0](mixed)), outputs[name][0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))
        mean = weights.mean(dim=(0, 1))  # over heads, and over the whole picture's queries
        seen = {
            "replace": [looks[name].source],
            "concat": [looks[name].own, looks[name].source],
            "off": [looks[name].own],
        }
        torch.testing.assert_close(torch.cat([m.flatten() for m in seen[mode]]), mean)
    assert hooks(model) == 0


def test_a_point_looks_where_its_four_tokens_look(model):
    path = inverted(model)
    name = list(attentions(model.unet))[-1]
    grid = grid_of(path.tokens[0][name], path)
    frame = Frame(128, 192, 8, 64)
    at = [
        frame.to_pixels(torch.tensor([x, y], dtype=torch.float64), grid).tolist()
        for x, y in itertools.product((3, 4), (5, 6))
    ]
    single = [gaze(model, path, 0, p, modules=name)[name].source for p in at]
    middle = torch.tensor(at).mean(0).tolist()
    found = gaze(model, path, 0, middle, modules=name)[name]
    torch.testing.assert_close(found.source, torch.stack(single).mean(0))
    assert found.source.shape == grid and found.source.sum() == pytest.approx(1, abs=1e-5)
    assert found.own.abs().sum() == 0 and found.references == ()


def test_mixed_attention_is_told_apart_by_branch(model):
    """A join that takes some tokens of each branch: each map gets the weights of its own, and they sum to 1."""
    path = inverted(model)
    path.references = (inverted(model, (64, 128)),)

    def join(own, gud, refs):
        return torch.cat([gud[:, ::2], refs[0][:, 1:3], own[:, :1]], dim=1)

    for name, found in gaze(model, path, 1, (20.5, 30), join=join).items():
        n = found.source.numel()
        guidance, own, (reference,) = found.source.flatten(), found.own.flatten(), found.references
        assert (guidance[1::2] == 0).all() and (guidance[::2] > 0).all() and len(guidance) == n
        assert own[0] > 0 and (own[1:] == 0).all()
        assert reference.numel() == path.references[0].tokens[1][name].shape[1]
        assert ((reference.flatten() > 0).nonzero()[:, 0] == torch.tensor([1, 2])).all()
        assert float(guidance.sum() + own.sum() + reference.sum()) == pytest.approx(1, abs=1e-5)


def test_modules_are_chosen_by_name_or_block(model):
    path, known = inverted(model), list(attentions(model.unet))
    assert list(gaze(model, path, 0, (5, 5))) == known
    assert list(gaze(model, path, 0, (5, 5), modules="up_blocks.2")) == [
        k for k in known if k.startswith("up_blocks.2.")
    ]
    assert list(gaze(model, path, 0, (5, 5), modules=known[1:2])) == known[1:2]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"modules": "up_blocks.0"}, r"'up_blocks.0': choose from up_blocks\.1\."),
        ({"join": "sum"}, "'sum': choose from replace, concat, off"),
        ({"i": 3}, "step i is 3: give a whole number from 0 to 2"),
        ({"at": (500, 3)}, "off the 192x128 image"),
    ],
)
def test_what_gaze_cannot_use_is_refused_before_the_model_runs(model, wrong, words):
    path = inverted(model)
    options = {"i": 0, "at": (5, 5)} | wrong
    handle = model.unet.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    try:
        with pytest.raises(InputError, match=words):
            gaze(model, path, **options)
    finally:
        handle.remove()
