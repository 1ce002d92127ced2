"""One pass for noise and features: what it saves, and that it is otherwise what two passes are."""

from dataclasses import replace

import pytest
import torch

from dragonkit import editor
from dragonkit.edits import Appearance, Drag, Edit, Move, Paste, Resize, Several
from dragonkit.errors import NonFiniteError
from dragonkit.generation import denoise
from dragonkit.guidance import Guidance
from dragonkit.inversion import Keep, ddim_invert
from dragonkit.passes import joint, separate
from dragonkit.schedule import Schedule
from dragonkit.spec import load_task, save_spec
from dragonkit.taps import counted, features, rewire
from dragonkit.trace import Record
from tests.tiny import box, fresh_model, hooks, picture, tiny_model

IMAGE = picture(64, 64)
MASK = box(64, 64, 8, 8, 32, 32)
MOVE = Move(MASK, by=(24, 16))
EDITS = [
    MOVE,
    Resize(MASK, 0.6),
    Drag([(20, 20, 40, 30), (10, 30, 12, 50)]),
    Appearance(MASK, picture(64, 128, 3), box(64, 128, 8, 8, 40, 40), "a cube"),
    Paste(picture(128, 64, 3), box(128, 64, 8, 8, 40, 40), at=(32, 32)),
    Several([Move(MASK, by=(24, 16)), Drag([(50, 10, 40, 12)])]),
]
SHORT = Guidance().replace(steps=5, one_pass=True)  # guided at steps 0 to 2, attention rewired from step 0 on
COND = {"cfg 1": 1.0, "cfg 4": 4.0}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def path(model):
    schedule, cond = Schedule(model, 5), model.embed("a ball")
    return ddim_invert(model, model.encode(IMAGE[None]), cond, schedule, keep=Keep.wanted(SHORT, schedule))


def run(model, edit=MOVE, guidance=SHORT, image=IMAGE, **kwargs):
    return editor.edit(model, image, edit, "a ball", guidance=guidance, progress=False, **kwargs)


def latent(seed=0):
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("cfg", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("layers", [(2, 3), (3, 1), (4,)])
def test_one_pass_gives_the_noise_and_the_features_of_two_and_the_same_way_back(model, cfg, layers):
    z, cond, empty = latent(), model.embed("a ball"), model.embed("")
    eps, one = joint(model, z, 500, cond, empty, cfg, layers)
    two = separate(model, z, 500, cond, layers)
    torch.testing.assert_close(eps, denoise(model, z, 500, cond, empty, cfg), rtol=1e-4, atol=1e-5)
    assert not eps.requires_grad and torch.equal(one.z, z) and list(one.features) == sorted(layers)
    slopes = []
    for found in (one, two):
        value = sum(x.sin().sum() for x in found.features.values())
        slopes += found.pull([torch.autograd.grad(value, list(found.features.values()))])
    for layer in layers:
        assert torch.equal(one.features[layer], two.features[layer])
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-6)
    assert slopes[0].abs().max() > 1e-3 and hooks(model) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_slopes_too_small_for_half_precision_arrive(dtype):
    """Scaled by a power of two they arrive as the larger ones do, bit for bit, each image of a batch by itself."""
    model = fresh_model()
    model.unet.to(dtype)
    z, cond = torch.cat([latent(), latent(1)]), {k: x.to(dtype).expand(2, -1, -1) for k, x in model.embed("").items()}
    size = torch.tensor([1.0, 2.0**-60]).view(-1, 1, 1, 1)

    def pulled(scale):
        at = separate(model, z, 500, cond, (2, 3))
        return at.pull([[x.detach() * scale for x in at.features.values()]])[0]

    assert torch.equal(pulled(size), pulled(torch.ones(())) * size)
    assert pulled(torch.full((), 2.0**-140)).isfinite().all() and not pulled(torch.zeros(())).any()


def test_autograd_sees_nothing_after_the_last_tapped_layer(model):
    z, cond = latent(), model.embed("a ball")
    with features(model.unet, (1, 2, 3, 4)) as seen:
        joint(model, z, 500, cond, {}, 1.0, (3, 1))
    assert [seen[k].requires_grad for k in (1, 2, 3, 4)] == [True, True, True, False]
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()


