"""The studio without a browser: what is drawn, worked on in a thread, gone back to, saved, and repeated by code."""

from __future__ import annotations

import io
import threading
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import dragonkit as dk
from dragonkit.edits import Edit
from dragonkit.energy import Term, attract, similarity
from dragonkit.errors import InputError, NonFiniteError
from dragonkit.guidance import KINDS, PRESETS, Guidance
from dragonkit.history import History, Node
from dragonkit.regions import as_image
from dragonkit.spec import load_task
from dragonkit.taps import tap
from dragonkit.trace import to_pil
from dragonkit.world import counterfactual
from dragonkit_widgets.advanced import Advanced
from dragonkit_widgets.chooser import Chooser
from dragonkit_widgets.compare import Compare
from dragonkit_widgets.drawing import HINTS, Drawing, Kind
from dragonkit_widgets.notice import Notice, Snippet
from dragonkit_widgets.opener import Opener
from dragonkit_widgets.recipe import recipe
from dragonkit_widgets.sources import LARGEST, Picture, answered, example, examples, fitted, given, opened, sampled
from dragonkit_widgets.strip import Strip, places
from dragonkit_widgets.studio import EditStudio
from dragonkit_widgets.worker import Stopped, Worker, explained
from dragonkit_widgets.workshop import Workshop
from tests.tiny import box, hooks, picture, tiny_model

PROMPT = '<img src=x onerror="alert(1)">'
MASK = box(128, 128, 30, 30, 70, 70).numpy()
OTHER = box(128, 128, 20, 40, 60, 90).numpy()


def studio(**options) -> EditStudio:
    made = EditStudio(tiny_model(), to_pil(picture()), prompt=PROMPT, **options)
    made.advanced.controls["steps"].value = 4
    return made


def moved(made: EditStudio, by=(30.0, 10.0)) -> EditStudio:
    made.sketch.mask, made.sketch.points = MASK, [(50, 50, 50 + by[0], 50 + by[1])]
    made.advanced.controls["steps"].value = 4
    made.run()
    assert made.wait(60) and made.status.text.startswith("done"), made.status.text
    return made


def bits(image: Image.Image) -> bytes:
    return np.asarray(image).tobytes()


# What is drawn


def drawings() -> dict[str, Drawing]:
    arrow, reference = ((10.0, 20.0, 40.5, 30.0),), to_pil(picture(seed=2))
    theirs = {"reference": reference, "reference_mask": OTHER, "reference_prompt": "a cube"}
    return {
        "move": Drawing(kind="move", points=((49.5, 49.5, 80.0, 60.0),), mask=MASK, scale=1.2, angle=15.0),
        "resize": Drawing(kind="resize", mask=MASK, scale=0.7),
        "rotate": Drawing(kind="rotate", points=arrow, mask=MASK),
        "appearance": Drawing(kind="appearance", mask=MASK, **theirs),
        "drag": Drawing(kind="drag", points=arrow * 2),
        "paste": Drawing(kind="paste", points=((60.0, 70.0, 60.0, 70.0),), scale=0.5, **theirs),
    }


@pytest.mark.parametrize("kind", HINTS)
def test_a_drawing_becomes_an_edit_and_the_edit_that_drawing(kind):
    drawing = drawings()[kind]
    edit = drawing.edit
    again = Drawing.of(edit)
    assert again is not None and again.kind == kind and type(edit).__name__.lower() == kind
    assert np.allclose(again.points, drawing.points) and (again.scale, again.angle) == (drawing.scale, drawing.angle)
    assert (again.mask is None) == (drawing.mask is None) and np.array_equal(again.mask, drawing.mask)
    assert again.reference_prompt == drawing.reference_prompt
    if drawing.reference is not None:
        assert again.reference is not None and bits(again.reference) == bits(drawing.reference)
        assert np.array_equal(again.reference_mask, drawing.reference_mask)


def test_every_kind_of_edit_can_be_drawn():
    assert set(HINTS) == set(KINDS)


