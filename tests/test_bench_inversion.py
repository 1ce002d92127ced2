"""``bench inversion``: what it counts is what was done, and it writes the whole report or nothing."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from dragonkit.cli import BAD_INPUT, main
from dragonkit.evaluate.inversion import METHODS, bench_inversion, counted_backwards, retrace, summary, table
from dragonkit.evaluate.inversion_figure import inversion_figure
from dragonkit.evaluate.scores import psnr
from dragonkit.inversion import ddim_invert
from dragonkit.schedule import Schedule
from dragonkit.world import caption, render, sample_scene
from tests.tiny import fresh_model, hooks, save_pipeline, tiny_model

STEPS = 3


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return bench_inversion(tiny_model(), n=2, seed=5, split="train", steps=STEPS, cfg=3.0, progress=False)


def test_the_json_has_its_shape(report: dict[str, Any]) -> None:
    assert list(report["methods"]) == list(METHODS) and hooks(tiny_model()) == 0
    assert set(report["ceiling"]) == {"whole", "objects"}
    for scores in report["methods"].values():
        assert scores["n"] == len(scores["items"]) == 2 and len(scores["drift"]) == STEPS + 1
        assert scores["drift"][0] == 0 and all(math.isfinite(d) for d in scores["drift"])
        assert set(scores["psnr"]) == {"whole", "objects"} and set(scores["noise"]) == {"mean", "std"}
        assert scores["seconds"] > 0
    assert report["run"] == {"model": "tiny", "split": "train", "seeds": [5, 6], "steps": STEPS, "cfg": 3.0}
    json.dumps(report, allow_nan=False)


def test_evaluations_and_backward_passes_are_counted_apart(report: dict[str, Any]) -> None:
    scores = report["methods"]
    for name in ("ddim", "ddim2", "ddim2_cfg"):
        assert (scores[name]["nfe"], scores[name]["backwards"]) == (STEPS, 0)
    assert (scores["ddim2_refined"]["nfe"], scores["ddim2_refined"]["backwards"]) == (3 * STEPS, 0)
    assert scores["fixed_point"]["nfe"] > STEPS and scores["fixed_point"]["backwards"] == 0
    for item in scores["null_text"]["items"]:  # refined pivot; then per step ε_c, ε_∅, and ε_∅ after each backward pass
        assert item["nfe"] == 3 * STEPS + 2 * STEPS + item["backwards"] and 0 < item["backwards"] <= 10 * STEPS


def test_the_numbers_are_those_of_inversion_and_generation(report: dict[str, Any]) -> None:
    model, scene = tiny_model(), sample_scene(6, "train")
    image, cond = render(scene).image, tiny_model().embed(caption(scene))
    path = ddim_invert(model, model.encode(image[None]), cond, Schedule(model, STEPS))
    z = path.z_T
    with torch.no_grad():
        for i, t in enumerate(path.schedule.timesteps):
            z, _ = path.schedule.step(z, model.predict(z, t, cond), i)
    item = report["methods"]["ddim2"]["items"][1]
    assert item["seed"] == 6
    assert item["psnr"]["whole"] == pytest.approx(psnr(model.decode(z)[0], image), abs=1e-3)
    assert item["drift"][-1] == pytest.approx((z - path.latents[STEPS]).square().mean().sqrt().item(), abs=1e-4)
    assert item["noise"]["std"] == pytest.approx(path.z_T.std().item(), abs=1e-4)


def test_the_summary_is_the_items_mean(report: dict[str, Any]) -> None:
    for scores in report["methods"].values():
        for key in ("nfe", "backwards", "seconds"):
            assert scores[key] == pytest.approx(fmean(item[key] for item in scores["items"]), abs=1e-5)
        assert scores["psnr"]["whole"] == pytest.approx(fmean(i["psnr"]["whole"] for i in scores["items"]), abs=1e-5)
        assert summary(scores["items"])["drift"] == pytest.approx(scores["drift"], abs=1e-5)


def test_the_better_inversions_drift_less(report: dict[str, Any]) -> None:
    scores = report["methods"]
    assert scores["fixed_point"]["drift"][-1] < scores["ddim2"]["drift"][-1] < scores["ddim2_cfg"]["drift"][-1]
    assert scores["null_text"]["drift"][-1] < scores["ddim2_cfg"]["drift"][-1]


def test_the_table_has_a_line_for_each_method(report: dict[str, Any]) -> None:
    lines = table(report).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["autoencoder", *METHODS]
    assert len({len(line) for line in lines[3:]} | {len(lines[1])}) == 1
    blank = {**report, "ceiling": {"whole": 1.0, "objects": None}}
    assert "-" in table(blank).splitlines()[2]


def test_the_figure_shows_every_method(report: dict[str, Any], tmp_path: Path) -> None:
    figure = inversion_figure(report)
    drift, bars = figure.axes
    assert [line.get_label() for line in drift.lines] == list(METHODS)
    assert [len(line.get_xdata()) for line in drift.lines] == [STEPS] * len(METHODS)
    assert len(bars.patches) == 2 * len(METHODS) and len(bars.lines) == 2
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_only_backward_passes_through_the_denoiser_count() -> None:
    model = tiny_model()
    words = model.embed("")["encoder_hidden_states"].clone().requires_grad_()
    with counted_backwards(model.unet) as count:
        model.predict(torch.zeros(1, 4, 8, 8), 1, model.embed(""))
        assert count.evaluations == 0
        for _ in range(2):
            model.predict(torch.zeros(1, 4, 8, 8), 1, {"encoder_hidden_states": words}).sum().backward()
        words.sum().backward()
    assert count.evaluations == 2 and hooks(model) == 0


def test_retracing_uses_the_embeddings_of_the_path() -> None:
    model, schedule = tiny_model(), Schedule(tiny_model(), 2)
    path = ddim_invert(model, torch.ones(1, 4, 8, 8), model.embed("a ball"), schedule)
    plain = retrace(model, path, 3.0)
    path.empty[1] = model.embed("a cube")
    other = retrace(model, path, 3.0)
    assert torch.equal(plain[1], other[1]) and not torch.equal(plain[2], other[2])


def test_the_command_writes_report_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_pipeline(tmp_path, fresh_model())
    out, figure = tmp_path / "new" / "bench.json", tmp_path / "new" / "bench.png"
    words = ["bench", "inversion", "--n", "1", "--seed", "3", "--split", "train", "--steps", "2", "--model", str(model)]
    words += ["--methods", "ddim", "ddim2", "--json", str(out), "--figure", str(figure)]
    assert main(words) == 0
    assert list(json.loads(out.read_text())["methods"]) == ["ddim", "ddim2"] and figure.stat().st_size > 10_000
    assert "autoencoder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "magic"], "unknown method 'magic'"),
        (["--n", "0"], "n is 0"),
        (["--steps", "0"], "steps is 0"),
        (["--cfg", "1"], "cfg is 1"),
        (["--cfg", "nan"], "cfg is nan"),
        (["--split", "validation"], "validation"),
        (["--figure", "bench.jpg"], "does not end in .png"),
    ],
)
def test_a_bad_argument_is_one_line_before_the_model_is_loaded(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(name: str) -> Callable[..., Any]:
        raise AssertionError("loaded")

    monkeypatch.setattr("dragonkit.models.load", load)
    assert main(["bench", "inversion", *words, "--json", str(tmp_path / "bench.json")]) == BAD_INPUT
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())
