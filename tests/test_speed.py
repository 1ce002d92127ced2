"""The official shapes compute the same edit as ours and evaluate more; the report adds up."""

import json
from pathlib import Path

import pytest

from dragonkit.cli import main
from dragonkit.editor import edit
from dragonkit.errors import InputError
from dragonkit.evaluate.official import official_edit
from dragonkit.evaluate.speed import bench_speed, table
from dragonkit.guidance import PRESETS, Guidance
from dragonkit.world import counterfactual
from tests.tiny import hooks, tiny_model

STEPS = 5  # windows of the presets: 3 guided steps, attention at all but the first, or at all
NFE = {  # inversion, generation, guided steps: reference and differentiated features; or the branch at every step
    "official": 5 + 5 + 3 * 2,
    "uncached": 5 + 5 + 5 + 3,
}


@pytest.mark.parametrize("shape", ["official", "uncached"])
@pytest.mark.parametrize(
    ("kind", "preset", "changes"),
    [
        ("move", "iclr", {}),
        ("move", "mini", {}),
        ("move", "paper", {}),
        ("move", "iclr", {"layers": (1, 3), "w_edit": 0.0}),
        ("drag", "iclr", {}),
        ("appearance", "iclr", {}),
    ],
)
def test_the_mathematics_is_ours(kind: str, preset: str, changes: dict, shape: str) -> None:
    case = counterfactual(kind, 1, split="train", size=64)
    w = Guidance.preset(preset, kind=kind).replace(steps=STEPS, energy=0.5, **changes)
    model = tiny_model()
    theirs = official_edit(model, case.before.image, case.edit, case.prompt, w, shape)
    ours = edit(model, case.before.image, case.edit, case.prompt, guidance=w, progress=False)
    unguided = edit(model, case.before.image, case.edit, case.prompt, guidance=w.replace(energy=0.0), progress=False)
    scale = (ours.latent - unguided.latent).abs().max()
    assert scale > 1e-3  # guidance does something that could be missed
    assert (theirs.latent - ours.latent).abs().max() < 1e-3 * scale
    assert (theirs.tensor - ours.tensor).abs().max() < 1e-3
    assert theirs.nfe > ours.nfe
    assert hooks(model) == 0


@pytest.mark.parametrize("shape", ["official", "uncached"])
def test_what_is_evaluated_is_counted(shape: str) -> None:
    case = counterfactual("move", 1, split="train", size=64)
    w = Guidance.preset("iclr").replace(steps=STEPS)
    assert official_edit(tiny_model(), case.before.image, case.edit, case.prompt, w, shape).nfe == NFE[shape]


def test_guidance_that_the_loops_do_not_know_is_refused() -> None:
    case = counterfactual("move", 1, split="train", size=64)
    w = Guidance(sde=(0.2, 0.4), sde_inside=0.4)
    with pytest.raises(InputError, match="another preset"):
        official_edit(tiny_model(), case.before.image, case.edit, case.prompt, w)
    with pytest.raises(InputError, match="one_pass"):
        official_edit(tiny_model(), case.before.image, case.edit, case.prompt, Guidance(one_pass=True))


def test_the_report_adds_up() -> None:
    report = bench_speed(
        tiny_model(), n=2, repeats=2, split="train", preset="mini", steps=5, presets=[], size=64,
        progress=False,
    )  # fmt: skip
    rows = report["variants"]
    assert list(rows) == ["official", "uncached", "ours", "one pass"]
    assert [row["nfe"] for row in rows.values()] == [16, 18, 13, 10]
    assert all(row["preset"] == "mini" and row["steps"] == 5 for row in rows.values())
    assert rows["official"]["times_faster"]["official"] == 1
    assert rows["official"]["psnr_gain"] == 0
    work = [row["flops"] for row in rows.values()]
    assert work[1] > work[0] > work[2] > work[3] > 0  # nothing kept, the official loop, ours, one pass
    for row in rows.values():
        for than, ratio in row["times_less_work"].items():
            assert ratio == pytest.approx(rows[than]["flops"] / row["flops"], abs=1e-5)
        assert [len(times) for times in row["times"]] == [2, 2]
        assert 0 < row["seconds"] <= max(t for times in row["times"] for t in times)
        gain = row["psnr"]["whole"] - rows["official"]["psnr"]["whole"]
        assert row["psnr_gain"] == pytest.approx(gain, abs=1e-5)
    assert rows["ours"]["psnr_gain"] == pytest.approx(0, abs=0.01)
    json.dumps(report, allow_nan=False)


def test_the_official_shape_takes_as_many_evaluations_as_published_and_no_guidance_runs_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A fifth of the published 50 steps, and so a fifth of the published 160 and of our 130 evaluations.
    fifth = {**PRESETS["iclr"], "all": PRESETS["iclr"]["all"] | {"steps": 10}}
    monkeypatch.setitem(PRESETS, "iclr", fifth)
    report = bench_speed(
        tiny_model(), n=1, repeats=1, split="train", preset="iclr", steps=10, presets=["iclr"], size=64, progress=False
    )
    rows = report["variants"]
    assert list(rows) == ["official", "uncached", "ours", "one pass", "preset iclr"]
    assert rows["preset iclr"] == rows["ours"]
    assert rows["official"]["nfe"] == 160 / 5 and rows["ours"]["nfe"] == 130 / 5
    text = table(report)
    assert all(name in text for name in (*rows, "NFE", "TFLOP", "threads"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--kind fold", "fold"),
        ("--n 0", "n is 0"),
        ("--repeats 0", "repeats is 0"),
        ("--steps 0", "steps is 0"),
        ("--preset best", "best"),
        ("--presets best", "best"),
        ("--preset diffeditor", "another preset"),
        ("--split all", "all"),
    ],
)
def test_the_command_refuses_what_it_cannot_run(
    words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "speed", *words.split(), "--json", str(tmp_path / "speed.json")]) == 2
    message = capsys.readouterr().err
    assert said in message and len(message.splitlines()) == 1
    assert not list(tmp_path.iterdir())