def test_a_move_goes_as_far_as_its_arrow_wherever_it_starts():
    edit = Drawing(kind="move", points=((3, 4, 13, 0),), mask=MASK).edit
    assert edit.by == (10, -4)
    assert Drawing(kind="move", mask=MASK, scale=2.0).edit.by == (0, 0)


@pytest.mark.parametrize(
    ("drawing", "said"),
    [
        (Drawing(kind="move", points=((1, 1, 2, 2),)), "nothing is painted"),
        (Drawing(kind="move", mask=MASK), "none is drawn"),
        (Drawing(kind="move", mask=MASK, points=((1, 1, 2, 2),) * 3), "3 are drawn"),
        (Drawing(kind="resize", mask=MASK), "scale is 1"),
        (Drawing(kind="resize", mask=~MASK & MASK, scale=2.0), "nothing is painted"),
        (Drawing(kind="rotate", points=((1, 1, 2, 2),)), "nothing is painted"),
        (Drawing(kind="drag"), "no arrow is drawn"),
        (Drawing(kind="appearance", mask=MASK), "no reference image"),
        (Drawing(kind="paste", points=((1, 1, 1, 1),), reference=to_pil(picture())), "nothing is painted in the ref"),
        (Drawing(kind="paste", reference=to_pil(picture()), reference_mask=OTHER), "none is drawn"),
    ],
)
def test_what_is_missing_is_said(drawing, said):
    with pytest.raises(InputError, match=said):
        _ = drawing.edit


def test_an_edit_that_cannot_be_drawn_is_not():
    assert Drawing.of(dk.Several([dk.Move(MASK, by=(1, 0)), dk.Move(OTHER, by=(1, 0))])) is None


# Pictures


def test_an_8_megapixel_photo_is_scaled_down_with_a_note():
    photo = np.zeros((2448, 3264, 3), np.uint8)
    photo[:, :, 0], photo[:1224] = np.linspace(0, 255, 3264).astype(np.uint8), 99
    file = io.BytesIO()
    Image.fromarray(photo).save(file, format="JPEG")
    found = opened(file.getvalue(), "photo.jpg")
    assert found.image.size == (512, 384) and found.note == "scaled down from 3264x2448 to 512x384"
    assert np.abs(np.asarray(found.image)[:180].astype(int) - 99).max() <= 2
    assert np.abs(np.asarray(found.image)[200:, :, 0].mean(0) - np.linspace(0, 255, 512)).max() < 4


def test_files_come_upright_and_opaque():
    tall, file = Image.new("RGB", (200, 100), "red"), io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    tall.save(file, format="JPEG", exif=exif)
    assert opened(file.getvalue(), "a.jpg").image.size == (100, 200)
    clear, file = Image.new("RGBA", (100, 100), (255, 0, 0, 0)), io.BytesIO()
    clear.save(file, format="PNG")
    assert opened(file.getvalue(), "b.png").image.getpixel((5, 5)) == (255, 255, 255)
    grey, file = Image.new("L", (100, 100), 7), io.BytesIO()
    grey.save(file, format="PNG")
    assert opened(file.getvalue(), "c.png").image.getpixel((5, 5)) == (7, 7, 7)


