"""Recorded passes give what evaluated ones give. The recorder here is a stand-in that needs no GPU and is meaner."""

import gc
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from peft import LoraConfig

from dragonkit import editor
from dragonkit.editor import edit
from dragonkit.edits import Appearance, Drag, Move, Paste, Resize, Several
from dragonkit.errors import InputError
from dragonkit.graphs import Graphs, uncounted
from dragonkit.guidance import PRESETS, Guidance
from dragonkit.inversion import ddim_invert, fixed_point_invert
from dragonkit.loading.place import lay_out
from dragonkit.models import load
from dragonkit.passes import begin, evaluate, separate
from dragonkit.recorder import CUDA, FEATURES, NOISE, uncollected
from dragonkit.taps import counted, tap
from dragonkit.trace import Record
from tests.tiny import box, fresh_model, picture

MASK = box(64, 96, 8, 8, 32, 40)
MOVE = Move(MASK, by=(24, 16))
EDITS = (
    MOVE,
    Resize(MASK, 1.3),
    Drag([(20.0, 20.0, 40.0, 30.0)], MASK),
    Appearance(MASK, picture(64, 64, 3), box(64, 64, 20, 20, 50, 50)),
    Paste(picture(64, 64, 3), box(64, 64, 20, 20, 50, 50), at=(50, 30)),
)


class Again:
    """Does the work again at each replay, on the addresses of the first time, having spoilt all other results."""

    def __init__(self, model):
        self.unet, self.results, self.recordings, self.tidied = model.unet, [], 0, 0

    def warm(self, work):
        work()

    def record(self, work, lane=0):
        mine = work()
        self.results.append(mine)
        self.recordings += 1
        return mine, partial(self.again, (mine, work))

    def beside(self, replays):
        self.again(*(pair for replay in replays for pair in replay.args))

    def begin(self, replay):
        return replay  # as late as can be

    def tidy(self):
        self.tidied += 1

    def again(self, *pairs):
        with uncounted(self.unet):
            done = [(mine, work()) for mine, work in pairs]
        kept = [x for mine, _ in pairs for x in mine]
        for theirs in self.results:
            for x in theirs:
                if x is not None and not any(x is y for y in kept):
                    x.fill_(torch.nan)  # what is still needed has been copied, or this will show
        for mine, results in done:
            for there, x in zip(mine, results, strict=True):
                there.copy_(x)


class Counted(CUDA):
    """The recorder itself, where there is a GPU."""

    recordings = 0

    def record(self, work, lane=0):
        self.recordings += 1
        return super().record(work, lane)


def on(device):
    model = fresh_model()
    for part in model.parts.values():
        part.to(device)
    lay_out(model.unet, model.vae)
    return model


def stand_in(model):
    return Again(model) if model.device.type == "cpu" else Counted(model.device)


@pytest.fixture(scope="module", params=["cpu", *(f"cuda:{k}" for k in range(min(torch.cuda.device_count(), 2)))])
def replayed(request):
    model = on(request.param)
    model.graphs = Graphs(model, stand_in(model))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield model


def both(replayed, task, w, **options):
    models = on(replayed.device), replayed
    return [edit(m, picture(64, 96), task, "a ball", guidance=w, progress=False, **options) for m in models]


def same(a, b):
    """Bit for bit; on a GPU, where recorded passes are fused, as near as float32 allows."""
    return torch.equal(a, b) if not torch.cuda.is_available() else (a - b).norm() <= 0.02 * b.norm()


def recordings(model):
    return model.graphs.recorder.recordings


CASES = [(preset, MOVE) for preset in PRESETS] + [("iclr", task) for task in EDITS[1:]]


@pytest.mark.parametrize(("preset", "task"), CASES, ids=lambda x: x if isinstance(x, str) else type(x).__name__)
def test_an_edit_is_the_same_bit_for_bit(replayed, preset, task):
    w = Guidance.preset(preset, task.kind).replace(steps=4)
    plain, recorded = both(replayed, task, w, trace=True)
    assert same(plain.latent, recorded.latent) and same(plain.tensor, recorded.tensor)
    assert plain.nfe == recorded.nfe
    assert all(same(a, b) for a, b in zip(plain.trace.grads, recorded.trace.grads, strict=True) if a is not None)
    assert 2 <= len(replayed.graphs) <= replayed.graphs.most


