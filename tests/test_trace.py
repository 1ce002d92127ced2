"""Traces: kept cheaply, decoded when looked at, the same run with and without; saved whole or not at all."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dragonkit.editor import edit
from dragonkit.edits import Drag, Move, Paste, Several
from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.result import Result
from dragonkit.taps import record as recorded
from dragonkit.taps import rewire, tap
from dragonkit.trace import Look, Observer, Record, Rows, Trace, to_pil
from tests.tiny import box, hooks, picture, tiny_model


def steps():
    for i, t in enumerate((41, 21, 1)):
        energies = {"edit": torch.tensor(2.0 - i), "content": torch.tensor(1.0)} if i < 2 else {}
        grad = torch.full((1, 4, 2, 2), float(i)) if i < 2 else None
        yield SimpleNamespace(i=i, t=t, x0=torch.full((1, 3, 2, 2), i / 10), grad=grad, energies=energies)


def traced(*args, found=(), **kwargs):
    trace = Trace(*args, **kwargs)
    for step in found or steps():
        trace.add(step)
    return trace


def result(**kwargs):
    fields = dict(tensor=picture(64, 80), latent=torch.zeros(1, 4, 8, 10), trace=Trace(), nfe=130, seconds=1.0)
    return Result(**fields | kwargs)


def decode(z):
    return z[0].repeat_interleave(12, dim=1).repeat_interleave(11, dim=2)  # 24 x 22


def test_energies_are_by_name_and_nan_where_not_guided():
    trace = traced()
    assert list(trace.energies) == ["edit", "content"] and trace.energies["edit"][:2] == [2.0, 1.0]
    assert all(math.isnan(values[2]) and len(values) == 3 for values in trace.energies.values())
    assert trace.timesteps == [41, 21, 1] and len(trace) == 3


def test_json_holds_null_where_not_guided():
    expected = {
        "steps": [0, 1, 2],
        "visits": [0, 0, 0],
        "timesteps": [41, 21, 1],
        "energies": {"edit": [2.0, 1.0, None], "content": [1.0, 1.0, None]},
    }
    assert json.loads(traced().to_json()) == expected
    assert json.loads(traced(record=True).to_json()) == expected | {"gradient_norms": [0.0, 4.0, None]}


def test_every_visit_of_a_step_has_its_entry():
    first, again, last = steps()
    again.i, again.t, again.visit = 0, 41, 1
    trace = traced(record=True, found=[first, again, last])
    assert (trace.steps, trace.visits, trace.timesteps) == ([0, 0, 2], [0, 1, 0], [41, 41, 1])
    assert len(trace.x0) == len(trace.grads) == len(trace.energies["edit"]) == 3


def test_frames_are_decoded_when_asked_and_only_once():
    decoded = []

    def noted(z):
        decoded.append(z[0, 0, 0, 0].item())
        return z[0]

    trace = traced(decode=noted, record=True)
    assert decoded == []
    frames = trace.frames(every=2)
    assert decoded == pytest.approx([0.0, 0.2]) and [np.asarray(f).max() for f in frames] == [0, 51]
    assert [np.asarray(f).max() for f in trace.frames()] == [0, 26, 51]
    assert decoded == pytest.approx([0.0, 0.2, 0.1])
    assert trace.gradient_norms[:2] == [0, 4] and math.isnan(trace.gradient_norms[2])


def test_frames_need_latents():
    with pytest.raises(InputError, match="trace=True"):
        traced().frames()
    with pytest.raises(InputError, match="trace=True"):
        traced(decode, Record(latents=False)).frames()
    with pytest.raises(InputError, match="every is 0"):
        traced(decode, True).frames(every=0)


def test_only_what_the_record_says_is_kept():
    given = list(steps())
    for step in given:
        step.features, step.attention = {2: torch.ones(1)}, {"a": Look(torch.ones(2), ((1, 1), (1, 1)))}
    nothing, gradients = traced(found=given), traced(record=Record(latents=False), found=given)
    assert (nothing.x0, nothing.grads) == ([], []) and len(gradients.grads) == 3 and gradients.x0 == []
    assert all(a is b.x0 for a, b in zip(traced(record=True, found=given).x0, given, strict=True))  # by reference


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latents": 1}, "latents is 1: give True or False"),
        ({"features": (0,)}, r"features is \(0,\): name decoder layers once"),
        ({"features": (2, 2)}, "name decoder layers once"),
        ({"features": 3}, "features is 3"),
        ({"features": (True,)}, "features is"),
    ],
)
def test_a_record_that_says_nothing_clear_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Record(**fields)


def test_what_trace_may_be():
    record = Record(features=[2, 3])
    assert Record.of(True) == Record() and Record.of(record) is record and record.features == (2, 3)
    assert not Record.of(False).latents and not Record.of(False).gradients
    with pytest.raises(InputError, match="trace is 'yes': give True, False or a Record"):
        Record.of("yes")
    with pytest.raises(InputError, match=r"layers \[9\] cannot be tapped"):
        Record.of(Record(features=(9,)), tiny_model().unet)


# Observing the denoiser.


def guided(refs=(), height=16, width=8):
    """Stand-ins for a path on a latent (height, width), and regions: a target of four cells, and three more edited."""
    path = SimpleNamespace(
        z_T=torch.zeros(1, 4, height, width),
        references=[SimpleNamespace(z_T=torch.zeros(1, 4, *size)) for size in refs],
    )
    target = box(height, width, 4, 4, 6, 6)
    return path, SimpleNamespace(target=target, edited=target | box(height, width, 9, 1, 10, 4))


def observed(mixing, refs=(), cfg=False, **fields):
    """What is seen in one rewired pass of the tiny denoiser, which gives the same bits as an unobserved one."""
    model, (path, m) = tiny_model(), guided(refs)
    draw = torch.Generator().manual_seed(1)
    branches = [torch.randn(1, 4, *grid, generator=draw) for grid in [(16, 8), (16, 8), *refs]]
    cond = model.embed("a ball")
    tokens = []
    for z in branches:
        with recorded(model.unet) as found:
            model.predict(z, 301, cond)
        tokens.append(dict(found))

    def context(name, own):
        return mixing(own, tokens[1][name], tuple(ref[name] for ref in tokens[2:]))

    z = branches[0].repeat(2, 1, 1, 1) if cfg else branches[0]
    cond = {k: v.repeat(2, 1, 1) for k, v in cond.items()} if cfg else cond
    observer = Observer(Record(**fields), model.unet, path, m, mixing)
    with torch.no_grad(), rewire(model.unet, context):
        plain = model.predict(z, 301, cond)
        with observer() as seen:
            eps = model.predict(z, 301, cond)
    assert hooks(model) == 0 and torch.equal(plain, eps)
    return seen


def replaced(own, gud, refs):
    return gud


def joined(own, gud, refs):
    return torch.cat([own, gud.expand_as(own)], dim=1)


def picked(own, gud, refs):
    return torch.cat([gud[:, ::3], refs[0][:, 1::2]], dim=1)


def test_a_look_is_the_softmax_of_queries_and_keys():
    seen = observed(replaced, attention=True)
    names = list(seen.attention)
    assert names and all(name.startswith("up_blocks") for name in names)
    model = tiny_model()
    for look in seen.attention.values():
        assert look.own.sum() == 0 and look.references == ()
        assert look.source.shape[0] == 2 * look.source.shape[1] and look.weights.sum() == pytest.approx(1, abs=1e-5)
    # against explicit attention of one module on tokens of its own
    module = model.unet.get_submodule(names[-1])
    own, theirs = torch.randn(1, 128, module.to_q.in_features), torch.randn(1, 128, module.to_q.in_features)
    path, m = guided()
    with torch.no_grad(), Observer(Record(attention=True), model.unet, path, m, replaced)() as seen:
        module(own, encoder_hidden_states=theirs)
        q, k = module.to_q(own), module.to_k(theirs)
        d = q.shape[-1] // module.heads
        heads = [(q[0, :, h * d : h * d + d] @ k[0, :, h * d : h * d + d].T) / d**0.5 for h in range(module.heads)]
    weights, look = torch.stack([s.softmax(-1) for s in heads]).mean(0), seen.attention[names[-1]]
    torch.testing.assert_close(look.source.flatten(), weights[m.target.flatten()].mean(0))
    for cell in range(128):  # each edited cell's own, to the half precision that it is kept in
        if not m.edited.flatten()[cell]:
            assert look.at(cell) is None
            continue
        torch.testing.assert_close(look.at(cell).source.flatten(), weights[cell], rtol=5e-4, atol=1e-7)
        assert look.at(cell).shapes == look.shapes and look.at(cell).own.sum() == 0


@pytest.mark.parametrize("name", ["replaced", "joined", "picked"])
def test_the_mean_of_the_targets_rows_is_the_mean_and_all_that_is_edited_has_a_row(name):
    refs = [(8, 16)] if name == "picked" else []
    seen, (_, m) = observed(globals()[name], refs=refs, attention=True), guided()
    for look in seen.attention.values():
        h, w = look.shapes[0]
        cover = torch.nn.functional.adaptive_avg_pool2d(m.target[None].float(), (h, w)).flatten()
        cells = (cover >= 0.5 if (cover >= 0.5).any() else cover > 0).nonzero()[:, 0].tolist()
        mean = torch.stack([look.at(cell).weights for cell in cells]).mean(0)
        torch.testing.assert_close(mean, look.weights, rtol=1e-3, atol=1e-6)
        for y, x in m.edited.nonzero().tolist():  # cells of 8 pixels, in a picture that was padded from 60 x 100
            found = look.of((8 * x, min(8 * y + 7.49, 99)), (60, 100))
            assert torch.equal(found.weights, look.at(y * h // 16 * w + x * w // 8).weights)
            assert found.weights.sum() == pytest.approx(1, abs=1e-3)
            assert all((own == 0).all() == (mean == 0).all() for own, mean in zip(found.maps, look.maps, strict=True))
    assert look.of((60, 60), (64, 128)) is None  # the finest layer
    assert len({x.rows.weights.dtype for x in seen.attention.values()} | {torch.float16}) == 1


def test_a_place_that_cannot_be_looked_from_is_refused():
    look = next(iter(observed(replaced, attention=True).attention.values()))
    for cell in (-1, look.own.numel(), 1.5):
        with pytest.raises(InputError, match="cell is"):
            look.at(cell)
    with pytest.raises(InputError, match=r"point \(60, 3\) is off the 60x100 image"):
        look.of((60, 3), (60, 100))
    with pytest.raises(InputError, match="size is 100x60, which no grid"):
        look.of((3, 3), (100, 60))


def test_where_single_cells_would_be_too_many_the_mean_alone_is_kept(monkeypatch):
    full = observed(joined, attention=True).attention
    monkeypatch.setattr("dragonkit.trace.observe.MOST", 7 * 256 - 1)
    some = observed(joined, attention=True).attention
    for name, look in some.items():
        torch.testing.assert_close(look.weights, full[name].weights)
        assert (look.rows is None) == (look.own.numel() == 128) and (look.rows or look.at(0) is None)


def test_an_edit_without_a_target_looks_from_all_that_is_edited():
    path, m = guided()
    module = list(tiny_model().unet.named_modules())
    module = next(x for name, x in reversed(module) if name.startswith("up_blocks") and name.endswith("attn1"))
    own = torch.randn(1, 128, module.to_q.in_features)
    looks = []
    for target in (m.edited, None, ~m.edited & m.edited):
        regions = SimpleNamespace(target=target, edited=m.edited)
        with torch.no_grad(), Observer(Record(attention=True), tiny_model().unet, path, regions, replaced)() as seen:
            module(own, encoder_hidden_states=own)
        looks += seen.attention.values()
    assert len(looks) == 3 and all(torch.equal(look.weights, looks[0].weights) for look in looks)
    nothing = SimpleNamespace(target=None, edited=~m.edited & m.edited)
    with Observer(Record(attention=True), tiny_model().unet, path, nothing, replaced)() as seen:
        assert hooks(tiny_model()) == 0


def test_the_maps_tell_the_branches_apart():
    seen = observed(joined, attention=True)
    for look in seen.attention.values():
        assert look.own.sum() > 0.05 and look.source.sum() > 0.05
        assert float(look.own.sum() + look.source.sum()) == pytest.approx(1, abs=1e-5)
    seen = observed(picked, refs=[(8, 16)], attention=True)
    for look in seen.attention.values():
        (ref,) = look.references
        assert look.own.sum() == 0 and (look.source.flatten()[1::3] == 0).all() and (ref.flatten()[::2] == 0).all()
        assert (look.source.flatten()[::3] > 0).all() and (ref.flatten()[1::2] > 0).all()


def test_under_classifier_free_guidance_the_prompts_half_is_seen():
    alone = observed(joined, attention=True, features=(3,))
    pair = observed(joined, cfg=True, attention=True, features=(3,))
    for name, look in alone.attention.items():
        torch.testing.assert_close(pair.attention[name].weights, look.weights, atol=1e-5, rtol=1e-4)
    assert pair.features[3].shape[0] == 1
    torch.testing.assert_close(pair.features[3], alone.features[3], atol=1e-4, rtol=1e-4)


def test_features_are_what_a_tap_gives_half_if_wished():
    model, (path, m) = tiny_model(), guided()
    z, cond = torch.randn(1, 4, 16, 8, generator=torch.Generator().manual_seed(2)), tiny_model().embed("")
    for half in (False, True):
        with torch.no_grad(), Observer(Record(features=(3, 2), half=half), model.unet, path, m, replaced)() as seen:
            model.predict(z, 41, cond)
        expected = tap(model.unet, (2, 3), z, 41, cond)
        assert list(seen.features) == [2, 3] and seen.attention == {}
        for layer, x in seen.features.items():
            assert torch.equal(x, expected[layer].half() if half else expected[layer])


def test_nothing_asked_no_hook_and_no_hook_left_after_an_error():
    model, (path, m) = tiny_model(), guided()
    with Observer(Record(), model.unet, path, m, replaced)() as seen:
        assert hooks(model) == 0
    assert (seen.features, seen.attention) == ({}, {})
    with (
        pytest.raises(KeyboardInterrupt),
        Observer(Record(attention=True, features=(2,)), model.unet, path, m, replaced)(),
    ):
        assert hooks(model) > 0
        raise KeyboardInterrupt
    assert hooks(model) == 0


def test_a_context_that_blends_tokens_cannot_be_traced():
    path, m = guided()
    with pytest.raises(InputError, match="mixes tokens rather than choosing"):
        Observer(Record(attention=True), tiny_model().unet, path, m, lambda own, gud, refs: (own + gud) / 2 + 0.25)


@pytest.fixture(scope="module")
def runs():
    """The same edit, traced and untraced."""
    image, move = picture(128, 128), Move(box(128, 128, 32, 16, 80, 56), by=(40, 8))
    guidance = Guidance.preset("iclr").replace(steps=4)
    return [edit(tiny_model(), image, move, guidance=guidance, trace=t, progress=False) for t in (False, True)]


def test_a_traced_run_is_the_untraced_run(runs):
    plain, full = runs
    assert torch.equal(plain.tensor, full.tensor) and torch.equal(plain.latent, full.latent)
    assert (plain.nfe, str(plain.trace.energies)) == (full.nfe, str(full.trace.energies))
    assert plain.trace.x0 == [] and len(full.trace.x0) == len(full.trace.grads) == 4
    assert full.trace.frames()[-1].size == (128, 128)


@pytest.mark.parametrize("preset", ["paper", "iclr", "diffeditor"])
@pytest.mark.parametrize("kind", ["move", "drag", "paste", "both"])
def test_a_fully_recorded_run_is_the_untraced_run(preset, kind):
    other, mask = picture(64, 128, seed=7), box(128, 128, 32, 16, 80, 56)
    edits = {
        "move": Move(mask, by=(40, 8)),
        "drag": Drag([(30, 40, 60, 40)], mask),
        "paste": Paste(other, box(64, 128, 10, 10, 50, 50), (60, 90)),
    }
    task = edits.get(kind) or Several([edits["move"], edits["paste"]])
    guidance = Guidance.preset(preset, task.kind).replace(steps=6)
    record = Record(attention=True, features=(2, 4), half=True)
    runs = [
        edit(tiny_model(), picture(128, 128), task, guidance=guidance, trace=trace, progress=False)
        for trace in (False, record)
    ]
    plain, full = runs
    assert torch.equal(plain.tensor, full.tensor) and torch.equal(plain.latent, full.latent) and plain.nfe == full.nfe
    trace = full.trace
    assert hooks(tiny_model()) == 0 and len(trace) == len(plain.trace) == len(trace.x0)
    assert all(set(f) == {2, 4} and f[4].dtype == torch.float16 and len(f[4]) == 1 for f in trace.features)
    rewired = [bool(seen) for seen in trace.attention]
    start, end = (round(6 * part) for part in guidance.attention)
    assert rewired == [start <= i < end for i in trace.steps]
    for look in (look for seen in trace.attention for look in seen.values()):
        assert look.weights.sum() == pytest.approx(1, abs=1e-4)
        assert len(look.references) == len(task.references)
        if guidance.attention_mode == "mix":
            assert look.own.sum() == 0 and look.references[0].sum() > 0


def test_a_layer_that_is_not_there_is_refused_before_the_denoiser_runs(monkeypatch):
    monkeypatch.setattr(type(tiny_model()), "predict", lambda *args: pytest.fail("the denoiser ran"))
    with pytest.raises(InputError, match=r"layers \[9\] cannot be tapped"):
        edit(tiny_model(), picture(), Move(box(128, 128, 32, 16, 80, 56), by=(8, 0)), trace=Record(features=(9,)))


# Films, figures and folders.


@pytest.mark.parametrize(("width", "height"), [(96, 72), (97, 72), (96, 73), (131, 87)])
def test_an_mp4_has_the_frames_size_made_even_and_shows_them(tmp_path, width, height):
    trace = traced(lambda z: picture(height, width, seed=round(z[0, 0, 0, 0].item() * 10)), True)
    path = trace.mp4(tmp_path / "new" / "run.mp4", fps=12.5)
    with av.open(str(path)) as film:
        (stream,) = film.streams.video
        shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
        assert float(stream.average_rate) == 12.5
    assert len(shown) == 3
    for pixels, frame in zip(shown, trace.frames(), strict=True):
        assert pixels.shape == (height + height % 2, width + width % 2, 3)
        assert abs(pixels[:height, :width].astype(float) - np.asarray(frame)).mean() < 6
    assert [p.name for p in path.parent.iterdir()] == ["run.mp4"]


@pytest.mark.parametrize(("width", "height"), [(96, 72), (131, 87)])
def test_a_gif_has_the_frames_size_and_shows_them(tmp_path, width, height):
    trace = traced(lambda z: picture(height, width, seed=round(z[0, 0, 0, 0].item() * 10)), True)
    with Image.open(trace.gif(tmp_path / "run.gif", fps=20, every=2)) as film:
        assert (film.n_frames, film.size, film.info["loop"], film.info["duration"]) == (2, (width, height), 0, 50)
        for k, frame in enumerate(trace.frames(every=2)):
            film.seek(k)
            assert abs(np.asarray(film.convert("RGB"), float) - np.asarray(frame)).mean() < 6


@pytest.mark.parametrize(
    ("write", "name", "fps", "message"),
    [
        ("gif", "run.mp4", 10, "does not end in .gif"),
        ("mp4", "run.gif", 10, "does not end in .mp4"),
        ("gif", "run.gif", 0, "fps is 0: give frames a second"),
        ("gif", "run.gif", 51, "at most 50"),
        ("mp4", "run.mp4", math.nan, "fps is nan"),
        ("mp4", "run.mp4", True, "fps is True"),
    ],
)
def test_a_film_that_cannot_be_is_refused(tmp_path, write, name, fps, message):
    with pytest.raises(InputError, match=message):
        getattr(traced(decode, True), write)(tmp_path / name, fps=fps)
    assert not list(tmp_path.iterdir())


def test_a_film_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "run.mp4"
    path.write_bytes(b"before")

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("dragonkit.film.np.pad", fail)
    with pytest.raises(KeyboardInterrupt):
        traced(decode, True).mp4(path)
    assert path.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["run.mp4"]


def test_a_plot_has_a_line_a_term_and_names_its_axes():
    (axes,) = traced().plot().axes
    assert [line.get_label() for line in axes.lines] == ["edit", "content"]
    assert axes.lines[0].get_ydata()[:2].tolist() == [2.0, 1.0]
    upper, lower = traced(record=True).plot().axes
    assert lower.lines[0].get_ydata()[:2].tolist() == [0.0, 4.0]
    assert upper.get_title() and lower.get_title() and upper.get_ylabel() and lower.get_ylabel() and lower.get_xlabel()


def everything(count=3):
    found = list(steps())[:count]
    for k, step in enumerate(found):
        step.visit = k % 2
        step.features = {2: torch.randn(1, 3, 2, 2).half(), 3: torch.randn(1, 2, 4, 4)}
        cells, tokens, shapes = torch.tensor([1, 4]), torch.arange(6, 12), ((2, 3), (2, 3))
        rows = [Rows(torch.rand(2, 6).half(), cells, tokens) for _ in range(2)]
        looks = {f"up_blocks.{n + 1}": Look(torch.rand(12), shapes, rows[n]) for n in range(2)}
        step.attention = looks | {"up_blocks.3": Look(torch.rand(12), shapes)} if k else {}
    return traced(decode, Record(attention=True, features=(2, 3)), found=found)


def test_a_saved_trace_is_read_without_a_model(tmp_path):
    trace = everything()
    again = Trace.load(trace.save(tmp_path / "trace"))
    assert again.record == trace.record and again.to_json() == trace.to_json()
    assert all(torch.equal(a, b) for a, b in zip(again.x0, trace.x0, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(again.grads[:2], trace.grads[:2], strict=True))
    assert again.grads[2] is None and again.attention[0] == {}
    for a, b in zip(again.features, trace.features, strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
    for seen, kept in zip(again.attention, trace.attention, strict=True):
        assert seen.keys() == kept.keys()
        for name, look in seen.items():
            assert torch.equal(look.source, kept[name].source) and look.shapes == kept[name].shapes
            for cell in range(6):
                one, other = look.at(cell), kept[name].at(cell)
                assert one is other is None or torch.equal(one.weights, other.weights)
    assert again.attention[2]["up_blocks.1"].at(4) is not None and again.attention[2]["up_blocks.3"].rows is None
    for a, b in zip(again.frames(), trace.frames(), strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))


def test_saving_again_replaces_the_old_trace_and_its_files(tmp_path):
    everything().save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    second = everything(2)
    second.save(tmp_path)
    index = json.loads((tmp_path / "trace.json").read_text())
    assert {p.name for p in tmp_path.iterdir()} == {"notes.txt", "trace.json", *index["files"]}
    assert Trace.load(tmp_path).to_json() == second.to_json()


@pytest.mark.parametrize("fatal", ["frame", "tensors", "trace.json", "moving"])
def test_a_save_that_is_stopped_leaves_the_old_trace(tmp_path, monkeypatch, fatal):
    old = everything()
    old.save(tmp_path / "trace")
    write, move = Path.write_text, Path.replace

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    if fatal == "frame":
        monkeypatch.setattr(Image.Image, "save", stop)
    elif fatal == "tensors":
        monkeypatch.setattr("dragonkit.trace.folder.save_file", stop)
    elif fatal == "trace.json":
        monkeypatch.setattr(Path, "write_text", lambda p, *a, **k: (write(p, "{"), stop()))
    else:  # while files move into place: the index is the last of them
        monkeypatch.setattr(Path, "replace", lambda p, to: stop() if p.name == "trace.json" else move(p, to))
    with pytest.raises(KeyboardInterrupt):
        everything(2).save(tmp_path / "trace")
    monkeypatch.undo()
    assert Trace.load(tmp_path / "trace").to_json() == old.to_json()
    assert [p.name for p in tmp_path.iterdir()] == ["trace"]


def test_a_trace_of_version_1_is_read_without_single_cells(tmp_path):
    weights = torch.rand(12)
    save_file({"x0/0": torch.rand(1, 4, 2, 2), "attention/0/up_blocks.1": weights}, tmp_path / "tensors.safetensors")
    picture_of = Image.new("RGB", (24, 16), (10, 20, 30))
    picture_of.save(tmp_path / "frame.png")
    index = {
        "version": 1,
        "record": {"latents": True, "gradients": True, "attention": True, "features": [], "half": False},
        "steps": [0],
        "visits": [0],
        "timesteps": [41],
        "energies": {"edit": [2.0]},
        "gradient_norms": [None],
        "frames": ["frame.png"],
        "looks": {"up_blocks.1": [[2, 3], [2, 3]]},
        "tensors": "tensors.safetensors",
        "files": ["frame.png", "tensors.safetensors"],
    }
    (tmp_path / "trace.json").write_text(json.dumps(index))
    trace = Trace.load(tmp_path)
    look = trace.attention[0]["up_blocks.1"]
    assert torch.equal(look.weights, weights) and look.rows is None and look.at(0) is None
    assert trace.energies == {"edit": [2.0]} and trace.frames()[0].getpixel((3, 3)) == (10, 20, 30)
    trace.save(tmp_path)
    assert json.loads((tmp_path / "trace.json").read_text())["version"] == 2
    assert torch.equal(Trace.load(tmp_path).attention[0]["up_blocks.1"].weights, weights)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention/1/up_blocks.1": torch.rand(11)},
        {"rows/1/up_blocks.1": torch.rand(2, 5).half()},
        {"cells/up_blocks.1": torch.tensor([1, 6])},
        {"cells/up_blocks.1": torch.tensor([0.0, 1.0])},
        {"tokens/up_blocks.1": torch.arange(7, 13)},
        {"tokens/up_blocks.1": None},
    ],
)
def test_attention_that_does_not_fit_together_is_refused(tmp_path, changes):
    everything().save(tmp_path)
    file = tmp_path / json.loads((tmp_path / "trace.json").read_text())["tensors"]
    tensors = load_file(file) | changes
    save_file({name: x for name, x in tensors.items() if x is not None}, file)
    with pytest.raises(InputError, match="has maps of wrong sizes: save the trace again"):
        Trace.load(tmp_path)


def test_a_broken_trace_is_named_in_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Trace.load(tmp_path)
    everything().save(tmp_path)
    index = json.loads((tmp_path / "trace.json").read_text())
    for changes, message in (
        ({"version": 3}, "version is 3"),
        ({"stepz": []}, "unknown field 'stepz': did you mean 'steps'"),
        ({"record": index["record"] | {"halff": True}}, "unknown field 'record.halff': did you mean 'half'"),
        ({"tensors": "../tensors"}, "tensors is '../tensors': name a file in the same folder"),
        ({"visits": [0]}, "different lengths"),
    ):
        (tmp_path / "trace.json").write_text(json.dumps(index | changes))
        with pytest.raises(InputError, match=message):
            Trace.load(tmp_path)
    (tmp_path / "trace.json").write_text(json.dumps(index))
    (tmp_path / index["tensors"]).write_bytes(b"short")
    with pytest.raises(InputError, match="is broken"):
        Trace.load(tmp_path)
    (tmp_path / index["tensors"]).unlink()
    with pytest.raises(InputError, match="is missing"):
        Trace.load(tmp_path)


# Results.


def test_pixels_are_rounded_to_8_bits():
    image = to_pil(torch.tensor([[[0.0, 0.5, 1.0, 0.4999 / 255]]]).expand(3, -1, -1))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 128, 255, 0]


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".webp", ".jpg"])
def test_a_saved_result_opens_again(tmp_path, suffix):
    edited = result()
    path = edited.save(tmp_path / f"edited{suffix}")
    again = np.asarray(Image.open(path).convert("RGB"), dtype=float)
    assert abs(again - np.asarray(edited.image, dtype=float)).mean() <= (0 if suffix.lower() == ".png" else 4)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "edited.png"
    path.write_bytes(b"before")

    def fail(self, file, **kwargs):
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        result().save(path)
    assert path.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["edited.png"]


@pytest.mark.parametrize("name", ["edited", "edited.txt", "edited.json"])
def test_a_name_without_an_image_suffix_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=f"'{name}' has no suffix"):
        result().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_result_shows_itself():
    bundle, about = result()._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG") and about["image/png"]["alt"]
    assert bundle["text/plain"] == "Result(80x64, 130 evaluations, 1.0 s)"