@pytest.mark.parametrize("data", [b"", b"not an image", b"GIF89a" + bytes(40), b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_a_bad_file_is_an_error_of_one_line(data):
    with pytest.raises(InputError, match="^bad.png is not a readable image: give a PNG, "):
        opened(data, "bad.png")


def test_pictures_too_small_or_too_narrow_are_refused():
    with pytest.raises(InputError, match="the image is 40x300"):
        fitted(Image.new("RGB", (40, 300)))
    with pytest.raises(InputError, match="4000x300"):
        fitted(Image.new("RGB", (4000, 300)))
    assert max(given(picture(700, 600)).image.size) == LARGEST


def test_scenes_come_with_their_prompt_and_their_answer():
    assert len(examples()) >= 8 and example(examples()[0]).prompt
    assert "on" in sampled(10**9).prompt
    case = answered("move", 10**9)
    assert case.case is not None and bits(case.image) == bits(to_pil(case.case.before.image))


# The worker


def test_work_is_done_in_another_thread_and_tells_its_steps():
    told, ended = [], []
    worker = Worker(lambda text, fraction: told.append((text, round(fraction, 2))))

    def work():
        return threading.current_thread() is threading.main_thread(), list(worker.bar("edit", 2)([5, 6]))

    worker.start(work, lambda found, error: ended.append((found, error)))
    assert worker.wait(10) and not worker.busy
    assert ended == [((False, [5, 6]), None)]
    assert told == [("edit 0/2", 0), ("edit 1/2", 0.5), ("edit 2/2", 1)]


def test_one_thing_at_a_time_and_stop_ends_it_at_the_next_step():
    going, ended, steps = threading.Event(), [], []
    worker = Worker(lambda *told: None)

    def work():
        for step in worker.bar("edit", 10**9)(iter(int, 1)):
            steps.append(step)
            going.set()
            stopping.wait(10)

    stopping = threading.Event()
    worker.start(work, lambda found, error: ended.append(error))
    assert going.wait(10) and worker.busy and not worker.wait(0)
    with pytest.raises(InputError, match="still running"):
        worker.start(work, lambda *_: None)
    worker.stop()
    stopping.set()
    assert worker.wait(10) and len(steps) == 1
    assert isinstance(ended[0], Stopped) and explained(ended[0]) == "stopped"


def test_errors_are_one_line():
    assert explained(InputError("mask is empty: paint")) == "mask is empty: paint"
    assert explained(NonFiniteError("step 3")) == "step 3"
    assert explained(KeyError("a")) == "KeyError: 'a'"
    assert explained(RuntimeError("one\ntwo")) == "RuntimeError: one"
    assert explained(MemoryError()) == "MemoryError"


# Guidance


def test_advanced_shows_each_preset_as_it_is():
    panel = Advanced("mini", "move")
    for preset in PRESETS:
        for kind in KINDS:
            panel.preset.value = preset
            panel.reset(kind)
            assert panel.guidance == Guidance.preset(preset, kind) and panel.changed == {}
            assert panel.read.text == f"as preset {preset} has them for {kind}"


def test_advanced_changes_resets_and_takes_a_guidance():
    panel = Advanced("diffeditor", "move")
    panel.controls["steps"].value, panel.controls["guided"].value = 7, (0.2, 0.5)
    panel.controls["layers"].value = "3, 2"
    assert panel.changed == {"steps": 7, "guided": (0.2, 0.5), "layers": (3, 2), "layer_weights": (0.5, 0.5)}
    assert panel.guidance == Guidance.preset("diffeditor", "move").replace(**panel.changed)
    assert panel.read.text == "changed: steps, layers, guided, layer_weights"
    panel.reset()
    assert panel.changed == {} and panel.guidance.steps == 50
    wanted = Guidance.preset("paper", "drag").replace(sde=(0.123, 0.456), cfg=2.5)
    panel.guidance = wanted
    assert panel.guidance == wanted
    panel.preset.value = "mini"
    assert panel.guidance == Guidance.preset("mini", "move")


def test_advanced_says_what_it_cannot_read():
    panel = Advanced("mini", "move")
    panel.controls["layers"].value = "two"
    assert panel.read.error and panel.read.text.startswith("layers is 'two': give numbers")
    with pytest.raises(InputError, match="layers is 'two'"):
        _ = panel.guidance
    panel.reset()
    panel.controls["cfg"].value = -1
    with pytest.raises(InputError, match="cfg is -1"):
        _ = panel.guidance
    assert "η" not in panel.controls["steps"].tooltip and panel.controls["steps"].tooltip.startswith("DDIM steps")


# Small widgets


def test_compare_shows_pictures_of_one_size():
    compare = Compare()
    assert compare.face().size == (64, 64) and repr(compare) == "Compare()"
    compare.show(picture(), picture(seed=1), picture(seed=2))
    compare.against = "answer"
    assert compare.face().size == (3 * 128 + 12, 128)
    assert bits(Image.open(io.BytesIO(compare._after))) == bits(to_pil(picture(seed=1)))
    compare.show(picture(), picture(seed=1))
    assert compare.against == "before" and compare._answer == b"" and repr(compare) == "Compare(128x128, before, after)"
    with pytest.raises(InputError, match=r"before 128x128, after 96x128"):
        compare.show(picture(), picture(128, 96))
    compare.clear()
    assert compare._after == b""


def test_a_tree_stands_in_rows_that_do_not_cross():
    assert places([None, 0, 1, 1, 0, 3]) == [(0, 0), (1, 0), (2, 0), (2, 1), (1, 2), (3, 1)]
    assert len(set(places([None, *range(5)]))) == 6


def test_the_strip_shows_a_history_and_hears_clicks():
    strip, acts = Strip(), []
    strip.act = acts.append
    source = Node(id=0, parent=None, tensor=picture(), prompt=PROMPT)
    history = History((source,))
    for _ in range(2):
        history = history.at(0).added(tensor=picture(seed=1), prompt=PROMPT, edits=(dk.Move(MASK, by=(1, 0)),), nfe=3)
    strip.show(history)
    assert [node["at"] for node in strip.nodes] == [(0, 0), (1, 0), (1, 1)]
    assert (strip.current, strip.can_undo, strip.can_redo) == (2, True, False)
    assert PROMPT in strip.nodes[0]["about"] and strip.nodes[1]["label"] == "move"
    strip._told(strip, {"act": 1}, [])
    strip.disabled = True
    strip._told(strip, {"act": "undo"}, [])
    assert acts == [1] and strip.face().size == (2 * 78, 2 * 78)


def test_small_widgets_have_faces_and_words():
    notice, snippet, taken = Notice(), Snippet(), []
    notice.say("hé <b>", error=True)
    assert (notice.text, notice.error, notice.fraction) == ("hé <b>", True, -1) and notice.face().width > 20
    snippet.code = "a = 1\nb = 2\n"
    assert repr(snippet) == "Snippet(2 lines)" and snippet.face().height > notice.face().height
    opener = Opener(lambda *given: taken.append(given))
    opener._told(opener, {"name": "a.png", "size": [3000, 20]}, [memoryview(b"xy")])
    opener._told(opener, {"name": "b.png"}, [memoryview(b"z")])
    assert taken == [(b"xy", "a.png", (3000, 20)), (b"z", "b.png", None)]


def test_the_chooser_makes_each_kind_of_picture():
    asked, started = [], []
    chooser = Chooser(started.append, lambda prompt, seed: asked.append((prompt, seed)))
    assert chooser.make().prompt == example(examples()[0]).prompt
    chooser.source.value, chooser.seed.value = "random scene", 10**9
    assert chooser.make().prompt == sampled(10**9).prompt
    chooser.source.value, chooser.kind.value = "scene with exact answer", "resize"
    assert chooser.make().case.kind == "resize"
    chooser.source.value, chooser.prompt.value = "prompt", PROMPT
    assert chooser.go.description == "Generate" and chooser.make() is None and asked == [(PROMPT, 10**9)]
    chooser.source.value = "file"
    chooser.file._told(chooser.file, {"name": "x"}, [b"junk"])
    with pytest.raises(InputError, match="x is not a readable image"):
        started[0]()


# The studio


def test_a_move_is_what_the_library_gives():
    made = moved(studio())
    guidance = Guidance.preset(tiny_model().default_guidance, "move").replace(steps=4)
    alone = dk.Session(tiny_model(), to_pil(picture()), PROMPT)
    alone.apply(dk.Move(MASK, by=(30, 10)), guidance, progress=False)
    assert bits(made.image) == bits(alone.image)
    assert made.result is not None and made.session.nodes[1].guidance == guidance and hooks(tiny_model()) == 0
    assert len(made.player.trace) == 4 and made.compare.face().width == 2 * 128 + 6
    assert bits(made.sketch.image) == bits(made.image) and not made.sketch.mask.any() and made.sketch.points == []
    assert repr(made) == "EditStudio(move, Session(128x128, 1 edit, at 1))"


def test_attention_is_recorded_if_asked_for():
    assert not any(moved(studio()).player.trace.attention)
    made = studio()
    made._bench.looks.value = True
    assert any(moved(made).player.trace.attention)


def test_undo_redo_and_branch_bring_back_what_was_drawn():
    made = moved(studio())
    first = bits(made.image)
    made.strip._told(made.strip, {"act": "undo"}, [])
    assert bits(made.image) == bits(to_pil(picture())) and np.array_equal(made.sketch.mask, MASK)
    (arrow,) = made.sketch.points
    assert (arrow[2] - arrow[0], arrow[3] - arrow[1]) == (30, 10) and made.guidance.steps == 4
    made.strip._told(made.strip, {"act": "redo"}, [])
    assert bits(made.image) == first and not made.sketch.mask.any()
    made.strip._told(made.strip, {"act": 0}, [])
    moved(made, by=(0.0, 20.0))
    assert [node.parent for node in made.session.nodes] == [None, 0, 0] and made.strip.nodes[2]["at"] == (1, 1)
    made.strip._told(made.strip, {"act": 1}, [])
    assert bits(made.image) == first and made.strip.current == 1
    made.strip._told(made.strip, {"act": "redo"}, [])
    assert made.status.error and made.status.text.startswith("there is nothing to redo")


@pytest.mark.parametrize("kind", ["resize", "rotate", "appearance", "drag", "paste"])
def test_every_other_kind_runs(kind):
    made = studio()
    made.kind = kind
    assert made.advanced.kind == kind and made._bench.hint.value == HINTS[kind]
    made.drawing = drawings()[kind]
    made.advanced.controls["steps"].value = 3
    made.run()
    assert made.wait(60) and made.status.text.startswith("done"), made.status.text
    assert made.session.current.edit.kind in (kind, "move")


class Keep(Edit):
    """An edit that is none of the kit's: everything stays."""

    kind = "drag"

    def terms(self, f, m, w):
        yield Term("keep", attract(similarity(f.gen, f.gud), w.w_content))


def test_an_edit_of_ones_own_runs_and_is_gone_back_from(tmp_path):
    made = studio(
        kinds={
            "keep": Kind(build=lambda drawn: Keep() if drawn.painted.any() else Keep(), hint="Paint.", guided="drag")
        }
    )
    made.kind = "keep"
    assert made.advanced.kind == "drag" and made._bench.hint.value == "Paint." and made._bench.snippet.code == ""
    made.run()
    assert made.status.error and "nothing is painted" in made.status.text
    made.sketch.mask = MASK
    assert isinstance(made.edit, Keep)
    made.advanced.controls["steps"].value = 3
    made.run()
    assert made.wait(60) and made.status.text.startswith("done"), made.status.text
    alone = dk.edit(
        tiny_model(), to_pil(picture()), Keep(), PROMPT, guidance=made.session.current.guidance, progress=False
    )
    assert bits(made.image) == bits(alone.image) and made.result.trace.energies.keys() == {"keep"}
    with pytest.raises(InputError, match="type Keep cannot be written"):
        made.save(tmp_path / "edit")
    assert not list(tmp_path.iterdir())
    made.strip._told(made.strip, {"act": "undo"}, [])
    assert bits(made.image) == bits(to_pil(picture())) and not made.status.error
    made.kind = "move"
    assert made.advanced.kind == "move" and made._bench.hint.value == HINTS["move"]


def test_an_edit_of_ones_own_has_no_answer_that_is_a_moves():
    case = counterfactual("move", 3, split="train", size=128)
    made = studio(kinds={"keep": Kind(build=lambda drawn: Keep(), hint="Paint.")})
    made.begin(Picture(to_pil(case.before.image), case.prompt, case=case))
    assert made._workshop.coming(case.edit) is not None and made._workshop.coming(Keep()) is None


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ({"move": Kind(build=lambda drawn: Keep(), hint="")}, "a kind is called 'move'"),
        ({"": Kind(build=lambda drawn: Keep(), hint="")}, "a kind is called ''"),
        ({"keep": Keep}, "kind 'keep' is a"),
    ],
)
def test_kinds_that_cannot_be_offered_are_refused(kinds, said):
    with pytest.raises(InputError, match=said):
        studio(kinds=kinds)
    for wrong in ({"build": Keep(), "hint": ""}, {"build": Keep, "hint": "", "guided": "keep"}):
        with pytest.raises(InputError):
            Kind(**wrong)