def test_an_error_in_the_pass_leaves_autograd_and_hooks_as_they_were(model):
    def broken(name, own):
        raise RuntimeError("no tokens")

    with pytest.raises(RuntimeError, match="no tokens"), rewire(model.unet, broken):
        joint(model, latent(), 500, model.embed(""), {}, 1.0, (2, 3))
    assert torch.is_grad_enabled() and hooks(model) == 0


@pytest.mark.parametrize(
    ("edit", "cfg", "reference"),
    [(edit, 1.0, "cached") for edit in EDITS] + [(MOVE, 4.0, "cached"), (MOVE, 1.0, "live"), (EDITS[3], 4.0, "live")],
    ids=lambda x: type(x).__name__ if isinstance(x, Edit) else str(x),
)
def test_without_rewired_attention_one_pass_is_two(model, edit, cfg, reference):
    plain = Guidance.preset("iclr", edit.kind).replace(steps=4, cfg=cfg, reference=reference, attention_mode="off")
    two, one = (run(model, edit, plain.replace(one_pass=p)) for p in (False, True))
    unguided = run(model, edit, plain.replace(energy=0.0))
    guided = len(Schedule(model, 4).window(plain.guided))
    assert two.nfe - one.nfe == (guided if cfg == 1 else 0)  # a pair that is not batched counts twice
    effect = (two.latent - unguided.latent).abs().max()
    assert effect > 1e-4 and (two.latent - one.latent).abs().max() < 1e-3 * effect


@pytest.mark.parametrize("cfg", COND.values(), ids=COND)
def test_outside_the_attention_window_steps_are_the_same_and_within_it_features_look_at_the_guidance_branch(
    model, path, cfg
):
    w = SHORT.replace(attention=(0.4, 1.0), cfg=cfg)
    two, one = (list(editor.edit_steps(model, path, MOVE, path.cond, w.replace(one_pass=p))) for p in (False, True))
    for k in (0, 1):
        torch.testing.assert_close(one[k].grad, two[k].grad, rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(one[k].z, two[k].z, rtol=1e-3, atol=1e-4)
    assert (one[2].grad - two[2].grad).norm() > 0.01 * two[2].grad.norm()
    assert one[3].grad is None and one[3].energies == {}


def test_where_both_branches_are_equal_so_are_their_features(model, path):
    """With the guidance branch's tokens in place of its own, equal, the pass is the guidance branch's."""
    still = Move(MASK, by=(0, 0))
    w = SHORT.replace(cfg=1.0, attention=(0.0, 1.0), start="keep", w_contrast=0.0, w_inpaint=0.0)
    first = next(editor.edit_steps(model, path, still, path.cond, w))
    assert first.energies["edit"].item() == pytest.approx(w.w_edit / (w.alpha + w.beta), rel=1e-5)
    assert first.energies["content"].item() == pytest.approx(w.w_content / (w.alpha + w.beta), rel=1e-5)


@pytest.mark.parametrize(
    ("preset", "cfg", "reference", "nfe"),
    [
        ("iclr", 1.0, "cached", 10 + 10),
        ("iclr", 1.0, "live", 10 + 10 + 6),
        ("iclr", 4.0, "cached", 10 + 10 + 6),
        ("diffeditor", 1.0, "cached", 50 + 58 + 12),
    ],
)
def test_a_guided_step_takes_one_pass_and_one_for_the_other_half(model, preset, cfg, reference, nfe):
    steps = {"iclr": 10, "diffeditor": 50}[preset]
    w = Guidance.preset(preset).replace(steps=steps, one_pass=True, cfg=cfg, reference=reference, energy=1e-3)
    assert run(model, guidance=w).nfe == nfe


def test_published_presets_take_the_features_apart(model):
    assert not any(Guidance.preset(name).one_pass for name in ("paper", "iclr", "diffeditor"))


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: type(e).__name__)
def test_the_fast_preset_is_minis_in_fewer_evaluations_of_the_denoiser(model, edit):
    fast, mini = (Guidance.preset(name, edit.kind) for name in ("fast", "mini"))
    assert fast.steps < mini.steps and fast.one_pass and fast.cfg == 1
    assert fast.replace(steps=mini.steps, one_pass=mini.one_pass, energy=mini.energy) == mini
    assert run(model, edit, fast.replace(energy=1e-3)).nfe == fast.steps * (2 + len(edit.references))


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("mode", ["replace", "concat", "mix"])
def test_every_edit_runs_in_one_pass_under_every_kind_of_attention(model, edit, mode):
    w = Guidance.preset("mini", edit.kind).replace(steps=3, attention_mode=mode, attention=(0.0, 1.0), one_pass=True)
    with counted(model.unet) as count:
        result = run(model, edit, w)
    assert result.nfe == count.evaluations == 3 * (1 + len(edit.references)) + 3
    assert torch.isfinite(result.tensor).all() and hooks(model) == 0
    live = run(model, edit, w.replace(reference="live"))
    assert torch.equal(live.latent, result.latent) and torch.equal(live.tensor, result.tensor)


