"""The bench's JSON has its shape, its summary is the items' summary, and shared or kept work gives the same numbers."""

import json
import math
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pytest
import torch

from dragonkit.cli import main
from dragonkit.errors import InputError
from dragonkit.evaluate.bench import Plan, bench_edits, report, run, summary, table
from dragonkit.evaluate.figure import overview
from dragonkit.evaluate.report import Report, tidy
from dragonkit.evaluate.scored import Job, Scored
from dragonkit.evaluate.sheet import all_sheet, ranked, save_sheets, worst_sheet
from dragonkit.spec import load_task, save_case
from dragonkit.world import Counterfactual, counterfactual
from tests.tiny import save_pipeline, tiny_model

REGIONS = {"whole", "target", "vacated", "shadow", "kept"}


@pytest.fixture(scope="module")
def case() -> Counterfactual:
    return counterfactual("move", 1, split="train", size=128)


PLAN = Plan(
    kinds=["move", "appearance", "drag"],
    n=2,
    seed=5,
    split="train",
    preset="iclr",
    changes={"steps": 2},
    ablate=["edit", "layer2", "contrast"],
    ablate_n=1,
    size=128,
)


@pytest.fixture(scope="module")
def done() -> dict[str, list[Scored]]:
    return run(tiny_model(), PLAN, progress=False)


@pytest.fixture(scope="module")
def scores(done: dict[str, list[Scored]]) -> dict[str, Any]:
    return report(tiny_model(), PLAN, done)


def numbers(data: Any) -> list[float]:
    if isinstance(data, dict):
        return [x for value in data.values() for x in numbers(value)]
    return [data] if isinstance(data, float) else []


def test_the_json_has_its_shape(scores: dict[str, Any]) -> None:
    move = scores["kinds"]["move"]
    assert set(move) >= {"n", "psnr", "ceiling", "baselines", "placement_px", "nfe", "seconds", "items"}
    assert move["n"] == 2
    assert set(move["psnr"]) == set(move["ceiling"]) == REGIONS
    assert set(move["baselines"]) == {"none", "copy", "energy0"}
    assert all(set(row) == REGIONS for row in move["baselines"].values())
    assert set(move["placement_px"]) == set(move["size_error"]) == {"median", "p90"}
    assert set(scores["kinds"]["appearance"]["baselines"]) == {"none", "reinhard", "energy0"}
    assert set(scores["kinds"]["appearance"]["ciede2000"]) == {"mean", "median"}
    assert set(scores["kinds"]["drag"]["baselines"]) == {"none", "warp", "energy0"}
    assert set(scores["kinds"]["drag"]["remaining"]) == {"mean", "median", "points"}
    for kind in scores["kinds"].values():
        assert set(kind["compared"]) == {"ceiling", *kind["baselines"]}
        assert kind["guidance"]["steps"] == 2
        assert all(math.isfinite(x) for x in numbers(kind))
    assert scores["run"] == {
        "model": "tiny", "preset": "iclr", "changes": {"steps": 2}, "split": "train", "seeds": [5, 6],
        "processes": 1,
    }  # fmt: skip
    assert set(scores["made_with"]) >= {"torch", "hardware", "dragonkit"}
    json.dumps(scores, allow_nan=False)


def test_the_summary_is_the_items_summary(scores: dict[str, Any]) -> None:
    move = scores["kinds"]["move"]
    items = move["items"]
    assert [item["seed"] for item in items] == [5, 6]
    for name in ("placement_px", "size_error"):
        assert move[name]["median"] == pytest.approx(median(i[name] for i in items), abs=1e-5)
        expected = median(i["compared"]["copy"][name] for i in items)
        assert move["compared"]["copy"][name]["median"] == pytest.approx(expected, abs=1e-5)
    for key in ("whole", "target", "kept"):
        assert move["psnr"][key] == pytest.approx(mean(i["psnr"][key] for i in items), abs=1e-5)
        expected = mean(i["baselines"]["copy"][key] for i in items)
        assert move["baselines"]["copy"][key] == pytest.approx(expected, abs=1e-5)
    assert move["nfe"] == items[0]["nfe"] > 0
    drag = scores["kinds"]["drag"]
    points = [share for item in drag["items"] for share in item["remaining"]]
    assert drag["remaining"]["points"] == len(points) > 0
    assert drag["remaining"]["median"] == pytest.approx(median(points), abs=1e-5)


