"""The bench of one edit at one size: it times the same edit in every way, and says how far passes are from float32."""

import json

import pytest
import torch

from dragonkit.cli import BAD_INPUT, main
from dragonkit.errors import InputError, OutOfMemoryError
from dragonkit.evaluate.card_report import table
from dragonkit.evaluate.card_speed import _flops, _stages, bench_card_speed, check_card_speed
from dragonkit.evaluate.equality import equality
from dragonkit.evaluate.flops import Flops
from dragonkit.evaluate.official import _OnHost, official_edit
from dragonkit.graphs import Graphs
from dragonkit.guidance import Guidance
from dragonkit.loading.place import dtype_named
from dragonkit.models import load
from dragonkit.world import counterfactual
from tests.test_graphs import Again
from tests.tiny import fresh_model, save_pipeline

W = Guidance.preset("iclr").replace(steps=5)
ON_GPU = torch.cuda.is_available()  # without one nothing is recorded, so ours is the eager way
WAYS = ["official", *(["eager"] if ON_GPU else []), "ours", "low"]


@pytest.fixture(autouse=True)
def exact():
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("pipeline"), fresh_model())


@pytest.fixture(scope="module")
def scene():
    return counterfactual("move", 3, split="train", size=64)


def test_the_report_has_every_way_and_says_how_it_was_made(folder, tmp_path, capsys):
    args = ["--model", str(folder), "--size", "64", "--steps", "5", "--repeats", "4", "--seed", "3"]
    main(["bench", "speed", *args, "--dtype", "float32", "--json", str(tmp_path / "speed.json")])
    report = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert table(report) in capsys.readouterr().out
    rows, run = report["variants"], report["run"]
    assert list(rows) == WAYS
    assert [row["nfe"] for row in rows.values()] == [5 + 5 + 2 * 3, *[13] * (len(WAYS) - 1)]
    assert {way: len(row["times"]) for way, row in rows.items()} == dict.fromkeys(WAYS, 1) | {"ours": 4}
    assert rows["official"]["flops"] > rows["ours"]["flops"] == rows["low"]["flops"] > 1e6
    for row in rows.values():
        assert (
            row["seconds"] > 0 and (row["peak_gb"] is None) is (row["share_of_peak"]["measured"] is None) is not ON_GPU
        )
        assert row["times_faster"]["official"] == pytest.approx(rows["official"]["seconds"] / row["seconds"], rel=1e-3)
    assert run["size"] == [64, 64] and run["dtype"] == "float32" and "--size 64 --steps 5 --repeats 4" in run["command"]
    assert list(report["stages"]) == [
        "weights", "encode", "prompts", "inversion", "guided steps", "other steps", "decode",
    ]  # fmt: skip
    assert all(row["eager"] < 1e-4 for row in report["equality"]["passes"].values()) and report["equality"]["agrees"]


def test_recorded_passes_that_disagree_are_said_and_end_in_an_error_code(folder, tmp_path, monkeypatch, capsys):
    def spoilt(*args, **kwargs):
        return {kind: row | {"recorded": 3 * row["eager"] + 0.01} for kind, row in equality(*args, **kwargs).items()}

    monkeypatch.setattr("dragonkit.evaluate.card_speed.equality", spoilt)
    args = ["--model", str(folder), "--size", "64", "--steps", "2", "--repeats", "1"]
    assert main(["bench", "speed", *args, "--json", str(tmp_path / "speed.json")]) == 1
    assert "DISAGREE" in capsys.readouterr().out
    assert not json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["equality"]["agrees"]