def test_stop_ends_a_run_within_one_step_and_another_can_follow():
    made = studio()
    made.sketch.mask, made.sketch.points = MASK, [(50, 50, 80, 60)]
    made.advanced.controls["steps"].value = 500
    seen, reached = [], threading.Event()

    def note(change):
        if change["new"].startswith("inversion"):
            seen.append(change["new"])
            reached.set()

    made.status.observe(note, "text")
    made.run()
    assert reached.wait(30) and not made._bench.stop.disabled and made._bench.run.disabled and made.strip.disabled
    made.run()  # refused, the first goes on
    made.stop()
    count = len(seen)
    assert made.wait(30) and len(seen) <= count + 2
    assert made.status.text == "stopped" and made.status.error and hooks(tiny_model()) == 0
    assert len(made.session.nodes) == 1 and made._bench.stop.disabled and not made._bench.run.disabled
    assert np.array_equal(made.sketch.mask, MASK), "what was drawn is still there"
    moved(made)


def test_errors_are_said_and_leave_everything_usable():
    made = studio()
    made.run()
    assert made.status.error and made.status.text.startswith("nothing is painted")
    with pytest.raises(InputError, match="nothing is painted"):
        _ = made.edit
    made.sketch.mask, made.sketch.points = MASK, [(0, 0, 127, 127)]
    made.run()
    assert made.wait(30) and made.status.error and "leaves the image" in made.status.text
    made.advanced.controls["cfg"].value = -3
    made.run()
    assert made.status.text.startswith("cfg is -3")
    made.load("/no/such/folder")
    assert made.wait(30) and made.status.error and "cannot be read" in made.status.text
    made._bench.folder.value = " "
    made._bench.save.click()
    assert made.status.error
    made.guidance = Guidance.preset("iclr").replace(steps=4)
    moved(made)


