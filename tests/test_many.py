"""Many edits: a batch gives what its edits alone give, and nothing is done twice, whoever is stopped or killed."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import dragonkit.many.folder
import dragonkit.many.run
from dragonkit.editor import edit as run
from dragonkit.edits import Appearance, Drag, Edit, Move, Paste, Several
from dragonkit.edits.base import Branches, Regions
from dragonkit.energy import Term
from dragonkit.errors import InputError, NonFiniteError, OutOfMemoryError
from dragonkit.graphs import Graphs
from dragonkit.guidance import PRESETS, Guidance
from dragonkit.inversion import ddim_invert, fixed_point_invert, null_text_invert
from dragonkit.many import Job, edit_many
from dragonkit.many.folder import Folder, stamp
from dragonkit.many.together import Wish, edit_together
from dragonkit.models import Model
from dragonkit.taps import counted
from tests.families import family_model
from tests.test_graphs import Again
from tests.tiny import box, fresh_model, hooks, picture, tiny_model

ROOT = Path(__file__).parent.parent
SIZE = 64, 128
MASKS = box(*SIZE, 8, 8, 32, 32), box(*SIZE, 20, 30, 50, 60), box(*SIZE, 2, 3, 12, 14)
THERE = (picture(64, 64, 9), box(64, 64, 10, 10, 40, 40)), (picture(96, 64, 8), box(96, 64, 5, 5, 80, 30))
EDITS: dict[str, tuple[Edit, ...]] = {
    "move": (Move(MASKS[0], (24, 16)), Move(MASKS[1], (-20, 5), 1.3), Move(MASKS[2], (8, 8))),
    "drag": (Drag([(20, 20, 40, 30)]), Drag([(50, 30, 20, 30), (10, 10, 12, 12)], MASKS[1]), Drag([(5, 5, 25, 25)])),
    "appearance": (Appearance(MASKS[0], *THERE[0]), Appearance(MASKS[1], *THERE[1]), Appearance(MASKS[2], *THERE[0])),
    "paste": (Paste(*THERE[0], (40, 30)), Several([Move(MASKS[1], (9, 0)), Paste(*THERE[1], (90, 30))])),
}
SHORT = Guidance().replace(steps=4)
MASK = box(64, 64, 8, 8, 32, 32)


def wished(model: Model, kind: str, w: Guidance, generated: Sequence[int] = ()) -> list[Wish]:
    """Wishes of one kin, each with a picture of its own."""
    found = []
    for k, one in enumerate(EDITS[kind]):
        made = model.generate("a ball", k, steps=w.steps, cfg=w.cfg, size=SIZE) if k in generated else None
        found.append(Wish.of(model, made or picture(*SIZE, seed=k), one, f"picture {k}", w))
    return found


def strayed(model: Model, wishes: list[Wish], **options: Any) -> float:
    """The largest distance of a batch's latents from those of its edits alone, over their size; all else is equal."""
    worst = 0.0
    for wish, found in zip(wishes, edit_together(model, wishes, trace=True, **options), strict=True):
        image = wish.image if isinstance(wish.image, Tensor) else wish.image.origin.again(model)  # not yet filled
        said = {"guidance": wish.guidance, "trace": True, "progress": False, **options}
        alone = run(model, image, wish.edit, wish.prompt, **said)
        assert found.nfe == alone.nfe and found.tensor.shape == alone.tensor.shape
        assert (found.trace.steps, found.trace.visits) == (alone.trace.steps, alone.trace.visits)
        ours, theirs = found.trace.energies, alone.trace.energies
        assert ours.keys() == theirs.keys() and ours
        for name in ours:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5, nan_ok=True)
        for g, h in zip(found.trace.grads, alone.trace.grads, strict=True):
            assert (g is None) == (h is None)
        worst = max(worst, ((found.latent - alone.latent).norm() / alone.latent.norm()).item())
    return worst


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "fast"])  # that is "mini" in other numbers
def test_a_batch_gives_what_its_edits_alone_give(kind: str, preset: str) -> None:
    model, w = tiny_model(), Guidance.preset(preset, kind).replace(steps=3)
    assert strayed(model, wished(model, kind, w)) < 1e-4
    assert hooks(model) == 0


