"""The command line: what it writes when all is well, and that it writes nothing when anything is not."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import dragonkit.editor
from dragonkit import world
from dragonkit.cli import BAD_INPUT, INTERRUPTED, main
from dragonkit.files import write_image
from dragonkit.world import Scene, caption, sample_scene
from tests.tiny import box, fresh_model, picture, save_pipeline

SPEC: dict[str, Any] = {
    "version": 2,
    "model": "./model",
    "image": "before.png",
    "prompt": "a ball",
    "edits": [{"kind": "move", "mask": "mask.png", "by": [30, 0]}],
    "guidance": {"preset": "iclr", "steps": 3},
    "truth": {"image": "after.png", "mask": "target.png"},
}


MOVE = SPEC["edits"][0]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("weights"), fresh_model())


@pytest.fixture
def folder(tmp_path: Path, weights: Path) -> Path:
    """A folder with a good spec and all it names."""
    place = tmp_path / "case"
    shutil.copytree(weights, place / "model")
    write_image(picture(64, 96), place / "before.png")
    write_image(picture(64, 96, seed=1), place / "after.png")
    write_image(box(64, 96, 20, 10, 40, 30), place / "mask.png")
    write_image(box(64, 96, 20, 40, 40, 60), place / "target.png")
    (place / "edit.json").write_text(json.dumps(SPEC))
    return place


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


def test_edit_writes_image_figure_and_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "new" / "out"
    assert main(["edit", str(folder / "edit.json"), "--out", str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["edit.png", "overview.png", "result.json"]
    assert Image.open(out / "edit.png").size == (96, 64)
    record = json.loads((out / "result.json").read_text())
    assert record["spec"]["edits"][0] == {**MOVE, "scale": 1.0, "angle": 0.0}
    assert set(record["psnr"]) == {"whole", "target", "vacated", "shadow", "kept"}
    assert record["nfe"] > 0 and record["placement_px"] >= 0
    assert all(len(values) == 3 for values in record["energies"].values())
    printed = capsys.readouterr().out
    assert "placement error" in printed and "PSNR in dB: whole" in printed and f"NFE {record['nfe']}, " in printed


KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "resize": ({"kind": "resize", "mask": "mask.png", "scale": 1.4}, "placement_px"),
    "drag": ({"kind": "drag", "points": [[20, 30, 50, 30]], "mask": "mask.png"}, "points_px"),
    "appearance": (
        {"kind": "appearance", "mask": "mask.png", "reference": "after.png", "reference_mask": "target.png"},
        "ciede2000",
    ),
    "paste": ({"kind": "paste", "reference": "after.png", "reference_mask": "target.png", "at": [30, 30]}, "psnr"),
}
SAID = {
    "placement_px": "placement error",
    "points_px": "points off by",
    "ciede2000": "colour difference",
    "psnr": "PSNR",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_edit_is_reported(folder: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    edit, score = KINDS[kind]
    respec(edits=[edit])(folder)
    assert main(["edit", str(folder / "edit.json"), "--out", str(folder / "out")]) == 0
    record = json.loads((folder / "out" / "result.json").read_text())
    printed = capsys.readouterr().out
    for name, words in SAID.items():
        assert (record[name] is not None) == (name in (score, "psnr")) == (words in printed)
    assert set(record["psnr"]) == ({"whole"} if kind == "paste" else {"whole", "target", "vacated", "shadow", "kept"})
    with Image.open(folder / "out" / "overview.png") as overview:
        wide = 5 if kind in ("appearance", "paste") else 4  # panels, one of them for the reference
        assert overview.width == pytest.approx(wide * 4.2 * 110, abs=2)


def test_several_edits_and_a_generated_image(folder: Path) -> None:
    generate = {"generate": {"prompt": "a ball", "seed": 4, "size": [64, 64]}}
    paste, move = KINDS["paste"][0], MOVE
    for name in ("mask.png", "target.png"):
        Image.open(folder / name).crop((0, 0, 64, 64)).save(folder / name)
    Image.open(folder / "after.png").crop((0, 0, 64, 64)).save(folder / "after.png")
    respec(image=generate, edits=[{**move, "by": [9, 0]}, paste])(folder)
    assert main(["edit", str(folder / "edit.json"), "--out", str(folder / "out")]) == 0
    record = json.loads((folder / "out" / "result.json").read_text())
    assert record["spec"]["image"] == {"generate": {"prompt": "a ball", "seed": 4, "cfg": 3.0, "size": [64, 64]}}
    assert {"edit 1", "edit 2"} < set(record["energies"]) and record["placement_px"] is None
    assert Image.open(folder / "out" / "edit.png").size == (64, 64)


def test_version_1_is_still_read(folder: Path) -> None:
    old = {name: value for name, value in SPEC.items() if name != "edits"} | {"version": 1, "edit": MOVE}
    for name, spec in (("old", old), ("new", SPEC)):
        (folder / "edit.json").write_text(json.dumps(spec))
        assert main(["edit", str(folder / "edit.json"), "--out", str(folder / name)]) == 0
    assert (folder / "old" / "edit.png").read_bytes() == (folder / "new" / "edit.png").read_bytes()


def test_edit_without_a_truth_prints_no_score(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "edit.json").write_text(json.dumps({k: v for k, v in SPEC.items() if k != "truth"}))
    assert main(["edit", str(folder / "edit.json"), "--out", str(folder / "out")]) == 0
    assert capsys.readouterr().out.startswith("NFE ")
    assert json.loads((folder / "out" / "result.json").read_text())["psnr"] == {}


def test_the_same_spec_gives_the_same_image(folder: Path) -> None:
    for name in ("a", "b"):
        assert main(["edit", str(folder / "edit.json"), "--out", str(folder / name)]) == 0
    assert (folder / "a" / "edit.png").read_bytes() == (folder / "b" / "edit.png").read_bytes()


def respec(**changes: Any) -> Callable[[Path], None]:
    """Change the spec's fields."""
    return lambda folder: (folder / "edit.json").write_text(json.dumps({**SPEC, **changes})) and None


