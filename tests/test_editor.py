"""The whole edit on a tiny random model: what it evaluates, what it refuses, what it leaves behind."""

import numpy as np
import pytest
import torch
from PIL import Image

from dragonkit import editor, generation
from dragonkit.edits import Appearance, Drag, Edit, Move, Paste, Resize
from dragonkit.energy import Term, clipped
from dragonkit.errors import InputError, NonFiniteError
from dragonkit.guidance import Guidance
from dragonkit.inversion import Keep, ddim_invert
from dragonkit.schedule import Schedule
from dragonkit.taps import counted
from tests.tiny import box, fresh_model, hooks, picture, tiny_model

IMAGE = picture(64, 64)
MASK = box(64, 64, 8, 8, 32, 32)
MOVE = Move(MASK, by=(24, 16))
SHORT = Guidance().replace(steps=5)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def run(model, edit=MOVE, guidance=SHORT, image=IMAGE, **kwargs):
    return editor.edit(model, image, edit, "a ball", guidance=guidance, progress=False, **kwargs)


@pytest.fixture(scope="module")
def path(model):
    schedule, cond = Schedule(model, 5), model.embed("a ball")
    return ddim_invert(model, model.encode(IMAGE[None]), cond, schedule, keep=Keep.wanted(SHORT, schedule))


@pytest.fixture(scope="module")
def short(model):
    return run(model, trace=True)