def test_code_and_files_repeat_the_edit_bit_for_bit(tmp_path, monkeypatch):
    made = moved(studio())
    wanted = bits(made.image)
    monkeypatch.setattr(dk, "load", lambda name: tiny_model())
    path = made.save(tmp_path / 'a "folder"')
    scope: dict = {}
    exec(made.code, scope)
    assert bits(Image.open(path.parent / "result.png")) == wanted == bits(scope["result"].image)
    assert made._bench.snippet.code == made.code and PROMPT in made.code
    task = load_task(path)
    assert bits(dk.edit(tiny_model(), task.image, task.edit, task.prompt, guidance=task.guidance).image) == wanted
    again = EditStudio(tiny_model(), to_pil(picture(seed=3)))
    again.load(path.parent)
    assert again.wait(30) and bits(again.image) == wanted and len(again.session.nodes) == 2, again.status.text


@pytest.mark.parametrize("kind", HINTS)
def test_code_of_every_kind_runs(kind, tmp_path, monkeypatch):
    made = studio()
    made.drawing = drawings()[kind]
    made.advanced.controls["steps"].value = 2
    made.save(tmp_path / "edit")
    monkeypatch.setattr(dk, "load", lambda name: tiny_model())
    scope: dict = {}
    exec(made.code, scope)
    made.run()
    assert made.wait(60) and bits(made.image) == bits(scope["result"].image), made.status.text