def test_a_bench_that_is_cut_off_leaves_what_it_measured(folder, tmp_path, monkeypatch, capsys):
    def cut(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dragonkit.evaluate.card_speed.equality", cut)
    args = ["--model", str(folder), "--size", "64", "--steps", "2", "--repeats", "1"]
    assert main(["bench", "speed", *args, "--json", str(tmp_path / "speed.json")]) == 130
    assert "speed.json holds what had been measured" in capsys.readouterr().err
    report = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert report["run"]["complete"] is False and list(report["variants"]) == ["official", "ours"]
    assert "ours" in table(report) and report["variants"]["ours"]["times_faster"]["official"] > 0


def test_a_way_that_does_not_fit_is_said_and_the_others_are_measured(folder, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("dragonkit.evaluate.card_speed.official_edit", full)
    report = bench_card_speed(str(folder), 64, repeats=1, steps=2, progress=False)
    assert "out of memory" in report["variants"]["official"]["out_of_memory"] and report["run"]["complete"]
    assert report["variants"]["ours"]["times_faster"]["official"] is None
    assert "out of memory" in table(report) and report["variants"]["low"]["flops"] > 0
    monkeypatch.setattr("dragonkit.evaluate.card_speed.edit", full)
    with pytest.raises(OutOfMemoryError):
        bench_card_speed(str(folder), 64, repeats=1, steps=2, progress=False)


def test_any_size_and_edits_with_references_are_measured(folder):
    model = load(str(folder), plain=True, dtype=torch.float32)
    case = counterfactual("appearance", 3, split="train", size=72)
    image, w = case.before.image, Guidance.preset("iclr", "appearance").replace(steps=3)
    assert "references" in _stages(model, image, case.edit, case.prompt, w)
    found = equality(model, image, case.edit, case.prompt, w, steps=(0.0,))
    assert found.keys() == {"inversion", "noise", "gradient"} and all(row["eager"] < 1e-4 for row in found.values())


def test_operations_are_those_of_the_whole_edit(scene):
    model, w = fresh_model(), W.replace(steps=15)

    def run(w):
        return official_edit(model, scene.before.image, scene.edit, scene.prompt, w)

    with Flops() as count:
        run(w)
    assert _flops(run, w) == count.total


def test_recorded_passes_are_measured_beside_evaluated_ones(scene):
    model = fresh_model()
    model.graphs = graphs = Graphs(model, Again(model))
    found = equality(model, scene.before.image, scene.edit, scene.prompt, W, steps=(0.0, 0.6))
    assert model.graphs is graphs and len(graphs) >= 3
    assert list(found) == ["inversion", "noise", "gradient"]
    for row in found.values():
        assert row["eager"] == row["recorded"] < 1e-4


def test_half_precision_is_seen_to_be_off_by_its_rounding(scene):
    model = fresh_model()
    for part in model.parts.values():
        part.to(torch.bfloat16)
    found = equality(model, scene.before.image, scene.edit, scene.prompt, W, steps=(0.0,))
    assert all(1e-4 < row["eager"] < 0.5 for row in found.values())


def test_what_goes_through_the_host_comes_back_as_it_was(scene, monkeypatch):
    store, x = _OnHost(device=torch.device("cpu")), {"a": torch.randn(2, 3)}
    store[4] = x
    assert 4 in store and torch.equal(store[4]["a"], x["a"])
    plain = official_edit(fresh_model(), scene.before.image, scene.edit, scene.prompt, W)
    monkeypatch.setattr("dragonkit.evaluate.official.dict", lambda: _OnHost(device=torch.device("cpu")), raising=False)
    moved = official_edit(fresh_model(), scene.before.image, scene.edit, scene.prompt, W)
    assert torch.equal(plain.latent, moved.latent) and plain.nfe == moved.nfe


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size": 32}, "size is 32: give 64 or more"),
        ({"repeats": 0}, "repeats is 0"),
        ({"kind": "fly"}, "unknown kind 'fly'"),
        ({"preset": "diffeditor"}, "time travel"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_what_cannot_be_run_is_refused_at_once(wrong, said):
    right = {"kind": "move", "size": 64, "repeats": 1, "preset": None, "steps": 5}
    check_card_speed(**right)
    with pytest.raises(InputError, match=said):
        check_card_speed(**right | wrong)


def test_a_dtype_is_named_as_torch_names_it(capsys, tmp_path):
    assert dtype_named("bfloat16") is torch.bfloat16
    args = ["bench", "speed", "--model", "sd15-random", "--dtype", "half", "--json", str(tmp_path / "a.json")]
    assert main(args) == BAD_INPUT and "dtype is 'half': choose from float32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("--size 64 --n 3", "--n is for scenes: leave it out"),
        ("--size 64 --split test", "--split is for scenes"),
        ("--model sd15-random --presets fast", "--presets is for scenes"),
        ("--dtype float16", "--dtype is for one --size: leave it out"),
    ],
)
def test_what_would_have_no_effect_is_refused(args, said, capsys, tmp_path):
    assert main(["bench", "speed", *args.split(), "--json", str(tmp_path / "a.json")]) == BAD_INPUT
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())