def test_clipping_shortens_long_cells_and_leaves_the_rest_and_the_direction():
    shift = torch.randn(1, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    short = clipped(shift, 1.5)
    length, was = short.norm(dim=1), shift.norm(dim=1)
    assert length.max() <= 1.5 + 1e-6 and (was > 1.5).any() and (was < 1.5).any()
    torch.testing.assert_close(short[:, :, (was < 1.5)[0]], shift[:, :, (was < 1.5)[0]])
    torch.testing.assert_close(torch.cosine_similarity(short, shift, dim=1), torch.ones(1, 6, 5))
    assert torch.equal(clipped(shift, 0.0), shift)


def test_a_clip_bounds_what_a_step_of_guidance_can_do(model, path):
    w = SHORT.replace(energy=500.0, clip=0.25, regional=False)
    free = next(editor.edit_steps(model, path, MOVE, path.cond, w.replace(energy=0.0)))
    step = next(editor.edit_steps(model, path, MOVE, path.cond, w))
    a = path.schedule.alpha(0)
    moved = (step.x0 - free.x0) * a**0.5 / (1 - a) ** 0.5  # back to units of the noise
    assert 0 < moved.norm(dim=1).max() <= 0.25 + 1e-4


@pytest.mark.parametrize(("reference", "nfe"), [("live", 176), ("cached", 148)])
def test_the_follow_up_travels_in_time_and_takes_as_many_evaluations_as_published(model, reference, nfe):
    w = Guidance.preset("diffeditor").replace(reference=reference)
    assert run(model, guidance=w).nfe == nfe
    order = list(editor.visits(Schedule(model, 50), w))
    assert [i for i, visit in order if visit == 2] == [22, 24, 26, 28] and len(order) == 58
    assert order == sorted(order)


def test_the_official_guidance_thins_out_and_stochastic_steps_touch_the_edited_region_only(model):
    schedule, w = Schedule(model, 50), Guidance.preset("diffeditor").replace(energy=0.01)
    z, cond = model.encode(IMAGE[None]), model.embed("a ball")
    path = ddim_invert(model, z, cond, schedule)
    steps = list(editor.edit_steps(model, path, MOVE, cond, w))
    assert sorted({s.i for s in steps if s.grad is not None}) == [*range(10), *range(10, 30, 2)]
    calm = list(editor.edit_steps(model, path, MOVE, cond, w.replace(sde_inside=0.0)))
    first = next(k for k, (a, b) in enumerate(zip(steps, calm, strict=True)) if not torch.equal(a.z, b.z))
    assert steps[first].i == 11
    changed = (steps[first].z != calm[first].z).any(1)[0]
    edited = MOVE.regions(editor.frame_of(model, path)).edited
    assert torch.equal(changed, edited)
    other = list(editor.edit_steps(model, path, MOVE, cond, w.replace(seed=1)))
    assert torch.equal(other[first - 1].z, steps[first - 1].z) and not torch.equal(other[first].z, steps[first].z)


def test_time_travel_goes_back_up_by_one_inversion_step(model, path):
    w = SHORT.replace(travel=(0.0, 0.5), repeats=2, energy=0.0, attention_mode="off")
    steps = list(editor.edit_steps(model, path, MOVE, path.cond, w))
    assert [(s.i, s.visit) for s in steps] == [(0, 0), (0, 1), (1, 0), (2, 0), (3, 0), (4, 0)]
    schedule = path.schedule
    eps = model.predict(steps[0].z, schedule.timesteps[1], path.cond)
    back = schedule.carry(steps[0].z, eps, 1, 0)
    pair = generation.denoise(model, back, schedule.timesteps[0], path.cond, model.embed(""), w.cfg)
    assert torch.equal(steps[1].z, schedule.step(back, pair, 0)[0])


def test_an_inversions_own_empty_prompt_is_used_where_there_is_one(model, path):
    from dataclasses import replace

    own = replace(path, empty={i: model.embed("something else") for i in range(5)}, cfg=SHORT.cfg)
    w = SHORT.replace(energy=0.0)
    a, b = (list(editor.edit_steps(model, p, MOVE, path.cond, w))[-1].z for p in (path, own))
    assert not torch.equal(a, b)
    same = replace(path, empty={i: model.embed("") for i in range(5)})
    assert torch.equal(list(editor.edit_steps(model, same, MOVE, path.cond, w))[-1].z, a)


@pytest.mark.parametrize(("reference", "nfe"), [("live", 160), ("cached", 130)])
def test_fifty_official_steps_take_as_many_evaluations_as_published(model, reference, nfe):
    result = run(model, guidance=Guidance.preset("iclr").replace(reference=reference))
    assert result.nfe == nfe
    assert [np.isfinite(v) for v in result.trace.energies["edit"]] == [True] * 30 + [False] * 20


def test_a_cached_guidance_branch_is_the_live_one_bit_for_bit(model, short):
    live = run(model, guidance=SHORT.replace(reference="live"))
    assert torch.equal(live.latent, short.latent) and torch.equal(live.tensor, short.tensor)
    assert live.nfe == short.nfe + 3


def test_tracing_changes_nothing_and_runs_repeat_bit_for_bit(model, short):
    plain = run(model)
    assert torch.equal(plain.latent, short.latent) and torch.equal(plain.tensor, short.tensor)
    np.testing.assert_array_equal(plain.trace.energies["edit"], short.trace.energies["edit"])
    assert len(plain.trace.x0) == 0 and len(short.trace.x0) == 5
    last = short.trace.frames()[-1]  # x0, as good as z at the last level
    assert last.size == short.image.size and abs(np.asarray(last, float) - np.asarray(short.image, float)).mean() < 2


def test_frames_are_decoded_after_the_run_only(model, monkeypatch):
    decoded = []
    decode = type(model).decode
    monkeypatch.setattr(type(model), "decode", lambda self, z: decoded.append(1) or decode(self, z))
    result = run(model, trace=True)
    assert len(decoded) == 1 and len(result.trace.frames(every=2)) == 3 and len(decoded) == 4


def test_the_generator_is_what_edit_runs(model, path, short):
    steps = list(editor.edit_steps(model, path, MOVE, path.cond, SHORT))
    assert [s.i for s in steps] == [0, 1, 2, 3, 4] and [s.t for s in steps] == path.schedule.timesteps
    assert torch.equal(steps[-1].z, short.latent)
    assert all(torch.equal(s.x0, x0) for s, x0 in zip(steps, short.trace.x0, strict=True))
    assert [s.grad is not None for s in steps] == [True] * 3 + [False] * 2
    assert not any(s.z.requires_grad for s in steps)


def test_without_energy_nothing_is_evaluated_for_it(model):
    result = run(model, guidance=SHORT.replace(energy=0))
    assert result.nfe == 10 and result.trace.energies == {}


def test_without_copy_energy_cfg_and_attention_the_image_is_reconstructed():
    """Generation retraces the inversion but for its discretisation error, which shrinks with the step."""
    model = fresh_model()
    model.unet.conv_out.weight.data *= 0.02  # a random denoiser is wild; an almost silent one has a smooth flow
    plain = Guidance().replace(energy=0, cfg=1, attention_mode="off", start="keep")
    errors = []
    for steps in (10, 40):
        result = run(model, guidance=plain.replace(steps=steps))
        z0 = model.encode(IMAGE[None])
        errors.append(((result.latent - z0).norm() / z0.norm()).item())
    assert errors[1] < errors[0] / 2 < 0.5


@pytest.mark.parametrize("name", ["edit", "content", "contrast", "inpaint"])
def test_each_term_can_be_switched_off_alone(model, path, name):
    step = next(editor.edit_steps(model, path, MOVE, path.cond, SHORT.replace(**{f"w_{name}": 0})))
    assert set(step.energies) == {"edit", "content", "contrast", "inpaint"} - {name}


def test_with_no_terms_there_is_no_gradient(model, path):
    none = SHORT.replace(w_edit=0, w_content=0, w_contrast=0, w_inpaint=0)
    step = next(editor.edit_steps(model, path, MOVE, path.cond, none))
    assert step.grad is None and step.energies == {}


def test_regional_gradients_differ_from_whole_ones_by_region(model, path):
    def first(**changes):
        return next(editor.edit_steps(model, path, MOVE, path.cond, SHORT.replace(**changes))).grad

    target = MOVE.regions(editor.frame_of(model, path)).target
    inside = first(regional=False, w_content=0, w_contrast=0, w_inpaint=0)
    outside = first(regional=False, w_edit=0)
    torch.testing.assert_close(first(), torch.where(target, inside, outside), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(first(regional=False), inside + outside, rtol=1e-4, atol=1e-7)


def test_guidance_enters_through_x0_or_everywhere(model, path):
    steps = {
        through: next(editor.edit_steps(model, path, MOVE, path.cond, SHORT.replace(through=through)))
        for through in ("x0", "eps")
    }
    a = path.schedule.alpha(1)
    assert torch.equal(steps["x0"].x0, steps["eps"].x0) and torch.equal(steps["x0"].grad, steps["eps"].grad)
    pushed = (1 - a) ** 0.5 * SHORT.eta * steps["x0"].grad
    torch.testing.assert_close(steps["eps"].z, steps["x0"].z + pushed)


def test_guidance_lowers_the_energy(model, path):
    weak = SHORT.replace(regional=False, w_content=0, w_contrast=0, w_inpaint=0, start="keep")

    def edit_energy(energy):
        steps = list(editor.edit_steps(model, path, MOVE, path.cond, weak.replace(energy=energy)))
        return steps[2].energies["edit"].item()

    assert edit_energy(0.1) < edit_energy(1e-6)


def test_attention_modes_differ_and_windows_hold(model, path):
    def first(**changes):
        return next(editor.edit_steps(model, path, MOVE, path.cond, SHORT.replace(energy=0, **changes))).z

    off = first(attention_mode="off")
    assert torch.equal(first(attention=(0.4, 1)), off)
    modes = [first(attention=(0, 1), attention_mode=mode) for mode in ("replace", "concat")]
    assert not torch.equal(modes[0], off) and not torch.equal(modes[0], modes[1])
    assert torch.equal(first(attention=(0, 1), attention_mode="mix"), modes[0])  # a move mixes nothing in


def test_a_locked_background_stays_on_the_inversion_path(model, path):
    edited = MOVE.regions(editor.frame_of(model, path)).edited
    for step in editor.edit_steps(model, path, MOVE, path.cond, SHORT.replace(lock=True, lock_margin=0)):
        assert torch.equal(step.z[..., ~edited], path.latents[step.i + 1][..., ~edited])
        assert not torch.equal(step.z[..., edited], path.latents[step.i + 1][..., edited])


def test_a_lock_ends_with_its_window(model, path):
    edited = MOVE.regions(editor.frame_of(model, path)).edited
    w = SHORT.replace(lock=True, lock_margin=0, lock_window=(0.0, 0.5))
    early = path.schedule.window(w.lock_window)
    assert 0 < len(early) < len(path.schedule)
    for step in editor.edit_steps(model, path, MOVE, path.cond, w):
        same = torch.equal(step.z[..., ~edited], path.latents[step.i + 1][..., ~edited])
        assert same == (step.i in early)


def test_preserved_pixels_are_the_sources_own(model):
    image = torch.rand(3, 64, 192, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(64, 192, dtype=torch.bool)
    mask[24:40, 16:32] = True
    move = Move(mask, by=(32, 0))
    results = [
        editor.edit(
            model, image, move, guidance=SHORT.replace(energy=0.0, lock=True, preserve=p), progress=False
        ).tensor
        for p in (False, True)
    ]
    places = mask | move.target()
    assert torch.equal(results[0][:, places], results[1][:, places])
    same = (results[1] == image).all(0)
    assert int(same.sum()) > int((results[0] == image).all(0).sum())


def test_one_layer_or_four_may_be_compared(model, path):
    for layers in ((3,), (1, 2, 3, 4)):
        step = next(editor.edit_steps(model, path, MOVE, path.cond, SHORT.replace(layers=layers)))
        assert step.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [(64, 100), (70, 65), (128, 64)])
def test_any_size_comes_back_as_it_was(model, size):
    mask = box(*size, 8, 8, 40, 40)
    result = run(model, Move(mask, by=(12, 5.5)), image=picture(*size), guidance=SHORT.replace(steps=2))
    assert result.tensor.shape == (3, *size) and result.image.size == size[::-1]


@pytest.mark.parametrize("preset", ["paper", "iclr", "diffeditor", "mini"])
@pytest.mark.parametrize(
    "edit",
    [
        Move(MASK, by=(10.5, 3.2), scale=1.3, angle=20),
        Resize(MASK, 0.6),
        Drag([(20, 20, 40, 30), (10, 30, 12, 50)]),
        Appearance(MASK, picture(64, 128, 3), box(64, 128, 8, 8, 40, 40), "a cube"),
        Paste(picture(128, 64, 3), box(128, 64, 8, 8, 40, 40), at=(32, 32)),
    ],
    ids=lambda e: type(e).__name__,
)
def test_every_edit_runs_under_every_preset(model, preset, edit):
    guidance = Guidance.preset(preset, edit.kind).replace(steps=2)
    result = run(model, edit, guidance=guidance)
    own = 0 if guidance.one_pass and guidance.cfg == 1 else len(Schedule(model, 2).window(guidance.guided))
    evaluations = 2 * (1 + len(edit.references)) + 2 + own
    assert result.nfe == evaluations and hooks(model) == 0
    assert torch.isfinite(result.tensor).all() and set(result.trace.energies) >= {"edit", "content"}


def test_the_default_guidance_suits_model_and_edit(model, monkeypatch):
    seen = []
    steps = editor.edit_steps
    short = SHORT.replace(steps=5)
    monkeypatch.setattr(editor, "edit_steps", lambda *a, **k: seen.append(a[-1]) or steps(*a[:-1], short, **k))
    monkeypatch.setattr(editor, "Schedule", lambda m, n: Schedule(m, 5))
    run(model, Drag([(20, 20, 40, 30)]), guidance=None)
    assert seen == [Guidance.preset("iclr", "drag")]


def test_an_image_may_be_pil_array_or_tensor(model):
    pil = Image.fromarray((IMAGE.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    once = Guidance().replace(steps=1)
    results = [
        run(model, image=i, guidance=once)
        for i in (pil, np.asarray(pil), torch.tensor(np.asarray(pil)).permute(2, 0, 1) / 255)
    ]
    assert all(torch.equal(r.tensor, results[0].tensor) for r in results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "mini"}, "model is a str: load one"),
        ({"image": "before.png"}, "image is a str"),
        ({"image": Image.new("L", (64, 64))}, "mode L"),
        ({"edit": MASK}, "edit is a Tensor"),
        ({"edit": Move(box(64, 65, 0, 0, 9, 9))}, "mask is 65x64 but the image is 64x64"),
        ({"edit": Move(MASK, by=(0, -99))}, "leaves the image"),
        ({"prompt": 3}, "prompt is 3"),
        ({"prompt": 7}, "prompt is 7"),
        ({"guidance": "iclr"}, "guidance is a str"),
        ({"guidance": Guidance().replace(steps=1000)}, "steps is 1000"),
        ({"guidance": SHORT.replace(layers=(3, 5))}, r"layers \[5\] cannot be tapped"),
    ],
)
def test_bad_input_is_refused_before_the_denoiser_runs(model, change, message):
    given = {"model": model, "image": IMAGE, "edit": MOVE, "prompt": "", "guidance": SHORT, "progress": False} | change
    with counted(model.unet) as count, pytest.raises(InputError, match=message) as error:
        editor.edit(**given)
    assert count.evaluations == 0 and "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_named_before_the_denoiser_runs():
    model = fresh_model()
    model.unet.up_blocks[1].resnets[0].conv1.weight.data[0, 0, 0, 0] = torch.inf
    with (
        counted(model.unet) as count,
        pytest.raises(InputError, match=r"unet/up_blocks.1.resnets.0.conv1.weight holds"),
    ):
        run(model)
    assert count.evaluations == 0


class Broken(Edit):
    """An energy whose value, or whose gradient alone, is not finite from the second step on."""

    def __init__(self, value):
        self.value, self.calls = value, 0

    def terms(self, f, m, w):
        self.calls += 1
        yield Term("good", f.gen.mean())
        x = f.gen.mean() * 0
        bad = x + torch.inf if self.value else (x * x).sqrt()
        yield Term("bad", bad if self.calls > len(w.layers) else x)


@pytest.mark.parametrize(("value", "message"), [(True, "energy term 'bad'"), (False, "gradient of .*'bad'")])
def test_a_run_that_is_not_finite_names_step_and_term(model, path, value, message):
    steps = editor.edit_steps(model, path, Broken(value), path.cond, SHORT)
    next(steps)
    with pytest.raises(NonFiniteError, match=rf"step 1 \(t = {path.schedule.timesteps[1]}\): .*{message}"):
        next(steps)
    assert hooks(model) == 0


@pytest.mark.parametrize(("value", "message"), [(True, "energy term 'bad'"), (False, "gradient of .*'bad'")])
def test_where_nobody_waits_for_the_device_the_step_is_named_all_the_same(value, message, monkeypatch):
    class Late(editor.Watch):
        """As on a GPU: what is noted is looked at when somebody asks."""

        def add(self, *args):
            self.check = lambda: None
            super().add(*args)
            del self.check

    monkeypatch.setattr(editor, "Watch", Late)
    steps, decoded = [], []
    model = fresh_model()
    model.vae.decoder.register_forward_pre_hook(lambda module, args: decoded.append(args[0].isfinite().all()))
    with pytest.raises(NonFiniteError, match=f"step 1 .*{message}"):
        run(model, Broken(value), on_step=lambda trace: steps.append(1))
    assert len(steps) == SHORT.steps and decoded == [value]  # a gradient's NaN would be the picture's, too


def test_an_abandoned_generator_leaves_no_hook(model, path):
    steps = editor.edit_steps(model, path, MOVE, path.cond, SHORT)
    next(steps), next(steps)
    assert hooks(model) == 0 and torch.is_grad_enabled()
    steps.close()
    assert hooks(model) == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("when", [2, 6, 7, 9])
def test_an_interrupt_anywhere_leaves_the_model_usable(short, error, when):
    model = fresh_model()
    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == when:
            raise error

    handle = model.unet.up_blocks[1].register_forward_pre_hook(interrupt)
    with pytest.raises(error):
        run(model)
    handle.remove()
    assert hooks(model) == 0 and torch.is_grad_enabled()
    model.unet.load_state_dict(tiny_model().unet.state_dict())
    assert run(model).nfe == short.nfe and hooks(model) == 0


def test_progress_bars_are_shown_when_asked(model, capsys):
    editor.edit(model, IMAGE, MOVE, guidance=SHORT.replace(steps=1))
    shown = capsys.readouterr().err
    assert "inversion" in shown and "edit" in shown
    run(model, guidance=SHORT.replace(steps=1))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_works_with_float32_energies(dtype):
    model = fresh_model()
    for part in model.parts.values():
        part.to(dtype)
    result = run(model, guidance=SHORT.replace(steps=2), trace=True)
    assert result.tensor.dtype == torch.float32 and torch.isfinite(result.tensor).all()
    assert result.trace.grads[0].dtype == torch.float32 and result.trace.grads[0].abs().sum() > 0


def test_an_edit_works_where_nothing_is_to_be_differentiated():
    model, w = tiny_model(), Guidance.preset("iclr").replace(steps=3)
    task, image = Move(box(64, 64, 8, 8, 32, 40), by=(16, 8)), picture(64, 64)
    expected = editor.edit(model, image, task, guidance=w, progress=False)
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            found = editor.edit(model, image, task, guidance=w, progress=False)
        assert torch.equal(found.latent, expected.latent) and not found.latent.is_inference()
