"""The player's Python side: what is packed is what was traced, live or not, and nothing given wrongly gets through."""

import base64
import io
import json
import struct
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from dragonkit.editor import edit
from dragonkit.edits import Move
from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.trace import Look, Record, Trace
from dragonkit_widgets import GuidancePlayer
from dragonkit_widgets.reel import EXACT, LEVELS, encoded
from dragonkit_widgets.still import glow
from tests.tiny import box, picture, tiny_model

IMAGE = picture(96, 80)
W = Guidance.preset("diffeditor", "move").replace(steps=20)


def run(**options):
    move = Move(box(96, 80, 20, 20, 50, 50), by=(16, 8))
    given = {"trace": Record(attention=True), "guidance": W} | options
    return edit(tiny_model(), IMAGE, move, progress=False, **given).trace


@pytest.fixture(scope="module")
def trace():
    return run()


def unpacked(block):
    """The header of a block, and a function that gives a part's bytes."""
    (length,) = struct.unpack_from("<I", block)
    head = json.loads(block[4 : 4 + length])

    def part(place):
        start = 4 + length + place["start"]
        return block[start : start + place["length"]]

    return head, part


def numbers(part, place):
    return np.frombuffer(part(place), dtype="<i2") * place["scale"]


def heads(player):
    return [unpacked(block)[0] for block in player._blocks]


def sent(player):
    """The custom messages that a player sends from now on."""
    messages = []
    player.send = lambda content, buffers=None: messages.append((content, buffers))
    return messages


def test_a_block_holds_what_the_trace_holds(trace):
    player = GuidancePlayer(trace, IMAGE)
    assert len(player._blocks) == len(trace) == 22 and player.step == 21
    energies = trace.energies
    for k, block in enumerate(player._blocks):
        head, part = unpacked(block)
        assert (head["i"], head["visit"], head["t"]) == (trace.steps[k], trace.visits[k], trace.timesteps[k])
        assert head["energies"] == {n: v[k] for n, v in energies.items() if v[k] == v[k]}
        frame = Image.open(io.BytesIO(part(head["frame"])))
        assert np.array_equal(np.asarray(frame), np.asarray(trace.frames()[k]))
        if trace.grads[k] is None:
            assert "grad" not in head and "norm" not in head and not head["energies"]
        else:
            grad = trace.grads[k][0].numpy()
            found = numbers(part, head["grad"]).reshape(head["grad"]["shape"])
            assert np.abs(found - grad).max() <= 0.51 * np.abs(grad).max() / LEVELS
            assert head["norm"] == pytest.approx(np.linalg.norm(grad), rel=1e-5)
        assert set(head["looks"]) == set(trace.attention[k])
        for name, look in trace.attention[k].items():
            place = head["looks"][name]
            assert place["shapes"] == [list(shape) for shape in look.shapes]
            weights = look.weights.numpy()
            assert np.abs(numbers(part, place) - weights).max() <= 0.51 * weights.max() / LEVELS
    assert max(head["visit"] for head in heads(player)) == 2  # time travel


def test_a_trace_from_disk_plays_as_the_one_that_was_saved(trace, tmp_path):
    loaded = Trace.load(trace.save(tmp_path / "trace"))
    assert GuidancePlayer(loaded)._blocks == GuidancePlayer(trace)._blocks


def test_a_run_without_latents_shows_energies_and_one_without_anything_shows_nothing():
    player = GuidancePlayer(run(trace=False), IMAGE)
    assert len(player._blocks) == 22 and player.extent == [80, 96]
    assert all("frame" not in head and "grad" not in head for head in heads(player))
    assert any(head["energies"] for head in heads(player))
    assert GuidancePlayer()._blocks == [] and repr(GuidancePlayer()) == "GuidancePlayer(0 steps)"


def test_what_is_not_finite_is_left_out():
    trace = Trace(None, Record(latents=False))
    bad = torch.tensor([[[[1.0, float("nan")], [float("inf"), -2.0]]]])
    energies = {"a": torch.tensor(float("inf")), "b": torch.tensor(1.0)}
    trace.add(type("Step", (), {"i": 0, "t": 1, "x0": None, "grad": bad, "energies": energies}))
    (head,) = heads(GuidancePlayer(trace))
    assert head["energies"] == {"b": 1.0} and head["norm"] is None


def test_steps_come_live_one_message_each_and_are_the_same_blocks():
    player = GuidancePlayer(source=IMAGE)
    messages, on_step = sent(player), player.watch()
    steps = []
    trace = run(on_step=lambda trace: (on_step(trace), steps.append((player.step, player.live))))
    assert steps == [(k, True) for k in range(22)] and player.error == ""
    assert [m["first"] for m, _ in messages] == list(range(22))
    assert [buffers for _, buffers in messages] == [[block] for block in GuidancePlayer(trace)._blocks]
    film = player.film
    player.show(trace, IMAGE)
    assert player.film == film + 1 and not player.live and player._blocks == GuidancePlayer(trace)._blocks


