"""The drag benchmark's run: what it writes, that it goes on where it stopped, and that it sums up as published."""

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dragonkit.cli import BAD_INPUT, main
from dragonkit.edits import Drag
from dragonkit.errors import InputError, NonFiniteError
from dragonkit.evaluate.dragbench import (
    Dift,
    DragSample,
    bench,
    bench_dragbench,
    dai,
    global_distances,
    local_distances,
    outside,
    read_samples,
    summary,
    table,
    write_sample,
)
from dragonkit.evaluate.dragbench.bench import working_size
from dragonkit.regions import as_image
from tests.tiny import box, fresh_model, picture, save_pipeline, tiny_model

FEATURES = Dift(model=tiny_model(), draws=1, t=1)


def bench_tiny(root: Path, **options: Any) -> dict[str, Any]:
    return bench_dragbench(tiny_model(), root, **{"features": FEATURES, "steps": 2, "progress": False} | options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two categories of small photographs that the tiny model does not take as they are."""
    place = tmp_path / "benchmark"
    for k, (category, name) in enumerate((("animals", "a"), ("animals", "b"), ("land_scape", "c"))):
        given = DragSample(
            picture(72, 100, seed=k),
            [(20, 20, 40, 30), (50, 50, 60, 40)][: 1 + k],
            box(72, 100, 10, 10, 60, 70),
            "a hill",
            category,
            name,
        )
        write_sample(given, place)
    return place


class Spy:
    """Counts edits, and can stop at one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[dict[str, Any]] = []
        self.stop: BaseException | None = None
        self.after = 10**9
        edit = bench.edit

        def spied(model: Any, image: Tensor, given: Drag, prompt: str, **options: Any) -> Any:
            if len(self.calls) >= self.after and self.stop is not None:
                raise self.stop
            self.calls.append({"image": image, "edit": given, "prompt": prompt})
            return edit(model, image, given, prompt, **options)

        monkeypatch.setattr(bench, "edit", spied)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    report = json.loads(json.dumps(report))
    for row in (report["overall"], *report["categories"].values(), *report["items"]):
        del row["seconds"]
    return report


def test_every_sample_is_scored_as_the_image_that_was_written(root: Path, tmp_path: Path) -> None:
    report = bench_tiny(root, out=tmp_path / "out")
    assert [(row["category"], row["name"]) for row in report["items"]] == [
        ("animals", "a"),
        ("animals", "b"),
        ("land_scape", "c"),
    ]
    for row, sample in zip(report["items"], read_samples(root), strict=True):
        path = tmp_path / "out" / sample.category / sample.name / "dragged_image.png"
        with Image.open(path) as written:
            assert written.size == (100, 72)
            result = as_image(written)
        assert row["drag_px"] == pytest.approx(sample.lengths, abs=1e-5)
        assert row["distance_px"] == pytest.approx(global_distances(FEATURES, sample, result), abs=1e-5)
        assert row["distance_local"] == pytest.approx(local_distances(FEATURES, sample, result, 128), abs=1e-5)
        assert row["dai"] == {str(r): pytest.approx(dai(sample, result, r), abs=1e-5) for r in (1, 5, 10, 20)}
        rest = outside(sample, result)
        assert (row["psnr_outside"], row["ssim_outside"]) == pytest.approx((rest["psnr"], rest["ssim"]), abs=1e-5)
        assert row["edited_at"] == [128, 128] and row["nfe"] > 0
    json.dumps(report, allow_nan=False)


def test_samples_are_edited_at_the_models_size(root: Path, spy: Spy) -> None:
    bench_tiny(root, limit=1)
    ((call),) = spy.calls
    assert call["image"].shape == (3, 128, 128) and call["prompt"] == "a hill"
    x0, y0, x1, y1 = call["edit"].points[0]
    assert (x0, y0) == pytest.approx((20.5 * 1.28 - 0.5, 20.5 * 128 / 72 - 0.5))
    assert (x1, y1) == pytest.approx((40.5 * 1.28 - 0.5, 30.5 * 128 / 72 - 0.5))
    share = call["edit"].mask.float().mean().item()
    assert share == pytest.approx(50 * 60 / (72 * 100), abs=0.02)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((128, 128), (128, 128)),
        ((512, 512), (128, 128)),
        ((64, 256), (64, 256)),
        ((512, 128), (256, 64)),
        ((64, 1000), (64, 512)),
        ((100, 130), (128, 128)),
    ],
)
def test_the_working_size_keeps_aspect_and_area(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert working_size(*size, tiny_model()) == expected


def test_a_run_that_was_stopped_goes_on(root: Path, tmp_path: Path, spy: Spy) -> None:
    whole = bench_tiny(root, out=tmp_path / "whole")
    assert len(spy.calls) == 3
    spy.calls.clear()
    spy.after, spy.stop = 2, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        bench_tiny(root, out=tmp_path / "out")
    assert sorted(content(tmp_path / "out")) == [
        f"animals/{name}/{file}" for name in "ab" for file in ("dragged_image.png", "scores.json")
    ]
    before = content(tmp_path / "out")
    spy.after = 10**9
    report = bench_tiny(root, out=tmp_path / "out")
    assert len(spy.calls) == 3  # two before, one after
    assert without_times(report) == without_times(whole)
    after = content(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert without_times(bench_tiny(root, out=tmp_path / "out")) == without_times(whole)
    assert len(spy.calls) == 3


def test_other_features_score_the_same_images_again(root: Path, tmp_path: Path, spy: Spy) -> None:
    out = tmp_path / "out"
    first = bench_tiny(root, out=out)
    images = {name: data for name, data in content(out).items() if name.endswith(".png")}
    again = bench_tiny(root, out=out, features=Dift(model=tiny_model(), draws=1, t=900))
    assert len(spy.calls) == 3
    assert {name: data for name, data in content(out).items() if name.endswith(".png")} == images
    assert again["run"]["features"]["t"] == 900
    assert [row["dai"] for row in again["items"]] == [row["dai"] for row in first["items"]]
    assert [row["distance_px"] for row in again["items"]] != [row["distance_px"] for row in first["items"]]


def test_other_settings_want_another_folder(root: Path, tmp_path: Path, spy: Spy) -> None:
    out = tmp_path / "out"
    bench_tiny(root, out=out, limit=1)
    before = content(out)
    with pytest.raises(InputError, match="steps 3, not 2.*give another --out"):
        bench_tiny(root, out=out, steps=3)
    assert content(out) == before and len(spy.calls) == 1


@pytest.mark.parametrize("record", ["{", "[]", "{}", '{"sample": "elsewhere"}', "null"])
def test_a_record_that_is_not_whole_or_of_another_sample_is_made_again(
    root: Path, tmp_path: Path, spy: Spy, record: str
) -> None:
    out = tmp_path / "out"
    first = bench_tiny(root, out=out, limit=1)
    (out / "animals" / "a" / "scores.json").write_text(record)
    assert without_times(bench_tiny(root, out=out, limit=1)) == without_times(first)
    assert len(spy.calls) == 2


def test_a_changed_sample_is_edited_again(root: Path, tmp_path: Path, spy: Spy) -> None:
    bench_tiny(root, out=tmp_path / "out", limit=1)
    sample = next(read_samples(root))
    write_sample(
        DragSample(sample.image, [(20, 20, 41, 30)], sample.mask, sample.prompt, sample.category, sample.name), root
    )
    report = bench_tiny(root, out=tmp_path / "out", limit=1)
    assert len(spy.calls) == 2 and report["items"][0]["drag_px"] == [pytest.approx(math.hypot(21, 10))]


def test_a_spoiled_sample_is_found_before_the_first_edit(root: Path, tmp_path: Path, spy: Spy) -> None:
    (root / "land_scape" / "c" / "meta_data.pkl").write_bytes(b"cos\nsystem\n.")
    with pytest.raises(InputError, match="os.system"):
        bench_tiny(root, out=tmp_path / "out")
    assert not spy.calls and not (tmp_path / "out").exists()


def test_an_edit_that_fails_is_named(root: Path, spy: Spy) -> None:
    spy.after, spy.stop = 1, NonFiniteError("step 3")
    with pytest.raises(NonFiniteError, match="animals/b: step 3"):
        bench_tiny(root)


def test_without_a_mask_nothing_is_said_of_the_outside(tmp_path: Path) -> None:
    given = DragSample(picture(64, 64), [(20, 20, 40, 30)], torch.zeros(64, 64, dtype=torch.bool), name="a_1")
    write_sample(given, tmp_path / "benchmark", "drag100")
    report = bench_tiny(tmp_path / "benchmark", layout="drag100")
    assert report["overall"]["psnr_outside"] is None and report["items"][0]["category"] == "a"
    assert report["items"][0]["edited_at"] == [128, 128]
    assert "-" in table(report)


def test_a_missing_score_is_said_to_be_absent(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "load_fidelity", lambda: (None, "no backbone"))
    report = bench_tiny(root, limit=1)
    assert report["absent"] == {"image_fidelity": "no backbone"}
    assert "image_fidelity" not in report["overall"] and "image_fidelity" not in report["items"][0]
    assert "image_fidelity is absent: no backbone" in table(report)

    monkeypatch.setattr(bench, "load_fidelity", lambda: (lambda a, b: 0.75, ""))
    report = bench_tiny(root, limit=1)
    assert report["absent"] == {} and report["overall"]["image_fidelity"] == 0.75


def test_fidelity_that_turns_up_later_is_added_without_editing(
    root: Path, tmp_path: Path, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "load_fidelity", lambda: (None, "no backbone"))
    bench_tiny(root, limit=1, out=tmp_path / "out")
    monkeypatch.setattr(bench, "load_fidelity", lambda: (lambda a, b: 0.75, ""))
    assert bench_tiny(root, limit=1, out=tmp_path / "out")["items"][0]["image_fidelity"] == 0.75
    assert len(spy.calls) == 1


def row(points: int, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "drag_px": [10.0] * points,
        "distance_px": [float(points)] * points,
        "distance_local": [0.1 * points] * points,
        "dai": {r: 0.1 * points for r in ("1", "5", "10", "20")},
        "dai_as_released": {r: 0.1 for r in ("1", "5", "10", "20")},
        "psnr_outside": 30.0,
        "ssim_outside": None,
        "nfe": 10,
        "seconds": 1.0 * points,
    }
    return made | changes


def test_means_are_over_points_or_samples_as_published() -> None:
    made = summary([row(1), row(3), row(2, psnr_outside=None)])
    assert (made["n"], made["points"], made["seconds"]) == (3, 6, 2.0)
    assert made["distance_px"] == pytest.approx((1 * 1 + 3 * 3 + 2 * 2) / 6)  # every point counts once
    assert made["distance_local"] == pytest.approx(fmean([0.1, 0.3, 0.2]))  # every sample counts once
    assert made["dai"]["5"] == pytest.approx(0.2) and made["dai_as_released"]["20"] == pytest.approx(0.1)
    assert made["psnr_outside"] == 30 and math.isnan(made["ssim_outside"])


def test_categories_add_up(root: Path) -> None:
    report = bench_tiny(root)
    assert {name: made["n"] for name, made in report["categories"].items()} == {"animals": 2, "land_scape": 1}
    assert report["overall"]["n"] == 3 and report["overall"]["points"] == 5
    assert len(table(report).splitlines()) == 1 + 2 + 1 + 1 + len(report["absent"])


# The command.


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_pipeline(tmp_path_factory.mktemp("weights"), fresh_model()))


def test_the_command_writes_the_report(
    root: Path, tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "dragbench", str(root), "--model", weights, "--features-model", weights, "--preset", "iclr"]
    words += ["--layer", "3", "--timestep", "100", "--draws", "1", "--steps", "2", "--categories", "animals"]
    words += ["--out", str(tmp_path / "out"), "--json", str(tmp_path / "report.json")]
    assert main(words) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["categories"]) == ["animals"] and report["overall"]["n"] == 2
    assert report["run"]["features"] == {"model": weights, "layer": 3, "t": 100, "draws": 1, "seed": 0}
    assert report["run"]["edit"]["guidance"]["steps"] == 2
    assert np.asarray(Image.open(tmp_path / "out" / "animals" / "a" / "dragged_image.png")).shape == (72, 100, 3)
    printed = capsys.readouterr().out
    assert "MD px" in printed and "animals" in printed and "report.json" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "zip"], "unknown layout 'zip'"),
        (["--format", "drag100"], "no samples in"),
        (["--categories", "cars"], "no category 'cars'"),
        (["--limit", "0"], "limit is 0"),
        (["--preset", "best"], "preset 'best' is not known"),
        (["--steps", "0"], "steps is 0"),
        (["--layer", "7"], "7"),
        (["--timestep", "1000"], "1000"),
        (["--draws", "0"], "draws is 0"),
        (["--model", "nowhere"], "no model 'nowhere'"),
    ],
)
def test_a_wrong_option_is_one_line(
    root: Path, tmp_path: Path, weights: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "out", tmp_path / "report.json"
    given = ["bench", "dragbench", str(root), "--model", weights, "--out", str(out), "--json", str(report), *words]
    assert main(given) == BAD_INPUT
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists() and not report.exists()


def test_a_json_file_must_be_named_so(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "dragbench", str(root), "--json", str(tmp_path / "report.txt")]
    assert main(words) == BAD_INPUT
    assert "does not end in .json" in capsys.readouterr().err