def repaint(
    name: str, mode: str = "RGB", size: tuple[int, int] = (96, 64), colour: int | None = None
) -> Callable[[Path], None]:
    """Replace a picture by one of one colour."""
    return lambda folder: Image.new(mode, size, *([] if colour is None else [colour])).save(folder / name)


def shrink(folder: Path) -> None:
    """Make every picture a small one."""
    for name, mode in (("before.png", "RGB"), ("after.png", "RGB"), ("mask.png", "L"), ("target.png", "L")):
        repaint(name, mode, (32, 32), 255)(folder)


def truncate(name: str) -> Callable[[Path], None]:
    return lambda folder: (
        (folder / name).write_bytes((folder / name).read_bytes()[: (folder / name).stat().st_size // 2]) and None
    )


def spoil(value: float) -> Callable[[Path], None]:
    """Put one bad number into the denoiser's weights."""

    def change(folder: Path) -> None:
        path = next((folder / "model" / "unet").glob("*.safetensors"))
        tensors = load_file(path)
        tensors[sorted(tensors)[0]].flatten()[0] = value
        save_file(tensors, path, metadata={"format": "pt"})

    return change


UNET = "model/unet/diffusion_pytorch_model.safetensors"
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "mask of another size": (repaint("mask.png", "L", (64, 64), 255), "64x64 but the image is 96x64"),
    "empty mask": (repaint("mask.png", "1"), "mask.png is empty: mark"),
    "mask in colour": (repaint("mask.png", "RGB"), "mode RGB"),
    "target off the image": (respec(edits=[{**MOVE, "by": [300, 0]}]), "(300, 0) the object leaves the image: shorten"),
    "image with alpha": (repaint("before.png", "RGBA"), "mode RGBA, not RGB: convert"),
    "image in grey": (repaint("before.png", "L"), "mode L, not RGB: convert"),
    "broken image": (truncate("before.png"), "before.png is broken"),
    "broken mask": (truncate("mask.png"), "mask.png is broken"),
    "no image": (lambda folder: (folder / "before.png").unlink(), "before.png is not a file"),
    "text as image": (lambda folder: (folder / "before.png").write_text("hello"), "not a readable image"),
    "small image": (shrink, "32x32: enlarge"),
    "unknown model": (respec(model="minnie"), "no model 'minnie'"),
    "missing folder": (respec(model="./nowhere"), "nowhere"),
    "missing weights": (lambda folder: (folder / UNET).unlink(), "no unet/*.safetensors"),
    "truncated weights": (truncate(UNET), "is damaged"),
    "empty weights": (lambda folder: (folder / UNET).write_bytes(b""), "is damaged"),
    "missing text encoder": (lambda folder: shutil.rmtree(folder / "model" / "text_encoder"), "no text_encoder/"),
    "missing tokenizer": (lambda folder: shutil.rmtree(folder / "model" / "tokenizer"), "tokenizer"),
    "missing scheduler": (lambda folder: shutil.rmtree(folder / "model" / "scheduler"), "scheduler"),
    "NaN weights": (spoil(float("nan")), "holds NaN or infinity"),
    "infinite weights": (spoil(float("inf")), "holds NaN or infinity"),
    "unknown field": (respec(promt="x"), "unknown field 'promt'"),
    "wrong type": (respec(edits=[{**MOVE, "by": "far"}]), "edits.0.by is 'far'"),
    "steps 0": (respec(guidance={"steps": 0}), "steps is 0: give 1 or more"),
    "too many steps": (respec(guidance={"steps": 1001}), "steps is 1001: give a whole number"),
    "unknown layer": (respec(guidance={"layers": [2, 9], "steps": 2}), "9"),
    "prompt not text": (respec(prompt=["a ball"]), "prompt is ['a ball']"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    spoiled, message = BAD[name]
    spoiled(folder)
    before = tree(folder.parent)
    code = main(["edit", str(folder / "edit.json"), "--out", str(folder.parent / "a" / "out")])
    said = capsys.readouterr()
    assert code == BAD_INPUT == 2
    assert said.err.startswith("dragonkit: ") and said.err.count("\n") == 1, said.err
    assert message in said.err
    assert said.out == ""
    assert tree(folder.parent) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "required: COMMAND"),
        ("paint", "invalid choice: 'paint'"),
        ("edit spec.json", "required: --out"),
        ("edit none.json --out out", "none.json cannot be read"),
        ("render --seed one --out a.png", "invalid int value: 'one'"),
        ("render --seed 1 --out a.gif", "does not end in .png"),
        ("render --seed 1 --split validation --out a.png", "'validation'"),
        ("render --seed 1 --size 0 --out a.png", "size"),
        ("case --kind explode --seed 1 --out case", "'explode'"),
        ("bench edits --kinds explode --json a.json", "unknown kind 'explode'"),
        ("bench edits --n 0 --json a.json", "n is 0"),
        ("bench edits --json a.txt", "does not end in .json"),
        ("bench edits --steps 0 --json a.json", "steps is 0"),
        ("bench edits --preset best --n 1 --json a.json", "preset 'best' is not known"),
    ],
)
def test_wrong_words_are_one_line_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == BAD_INPUT
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dragonkit.editor, "edit", interrupted)
    before = tree(folder.parent)
    assert main(["edit", str(folder / "edit.json"), "--out", str(folder.parent / "out")]) == INTERRUPTED == 130
    assert capsys.readouterr().err.endswith("interrupted, nothing written\n")
    assert tree(folder.parent) == before


