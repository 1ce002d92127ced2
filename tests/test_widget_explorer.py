"""The correspondence explorer without a browser: what it is told, what it answers, what it sends."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dragonkit.correspondence import describe, extract, match, similarity_map
from dragonkit.errors import InputError
from dragonkit.taps import tap
from dragonkit.world import counterfactual
from dragonkit.world.instances import instances
from dragonkit_widgets import CorrespondenceExplorer, packing
from dragonkit_widgets.packing import cell_colours, pack, reduced
from dragonkit_widgets.twin import twin
from tests.tiny import picture, tiny_model

A, B = picture(96, 128, seed=1), picture(128, 64, seed=2)


@pytest.fixture
def explorer():
    widget = CorrespondenceExplorer(tiny_model(), A, B, timesteps=(101, 261), seed=5)
    yield widget
    widget.close()


def sent(widget, content):
    """What the widget sends back when its front end says something."""
    messages = []
    widget.send = lambda content, buffers=None: messages.append((content, buffers))
    widget._handle_custom_msg(content, [])
    widget._thread.submit(lambda: None).result(60)
    return messages


def test_match_is_that_of_the_library(explorer):
    explorer.point, explorer.layer, explorer.timestep = (40.25, 30.5), 2, 101
    a = extract(tiny_model(), A, (2,), 101, seed=5)[2]
    b = extract(tiny_model(), B, (2,), 101, seed=6)[2]
    best = match(a, b, [(40.25, 30.5)])
    assert explorer.match == pytest.approx((*best.found[0].tolist(), best.score[0].item()), abs=1e-5)
    s = similarity_map(describe(a, (40.25, 30.5)), b)
    assert torch.allclose(explorer.similarity(), s, atol=1e-6)
    assert not torch.allclose(explorer.similarity((3, 3)), s, atol=1e-3)


def test_without_a_point_or_a_second_picture_there_is_no_match(explorer):
    assert explorer.match is None and explorer.truth is None and explorer.error is None
    alone = CorrespondenceExplorer(tiny_model(), A, layers=(3,), timesteps=(261,))
    alone.point = (5, 5)
    assert alone.match is None
    assert alone.similarity().shape == alone.features()[0][3].shape
    with pytest.raises(InputError, match="no point is pinned"):
        explorer.similarity()


def test_every_trait_takes_what_it_can_be_and_nothing_else(explorer):
    explorer.point = [np.float32(3), 4]
    assert explorer.point == (3.0, 4.0) and type(explorer.point[0]) is float
    explorer.layers = (4, 2)
    assert explorer.layers == [2, 4]
    for name, wrong, remedy in (
        ("point", (128, 4), "off the 128x96 image"),
        ("point", (float("nan"), 4), "off the 128x96 image"),
        ("point", "here", "give \\(x, y\\)"),
        ("layers", (2, 7), "choose from \\[1, 2, 3, 4\\]"),
        ("layers", 2, "choose from"),
        ("layer", 5, "choose from 1, 2, 3, 4"),
        ("timestep", 100, "choose from 101, 261"),
        ("view", "depth", "similarity, components"),
        ("opacity", 1.5, "from 0 to 1"),
    ):
        before = getattr(explorer, name)
        with pytest.raises(InputError, match=remedy):
            setattr(explorer, name, wrong)
        assert getattr(explorer, name) == before
    explorer.point = None
    assert repr(explorer) == "CorrespondenceExplorer(point=None, layer=3, timestep=261)"
    with pytest.raises(InputError, match="timestep is 7"):
        explorer.features(7)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"layers": (1, 9)}, "layers"),
        ({"layers": ()}, "layers"),
        ({"layers": 3}, "layers"),
        ({"timesteps": ()}, "timesteps"),
        ({"timesteps": (1000,)}, "timestep"),
        ({"timesteps": ("a", 1)}, "timesteps"),
        ({"prompt": 3}, "prompt"),
        ({"prompt_b": 3}, "prompt_b"),
        ({"components": 2}, "components"),
        ({"size": 10}, "size"),
        ({"draws": 0}, "draws"),
        ({"seed": -1}, "seed"),
        ({"truth": torch.zeros(2, 5, 5)}, "truth"),
        ({"image_b": None, "truth": torch.zeros(2, 96, 128)}, "truth is given without image_b"),
        ({"image_b": Image.new("RGB", (20, 80))}, "enlarge"),
        ({"image_a": "cat.png"}, "image"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(options, remedy):
    with pytest.raises(InputError, match=remedy):
        CorrespondenceExplorer(tiny_model(), **{"image_a": A, "image_b": B, **options})


def test_features_are_sent_when_asked_for(explorer):
    (content, buffers), *more = sent(explorer, {"ask": 101})
    assert not more and content["t"] == 101
    assert [h["layer"] for h in content["maps"]] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert len(buffers) == 3 * len(content["maps"])
    for k, header in enumerate(content["maps"]):
        m = explorer.features(101)[k % 2][header["layer"]]
        units = np.frombuffer(buffers[3 * k], np.float16).reshape(-1, header["channels"])
        lengths = np.frombuffer(buffers[3 * k + 1], np.float32)
        values = torch.from_numpy(units.astype(np.float32) * lengths[:, None]).T.view(-1, *header["shape"])
        assert torch.allclose(values, m.values, atol=2e-3 * float(m.values.abs().max()))
        assert header["padded"] == ([128, 128] if k % 2 == 0 else [64, 128]) and header["kept"] == 1
        assert len(buffers[3 * k + 2]) == 3 * len(lengths)


def test_only_known_timesteps_are_answered(explorer):
    for nonsense in ({"ask": 5}, {"ask": [101]}, {"ask": None}, "ask", {}, None):
        assert sent(explorer, nonsense) == []


def test_a_failure_is_told_in_words(explorer, monkeypatch):
    def fail(t):
        raise MemoryError("no room for features")

    monkeypatch.setattr(explorer, "features", fail)
    assert sent(explorer, {"ask": 101}) == [({"t": 101, "error": "MemoryError: no room for features"}, None)]


def test_truth_is_that_of_the_world():
    case = counterfactual("move", 10**9 + 1, split="train", size=64)
    explorer = CorrespondenceExplorer.of(tiny_model(), case, timesteps=(261,), layers=(3,))
    row, column = (case.mask & torch.isfinite(case.flow[0])).nonzero()[50].tolist()
    explorer.point = (column, row)
    assert explorer.truth == pytest.approx(case.flow[:, row, column].tolist())
    x, y, _ = explorer.match
    assert explorer.error == pytest.approx(((torch.tensor([x, y]) - case.flow[:, row, column]).norm()).item(), abs=1e-3)
    explorer.point = (column + 0.25, row - 0.25)
    assert explorer.truth == pytest.approx((case.flow[:, row, column] + torch.tensor([0.25, -0.25])).tolist())
    off = (~case.mask).nonzero()[0].tolist()
    explorer.point = (off[1], off[0])
    assert explorer.truth is None and explorer.error is None and explorer.match is not None


def test_instances_bring_their_truth_and_prompts():
    two = instances(10**9 + 3, split="train", size=64)
    explorer = CorrespondenceExplorer.of_instances(tiny_model(), two, timesteps=(261,), layers=(3,))
    row, column = (two.masks[0] & torch.isfinite(two.flow[0])).nonzero()[0].tolist()
    explorer.point = (column, row)
    assert explorer.truth == pytest.approx(two.flow[:, row, column].tolist())
    b = extract(tiny_model(), two.renders[1].image, (3,), 261, prompt=two.prompts[1], seed=1)[3]
    assert torch.equal(explorer.features()[1][3].values, b.values)


def test_the_face_shows_the_map_once_there_are_features(explorer):
    bare = np.asarray(explorer.face())
    assert bare.shape == (360, 360 + 8 + 180, 3)
    explorer.point = (64, 48)
    pointed = np.asarray(explorer.face())
    explorer.features()
    mapped = np.asarray(explorer.face())
    assert (pointed != bare).any(-1).mean() < 0.01 < 0.5 < (mapped != bare).any(-1).mean()
    data, _ = explorer._repr_mimebundle_()
    assert (
        data["image/png"] and data["text/plain"] == "CorrespondenceExplorer(point=(64.0, 48.0), layer=3, timestep=261)"
    )


def test_reduction_keeps_the_cosines_that_fit():
    a, b = (extract(tiny_model(), image, (2,), 261, seed=k)[2] for k, image in enumerate((A, B)))
    same, kept = reduced([a, b], 16)
    assert same == [a, b] and kept == 1

    few, kept = reduced([a, b], 6)
    units = torch.cat([F.normalize(m.values.flatten(1), dim=0) for m in (a, b)], dim=1).double()
    energy = torch.linalg.svdvals(units) ** 2
    assert kept == pytest.approx(float(energy[:6].sum() / energy.sum()), abs=1e-6)

    flat = F.normalize(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), dim=0)  # a plane in space
    rank = torch.cat([flat, torch.zeros(13, 2)]) @ torch.rand(2, 48, generator=torch.Generator().manual_seed(1))
    m = replace(a, values=rank.view(16, 6, 8))
    (small,), kept = reduced([m], 3)
    assert kept == pytest.approx(1, abs=1e-6)
    exact, found = (similarity_map(describe(f, (40, 40)), f) for f in (m, small))
    assert torch.allclose(exact, found, atol=1e-5)


def test_as_much_is_sent_as_fits(monkeypatch):
    a = extract(tiny_model(), A, (2,), 261)[2]
    (whole,) = pack([[a, a]])
    assert whole.kept == 1 and whole.maps[0] is a
    (given,) = pack([[a, a]], components=5)
    assert given.headers[0]["channels"] == 5 and given.headers[0]["of"] == a.values.shape[0] and given.kept < 1
    monkeypatch.setattr(packing, "LIMIT", 2 * a.values.numel() - 1)
    (cut,) = pack([[a, a]])
    channels = a.values.shape[0]
    assert cut.channels == channels and cut.maps[0].values.shape[0] == channels - 1 and 0.5 < cut.kept < 1


def test_colours_are_a_colour_a_cell():
    a, b = (extract(tiny_model(), image, (3,), 261, seed=k)[3] for k, image in enumerate((A, B)))
    ours = cell_colours([a, b])
    assert [c.shape for c in ours] == [(*a.shape, 3), (*b.shape, 3)]
    assert all(c.dtype == torch.uint8 and c.float().std() > 20 for c in ours)


def test_a_twin_shares_weights_and_neither_hooks_nor_recorded_passes():
    model = replace(tiny_model(), graphs=object())
    other = twin(model)
    assert other.graphs is None
    pairs = list(zip(model.unet.parameters(), other.unet.parameters(), strict=True))
    assert pairs and all(a is b for a, b in pairs)
    z, cond = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), model.embed("")
    assert torch.equal(model.predict(z, 261, cond), other.predict(z, 261, cond))

    failed, stop = [], threading.Event()

    def tapping():
        while not stop.is_set():
            tap(other.unet, (1,), z, 261, cond)  # ends each of its passes early

    thread = threading.Thread(target=tapping)
    thread.start()
    try:
        reference = tap(model.unet, (3,), z, 261, cond)[3]
        for _ in range(20):
            if not torch.equal(tap(model.unet, (3,), z, 261, cond)[3], reference):
                failed.append("other features")
            model.predict(z, 261, cond)
    finally:
        stop.set()
        thread.join()
    assert not failed
