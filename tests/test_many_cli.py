"""The command ``many``: what it reads, writes, says and returns, in one process and in several, stopped or killed."""

from __future__ import annotations

import codecs
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from dragonkit.cli import BAD_INPUT, main
from dragonkit.cli.codes import FAILED, INTERRUPTED
from dragonkit.edits import Move
from dragonkit.errors import InputError
from dragonkit.files import read_image
from dragonkit.guidance import Guidance
from dragonkit.many import edit_many, read_jobs
from dragonkit.many.devices import Place, Work, launched, rows_on
from dragonkit.models import load
from dragonkit.spec import save_spec
from tests.tiny import box, fresh_model, picture, save_pipeline

ROOT = Path(__file__).parent.parent
SHORT = Guidance().replace(steps=3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("weights") / "model", fresh_model())


def cases(folder: Path, weights: Path, count: int = 3, steps: int = 3, bad: int | None = None) -> Path:
    """A folder of specs c0, c1, ..., beside a model; the bad one asks for something impossible."""
    shutil.copytree(weights, folder.parent / "model", dirs_exist_ok=True)
    for k in range(count):
        move = Move(box(64, 64, 8, 8, 32, 32), (200 if k == bad else 20, 0))
        save_spec(folder / f"c{k}", picture(64, 64, k), move, "", SHORT.replace(steps=steps), model="../../model")
    return folder


def results(out: Path) -> dict[str, dict[str, Any]]:
    """What every finished job's folder says."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("*/result.json"))}


@contextmanager
def started(*words: Any, under: str = "", **env: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own; where tests run in the background it would not hear interrupts."""
    line = [sys.executable, *under.split(), "-m", "dragonkit", "many", *map(str, words)]
    said: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    if os.name == "posix":
        said["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(line, env=os.environ | {"OMP_NUM_THREADS": "1"} | env, **said) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_folder_is_done_but_for_what_is_bad_and_not_done_again(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = cases(tmp_path / "cases", weights, bad=1), tmp_path / "new" / "out"
    line = ["many", str(source), "--out", str(out), "--batch", "2", "--json", str(tmp_path / "all.json")]
    assert main(line) == FAILED
    said = capsys.readouterr()
    assert "c1: moved by (200, 0) the object leaves the image: shorten the move" in said.err and "3/3" in said.err
    assert "2 done, 0 kept, 1 failed" in said.out and "edits a minute" in said.out
    assert [row.split()[:2] for row in said.out.splitlines()[1:4]] == [["c0", "done"], ["c1", "failed"], ["c2", "done"]]
    assert sorted(p.name for p in out.iterdir() if p.name[0] != ".") == ["c0", "c1.error.json", "c2"]
    summary = json.loads((tmp_path / "all.json").read_text())
    assert (summary["done"], summary["kept"], summary["failed"]) == (2, 0, 1) and summary["devices"] == ["cpu"]
    nfe = {job["name"]: job["nfe"] for job in summary["jobs"]}
    assert nfe == {"c0": 8, "c1": None, "c2": 8} and {r["nfe"] for r in results(out).values()} == {8}
    assert results(out)["c0"]["spec"]["edits"][0]["by"] == [20.0, 0.0]

    before = {p: p.stat().st_mtime_ns for p in out.glob("c?/*")}
    assert main(line) == FAILED
    assert "0 done, 2 kept, 1 failed" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in out.glob("c?/*")} == before

    shutil.rmtree(source / "c1")
    assert main(line) == 0


def test_what_many_writes_is_what_edit_writes(tmp_path: Path, weights: Path) -> None:
    source = cases(tmp_path / "cases", weights, 1)
    assert main(["many", str(source), "--out", str(tmp_path / "many")]) == 0
    assert main(["edit", str(source / "c0" / "edit.json"), "--out", str(tmp_path / "edit")]) == 0
    one, other = tmp_path / "many" / "c0" / "edit.png", tmp_path / "edit" / "edit.png"
    assert one.read_bytes() == other.read_bytes()