def test_a_real_interrupt_from_the_keyboard(folder: Path) -> None:
    respec(guidance={"preset": "iclr", "steps": 60})(folder)
    before = tree(folder.parent)
    command = [
        sys.executable,
        "-m",
        "dragonkit",
        "edit",
        str(folder / "edit.json"),
        "--out",
        str(folder.parent / "out"),
    ]
    # Where tests run in the background, interrupts are ignored, and a child would inherit that.
    listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)} if os.name == "posix" else {}
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=Path(__file__).parent.parent, **listening) as process:
        assert process.stderr is not None
        seen = b""
        while b"edit:" not in seen:  # the second progress bar: the edit has begun
            seen += os.read(process.stderr.fileno(), 4096) or pytest.fail(f"ended early: {seen!r}")
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == INTERRUPTED
    assert rest.endswith(b"interrupted, nothing written\n") and b"Traceback" not in rest
    assert tree(folder.parent) == before


def test_render_writes_the_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "scene.png"
    assert main(["render", "--seed", "5", "--size", "64", "--out", str(path)]) == 0
    assert Image.open(path).size == (64, 64)
    scene: Scene = sample_scene(5, "test")
    assert capsys.readouterr().out == f"{path}: {caption(scene)}\n"


@pytest.mark.parametrize("kind", world.KINDS)
def test_case_writes_a_spec_that_edit_accepts(tmp_path: Path, weights: Path, kind: str) -> None:
    case = tmp_path / "case"
    assert main(["case", "--kind", kind, "--split", "train", "--seed", "2", "--out", str(case)]) == 0
    spec = json.loads((case / "edit.json").read_text())
    spec |= {"model": "./model", "guidance": {"preset": "iclr", "steps": 2}}
    (case / "edit.json").write_text(json.dumps(spec))
    shutil.copytree(weights, case / "model")
    assert main(["edit", str(case / "edit.json"), "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    score = {"move": "placement_px", "resize": "placement_px", "appearance": "ciede2000"}.get(kind, "points_px")
    assert record[score] is not None and record["psnr"]["kept"] > 0


def test_lab_without_notebooks_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setattr(dragonkit, "__file__", str(tmp_path / "dragonkit" / "__init__.py"))
    assert main(["lab"]) == BAD_INPUT
    assert "clone" in capsys.readouterr().err


def test_help_and_version_are_quick_and_kind(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["edit", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as done:
            main(words)
        assert done.value.code == 0
    assert dragonkit.__version__ in capsys.readouterr().out


def test_threads_and_seeds_are_left_alone(folder: Path) -> None:
    before = torch.get_num_threads(), torch.initial_seed()
    assert main(["edit", str(folder / "edit.json"), "--out", str(folder / "out")]) == 0
    assert (torch.get_num_threads(), torch.initial_seed()) == before