def test_a_person_who_looks_back_is_left_there_and_another_run_replaces_the_first():
    player = GuidancePlayer()
    on_step = player.watch()

    def look_back(trace):
        on_step(trace)
        if len(trace) == 5:
            player.following, player.step = False, 2

    run(on_step=look_back)
    assert player.step == 2 and len(player._blocks) == 22
    run(on_step=on_step, guidance=W.replace(steps=10))
    assert player.following and len(player._blocks) == len(player.trace) and player.step == len(player.trace) - 1


def test_only_some_steps_are_decoded_and_a_watched_run_is_not_decoded_again(monkeypatch):
    player = GuidancePlayer(source=IMAGE)
    decoded, decode = [], tiny_model().decode
    monkeypatch.setattr(type(tiny_model()), "decode", lambda model, z: decoded.append(1) or decode(z))
    trace = run(on_step=player.watch(decode_every=4))
    assert [k for k, head in enumerate(heads(player)) if "frame" in head] == [0, 4, 8, 12, 16, 20]
    before = len(decoded)
    player.show(trace, IMAGE)
    assert len(decoded) == before + 1  # the last step
    assert [k for k, head in enumerate(heads(player)) if "frame" in head] == [0, 4, 8, 12, 16, 20, 21]
    other = GuidancePlayer()
    other.show(trace, decode_every=7)
    assert [k for k, head in enumerate(heads(other)) if "frame" in head] == [0, 7, 14, 21]


def test_a_preview_that_fails_is_said_and_does_not_end_the_edit():
    player = GuidancePlayer()
    player.send = lambda *args: 1 / 0
    assert len(run(on_step=player.watch())) == 22
    assert "division by zero" in player.error


def test_steps_may_come_from_another_thread(trace):
    player = GuidancePlayer()
    thread = threading.Thread(target=lambda: run(on_step=player.watch(decode_every=3)))
    thread.start()
    while thread.is_alive():
        assert player.step <= len(player._blocks)
    thread.join()
    assert len(player._blocks) == 22 and player.error == ""


def test_a_page_that_missed_steps_is_sent_them(trace):
    player = GuidancePlayer(trace)
    messages = sent(player)
    player._asked({"kind": "have", "film": player.film, "count": 20})
    player._asked({"kind": "have", "film": player.film, "count": 22})
    player._asked({"kind": "have", "film": player.film - 1, "count": 22})
    assert [(m["first"], len(buffers)) for m, buffers in messages] == [(20, 2), (0, 22)]
    for nonsense in (None, [], {"kind": "other"}, {"kind": "have"}, {"kind": "have", "film": player.film, "count": -3}):
        player._asked(nonsense)
    assert [m["first"] for m, _ in messages[2:]] == [0, 0]


def test_a_page_where_a_pixel_is_marked_is_told_where_its_cell_looks(trace):
    player = GuidancePlayer(trace, IMAGE)
    messages = sent(player)
    ask = {"kind": "look", "film": player.film, "pin": [50, 45], "first": 3}
    player._asked(ask)
    ((content, blocks),) = messages
    assert content == {"kind": "looks", "film": player.film, "first": 3, "pin": [50, 45]} and len(blocks) == 19
    for k, block in enumerate(blocks, 3):
        head, part = unpacked(block)
        assert set(head["looks"]) == set(trace.attention[k]) and heads(player)[k]["single"] == bool(trace.attention[k])
        for name, look in trace.attention[k].items():
            weights, place = look.of((50, 45), (80, 96)).weights.numpy(), head["looks"][name]
            assert place["shapes"] == [list(shape) for shape in look.shapes]
            assert np.abs(numbers(part, place) - weights).max() <= 0.51 * weights.max() / LEVELS
    for pin in ([3, 90], [999, -5]):  # not edited, and off the picture
        player._asked(ask | {"pin": pin, "first": 0})
        assert all(unpacked(block)[0]["looks"] == {} for block in messages[-1][1]) and len(messages[-1][1]) == 22
    answers = len(messages)
    for nonsense in ({"film": 99}, {"pin": [1]}, {"pin": ["a", 2]}, {"pin": None}, {"first": 22}, {"first": -1}):
        player._asked(ask | nonsense)
    player.clear()
    player._asked(ask | {"film": player.film})
    assert len(messages) == answers


def test_a_trace_without_single_cells_says_so(tmp_path, trace):
    loaded = Trace.load(trace.save(tmp_path))
    for seen in loaded.attention:
        seen.update({name: Look(look.weights, look.shapes) for name, look in seen.items()})
    player = GuidancePlayer(loaded)
    assert not any(head["single"] for head in heads(player))
    assert [head["looks"] for head in heads(player)] == [head["looks"] for head in heads(GuidancePlayer(trace))]


def test_the_state_for_a_new_page_holds_every_step(trace):
    player = GuidancePlayer(trace, IMAGE, answer=IMAGE, references=[picture(64, 64)])
    state = player.get_state()
    assert state["film"] == {"film": player.film, "blocks": player._blocks}
    assert set(state["stills"]) == {"source", "answer", "reference 1"} and state["extent"] == [80, 96]
    assert state["stills"]["reference 1"]["width"] == 64
    player.clear()
    assert (
        player.get_state()["film"]["blocks"] == [] and player.stills == {} and player.extent == [] and player.step == 0
    )


