"""The bench of correspondence: its exact truth found another way, scores of known errors, and all it writes."""

import json
import math
from pathlib import Path

import pytest
import torch

from dragonkit.cli import main
from dragonkit.errors import InputError
from dragonkit.evaluate.correspondence import CHANGES, Pair, _errors, _scores, bench_correspondence, table
from dragonkit.evaluate.correspondence_figure import heat_maps
from dragonkit.world import counterfactual
from dragonkit.world.counterfactual import true_flow
from dragonkit.world.instances import _ROUND, instances
from dragonkit.world.render import geometry
from tests.tiny import hooks, save_pipeline, tiny_model


def by_canonical(first, second, other, points, fine=4):
    """Where the seen surface point with the nearest canonical coordinate is, by looking everywhere: (N, 2).

    ``second`` is a scene, looked at in ``fine`` times as many pixels as ``first``, the picture the points are in.
    """
    x, y = points.long().unbind(-1)
    ids, _, canonical = geometry(second, fine * first.ids.shape[0])
    where = (ids == other).nonzero()
    nearest = torch.cdist(first.canonical[:, y, x].T, canonical[:, where[:, 0], where[:, 1]].T).argmin(dim=1)
    return (where[nearest].flip(-1) + 0.5) / fine - 0.5


# Truth


@pytest.mark.parametrize("seed", range(3))
def test_the_truth_between_objects_is_the_nearest_canonical_coordinate(seed):
    pair = Pair.of("instance", seed, "train", 128)
    two = instances(seed, "train", 128)
    start, end = pair.points(40, 0)
    assert len(start) >= 10
    assert (by_canonical(two.renders[0], two.scenes[1], 0, start) - end).norm(dim=1).max() < 1


@pytest.mark.parametrize("kind", ["move", "rotate", "drag"])
def test_the_truth_of_an_object_against_itself_is_its_flow(kind):
    c = counterfactual(kind, 3, split="train", size=128)
    flow = true_flow(c.scene_after, c.index, c.before, c.after)
    assert torch.equal(flow.nan_to_num(-1), c.flow.nan_to_num(-1))
    start, end = Pair.of(kind, 3, "train", 128).points(40, 0)
    assert (by_canonical(c.before, c.scene_after, c.index, start) - end).norm(dim=1).max() < 1


@pytest.mark.parametrize("seed", range(3))
def test_instances_differ_in_all_but_shape_and_side(seed):
    two = instances(seed, "train", 64)
    (a, b) = (scene.objects[0] for scene in two.scenes)
    assert a.shape == b.shape and a.colour != b.colour
    assert (a.x, a.z, a.size, a.deform) != (b.x, b.z, b.size, b.deform)
    assert two.prompts[0] != two.prompts[1] and a.shape in two.prompts[0] and a.shape in two.prompts[1]
    known = torch.isfinite(two.flow[0])
    assert (known <= two.masks[0]).all() and known.sum() > 0.3 * two.masks[0].sum()

    def shown(o):  # the side that faces the camera
        return o.yaw - math.atan2(o.x, o.z - 10)

    turn = math.remainder(shown(b) - shown(a), 2 * math.pi)
    assert abs(turn) < (1e-3 if a.shape in _ROUND else 0.501)
    again = instances(seed, "train", 64)
    assert again.scenes == two.scenes and torch.equal(again.renders[1].image, two.renders[1].image)


def test_a_repainted_object_stays_where_it_is():
    pair = Pair.of("appearance", 0, "train", 128)
    start, end = pair.points(40, 0)
    assert (start - end).norm(dim=1).max() < 0.05
    assert pair.prompts[0] != pair.prompts[1] and not torch.equal(*pair.images)


def test_points_are_well_inside_and_drawn_by_seed():
    pair = Pair.of("move", 0, "train", 128)
    start, end = pair.points(50, 7)
    for xy, mask in ((start, pair.masks[0]), (end.round(), pair.masks[1])):
        x, y = xy.long().unbind(-1)
        for dx, dy in ((2, 0), (-2, 0), (0, 2), (0, -2), (2, 2), (-2, -2)):
            assert mask[y + dy, x + dx].all()
    assert len(start) == 50 and len({tuple(p) for p in start.tolist()}) == 50
    assert torch.equal(pair.points(50, 7)[0], start) and not torch.equal(pair.points(50, 8)[0], start)
    where = pair.masks[1].nonzero()
    assert pair.extent == int(max(where[:, 0].max() - where[:, 0].min(), where[:, 1].max() - where[:, 1].min())) + 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: instances(0, "valid"), "unknown split 'valid'"),
        (lambda: instances(True), "seed is True"),
        (lambda: instances(0.5), "seed is 0.5"),
    ],
)
def test_unusable_draws_are_refused(call, words):
    with pytest.raises(InputError, match=words):
        call()


# Scores


def test_scores_of_known_errors():
    truth = torch.zeros(4, 2, dtype=torch.float64)
    found = torch.tensor([[0, 0], [3, 4], [0, 10], [0, 10.01]], dtype=torch.float64)
    rows = [
        _errors(found, truth, 100, torch.tensor([True, True, False, False])),
        _errors(found[:1], truth[:1], 50, torch.tensor([True])),
    ]
    scores = _scores(rows)
    assert scores["pck_05"] == pytest.approx(3 / 5) and scores["pck_10"] == pytest.approx(4 / 5)
    assert scores["mean_px"] == pytest.approx(25.01 / 5) and scores["median_px"] == 5
    assert scores["mutual"] == pytest.approx(3 / 5)