@pytest.mark.parametrize("change", [{"attention_mode": "concat"}, {"regional": True}, {"reference": "live"}])
def test_so_it_is_with_other_guidance(replayed, change):
    plain, recorded = both(replayed, MOVE, Guidance.preset("iclr").replace(steps=4, **change))
    assert same(plain.latent, recorded.latent) and plain.nfe == recorded.nfe


def test_a_second_edit_records_nothing_new(replayed):
    w = Guidance.preset("iclr").replace(steps=3, attention_mode="replace")
    both(replayed, MOVE, w)
    before = recordings(replayed)
    first = both(replayed, Move(MASK, by=(-4, 12)), w.replace(energy=2.0))
    assert recordings(replayed) == before + 1  # the energy's, which is each edit's own
    assert same(*(r.latent for r in first))
    both(replayed, Move(MASK, by=(-4, 12)), w.replace(layers=(3,)))
    assert recordings(replayed) > before


class Counting(Move):
    """A user's own terms, weaker from call to call."""

    calls = 0

    def terms(self, f, m, w):
        Counting.calls += 1
        for term in super().terms(f, m, w):
            yield replace(term, value=term.value / Counting.calls)


def test_terms_of_ones_own_are_asked_at_every_step(replayed):
    w, results = Guidance.preset("iclr").replace(steps=4), []
    assert MOVE.recordable and Several([MOVE, MOVE]).recordable
    assert not Counting(MASK).recordable and not Several([MOVE, Counting(MASK)]).recordable
    for model in (on(replayed.device), replayed):
        Counting.calls = 0
        results.append(edit(model, picture(64, 96), Counting(MASK, by=(9, 9)), "a ball", guidance=w, progress=False))
        assert Counting.calls == 2 * 2
    assert same(*(r.latent for r in results))


def test_work_that_cannot_be_recorded_is_done_every_time(replayed):
    class Refusing(Again):
        def record(self, work, lane=0):
            raise RuntimeError("operation not permitted when stream is capturing")

    double = Graphs(replayed, Refusing(replayed)).repeated(lambda xs: [2 * x for x in xs], "double")
    for k in range(4):
        assert double([torch.full((2,), float(k))])[0].tolist() == [2.0 * k] * 2


def test_other_inverters_and_what_they_keep_are_the_same(replayed):
    w = Guidance.preset("iclr").replace(steps=3)
    plain, recorded = both(replayed, MOVE, w, invert=fixed_point_invert)
    assert same(plain.latent, recorded.latent) and plain.nfe == recorded.nfe


def test_who_listens_inside_the_denoiser_is_heard(replayed):
    w, heard = Guidance.preset("iclr").replace(steps=3), []
    module = replayed.unet.up_blocks[1]
    handle = module.register_forward_hook(lambda *_: heard.append(1))
    try:
        plain, recorded = both(replayed, MOVE, w)
    finally:
        handle.remove()
    assert same(plain.latent, recorded.latent) and len(heard) == recorded.nfe
    record = Record(attention=True, features=(2,))
    plain, recorded = both(replayed, MOVE, w, trace=record)
    for a, b in zip(plain.trace.features, recorded.trace.features, strict=True):
        assert same(a[2], b[2])
    for a, b in zip(plain.trace.attention, recorded.trace.attention, strict=True):
        assert a.keys() == b.keys() and all(same(a[k].weights, b[k].weights) for k in a)


def test_the_gradient_goes_back_twice_and_features_survive_the_next_pass(replayed):
    z, cond = torch.randn(1, 4, 8, 8, device=replayed.device), replayed.embed("a ball")
    at, leaf = separate(replayed, z, 500, cond, (3, 2)), z.clone().requires_grad_()
    plain = tap(replayed.unet, (2, 3), leaf, 500, cond)
    assert list(at.features) == [2, 3] and all(same(at.features[k], plain[k]) for k in plain)
    evaluate(replayed, torch.randn_like(z), 100, cond, layers=(2,))
    slopes = [[2 * at.features[2], 0 * at.features[3]], [0 * at.features[2], at.features[3].cos()], []]
    slopes[2] = [a + b for a, b in zip(*slopes[:2], strict=True)]
    energies = plain[2].square().sum(), plain[3].sin().sum(), plain[2].square().sum() + plain[3].sin().sum()
    for ours, L in zip(at.pull(slopes), energies, strict=True):
        theirs = torch.autograd.grad(L, leaf, retain_graph=True)[0]
        assert (ours - theirs).norm() <= (1e-5 if ours.device.type == "cpu" else 0.02) * theirs.norm()
    for layer in (3, 2):
        (ours,) = torch.autograd.grad(at.tapped[layer].square().sum(), at.z, retain_graph=True)
        (theirs,) = torch.autograd.grad(plain[layer].square().sum(), leaf, retain_graph=True)
        assert same(ours, theirs)