@pytest.mark.parametrize(
    ("options", "generated", "changes"),
    [
        ({}, (1, 2), {}),
        ({"invert": functools.partial(null_text_invert, iterations=1, refine=1)}, (), {}),
        ({"invert": functools.partial(ddim_invert, refine=2)}, (), {"lock": True}),
        ({"invert": functools.partial(fixed_point_invert, iterations=2)}, (0,), {}),
        ({"memory": "low"}, (), {}),
        ({}, (), {"reference": "live", "attention_mode": "mix"}),
        ({}, (), {"travel": (0.3, 0.9), "repeats": 2, "sde": (0.0, 1.0), "sde_inside": 0.5, "sde_outside": 0.2}),
    ],
)
def test_so_it_does_for_other_ways_to_come_by_a_path(options: Any, generated: Any, changes: Any) -> None:
    model, w = tiny_model(), SHORT.replace(steps=3, **changes)
    assert strayed(model, wished(model, "move", w, generated), **options) < 1e-4


@pytest.mark.parametrize("family", ["sd21", "sdxl"])
def test_so_it_does_for_other_families(family: str) -> None:
    model = family_model(family)
    assert strayed(model, wished(model, "move", SHORT.replace(steps=3, layers=(1, 2)))) < 1e-4


@pytest.mark.parametrize("kind", ["move", "appearance"])
def test_recorded_passes_give_a_batch_the_same_bits(kind: str) -> None:
    plain, recorded = tiny_model(), fresh_model()
    recorded.graphs = Graphs(recorded, Again(recorded))
    w = Guidance.preset("iclr", kind).replace(steps=3)
    for one, other in zip(*(edit_together(m, wished(m, kind, w)) for m in (plain, recorded)), strict=True):
        assert torch.equal(one.latent, other.latent)


def test_one_alone_is_edit_itself_and_a_batch_is_one_run_of_the_denoiser() -> None:
    model = tiny_model()
    wishes = wished(model, "move", SHORT)
    one = run(model, wishes[0].image, wishes[0].edit, wishes[0].prompt, guidance=SHORT, progress=False)
    with counted(model.unet) as alone:
        assert torch.equal(edit_together(model, wishes[:1])[0].tensor, one.tensor)
    with counted(model.unet) as batched:
        edit_together(model, wishes)
    assert batched.evaluations == alone.evaluations == one.nfe


class Runaway(Move):
    """A move whose energy is not finite."""

    def terms(self, f: Branches, m: Regions, w: Guidance) -> Any:
        yield Term("edit", f.gen.sum() * float("nan"))


def jobs(count: int = 5, **changes: Any) -> list[Job]:
    """Jobs that fit together."""
    w = SHORT.replace(steps=2, **changes)
    return [Job(f"job{k}", picture(64, 64, seed=k), Move(MASK, (20, k)), "", w) for k in range(count)]


def spoiled(job: Job, edit: Edit) -> Job:
    return Job(job.name, job.image, edit, job.prompt, job.guidance)


def test_it_works_where_nothing_is_to_be_differentiated() -> None:
    expected = [outcome.image for outcome in edit_many(tiny_model(), jobs(2), batch=2)]
    with torch.inference_mode():
        assert [outcome.image for outcome in edit_many(tiny_model(), jobs(2), batch=2)] == expected


def test_outcomes_stream_and_a_bad_job_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes, together = fresh_model(), list[int](), edit_together

    def noted(model: Model, wishes: list[Wish], **options: Any) -> Any:
        sizes.append(len(wishes))
        return together(model, wishes, **options)

    monkeypatch.setattr(dragonkit.many.run, "edit_together", noted)
    given = jobs(7)
    given[1] = spoiled(given[1], Move(MASK, (500, 0)))  # off the image, seen before anything runs
    given[3] = spoiled(given[3], Runaway(MASK, (9, 0)))  # seen when it runs, in a batch with others
    given.append(Job("job0", picture(), Move(box(128, 128, 8, 8, 32, 32), (9, 0))))  # a name that is taken
    taken = list[str]()
    source = (taken.append(job.name) or job for job in given)
    outcomes = edit_many(model, source, batch=3)
    first = next(outcomes)
    assert (first.name, first.state) == ("job1", "failed") and taken == ["job0", "job1"]
    rest = list(outcomes)
    assert [o.name for o in rest] == ["job0", "job2", "job3", "job4", "job5", "job6", "job0"]
    assert [o.state for o in rest] == ["done", "done", "failed", "done", "done", "done", "failed"]
    assert sizes == [3, 1, 1, 1, 3]
    assert isinstance(rest[2].error, NonFiniteError) and "rename" in str(rest[6].error)
    with pytest.raises(NonFiniteError):
        rest[2].image  # noqa: B018
    alone = run(model, given[2].image, given[2].edit, "", guidance=given[2].guidance, progress=False)
    assert torch.equal(rest[1].result.tensor, alone.tensor) and rest[1].image.size == (64, 64)
    assert hooks(model) == 0


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    model, together, sizes = fresh_model(), edit_together, list[int]()

    def small(model: Model, wishes: list[Wish], **options: Any) -> Any:
        sizes.append(len(wishes))
        if len(wishes) > 2:
            raise OutOfMemoryError("out of memory")
        return together(model, wishes, **options)

    monkeypatch.setattr(dragonkit.many.run, "edit_together", small)
    assert [o.state for o in edit_many(model, jobs(8), batch=4)] == ["done"] * 8
    assert sizes == [4, 2, 2, 2, 2]


