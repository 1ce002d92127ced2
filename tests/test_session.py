"""Sessions: nothing is lost, everything can be done again, and a folder holds all of it."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dragonkit.editor
from dragonkit.edits import Appearance, Drag, Edit, Move, Paste, Reconstruct, Resize, Several
from dragonkit.errors import InputError
from dragonkit.generation import Generated
from dragonkit.guidance import Guidance
from dragonkit.inversion import Keep
from dragonkit.result import Result
from dragonkit.schedule import Schedule
from dragonkit.session import Session, rounded
from dragonkit.trace import Trace
from tests.tiny import box, hooks, picture, tiny_model

MASK = box(64, 80, 16, 8, 48, 40)
QUICK = Guidance.preset("iclr").replace(steps=2)


def move(dx: float) -> Move:
    return Move(MASK, by=(dx, 0))


def fake_edit(model: Any, image: Any, edit: Any, prompt: str, *, guidance: Guidance, **_: Any) -> Result:
    """A quick stand-in for the editor: the picture depends on everything that it is given, bit by bit."""
    parts = edit.edits if isinstance(edit, Several) else [edit]
    seed = hash((tuple(part.by for part in parts), prompt, guidance.seed, image.double().sum().item())) % 2**31
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(seed))
    return Result((image + noise) / 2, torch.zeros(1, 4, 8, 10), Trace(), nfe=seed % 97, seconds=0.5)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dragonkit.editor, "edit", fake_edit)


def fresh(**fields: Any) -> Session:
    return Session(tiny_model(), picture(64, 80), "a ball", **{"guidance": QUICK, **fields})


def pictures(session: Session) -> list[torch.Tensor]:
    return [node.tensor for node in session.nodes]


def state(session: Session) -> Any:
    """Everything a session says of itself, comparable."""
    return [
        session.history.current,
        dict(session.history.ahead),
        session.guidance,
        [
            (n.id, n.parent, n.prompt, n.guidance, n.nfe, n.seconds, dict(n.energies), n.tensor.numpy().tobytes())
            for n in session.nodes
        ],
        [[described(edit) for edit in n.edits] for n in session.nodes],
    ]


def described(edit: Edit) -> Any:
    fields = {k: v for k, v in vars(edit).items() if k not in ("reference", "reference_mask", "_reference")}
    plain = {k: v.numpy().tobytes() if isinstance(v, torch.Tensor) else v for k, v in fields.items()}
    return type(edit), plain, [(r.image.numpy().tobytes(), r.mask.tolist(), r.prompt) for r in edit.references]


def test_each_edit_starts_from_the_last_ones_picture() -> None:
    session = fresh()
    first, second = session.apply(move(8), progress=False), session.apply(move(-8), progress=False)
    assert [node.parent for node in session.nodes] == [None, 0, 1] and session.current.id == 2
    assert torch.equal(session.nodes[1].tensor, rounded(first.tensor))
    alone = dragonkit.editor.edit(
        tiny_model(), session.nodes[1].image, move(-8), "a ball", guidance=QUICK, progress=False
    )
    assert torch.equal(alone.tensor, second.tensor)
    assert (session.current.nfe, session.current.guidance) == (second.nfe, QUICK)
    assert session.current.energies.keys() == second.trace.energies.keys() != set()


def test_every_kind_of_edit_can_be_replayed_bit_for_bit_and_saved(tmp_path: Path) -> None:
    other, theirs = picture(64, 64, seed=5), box(64, 64, 10, 10, 40, 40)
    session = fresh(guidance=None)
    quick = Guidance.preset("diffeditor").replace(steps=3, sde=(0, 1), seed=3)
    session.apply([move(8), Drag([(20, 20, 40, 20)])], quick, progress=False)
    session.apply(Appearance(MASK, other, theirs, "a cube"), quick, prompt="a cube", progress=False)
    session.apply(Resize(MASK, 1.2), quick, progress=False)
    session.apply(Paste(other, theirs, (50, 40), 0.5), quick.replace(attention_mode="mix"), progress=False)
    again = session.replay()
    assert [n.prompt for n in again.nodes] == ["a ball", "a ball", "a cube", "a cube", "a cube"]
    assert all(torch.equal(a, b) for a, b in zip(pictures(session), pictures(again), strict=True))
    assert not torch.equal(session.nodes[1].tensor, session.nodes[2].tensor) and hooks(tiny_model()) == 0
    loaded = Session.load(session.save(tmp_path / "session"), tiny_model())
    assert state(loaded) == state(session)
    assert all(torch.equal(a, b) for a, b in zip(pictures(session), pictures(loaded.replay()), strict=True))


def test_the_models_preset_is_the_default(quick: None) -> None:
    session = fresh(guidance=None)
    session.apply(move(8))
    session.apply([move(8), move(9)], Guidance.preset("paper"))
    assert [node.guidance for node in session.nodes] == [None, Guidance.preset("iclr"), Guidance.preset("paper")]


def test_undo_redo_and_branches(quick: None) -> None:
    session = fresh()
    for dx in (1, 2):
        session.apply(move(dx))
    assert session.undo().id == 1 and session.can_redo and [n.id for n in session.branch] == [0, 1, 2]
    session.apply(move(3))  # beside the second
    assert [n.parent for n in session.nodes] == [None, 0, 1, 1]
    assert [n.id for n in session.path()] == [0, 1, 3] and not session.can_redo
    assert session.goto(2).id == 2 and session.undo().id == 1 and session.redo().id == 2
    assert session.undo().id == 1 and session.undo().id == 0 and not session.can_undo
    assert repr(session) == "Session(80x64, 3 edits, at 0)"
    for action, message in (
        (session.undo, "nothing to undo"),
        (lambda: session.goto(4), "no node 4: give a number from 0 to 3"),
        (lambda: session.goto(True), "no node True"),
        (lambda: (session.goto(3), session.redo()), "nothing to redo"),
    ):
        with pytest.raises(InputError, match=message):
            action()  # type: ignore[operator]


actions = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), st.integers(1, 5)),
        st.tuples(st.just("undo"), st.just(0)),
        st.tuples(st.just("redo"), st.just(0)),
        st.tuples(st.just("goto"), st.integers(0, 7)),
    ),
    max_size=14,
)


def played(script: list[tuple[str, int]]) -> Session:
    """A session after a script, checked against a plain model of it: parents, and a stack of what redo leads to."""
    session, parents, at, redo = fresh(), [-1], 0, dict[int, int]()
    for name, value in script:
        before, seen = session.history, pictures(session)
        if name == "apply":
            session.apply(move(value))
            parents.append(at)
            redo[at] = at = len(parents) - 1
        elif name == "undo" and at:
            at = parents[at]
            session.undo()
        elif name == "redo" and at in redo:
            at = redo[at]
            session.redo()
        elif name == "goto" and value < len(parents):
            at = value
            session.goto(value)
        else:
            with pytest.raises(InputError):
                session.goto(value) if name == "goto" else getattr(session, name)()
            assert session.history is before
        up = at
        while up:  # wherever one is, redo from an ancestor leads here
            redo[parents[up]] = up
            up = parents[up]
        assert session.current.id == at and [n.parent for n in session.nodes[1:]] == parents[1:]
        assert session.can_undo == (at > 0) and session.can_redo == (at in redo)
        assert all(a is b for a, b in zip(seen, pictures(session), strict=False))  # nothing is lost or changed
        way = session.path()
        assert way[0].id == 0 and way[-1].id == at
        assert all(b.parent == a.id for a, b in zip(way, way[1:], strict=False))
        assert session.branch[: len(way)] == way
    return session


@settings(max_examples=60)
@given(script=actions)
def test_any_script_of_undo_redo_and_edits(script: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dragonkit.editor, "edit", fake_edit)
        session = played(script)
        again = session.replay()
        assert [n.tensor.tolist() for n in again.nodes] == [n.tensor.tolist() for n in session.path()]
        with tempfile.TemporaryDirectory() as place:
            session.save(place)
            loaded = Session.load(place, tiny_model())
        assert state(loaded) == state(session)
        session.apply(move(3))
        loaded.apply(move(3))
        assert state(loaded) == state(session)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, InputError])
def test_an_edit_that_ends_early_leaves_the_session_as_it_was(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    session = fresh()
    session.apply(move(8), progress=False)
    before = session.history
    steps, calls = dragonkit.editor.Model.predict, []

    def stopped(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise error("stop")
        return steps(*args)

    monkeypatch.setattr(dragonkit.editor.Model, "predict", stopped)
    with pytest.raises(error, match="stop"):
        session.apply(move(-8), progress=False)
    assert session.history is before and len(calls) == 3 and hooks(tiny_model()) == 0


def test_what_cannot_be_used_is_refused(tmp_path: Path, quick: None) -> None:
    with pytest.raises(InputError, match="prompt is 5"):
        Session(tiny_model(), picture(64, 80), 5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="enlarge"):
        Session(tiny_model(), picture(32, 80))
    session = fresh()
    with pytest.raises(InputError, match="an edit is a str"):
        session.apply("left")  # type: ignore[arg-type]
    session.history = session.history.added(tensor=session.current.tensor, prompt="", edits=(Reconstruct(),))
    with pytest.raises(InputError, match="Reconstruct cannot be written"):
        session.save(tmp_path / "session")
    assert not list(tmp_path.iterdir())


def test_equal_pictures_are_one_file_and_old_files_go(tmp_path: Path, quick: None) -> None:
    session = fresh()
    for dx in (1, 2, 3):
        session.apply(move(dx))
    session.save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    assert sum(p.name.startswith("mask.") for p in tmp_path.iterdir()) == 1
    other = fresh()
    other.apply(move(9))
    other.save(tmp_path)
    index = json.loads((tmp_path / "session.json").read_text())
    assert {p.name for p in tmp_path.iterdir()} == {"notes.txt", "session.json", *index["files"]}
    assert len(index["files"]) == 3 and state(Session.load(tmp_path, tiny_model())) == state(other)


@pytest.mark.parametrize("fatal", ["write_image", "write_text", "index", "a file"])
def test_a_save_that_is_stopped_leaves_the_old_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None, fatal: str
) -> None:
    session = fresh()
    session.apply(move(1))
    session.save(tmp_path / "session")
    old, replace = state(session), Path.replace
    session.apply(move(2))
    moved: list[str] = []

    def stop(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    def replaced(path: Path, to: Path) -> Path:
        inside = Path(to).parent == tmp_path / "session"
        moved.extend([path.name] if inside else [])
        last = path.name == "session.json" if fatal == "index" else len(moved) == 2
        return stop() if inside and last else replace(path, to)

    if fatal == "write_image":
        monkeypatch.setattr("dragonkit.session_folder.write_image", stop)
    elif fatal == "write_text":
        monkeypatch.setattr(Path, "write_text", stop)
    else:
        monkeypatch.setattr(Path, "replace", replaced)
    with pytest.raises(KeyboardInterrupt):
        session.save(tmp_path / "session")
    monkeypatch.undo()
    assert state(Session.load(tmp_path / "session", tiny_model())) == old
    assert [p.name for p in tmp_path.iterdir()] == ["session"]


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "another version": ({"version": 2}, "version is 2"),
    "unknown field": ({"curent": 1}, "unknown field 'curent': did you mean 'current'"),
    "nowhere": ({"current": 9}, "does not describe a tree"),
    "redo to nowhere": ({"ahead": [[0, 9]]}, "does not describe a tree"),
    "no source": ({"nodes": []}, "does not describe a tree"),
    "another folder": ({"files": ["../image.png"]}, "name a file in the same folder"),
    "a file gone": ({"files": ["image.000000000000.png"]}, "is missing"),
}
BROKEN_NODES: dict[str, tuple[dict[str, Any], str]] = {
    "its own parent": ({"parent": 1}, "does not describe a tree"),
    "unknown field of a node": ({"promt": ""}, "unknown field 'nodes.1.promt': did you mean 'prompt'"),
    "no edit": ({"edits": []}, "a picture that no edit explains"),
    "unknown kind": ({"edits": [{"kind": "explode"}]}, "nodes.1.edits.0.kind is 'explode'"),
    "unknown field of an edit": ({"edits": [{"kind": "drag", "points": [], "pts": 1}]}, "'nodes.1.edits.0.pts'"),
    "no guidance of that name": ({"guidance": {"stepz": 1}}, "no field 'stepz'"),
}


@pytest.mark.parametrize("name", [*BROKEN, *BROKEN_NODES])
def test_a_broken_session_is_named_in_one_line(tmp_path: Path, quick: None, name: str) -> None:
    session = fresh()
    session.apply(move(1))
    session.save(tmp_path)
    index = json.loads((tmp_path / "session.json").read_text())
    changes, message = BROKEN.get(name) or BROKEN_NODES[name]
    (index if name in BROKEN else index["nodes"][1]).update(changes)
    (tmp_path / "session.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=message) as caught:
        Session.load(tmp_path, tiny_model())
    assert "\n" not in str(caught.value)


def test_no_session_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Session.load(tmp_path)


def test_a_session_takes_pictures_as_the_editor_does() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    session = Session(tiny_model(), pixels)
    assert np.array_equal(np.asarray(session.image), pixels) and repr(session) == "Session(80x64, 0 edits, at 0)"


def test_an_edit_may_take_less_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    session, asked = fresh(), []
    with pytest.raises(InputError, match="memory is 'least'"):
        session.apply(move(8), progress=False, memory="least")  # type: ignore[arg-type]
    monkeypatch.setattr(
        dragonkit.editor, "edit", lambda *args, memory, **o: asked.append(memory) or fake_edit(*args, **o)
    )
    for memory in ("low", "full"):
        session.apply(move(8), memory=memory)  # type: ignore[arg-type]
    assert asked == ["low", "full"] and len(session.nodes) == 3


def test_steps_can_be_watched_and_ended_anywhere() -> None:
    model, w = tiny_model(), Guidance.preset("iclr").replace(steps=3)
    session = Session(model, picture(64, 80))
    seen: list[int] = []
    session.apply(move(8), w, progress=False, on_step=lambda trace: seen.append(len(trace)))
    assert seen == [1, 2, 3]

    class Stop(Exception):
        pass

    def ending(title: str, count: int) -> Any:
        def wrap(steps: Any) -> Any:
            assert count == 3
            for k, step in enumerate(steps):
                if title == "inversion" and k == 1:
                    raise Stop
                yield step

        return wrap

    def stop(trace: Trace) -> None:
        raise Stop

    for options in ({"progress": ending}, {"progress": False, "on_step": stop}):
        with pytest.raises(Stop):
            session.apply(move(8), w, **options)
        assert len(session.nodes) == 2
    assert hooks(model) == 0


GENERATED = Guidance.preset("iclr").replace(steps=4, cfg=1.0)
WHOLE = Move(box(64, 64, 8, 8, 32, 32), by=(24, 16))


def generated(w: Guidance = GENERATED, **options: Any) -> Generated:
    return tiny_model().generate("a ball", 3, steps=w.steps, cfg=w.cfg, size=(64, 64), **options)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_generated_source_is_edited_along_its_own_path(tmp_path: Path, cfg: float) -> None:
    w = GENERATED.replace(cfg=cfg)
    kept = generated(w, keep=Keep.wanted(w, Schedule(tiny_model(), w.steps)))
    session = Session(tiny_model(), kept)
    assert session.current.prompt == "a ball" and torch.equal(session.current.tensor, rounded(kept.tensor))
    first = session.apply(WHOLE, w, progress=False)
    alone = dragonkit.editor.edit(tiny_model(), generated(w), WHOLE, guidance=w, progress=False)
    given = dragonkit.editor.edit(tiny_model(), kept.image, WHOLE, "a ball", guidance=w, progress=False)
    assert torch.equal(first.tensor, alone.tensor) and not torch.equal(first.tensor, given.tensor)
    asked = 4 if cfg != 1 else 0  # what generation did not keep is evaluated, each step once
    assert first.nfe == 4 + 2 + asked and given.nfe == 4 + 4 + 2
    again = session.apply(WHOLE, w, progress=False)  # an edited picture has no such path
    assert again.nfe == given.nfe

    loaded = Session.load(session.save(tmp_path / "session"), tiny_model())
    assert state(loaded) == state(session) and loaded.origin == session.origin == kept.origin
    for other in (session.replay(), loaded.replay()):
        assert all(torch.equal(a, b) for a, b in zip(pictures(session), pictures(other), strict=True))
    loaded.goto(0)
    once = loaded.apply(WHOLE, w, progress=False)
    assert torch.equal(once.tensor, first.tensor) and once.nfe == 4 + first.nfe, "made again first"
    assert loaded.generated() == 0


@pytest.mark.parametrize("change", [{"steps": 3}, {"cfg": 2.0}, {"prompt": "a cube"}])
def test_a_path_that_leads_elsewhere_is_not_taken(change: dict[str, Any]) -> None:
    prompt, w = change.pop("prompt", "a ball"), GENERATED.replace(**change)
    made, plain = Session(tiny_model(), generated()), Session(tiny_model(), generated().image)
    results = [session.apply(WHOLE, w, prompt=prompt, progress=False) for session in (made, plain)]
    assert torch.equal(results[0].tensor, results[1].tensor) and results[0].nfe == results[1].nfe


def test_the_default_for_a_generated_source_is_as_it_was_generated() -> None:
    session = Session(tiny_model(), generated())
    session.apply(WHOLE, progress=False)
    assert session.current.guidance == Guidance.preset("iclr").replace(steps=4, cfg=1.0)


def test_a_source_that_cannot_be_generated_again_is_inverted(tmp_path: Path) -> None:
    session = Session(tiny_model(), generated())
    index = session.save(tmp_path / "session") / "session.json"
    said = json.loads(index.read_text())
    assert said["generated"] == {"prompt": "a ball", "seed": 3, "steps": 4, "cfg": 1.0}
    index.write_text(json.dumps(said | {"generated": said["generated"] | {"seed": 4}}))
    loaded = Session.load(index.parent, tiny_model())
    with pytest.raises(InputError, match="leaves the image"):
        loaded.apply(Move(WHOLE.mask, by=(999, 0)), GENERATED, progress=False)
    with pytest.warns(UserWarning, match="cannot be generated again"):
        result = loaded.apply(WHOLE, GENERATED, progress=False)
    plain = dragonkit.editor.edit(tiny_model(), session.image, WHOLE, "a ball", guidance=GENERATED, progress=False)
    assert torch.equal(result.tensor, plain.tensor) and loaded.origin is None
    del said["generated"]  # as sessions were written before
    index.write_text(json.dumps(said))
    assert Session.load(index.parent, tiny_model()).origin is None


def test_what_others_add_meanwhile_is_kept() -> None:
    session = fresh()

    def beside(trace: Trace) -> None:
        if len(trace) == 1:
            session.apply(move(4), progress=False, model=tiny_model())

    session.apply(move(8), progress=False, on_step=beside)
    assert [node.parent for node in session.nodes] == [None, 0, 0] and session.current.id == 2
    assert [node.edits[0].by for node in session.nodes[1:]] == [(4, 0), (8, 0)]