def test_exact_measures_rank_what_is_known_to_be_better(scores: dict[str, Any]) -> None:
    move, drag = scores["kinds"]["move"], scores["kinds"]["drag"]
    assert move["baselines"]["copy"]["target"] > move["baselines"]["none"]["target"] + 5
    assert move["compared"]["copy"]["placement_px"]["median"] < 6 < move["compared"]["none"]["placement_px"]["median"]
    assert drag["compared"]["none"]["remaining"]["median"] == pytest.approx(1, abs=0.03)
    assert drag["compared"]["warp"]["remaining"]["median"] < 0.5


def test_ablations_are_of_the_first_scenes_and_beside_the_full_edit(scores: dict[str, Any]) -> None:
    move = scores["kinds"]["move"]
    assert list(move["ablations"]) == ["full", "edit", "layer2", "contrast"]
    assert move["ablations"]["full"]["n"] == 1
    assert move["ablations"]["full"]["psnr"] == move["items"][0]["psnr"]
    assert set(move["ablations"]["edit"]) >= {"psnr", "placement_px", "size_error"}
    assert "ablations" in move["items"][0] and "ablations" not in move["items"][1]
    assert list(scores["kinds"]["appearance"]["ablations"]) == ["full", "edit", "layer2"]  # it has no contrast


def test_empty_regions_are_counted_and_left_out() -> None:
    def item(vacated: float) -> dict[str, Any]:
        row = {"target": 20.0, "vacated": vacated}
        measures = {"placement_px": 1.0, "size_error": 0.1}
        cost = {"nfe": 4, "seconds": 1.0}
        return {"psnr": row, **measures, "ceiling": row, "baselines": {"none": row}, "compared": {}, **cost}

    found = summary("move", [item(math.nan), item(30.0)])
    assert found["psnr"] == {"target": 20.0, "vacated": 30.0}
    assert found["empty"] == {"target": 0, "vacated": 1}
    assert tidy(summary("move", [item(math.nan)]))["psnr"]["vacated"] is None


def test_the_table_names_every_row(scores: dict[str, Any]) -> None:
    text = table(scores)
    words = (
        "edit",
        "ceiling",
        "none",
        "copy",
        "energy0",
        "vacated",
        "placement",
        "NFE",
        "size error",
        "warp",
        "layer2",
    )
    assert all(word in text for word in (*words, "CIEDE2000", "remaining way", "below the ceiling"))