def test_code_of_several_edits_names_each_ones_files():
    edits = (dk.Move(MASK, by=(1, 0)), dk.Drag([(1, 2, 3, 4)]))
    code = recipe(edits, "mask.png", Guidance(), model="mini", preset="unheard of", folder="here")
    assert '"mask.png")' in code and "dk.Drag(points=((1.0, 2.0, 3.0, 4.0),), mask=None)" in code
    assert "dk.edit(model, image, edit, 'mask.png', guidance=guidance)" in code
    compile(code, "code", "exec")


def test_a_spec_that_was_not_run_is_loaded_as_a_drawing(tmp_path):
    made = studio()
    made.drawing = drawings()["move"]
    made.save(tmp_path / "edit")
    (tmp_path / "edit" / "history" / "session.json").unlink(missing_ok=True)
    again = EditStudio(tiny_model())
    again.load(tmp_path / "edit" / "edit.json")
    assert again.wait(30) and not again.status.error, again.status.text
    assert np.array_equal(again.sketch.mask, MASK) and again.edit.by == made.edit.by and again.prompt == PROMPT


def test_a_case_can_be_drawn_and_has_its_answer():
    case = counterfactual("move", 10**9, "train", size=128)
    made = EditStudio(tiny_model())
    with pytest.raises(InputError, match="no edit with an exact answer"):
        made.fill_in()
    made.begin(Picture(to_pil(case.before.image), case.prompt, case=case))
    made.fill_in()
    assert made.edit.by == pytest.approx(case.edit.by, abs=1e-9) and np.array_equal(made.sketch.mask, case.mask.numpy())
    made.advanced.controls["steps"].value = 2
    made.run()
    assert made.wait(60) and made.compare._answer and made.player.answer is not None
    assert bits(Image.open(io.BytesIO(made.compare._answer))) == bits(to_pil(case.after.image))