@pytest.mark.parametrize("cfg", COND.values(), ids=COND)
def test_observing_changes_nothing(model, cfg):
    record, w = Record(attention=True, features=(1, 3)), SHORT.replace(cfg=cfg, attention=(0.0, 1.0))
    plain, traced = run(model, guidance=w), run(model, guidance=w, trace=record)
    assert torch.equal(plain.latent, traced.latent) and torch.equal(plain.tensor, traced.tensor)
    assert plain.nfe == traced.nfe


@pytest.mark.parametrize("cfg", COND.values(), ids=COND)
def test_the_first_step_is_seen_alike(model, path, cfg):
    """At the first step both start from the same latent, so the denoising pass is the same one."""
    record, w = Record(attention=True, features=(1, 3)), SHORT.replace(cfg=cfg, attention=(0.0, 1.0))
    one, two = (
        next(editor.edit_steps(model, path, MOVE, path.cond, w.replace(one_pass=p), record=record))
        for p in (True, False)
    )
    assert one.features.keys() == two.features.keys() == {1, 3}
    assert one.attention.keys() == two.attention.keys() and one.attention
    for layer in one.features:
        torch.testing.assert_close(one.features[layer], two.features[layer], rtol=1e-3, atol=1e-4)
        assert not one.features[layer].requires_grad
    for name in one.attention:
        torch.testing.assert_close(one.attention[name].weights, two.attention[name].weights, rtol=1e-3, atol=1e-5)


def test_an_inversions_own_empty_prompt_is_used(model, path):
    own = replace(path, empty={i: model.embed("something else") for i in range(5)})
    a, b = (next(editor.edit_steps(model, p, MOVE, path.cond, SHORT)) for p in (path, own))
    assert not torch.equal(a.z, b.z) and torch.equal(a.grad, b.grad)


def test_generated_images_too(model):
    image = model.generate("a ball", 3, steps=4, cfg=1.0, size=(64, 64))
    w = SHORT.replace(steps=4, cfg=1.0, attention=(0.0, 1.0))
    result = editor.edit(model, image, MOVE, guidance=w, progress=False)
    assert torch.isfinite(result.tensor).all() and hooks(model) == 0


def test_an_energy_that_is_not_finite_is_reported_and_leaves_nothing_behind(model):
    class Wild(Move):
        def terms(self, f, m, w):
            for term in super().terms(f, m, w):
                yield replace(term, value=term.value * float("inf"))

    with pytest.raises(NonFiniteError, match="step 0"):
        run(model, Wild(MASK, by=(24, 16)))
    assert hooks(model) == 0 and torch.is_grad_enabled()


def test_a_spec_says_it_and_an_older_one_that_does_not_means_the_preset(tmp_path):
    place = save_spec(tmp_path, IMAGE, MOVE, "a ball", SHORT)
    assert load_task(place).guidance == SHORT
    text = place.read_text()
    assert '"one_pass": true' in text
    place.write_text(text.replace('"one_pass": true,', ""))
    assert load_task(place).guidance == SHORT.replace(one_pass=False)