def test_a_gradient_after_the_next_pass_is_refused(replayed):
    z, cond = torch.randn(1, 4, 8, 8, device=replayed.device), replayed.embed("a ball")
    for layers in ((2, 3), (3,)):  # of whichever layers
        first, second = (separate(replayed, z, t, cond, some) for t, some in ((500, (2, 3)), (400, layers)))
        with pytest.raises(RuntimeError, match="before the next one"):
            first.pull([list(first.features.values())])
        assert second.pull([list(second.features.values())])[0].isfinite().all()


def test_a_pass_that_nobody_waited_for_spoils_no_other(replayed):
    z, cond, plain = torch.randn(1, 4, 8, 8, device=replayed.device), replayed.embed("a ball"), on(replayed.device)
    begin(replayed, z, 100, cond)  # and then somebody is interrupted
    at = separate(replayed, z, 500, cond, (2, 3))
    found = [evaluate(replayed, x, t, cond).eps for x, t in ((2 * z, 300), (z, 100))]
    for ours, (x, t) in zip(found, ((2 * z, 300), (z, 100)), strict=True):
        assert same(ours, evaluate(plain, x, t, cond).eps)
    assert all(same(at.tapped[k], x) for k, x in tap(plain.unet, (2, 3), z, 500, cond).items())


def test_a_pass_is_begun_once_and_counted_once(replayed):
    z, cond = torch.randn(1, 4, 8, 8, device=replayed.device), replayed.embed("a ball")
    with counted(replayed.unet) as count:
        end = begin(replayed, z, 100, cond, tokens=True, layers=(2,))
        assert count.evaluations == 1
        done = end()
    again = evaluate(replayed, z, 100, cond, tokens=True, layers=(2,))
    assert count.evaluations == 1 and torch.equal(done.eps, again.eps)
    assert done.tokens.keys() == again.tokens.keys() and torch.equal(done.features[2], again.features[2])


def test_what_was_used_longest_ago_is_forgotten():
    model = fresh_model()
    model.graphs = Graphs(model, Again(model), most=2)
    cond = model.embed("")
    for size in (8, 16, 24, 8, 24):
        evaluate(model, torch.randn(1, 4, size, 8), 100, cond)
    assert len(model.graphs) == 2 and model.graphs.recorder.recordings == 4
    model.graphs.clear()
    assert len(model.graphs) == 0


def test_new_weights_are_recorded_anew():
    model = fresh_model()
    model.graphs = Graphs(model, Again(model))
    z, cond = torch.randn(1, 4, 8, 8), model.embed("")
    evaluate(model, z, 100, cond)
    model.unet.to(torch.float64).to(torch.float32)
    evaluate(model, z, 100, cond)
    assert model.graphs.recorder.recordings == 2


def strength(model, value):
    model.unet.set_adapters(["default"], [value])


def free(model, value):
    model.unet.enable_freeu(s1=value, s2=0.5, b1=1.1, b2=1.2)


PROCESSORS = AttnProcessor2_0(), AttnProcessor()


def processed(model, value):
    model.unet.set_attn_processor(PROCESSORS[value < 0.5])


@pytest.mark.parametrize("change", [strength, free, processed])
def test_other_settings_of_the_denoiser_are_recorded_anew(replayed, change):
    recording, plain = on(replayed.device), on(replayed.device)
    for model in (recording, plain):
        torch.manual_seed(0)
        model.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "conv1", "proj_in"], init_lora_weights=False))
    recording.graphs = Graphs(recording, stand_in(recording))
    w = Guidance.preset("iclr").replace(steps=2)
    counts = []
    for value in (1.0, 1.0, 0.2):
        for model in (recording, plain):
            change(model, value)
        ours, theirs = (edit(m, picture(64, 96), MOVE, guidance=w, progress=False).latent for m in (recording, plain))
        assert same(ours, theirs)
        counts.append(recordings(recording))
    once, again, anew = counts
    assert again - once < once == anew - again  # energies are recorded for each edit


def test_what_is_compiled_is_evaluated(replayed):
    model = on(replayed.device)
    model.graphs = Graphs(model, stand_in(model))
    w = Guidance.preset("iclr").replace(steps=2)
    model.unet.up_blocks[0].compile(backend="eager")
    edit(model, picture(64, 96), MOVE, guidance=w, progress=False)
    assert len(model.graphs) == 0