def test_pictures_are_generated_and_taken_as_reference():
    made = studio()
    made._bench.chooser.source.value, made._bench.chooser.prompt.value = "prompt", PROMPT
    made._bench.chooser.go.click()
    assert made.wait(60) and made.status.text.startswith("generated with seed 0"), made.status.text
    assert bits(made.image) == bits(tiny_model().generate(PROMPT, 0, steps=4, cfg=made.guidance.cfg).image)
    assert made.prompt == PROMPT
    made.kind = "appearance"
    reference = to_pil(picture(64, 96, seed=4))
    made._choose(lambda: Picture(reference, "a cube"), reference=True)
    assert made.wait(30) and bits(made.reference.image) == bits(reference)
    made.reference.mask = box(64, 96, 5, 5, 40, 40).numpy()
    assert made.drawing.reference_prompt == "a cube" and made.drawing.reference_mask.sum() == 35 * 35


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_generated_picture_is_edited_without_inversion_and_repeated_by_code_and_files(tmp_path, monkeypatch, cfg):
    made = studio()
    made.advanced.controls["cfg"].value = cfg
    made._choose(partial(made._generate, "a ball", 3))
    assert made.wait(60) and "edits of 4 steps" in made.status.text, made.status.text
    told = []
    made.status.observe(lambda change: told.append(change["new"]), "text")
    moved(made)
    alone = tiny_model().generate("a ball", 3, steps=4, cfg=cfg)
    edit, guidance = made.session.current.edit, made.session.current.guidance
    direct = dk.edit(tiny_model(), alone, edit, guidance=guidance, progress=False)
    assert bits(made.image) == bits(direct.image)
    assert not [text for text in told if text.startswith("inversion")]
    plain = dk.edit(tiny_model(), alone.image, edit, "a ball", guidance=guidance, progress=False)
    assert made.result.nfe < plain.nfe if cfg == 1 else made.result.nfe <= plain.nfe

    monkeypatch.setattr(dk, "load", lambda name: tiny_model())
    path = made.save(tmp_path / "edit")
    scope: dict = {}
    exec(made.code, scope)
    assert bits(scope["result"].image) == bits(made.image) and "model.generate('a ball', 3" in made.code
    task = load_task(path).ready(tiny_model())
    again = dk.edit(tiny_model(), task.image, task.edit, task.prompt, guidance=task.guidance, progress=False)
    assert bits(again.image) == bits(made.image)
    other = EditStudio(tiny_model(), to_pil(picture()))
    other.load(path.parent)
    assert other.wait(60) and other.status.text == "loaded" and other.code == made.code
    for file in (path.parent / "history").iterdir():
        file.unlink()
    other.load(path)  # the edit alone, to be run
    assert other.wait(60) and other.status.text == "loaded" and other.guidance == guidance
    other.run()
    assert other.wait(60) and bits(other.image) == bits(made.image), other.status.text

    made.strip._told(made.strip, {"act": 0}, [])
    made.advanced.controls["steps"].value = 3  # the path has four
    made.run()
    assert made.wait(60) and any(text.startswith("inversion") for text in told), made.status.text
    assert 'Image.open(folder / "before.png")' in made.code