def test_only_kin_share_a_batch_and_few_jobs_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shared, waiting = fresh_model(), list[int](), list[str]()

    def fake(model: Model, wishes: list[Wish], **options: Any) -> Any:
        assert len({wish.kin for wish in wishes}) == 1
        shared.append(len(wishes))
        raise NonFiniteError("not now")

    monkeypatch.setattr(dragonkit.many.run, "edit_together", fake)
    many = [Job(f"{k}", picture(64, 64), EDITS_64[k % 3], "", SHORT.replace(seed=k // 3)) for k in range(30)]
    source = (waiting.append(job.name) or job for job in many)
    outcomes = edit_many(model, source, batch=2)
    next(outcomes)
    assert len(waiting) <= 8  # four batches' worth
    assert len(list(outcomes)) == 29 and max(shared) <= 2


EDITS_64 = Move(MASK, (9, 0)), Drag([(5, 5, 20, 20)]), Paste(*THERE[0], (30, 30))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"trace": 3}, "trace is 3"),
        ({"out": __file__}, "is a file"),
        ({"out": 5}, "out is 5: give a folder"),
        ({"out": ""}, "out is '': give a folder"),
    ],
)
def test_what_cannot_be_is_refused_at_once(options: Any, message: str) -> None:
    for given in (None, 5, "folder", jobs(1)[0]):
        with pytest.raises(InputError, match="give a list of jobs"):
            edit_many(tiny_model(), given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        edit_many(tiny_model(), [], **options)
    with pytest.raises(InputError, match="load one"):
        edit_many("mini", [])  # type: ignore[arg-type]


def test_what_is_done_is_kept_what_failed_is_tried_again_what_changed_is_refused(tmp_path: Path) -> None:
    model, out, given = fresh_model(), tmp_path / "new" / "out", jobs(4)
    broken = [*given[:2], spoiled(given[2], Runaway(MASK, (9, 0))), Job("a/b", given[0].image, given[0].edit)]
    states = {o.name: o.state for o in edit_many(model, broken, out=out, batch=2)}
    assert states == {"job0": "done", "job1": "done", "job2": "failed", "a/b": "failed"}
    assert {p.name for p in out.iterdir() if p.name[0] != "."} == {"job0", "job1", "job2.error.json"}
    assert json.loads((out / "job2.error.json").read_text())["kind"] == "NonFiniteError"
    kept = {p: p.stat().st_mtime_ns for p in (out / "job0").iterdir()}
    assert {p.name for p in kept} == {"edit.png", "result.json"}

    with counted(model.unet) as count:
        again = list(edit_many(model, given[:2], out=out))
    assert [o.state for o in again] == ["kept"] * 2 and count.evaluations == 0
    assert again[0].image.tobytes() == Image.open(out / "job0" / "edit.png").tobytes()

    other = spoiled(given[0], Move(MASK, (20, 1)))
    rest = {o.name: o for o in edit_many(model, [other, given[2], given[3]], out=out)}
    assert [rest[f"job{k}"].state for k in (0, 2, 3)] == ["failed", "done", "done"]
    assert "another job of this name" in str(rest["job0"].error)
    assert {p: p.stat().st_mtime_ns for p in (out / "job0").iterdir()} == kept
    assert not (out / "job2.error.json").exists() and not list(out.glob(".*.lock"))

    model.unet.conv_out.bias.data += 1
    assert [o.state for o in edit_many(model, given[:1], out=out)] == ["failed"]


@pytest.mark.parametrize("emptied", [["edit.png"], ["result.json"], ["edit.png", "result.json"]])
def test_what_a_lost_power_left_empty_is_done_again(tmp_path: Path, emptied: list[str]) -> None:
    model, (job,) = fresh_model(), jobs(1)
    (first,) = edit_many(model, [job], out=tmp_path)
    for name in emptied:
        (tmp_path / job.name / name).write_bytes(b"")
    (second,) = edit_many(model, [job], out=tmp_path)
    (third,) = edit_many(model, [job], out=tmp_path)
    assert (second.state, third.state) == ("done", "kept") and third.image.tobytes() == first.image.tobytes()


def test_no_result_takes_the_place_of_what_tells_of_anothers_failure(tmp_path: Path) -> None:
    (good, other), broken = jobs(2), picture(64, 64) * torch.nan
    for bad in (replace(good, image=broken), good):
        given = [replace(other, name=f"{good.name}.error.json"), bad]
        first, second = edit_many(fresh_model(), given, out=tmp_path)
        assert "which tells of a failure" in str(first.error) and (second.error is None) == (bad is good)
    assert not (tmp_path / f"{good.name}.error.json").exists()


def test_a_result_that_cannot_be_written_costs_that_job_and_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, given, write = fresh_model(), jobs(3), dragonkit.many.folder.write_image

    def full(*args: Any, **options: Any) -> None:
        if not options:
            write(*args)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dragonkit.many.folder, "write_image", full)
    monkeypatch.setattr(Path, "write_text", full)
    first = list(edit_many(model, given[:1], out=tmp_path))
    assert [o.state for o in first] == ["failed"] and "make room for it" in str(first[0].error)
    monkeypatch.undo()
    assert {p.name for p in tmp_path.iterdir()} == {".begun", ".job0.lock"}  # nothing half-written

    (tmp_path / "job1").write_text("in the way")
    states = {o.name: o.state for o in edit_many(model, given, out=tmp_path, batch=3)}
    assert states == {"job0": "done", "job1": "failed", "job2": "done"}
    (tmp_path / "job2" / "edit.png").unlink()  # without its picture a job is not done
    assert [o.state for o in edit_many(model, [given[0], given[2]], out=tmp_path)] == ["kept", "done"]