def test_a_list_names_its_jobs_or_numbers_them_and_a_broken_line_is_one_job(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cases(tmp_path / "cases", weights, 2)
    lines = []
    for k in range(2):
        spec = json.loads((folder / f"c{k}" / "edit.json").read_text())
        spec |= {"image": f"c{k}/{spec['image']}", "model": "./../model"}
        spec["edits"][0]["mask"] = f"c{k}/{spec['edits'][0]['mask']}"
        lines.append(json.dumps(spec | ({"name": "first"} if k == 0 else {})))
    source = folder / "list.jsonl"
    source.write_text("\n".join([lines[0], "", '{"version": 2', lines[1], '{"version": 9, "name": "new"}']))
    assert main(["many", str(source), "--out", str(tmp_path / "out")]) == FAILED
    assert results(tmp_path / "out").keys() == {"first", "000004"}
    said = capsys.readouterr().err
    assert "000003: " in said and "list.jsonl, line 3: not JSON" in said and "version is 9" in said


def test_lists_are_read_whatever_wrote_them_and_names_that_cannot_be_are_said(tmp_path: Path) -> None:
    def line(**more: Any) -> str:
        spec = {"version": 2, "image": "a.png", "edits": [{"kind": "drag", "points": [[1, 2, 3, 4]]}]}
        return json.dumps(spec | more, ensure_ascii=False)

    lines = [
        line(prompt="a\u2028b\x85c"),
        line(prompt="caf\xe9"),
        *(line(name=n) for n in (5, "", "a/b", "a\nb", "é" * 120)),
    ]
    text = "\r\n".join([*lines, "[" * 10**5, line(name="last")])
    source = tmp_path / "list.JSONL"
    source.write_bytes(codecs.BOM_UTF8 + text.encode().replace("caf\xe9".encode(), b"caf\xe9"))
    jobs = {job.name: job for job in read_jobs(str(source))}
    assert list(jobs) == [*(f"{k:06d}" for k in range(1, 9)), "last"]
    assert jobs["000001"].spec().prompt == "a\u2028b\x85c" and jobs["last"].spec().image == "a.png"
    for k in (2, 8):
        with pytest.raises(InputError, match=f"line {k}: not JSON"):
            jobs[f"00000{k}"].spec()
    for k in range(3, 8):
        with pytest.raises(InputError, match=f"line {k}: the name .* cannot be a folder's"):
            jobs[f"00000{k}"].spec()


def test_of_a_folder_what_is_hidden_and_what_tells_of_failures_is_no_spec(tmp_path: Path) -> None:
    for name in (
        "a.json",
        "a.error.json",
        "._a.json",
        "b/edit.json",
        ".ipynb_checkpoints/edit.json",
        "c.json/x",
        "d/x",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{")
    (tmp_path / "e.json").symlink_to("nowhere")
    assert [job.name for job in read_jobs(tmp_path)] == ["a", "b", "e"]


def test_specs_of_another_model_fail_unless_a_model_is_given(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = cases(tmp_path / "cases", weights, 2)
    other = source / "c1" / "edit.json"
    other.write_text(json.dumps(json.loads(other.read_text()) | {"model": "elsewhere"}))
    line = ["many", str(source), "--out", str(tmp_path / "out")]
    assert main(line) == FAILED
    assert "its model is 'elsewhere'" in capsys.readouterr().err and results(tmp_path / "out").keys() == {"c0"}
    assert main([*line, "--model", str(weights)]) == 0
    assert results(tmp_path / "out")["c1"]["spec"]["model"] == str(weights)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("many nowhere --out out", "nowhere is neither a folder of specs nor a .jsonl file"),
        ("many empty --out out", "empty holds no spec"),
        ("many twice --out out", "twice has two specs of the name 'a'"),
        ("many broken --out out", "not JSON"),
        ("many broken --out file", "is a file"),
        ("many fine --out out --batch 0", "batch is 0"),
        ("many fine --out out --memory less", "memory is 'less'"),
        ("many fine --out out --devices tpu", "device is 'tpu'"),
        ("many fine --out out --model minnie", "minnie"),
        ("many fine --out out --json a.txt", "does not end in .json"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "twice/a", "broken"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("twice/a.json", "twice/a/edit.json", "broken/a.json", "file"):
        (tmp_path / name).write_text("{")
    if "fine" in words:
        cases(tmp_path / "fine", weights, 1)
    assert main(words.split()) == BAD_INPUT
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("dragonkit: ") and message in said[-1] and not (tmp_path / "out").exists()


def test_processes_share_the_work_and_do_nothing_twice(tmp_path: Path, weights: Path) -> None:
    source, out = cases(tmp_path / "cases", weights, 6, bad=4), tmp_path / "out"
    done: list[set[str]] = []
    with started(source, "--out", out, "--json", tmp_path / "a.json") as other:
        here = main(
            ["many", str(source), "--out", str(out), "--json", str(tmp_path / "b.json"), "--devices", "cpu", "cpu"]
        )
        said = other.communicate()[0]
    assert here == other.returncode == FAILED, said
    for name in ("a.json", "b.json"):
        jobs = json.loads((tmp_path / name).read_text())["jobs"]
        assert {job["name"]: job["state"] == "failed" for job in jobs} == {f"c{k}": k == 4 for k in range(6)}
        done.append({job["name"] for job in jobs if job["state"] == "done"})
    assert not done[0] & done[1] and done[0] | done[1] == results(out).keys() == {f"c{k}" for k in (0, 1, 2, 3, 5)}
    assert not [p for p in out.iterdir() if p.is_dir() and p.name[0] == "."]


def test_a_killed_run_leaves_whole_results_and_the_next_goes_on(tmp_path: Path, weights: Path) -> None:
    source, out = cases(tmp_path / "cases", weights, 4, steps=40), tmp_path / "out"
    with started(source, "--out", out) as process:
        while not (out / "c1").exists() and process.poll() is None:
            time.sleep(0.05)
        process.kill()
    before = results(out)
    assert {"c0", "c1"} <= before.keys() < {"c0", "c1", "c2", "c3"}
    model = load(str(tmp_path / "model"), device="cpu")
    states = {outcome.name: outcome.state for outcome in edit_many(model, read_jobs(source), out=out)}
    assert states == {f"c{k}": "kept" if f"c{k}" in before else "done" for k in range(4)}
    assert all(read_image(out / name / "edit.png").size == (64, 64) for name in states)
    assert not [p for p in out.iterdir() if p.name[0] == "." and p.name != ".begun"]


def test_what_a_killed_process_had_claimed_another_takes_over(tmp_path: Path, weights: Path) -> None:
    source, out = cases(tmp_path / "cases", weights, 2), tmp_path / "out"
    out.mkdir()
    script = (
        "import sys, time, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire();"
        "print('here', flush=True); time.sleep(60)"
    )
    model = load(str(tmp_path / "model"), device="cpu")
    line = [sys.executable, "-c", script, str(out / ".c0.lock")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == b"here\n"
        outcomes = edit_many(model, read_jobs(source), out=out)
        assert next(outcomes).name == "c1"  # c0 is being worked at
        process.kill()
    assert [(o.name, o.state) for o in outcomes] == [("c0", "done")]


def test_an_interrupt_keeps_what_is_done_and_says_so(tmp_path: Path, weights: Path) -> None:
    source, out = cases(tmp_path / "cases", weights, 3, steps=60), tmp_path / "out"
    with started(source, "--out", out, "--devices", "cpu", "cpu") as process:
        while not list(out.glob("c?")) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[0]
    assert process.returncode == INTERRUPTED
    assert said.endswith(f"interrupted; what is done is in {out}, and the same command goes on\n"), said
    assert "Traceback" not in said and len(results(out)) >= 1


def test_a_device_that_is_not_there_costs_only_itself(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = cases(tmp_path / "cases", weights, 2), tmp_path / "out"
    assert main(["many", str(source), "--out", str(out), "--devices", "cpu", "cuda:99"]) == 0
    assert "cuda:99: device is 'cuda:99', which is not there" in capsys.readouterr().err
    assert results(out).keys() == {"c0", "c1"}
    with pytest.raises(InputError, match="cuda:99: device is 'cuda:99', which is not there"):
        list(rows_on(Work(source, out, str(tmp_path / "model"), True, {}), ["cuda:99"]))


NOTES = """
import os
if "LOCAL_RANK" in os.environ:
    from dragonkit.many.folder import Folder
    def put(self, job, *rest, put=Folder.put):
        with open(os.environ["NOTES"], "a") as file:
            file.write(f"{os.environ['LOCAL_RANK']} {job.name}\\n")
        return put(self, job, *rest)
    Folder.put = put
"""
"""Makes every process of a launcher note which results it writes."""


def test_processes_of_torchrun_share_the_work_and_one_reports(tmp_path: Path, weights: Path) -> None:
    source, out, notes = cases(tmp_path / "cases", weights, 6, bad=4), tmp_path / "out", tmp_path / "notes"
    (tmp_path / "sitecustomize.py").write_text(NOTES)
    paths = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    under = "-m torch.distributed.run --standalone --nproc-per-node 2"
    words = (source, "--out", out, "--json", tmp_path / "a.json")
    with started(*words, under=under, PYTHONPATH=paths, NOTES=str(notes), CUDA_VISIBLE_DEVICES="") as process:
        said = process.communicate()[0]
    assert process.returncode == FAILED, said  # and the table is there, though torchrun ends all at the first failure
    assert [said.count(once) for once in ("c4: moved by", "NFE  seconds", "1 failed in", "wrote ")] == [1, 1, 1, 1]
    written = [line.split() for line in notes.read_text().splitlines()]
    good = ["c0", "c1", "c2", "c3", "c5"]
    assert sorted(name for _, name in written) == sorted(results(out)) == good
    assert {r["nfe"] for r in results(out).values()} == {8}
    state = {name: "done" if rank == "0" else "kept" for rank, name in written} | {"c4": "failed"}
    summary = json.loads((tmp_path / "a.json").read_text())
    assert {job["name"]: job["state"] for job in summary["jobs"]} == state
    assert not [p for p in out.iterdir() if p.is_dir() and p.name[0] == "."]


def test_a_launched_process_that_is_not_the_first_works_in_silence(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source, out = cases(tmp_path / "cases", weights, 2, bad=1), tmp_path / "out"
    line = ["many", str(source), "--out", str(out), "--json", str(tmp_path / "a.json")]
    for name, value in {"LOCAL_RANK": "0", "RANK": "2", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main(line) == 0 and results(out).keys() == {"c0"}  # the first one's exit code says that c1 failed
    said = capfd.readouterr()
    assert "c0" not in said.out + said.err and "c1" not in said.err and "job" not in said.out + said.err
    assert not (tmp_path / "a.json").exists()

    monkeypatch.setenv("RANK", "0")
    assert main(line) == FAILED
    assert "0 done, 1 kept, 1 failed" in capfd.readouterr().out and (tmp_path / "a.json").exists()

    assert main([*line[:2], "--out", str(tmp_path / "new"), "--devices", "cpu", "cpu"]) == BAD_INPUT
    assert "--devices cpu cpu and LOCAL_RANK=0 both say where to work" in capfd.readouterr().err
    assert main([*line[:2], "--out", str(tmp_path / "new"), "--model", "minnie"]) == BAD_INPUT
    assert "minnie" in capfd.readouterr().err and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("told", "gpus", "place"),
    [
        ({}, 2, None),
        ({"LOCAL_RANK": "1"}, 2, None),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, 2, Place(1, 2, "cuda:1")),
        ({"LOCAL_RANK": "3", "WORLD_SIZE": "4"}, 2, Place(3, 4, "cuda:1")),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "4", "RANK": "2"}, 2, Place(2, 4, "cuda:0")),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, 0, Place(1, 2, "cpu")),
        ({"LOCAL_RANK": "-1", "WORLD_SIZE": "2"}, 0, "LOCAL_RANK is '-1'"),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "two"}, 0, "WORLD_SIZE is 'two'"),
    ],
)
def test_a_process_works_where_its_launcher_says(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, str], gpus: int, place: Place | str | None
) -> None:
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if isinstance(place, str):
        with pytest.raises(InputError, match=place):
            launched()
    else:
        assert launched() == place


def test_threads_are_left_alone(tmp_path: Path, weights: Path) -> None:
    before = torch.get_num_threads()
    assert main(["many", str(cases(tmp_path / "cases", weights, 1)), "--out", str(tmp_path / "out")]) == 0
    assert torch.get_num_threads() == before


def test_a_job_is_a_spec_or_a_job(tmp_path: Path, weights: Path) -> None:
    source = cases(tmp_path / "cases", weights, 1)
    first, second = edit_many(fresh_model(), [7, source / "c0" / "edit.json"])
    assert (first.name, first.state, second.name, second.state) == ("7", "failed", "c0", "done")
    assert isinstance(first.error, InputError)