def test_a_step_of_a_run_that_was_replaced_is_not_out_of_range(trace):
    player = GuidancePlayer(trace)
    player.set_state({"step": 99, "playing": True})
    assert (player.step, player.playing) == (21, True)
    player.clear()
    player.set_state({"step": 5})
    assert player.step == 0


def test_who_asks_to_follow_a_run_that_went_on_meanwhile_is_at_its_newest_step():
    player = GuidancePlayer()
    run(on_step=player.watch(), guidance=W.replace(steps=4))
    last = len(player._blocks) - 1
    player.set_state({"step": 1, "following": False})
    assert (player.step, player.following) == (1, False)
    player.set_state({"step": 2, "following": True})  # what was the newest step when the browser said so
    assert (player.step, player.following) == (last, True)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("step", 22, "from 0 to 21"),
        ("step", -1, "from 0 to 21"),
        ("speed", 0.0, "above 0"),
        ("fps", float("nan"), "above 0"),
        ("pin", [3], r"\[x, y\]"),
    ],
)
def test_values_that_make_no_sense_are_refused(trace, name, value, remedy):
    player = GuidancePlayer(trace)
    before = getattr(player, name)
    with pytest.raises(InputError, match=remedy):
        setattr(player, name, value)
    assert getattr(player, name) == before


def test_what_cannot_be_shown_is_refused_and_what_was_shown_remains(trace):
    player = GuidancePlayer(trace, IMAGE)
    state = player.get_state()
    for arguments, message in (
        (("trace.json",), "Trace.load"),
        ((trace, picture(64, 64)), "sizes differ"),
        ((None, IMAGE, picture(64, 64)), "sizes differ"),
        ((trace, "photo.png"), "give a PIL image"),
    ):
        with pytest.raises(InputError, match=message):
            player.show(*arguments)
    assert player.get_state() == state
    for wrong in (0, 1.5, True):
        with pytest.raises(InputError, match="decode_every"):
            player.show(trace, decode_every=wrong)
        with pytest.raises(InputError, match="decode_every"):
            player.watch(wrong)
    for options in ({"size": 10}, {"size": "big"}, {"fps": 0}):
        with pytest.raises(InputError):
            GuidancePlayer(trace, **options)


def test_the_face_shows_the_step_and_its_cursor(trace):
    player = GuidancePlayer(trace, IMAGE, IMAGE)
    bundle, _ = player._repr_mimebundle_()
    last = np.asarray(player.face())
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).size == last.shape[1::-1]
    assert bundle["text/plain"] == "GuidancePlayer(22 steps)"
    frame = np.asarray(trace.frames()[21])
    assert any(np.array_equal(last[18 : 18 + 96, x : x + 80], frame) for x in range(last.shape[1] - 80))
    player.step = 3
    assert not np.array_equal(np.asarray(player.face()), last)
    assert np.asarray(GuidancePlayer().face()).min() < 255  # says that there is nothing yet


def test_the_face_shows_where_the_marked_pixel_looks_or_else_the_target(trace):
    player = GuidancePlayer(trace, IMAGE)
    player.step = 3
    faces = []
    for pin, own in (([], False), ([3, 90], False), ([33, 50], True), ([60, 40], True)):
        player.pin = pin
        faces.append(np.asarray(player.face()))
        looks = list(trace.attention[3].values())
        looks = [look.of(tuple(pin), (80, 96)) for look in looks] if own else looks
        picture_of = np.asarray(glow(player.source, looks))
        assert any(np.array_equal(faces[-1][18 : 18 + 96, x : x + 80], picture_of) for x in range(200))
    assert np.array_equal(faces[0], faces[1]) and len({face.tobytes() for face in faces}) == 3


def test_a_glow_is_bright_where_it_is_looked_at():
    weights = torch.zeros(256 + 256)
    weights[256 + 5 * 16 + 3] = 1  # the source's cell whose middle is (27.5, 43.5)
    shown = np.asarray(glow(Image.new("RGB", (100, 70), "white"), [Look(weights, ((16, 16), (16, 16)))])).astype(int)
    assert shown.shape == (70, 100, 3)
    assert np.abs(shown[43, 27] - (0.25 * 255 + 0.75 * np.array([253, 231, 37]))).max() < 12  # viridis' last
    assert np.abs(shown[10, 80] - (0.65 * 255 + 0.35 * np.array([68, 1, 84]))).max() <= 1  # and first


def test_pictures_are_exact_while_small_and_never_larger_than_asked():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (100, 120, 3), dtype=np.uint8))
    data, kind = encoded(small, 200)
    assert kind == "image/png" and np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(small))
    large = Image.new("RGB", (2000, 1000), (10, 200, 30))
    data, kind = encoded(large, 720)
    shown = Image.open(io.BytesIO(data))
    assert kind == "image/jpeg" and shown.size == (720, 360) and 720 * 360 > EXACT
    assert np.abs(np.asarray(shown).astype(int) - (10, 200, 30)).max() <= 3