@pytest.fixture(scope="module")
def report():
    return bench_correspondence(
        tiny_model(), 1, 4, layers=(2, 1), timesteps=(601, 1), points=6, draws=2, split="train", size=64, progress=False
    )


def test_the_json_has_its_shape(report):
    assert list(report["changes"]) == list(CHANGES)
    for scores in report["changes"].values():
        assert scores["n"] == 1 and 1 <= scores["points"] <= 6
        assert [(c["layer"], c["t"]) for c in scores["cells"]] == [(1, 1), (1, 601), (2, 1), (2, 601)]
        for cell in scores["cells"]:
            assert set(cell) == {"layer", "t", "pck_05", "pck_10", "mean_px", "median_px", "mutual"}
            assert 0 <= cell["pck_05"] <= cell["pck_10"] <= 1 and 0 <= cell["mutual"] <= 1 and cell["mean_px"] >= 0
        assert set(scores["still"]) == {"pck_05", "pck_10", "mean_px", "median_px"}
    assert report["changes"]["appearance"]["still"]["pck_05"] == 1  # nothing moves
    for k, cell in enumerate(report["mean"]):
        each = [scores["cells"][k] for scores in report["changes"].values()]
        assert cell["mean_px"] == pytest.approx(sum(c["mean_px"] for c in each) / len(each), abs=1e-5)
    assert report["run"] | {"seeds": [4], "split": "train", "layers": [1, 2], "timesteps": [1, 601]} == report["run"]
    assert report["run"] | {"draws": 2, "prompted": True, "size": 64, "points": 6, "model": "tiny"} == report["run"]
    assert set(report["made_with"]) >= {"torch", "hardware"}
    json.dumps(report, allow_nan=False)
    assert hooks(tiny_model()) == 0


def test_a_bench_repeats_itself(report):
    options = dict(layers=(1, 2), timesteps=(1, 601), points=6, draws=2, split="train", size=64, progress=False)
    again = bench_correspondence(tiny_model(), 1, 4, changes=("move",), **options)
    assert again["changes"]["move"] == report["changes"]["move"]
    bare = bench_correspondence(tiny_model(), 1, 4, changes=("move",), prompted=False, **options)
    assert bare["changes"]["move"]["cells"] != again["changes"]["move"]["cells"]


def test_the_table_and_the_figure_show_every_change(report, tmp_path):
    text = table(report)
    assert all(f"{change}: 1 pairs, {report['changes'][change]['points']} points" in text for change in CHANGES)
    assert "t = 601" in text and text.count("best: layer") == len(CHANGES) + 1 and "mean of the changes" in text
    figure = heat_maps(report)
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == len(CHANGES)
    cell = report["changes"]["move"]["cells"][1]
    assert panels[0].images[0].get_array()[0, 1] == pytest.approx(100 * cell["pck_10"])
    assert f"{100 * cell['pck_05']:.0f}" in [t.get_text() for t in panels[0].texts]
    figure.savefig(tmp_path / "map.png")
    one = heat_maps({**report, "changes": {"move": report["changes"]["move"]}})
    assert sum(bool(axes.images) for axes in one.axes) == 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"n": 0}, "n is 0"),
        ({"points": 0}, "points is 0"),
        ({"draws": 0}, "draws is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"changes": ("twist",)}, "unknown change 'twist': choose from move"),
        ({"changes": ()}, "changes are"),
        ({"timesteps": (1, 1)}, "timesteps are"),
        ({"timesteps": (1000,)}, "from 0 to 999"),
        ({"layers": (7,)}, "choose from 1"),
        ({"split": "valid"}, "unknown split 'valid'"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_rendered(wrong, words, monkeypatch):
    monkeypatch.setattr(Pair, "of", lambda *_: pytest.fail("a scene was rendered"))
    with pytest.raises(InputError, match=words):
        bench_correspondence(tiny_model(), **{"n": 1, "split": "train", "progress": False} | wrong)


# Command


def words(tmp_path: Path, *more: str) -> list[str]:
    return ["bench", "correspondence", "--n", "1", "--seed", "2", "--split", "train", "--size", "64", *more]


def test_the_command_writes_json_and_figure(tmp_path, capsys):
    model = save_pipeline(tmp_path, tiny_model())
    path, figure = tmp_path / "new" / "pck.json", tmp_path / "new" / "pck.png"
    options = ["--changes", "move", "resize", "--layers", "2", "--timesteps", "301", "--points", "5", "--no-prompt"]
    more = [*options, "--model", str(model), "--json", str(path), "--figure", str(figure)]
    assert main(words(tmp_path, *more)) == 0
    report = json.loads(path.read_text())
    assert list(report["changes"]) == ["move", "resize"] and report["run"]["prompted"] is False
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "move: 1 pairs, 5 points" in capsys.readouterr().out


def test_mistakes_write_nothing(tmp_path, capsys):
    for more in (["--json", "x.txt"], ["--json", "x.json", "--figure", "x.pdf"], ["--json", "x.json", "--draws", "0"]):
        options = [str(tmp_path / w) if w.startswith("x.") else w for w in more]
        assert main(words(tmp_path, *options)) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