def test_a_stamp_tells_jobs_apart() -> None:
    def of(**changes: Any) -> str:
        said = {"image": picture(64, 64), "edit": Move(MASK, (1, 2)), "guidance": SHORT, "invert": ddim_invert}
        return stamp(*(said | changes).values())

    same = of()
    assert same == of() == of(guidance=SHORT.replace(), edit=Move(MASK.clone(), (1, 2)))
    others: list[dict[str, Any]] = [
        {"image": picture(64, 64, 1)},
        {"edit": Move(MASK, (1, 3))},
        {"edit": Runaway(MASK, (1, 2))},
        {"edit": Several([Move(MASK, (1, 2))])},
        {"guidance": SHORT.replace(seed=1)},
        {"invert": functools.partial(ddim_invert, refine=1)},
        {"invert": fixed_point_invert},
    ]
    found = [of(**change) for change in others]
    assert len({same, *found}) == len(others) + 1
    with pytest.raises(InputError, match="cannot be compared"):
        stamp(object())


def test_a_claim_is_one_processs_and_ends_with_it(tmp_path: Path) -> None:
    one, two = Folder(tmp_path), Folder(tmp_path)
    assert one.claim("a") and not two.claim("a") and two.claim("b")
    one.release_all()
    assert two.claim("a")
    two.release_all()

    script = (
        "import sys, time, filelock; lock = filelock.FileLock(sys.argv[1] + '/.a.lock'); lock.acquire();"
        "print('here', flush=True);"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == b"here\n"
        claimed = one.claim("a")
        process.kill()
    assert not claimed
    (tmp_path / ".a-0123abc_").mkdir()
    (tmp_path / ".a-b-0123abc_").mkdir()
    (tmp_path / "a" / ".a-0123abc_").mkdir(parents=True)  # the folder was there before
    assert one.claim("a")
    assert not list((tmp_path / "a").iterdir())
    assert not (tmp_path / ".a-0123abc_").exists() and (tmp_path / ".a-b-0123abc_").exists()  # that may be job a-b's