def test_two_processes_and_kept_parts_give_the_same_numbers(scores: dict[str, Any], tmp_path: Path) -> None:
    plan = Plan(kinds=["move"], n=2, seed=5, split="train", preset="iclr", changes={"steps": 2}, size=128)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = bench_edits(tiny_model(), plan, progress=False)
        shared = bench_edits(tiny_model(), plan, processes=2, parts=tmp_path, progress=False)
    finally:
        torch.set_num_threads(threads)
    again = run(tiny_model(), plan, parts=tmp_path, progress=False)
    other = report(tiny_model(), plan, again)
    for name in ("psnr", "placement_px", "baselines", "compared", "nfe"):
        assert shared["kinds"]["move"][name] == other["kinds"]["move"][name] == alone["kinds"]["move"][name]
    assert other["kinds"]["move"]["seconds"] == shared["kinds"]["move"]["seconds"]  # not run again
    assert again["move"][0].pictures.shape == (3, 128, 128, 3)
    plan = Plan(kinds=["move"], n=2, seed=5, split="train", preset="iclr", changes={"steps": 3}, size=128)
    with pytest.raises(InputError, match="other settings"):
        run(tiny_model(), plan, parts=tmp_path, progress=False)
    (tmp_path / "move-5.json").write_text("{}")
    with pytest.raises(InputError, match="no kept scene"):
        run(tiny_model(), plan, parts=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kinds": ["fold"]}, "fold"),
        ({"n": 0}, "n is 0"),
        ({"preset": "best"}, "best"),
        ({"split": "validation"}, "validation"),
        ({"ablate": ["colour"]}, "colour"),
        ({"ablate_n": 0}, "ablate_n is 0"),
        ({"changes": {"energies": 2}}, "energies"),
        ({"changes": {"energy": "much"}}, "much"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        Plan(**changes)


def test_sheets_show_the_worst_first(done: dict[str, list[Scored]], tmp_path: Path) -> None:
    worst = [value for value, _ in ranked("move", done["move"])]
    assert worst == sorted(worst, reverse=True)
    assert worst[0] == max(scene.row["placement_px"] for scene in done["move"])
    figure = worst_sheet("move", done["move"], rows=1)
    assert [axes.get_title() for axes in figure.axes[:4]] == ["source", "exact answer", "result", "error"]
    shown = figure.axes[1].images[0].get_array()
    assert np.array_equal(shown, ranked("move", done["move"])[0][1].pictures[1])
    assert len([a for a in all_sheet("move", done["move"]).axes if a.get_visible()]) == 2
    written = save_sheets({"drag": done["drag"]}, tmp_path / "s.png")
    assert [path.name for path in written] == ["s-drag.png", "s-drag-all.png"]
    assert all(path.is_file() for path in written)


def test_a_scene_that_cannot_be_measured_is_ranked_last() -> None:
    job = PLAN.jobs("iclr")[0]
    unknown, known = (
        Scored(Job("drag", seed, "train", job.guidance), {"remaining": values}, np.zeros((3, 2, 2, 3), np.uint8))
        for seed, values in ((1, []), (2, [0.1]))
    )
    assert [scene.job.seed for _, scene in ranked("drag", [unknown, known])] == [2, 1]


def test_the_command_writes_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_pipeline(tmp_path, tiny_model())
    path = tmp_path / "new" / "bench.json"
    words = ["bench", "edits", "--kinds", "resize", "--n", "1", "--seed", "3", "--steps", "1", "--model", str(model)]
    more = ["--set", "energy=2", "attention_mode=off", "guided=[0,1]", "--sheet", str(tmp_path / "sheet.png")]
    assert main([*words, *more, "--split", "train", "--json", str(path)]) == 0
    resize = json.loads(path.read_text())["kinds"]["resize"]
    assert resize["n"] == 1
    assert (resize["guidance"]["energy"], resize["guidance"]["attention_mode"]) == (2.0, "off")
    assert resize["guidance"]["guided"] == [0.0, 1.0]
    said = capsys.readouterr().out
    assert "resize, n = 1" in said and "sheet-resize.png" in said
    assert (tmp_path / "sheet-resize.png").is_file()


@pytest.mark.parametrize("word", ["energy", "energy=no", "colour=1"])
def test_the_command_refuses_bad_settings(word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "edits", "--set", word, "--json", str(tmp_path / "a.json")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_figure_shows_every_panel(case: Counterfactual, tmp_path: Path) -> None:
    from dragonkit.editor import edit

    task = load_task(save_case(case, tmp_path))
    guidance = task.guidance.replace(steps=2)
    result = edit(tiny_model(), task.image, task.edit, task.prompt, guidance=guidance, trace=True, progress=False)
    report = Report.of(task, result)
    figure = overview(task, result, report)
    assert [axes.get_title() for axes in figure.axes] == ["before", "edit", "exact answer", "energy terms, relative"]
    assert f"NFE {result.nfe}" in figure.axes[1].get_xlabel()
    assert len(figure.axes[3].lines) == len(result.trace.energies) > 0
    figure.savefig(tmp_path / "overview.png")


def test_other_weights_are_other_settings() -> None:
    from dragonkit.evaluate.parts import fingerprint
    from tests.tiny import fresh_model

    model = fresh_model()
    before = fingerprint(model)
    assert before == fingerprint(fresh_model())
    with torch.no_grad():
        next(model.unet.parameters()).add_(1e-3)
    assert fingerprint(model) != before