def test_cells_may_use_the_model_while_the_studio_does():
    model, made = tiny_model(), studio()
    z, cond = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), model.embed("")
    edit, guidance = dk.Move(OTHER, by=(-20, 10)), Guidance.preset("iclr").replace(steps=3)

    def cell():
        looked = tap(model.unet, (1,), z, 261, cond)[1]  # ends its pass early
        return looked, dk.edit(model, picture(seed=1), edit, "x", guidance=guidance, progress=False)

    features, alone = cell()
    wanted, nfe = bits(moved(studio()).image), moved(studio()).result.nfe
    made.sketch.mask, made.sketch.points = MASK, [(50, 50, 80, 60)]
    together = 0
    made.run()
    while not made.wait(0):
        looked, result = cell()
        assert torch.equal(looked, features) and torch.equal(result.tensor, alone.tensor) and result.nfe == alone.nfe
        together += 1
    assert together and made.status.text.startswith("done"), made.status.text
    assert bits(made.image) == wanted and made.result.nfe == nfe
    assert made.session.model is model and hooks(model) == 0


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_player_ends_with_the_last_steps_picture(steps):
    made = studio()
    made.sketch.mask, made.sketch.points = MASK, [(50, 50, 80, 60)]
    made.advanced.controls["steps"].value = steps
    made.run()
    assert made.wait(60) and made.status.text.startswith("done"), made.status.text
    player, trace = made.player, made.result.trace
    assert player.step == len(trace) - 1 == steps - 1 == max(player._frames)
    assert bits(player._frames[steps - 1]) == bits(trace.frames()[-1])
    assert b'"frame"' in player._blocks[-1]


def test_a_studio_goes_on_with_a_session_and_refuses_nonsense():
    session = dk.Session(tiny_model(), picture(), "x")
    session.apply(dk.Move(MASK, by=(20, 0)), Guidance(steps=2), progress=False)
    made = EditStudio(session=session)
    assert made.session is session and made.strip.current == 1 and made.prompt == "x"
    for wrong in ({"model": 3}, {"session": session, "image": picture()}, {"image": "a.png"}, {"session": "a"}):
        with pytest.raises(InputError):
            EditStudio(**wrong)
    with pytest.raises(InputError, match="kind is 'warp'"):
        made.kind = "warp"


def test_a_model_by_name_is_loaded_when_needed(tmp_path):
    made = EditStudio(str(tmp_path), picture())
    made.sketch.mask, made.sketch.points = MASK, [(50, 50, 80, 60)]
    made.run()
    assert made.wait(60) and made.status.error and tmp_path.name in made.status.text, made.status.text


def test_the_face_shows_the_drawing_and_the_result():
    made = studio()
    one = made.face()
    made.sketch.mask = MASK
    assert bits(made.face()) != bits(one)
    moved(made)
    assert made.face().width > one.width
    data, _ = made._repr_mimebundle_()
    assert data["text/plain"] == repr(made) and data["image/png"] and as_image(made.image).dtype == torch.float32


def test_the_studio_edits_in_as_much_memory_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()
    monkeypatch.setattr(dk.Session, "apply", lambda self, *args, memory, **options: asked.append(memory))
    workshop = Workshop(tiny_model(), memory="low")
    workshop.begin(given(picture(64, 64), "a ball"))
    workshop.apply(dk.Drag([(20, 20, 30, 30)]), Guidance().replace(steps=2), "a ball")
    assert asked == ["low"]
    with pytest.raises(InputError, match="memory is 'less'"):
        EditStudio(tiny_model(), picture(64, 64), memory="less")