def test_passes_are_recorded_again_after_all_were_forgotten(replayed):
    """A pool of a GPU's memory ends with its last graph, and PyTorch fails where such a pool is taken again."""
    w = Guidance.preset("iclr").replace(steps=3)
    plain, recorded = both(replayed, MOVE, w)
    replayed.graphs.clear()
    _, again = both(replayed, MOVE, w)
    assert same(again.latent, plain.latent) and same(again.latent, recorded.latent) and len(replayed.graphs)


@pytest.mark.parametrize("task", [MOVE, EDITS[-1]], ids=lambda task: type(task).__name__)
def test_what_recording_left_is_given_back_once_when_the_branches_are_gone(task, monkeypatch):
    model, paths, kept = fresh_model(), [], []
    model.graphs = Graphs(model, Again(model))

    def invert(*args, **kwargs):
        paths.append(ddim_invert(*args, **kwargs))
        kept.extend(weakref.ref(x) for tokens in paths[-1].tokens.values() for x in tokens.values())
        return paths.pop()

    monkeypatch.setattr(model.graphs.recorder, "tidy", lambda: tidied.append(sum(ref() is not None for ref in kept)))
    tidied = []
    for _ in range(2):
        w = Guidance.preset("iclr", task.kind).replace(steps=3)
        edit(model, picture(64, 96), task, guidance=w, invert=invert, progress=False)
    # Attention that mixes is each edit's own, so its passes are recorded again.
    assert kept and tidied == ([0] if w.attention_mode == "replace" else [0, 0])


def test_another_seed_or_weight_needs_no_other_kernel(monkeypatch):
    model, warmed, warm = fresh_model(), [], Again.warm
    model.graphs = Graphs(model, Again(model))
    monkeypatch.setattr(Again, "warm", lambda *args: warmed.append(1) or warm(*args))
    w, counts = Guidance.preset("iclr").replace(steps=3, seed=1), []
    for change in ({}, {"seed": 7, "energy": 2.0, "w_edit": 3.0}, {"w_contrast": 0.0}):
        edit(model, picture(64, 96), MOVE, guidance=w.replace(**change), progress=False)
        counts.append(len(warmed))
    first, second, third = counts
    assert first == second == third - 1


def test_the_tapped_pass_is_recorded_before_energies_of_its_lane(monkeypatch):
    """What is recorded later may keep its results where what was recorded earlier works."""
    order, tapped = [], Graphs._tapped

    class Noting(Again):
        def record(self, work, lane=NOISE):
            order.extend([lane] if lane == FEATURES else [])
            return super().record(work, lane)

    monkeypatch.setattr(Graphs, "_tapped", lambda *args: order.append("tapped") or tapped(*args))
    for w in (Guidance.preset("iclr"), Guidance.preset("iclr").replace(reference="live")):
        model = fresh_model()
        model.graphs = Graphs(model, Noting(model))
        order.clear()
        edit(model, picture(64, 96), MOVE, guidance=w.replace(steps=3), progress=False)
        assert order.count("tapped") == 1 and order.index("tapped") == 0 and order.count(FEATURES) >= 3


def test_no_garbage_is_collected_while_something_is_recorded():
    for before in (True, False):
        (gc.enable if before else gc.disable)()
        try:
            with pytest.raises(ValueError, match="stop"), uncollected():
                assert not gc.isenabled()
                raise ValueError("stop")
            assert gc.isenabled() == before
        finally:
            gc.enable()


def test_graphs_are_refused_where_there_is_no_such_device():
    with pytest.raises(InputError, match="graphs is True, but the device is cpu"):
        load("mini", device="cpu", graphs=True)
    assert load("mini", device="cpu").graphs is None


def test_an_edit_leaves_nothing_behind(replayed, monkeypatch):
    """No cycle holds the guidance branch, whose tokens fill a GPU, until Python comes to look for such."""
    kept, made = [], editor.Gradient.__init__

    def noting(self, model, path, *rest):
        kept.extend(map(weakref.ref, (self, path)))
        made(self, model, path, *rest)

    monkeypatch.setattr(editor.Gradient, "__init__", noting)
    gc.collect()
    gc.disable()
    try:
        both(replayed, MOVE, Guidance.preset("iclr").replace(steps=4))
        assert len(kept) == 4 and not any(ref() for ref in kept)
    finally:
        gc.enable()
