"""The bench's JSON has its shape, its summary is the items' summary, and its baselines are what they are called."""

import json
import math
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest
import torch

from dragonkit.cli import main
from dragonkit.edits import Move
from dragonkit.evaluate.baselines import BASELINES, none, paste
from dragonkit.evaluate.bench import bench_edits, summary, table
from dragonkit.evaluate.figure import overview
from dragonkit.evaluate.report import Report, tidy
from dragonkit.evaluate.scores import placement_error
from dragonkit.spec import load_task, save_case
from dragonkit.world import Counterfactual, counterfactual
from tests.tiny import box, picture, save_pipeline, tiny_model

REGIONS = {"whole", "target", "vacated", "shadow", "kept"}


@pytest.fixture(scope="module")
def case() -> Counterfactual:
    return counterfactual("move", 1, split="train", size=128)


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return bench_edits(tiny_model(), ["move"], n=2, seed=5, split="train", preset="iclr", steps=2, progress=False)


def test_the_json_has_its_shape(report: dict[str, Any]) -> None:
    scores = report["kinds"]["move"]
    assert set(scores) >= {"n", "psnr", "ceiling", "baselines", "placement_px", "nfe", "seconds", "items"}
    assert scores["n"] == 2
    assert set(scores["psnr"]) == set(scores["ceiling"]) == REGIONS
    assert set(scores["baselines"]) == {"none", "copy", "energy0"}
    assert all(set(row) == REGIONS for row in scores["baselines"].values())
    assert set(scores["placement_px"]) == {"median", "p90"}
    assert report["run"] == {"model": "tiny", "preset": "iclr", "split": "train", "seeds": [5, 6]}
    assert set(report["made_with"]) >= {"torch", "hardware", "dragonkit"}
    json.dumps(report, allow_nan=False)


def test_the_summary_is_the_items_summary(report: dict[str, Any]) -> None:
    scores = report["kinds"]["move"]
    items = scores["items"]
    assert [item["seed"] for item in items] == [5, 6]
    assert scores["placement_px"]["median"] == pytest.approx(median(i["placement_px"] for i in items), abs=1e-5)
    for key in ("whole", "target", "kept"):
        assert scores["psnr"][key] == pytest.approx(mean(i["psnr"][key] for i in items), abs=1e-5)
        expected = mean(i["baselines"]["copy"][key] for i in items)
        assert scores["baselines"]["copy"][key] == pytest.approx(expected, abs=1e-5)
    assert scores["nfe"] == items[0]["nfe"] > 0


def test_copying_beats_doing_nothing_at_the_target(report: dict[str, Any]) -> None:
    baselines = report["kinds"]["move"]["baselines"]
    assert baselines["copy"]["target"] > baselines["none"]["target"] + 5


def test_empty_regions_are_counted_and_left_out() -> None:
    def item(vacated: float) -> dict[str, Any]:
        row = {"target": 20.0, "vacated": vacated}
        return {
            "psnr": row, "ceiling": row, "baselines": {"none": row}, "placement_px": 1.0, "nfe": 4, "seconds": 1.0
        }  # fmt: skip

    scores = summary([item(math.nan), item(30.0)])
    assert scores["psnr"] == {"target": 20.0, "vacated": 30.0}
    assert scores["empty"] == {"target": 0, "vacated": 1}
    assert tidy(summary([item(math.nan)]))["psnr"]["vacated"] is None


def test_the_table_names_every_row(report: dict[str, Any]) -> None:
    text = table(report)
    assert all(word in text for word in ("edit", "ceiling", "none", "copy", "energy0", "vacated", "placement", "NFE"))


def test_none_is_the_source(case: Counterfactual) -> None:
    assert torch.equal(none(tiny_model(), case, None), case.before.image)  # type: ignore[arg-type]


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


def test_paste_lands_where_it_should(case: Counterfactual) -> None:
    assert placement_error(paste(case.before.image, case.edit), case.after.image, case.target) < 6  # type: ignore[arg-type]


def test_every_kind_has_the_three_baselines() -> None:
    assert all(set(rows) >= {"none", "energy0"} for rows in BASELINES.values())


def test_the_command_writes_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_pipeline(tmp_path, tiny_model())
    path = tmp_path / "new" / "bench.json"
    words = ["bench", "edits", "--kinds", "resize", "--n", "1", "--seed", "3", "--steps", "1", "--model", str(model)]
    assert main([*words, "--split", "train", "--json", str(path)]) == 0
    assert json.loads(path.read_text())["kinds"]["resize"]["n"] == 1
    assert "resize, n = 1" in capsys.readouterr().out


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
