"""Inversion: exact where the answer is known, and a guidance branch for free."""

from functools import partial

import pytest
import torch

from dragonkit.editor import edit, edit_steps
from dragonkit.edits import Move, Paste
from dragonkit.errors import InputError, NonFiniteError
from dragonkit.generation import denoise
from dragonkit.guidance import Guidance
from dragonkit.inversion import Keep, ddim_invert, fixed_point_invert, null_text_invert
from dragonkit.inversion.climb import PATIENCE, mixed, solve
from dragonkit.inversion.null_text import fit
from dragonkit.inversion.path import Evaluation
from dragonkit.schedule import Schedule, alphas_cumprod
from dragonkit.taps import counted, record, tap
from tests.tiny import SCHEDULER, box, hooks, picture, tiny_model

INVERTERS = {
    "ddim": ddim_invert,
    "refined": partial(ddim_invert, refine=3),
    "fixed_point": partial(fixed_point_invert, iterations=4, tolerance=1e-4),
    "null_text": partial(null_text_invert, iterations=1, cfg=4.0),
}


class Gaussian:
    """The exact denoiser of data distributed as N(0, spread²), and of its probability flow."""

    schedule_config = SCHEDULER

    unet = graphs = None  # nothing is tapped, nothing recorded

    def __init__(self, spread):
        self.spread = spread

    def alpha(self, t):
        return alphas_cumprod(SCHEDULER)[t]

    def predict(self, z, t, cond):
        a = self.alpha(t)
        return (1 - a) ** 0.5 * z / (a * self.spread**2 + 1 - a)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rms(x):
    return x.square().mean().sqrt().item()


@pytest.fixture(scope="module")
def run():
    model, schedule = tiny_model(), Schedule(tiny_model(), 6)
    z0 = noise(1, 4, 8, 16)
    keep = Keep(layers=(2, 3), features=range(4), tokens=range(1, 6))
    with counted(model.unet) as count:
        path = ddim_invert(model, z0, model.embed("a ball"), schedule, keep=keep)
    return model, path, z0, count.evaluations


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
def test_noise_of_gaussian_data_is_the_exact_one(spread):
    """The probability flow of Gaussian data only rescales it: z_T is z_0 times the ratio of standard deviations."""
    model, z0 = Gaussian(spread), spread * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    errors = []
    for steps in (50, 400):
        schedule = Schedule(model, steps)
        path = ddim_invert(model, z0, {}, schedule)
        noisy, clean = ((a * spread**2 + 1 - a) ** 0.5 for a in (schedule.alpha(0), schedule.alpha(steps)))
        exact = z0 * noisy / clean
        errors.append(((path.z_T - exact).norm() / exact.norm()).item())
    assert errors[0] < 0.1 and (errors[1] < errors[0] / 3 or errors[1] < 1e-3)


def round_trip(spread, steps, invert=ddim_invert, **options):
    model, z0 = Gaussian(spread), spread * noise(1, 4, 8, 8)
    schedule = Schedule(model, steps)
    z = invert(model, z0, {}, schedule, **options).z_T
    for i, t in enumerate(schedule.timesteps):
        z, _ = schedule.step(z, model.predict(z, t, {}), i)
    return ((z - z0).norm() / z0.norm()).item()


@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_inversion_and_generation_of_gaussian_data_round_trip(spread):
    plain = [round_trip(spread, steps, order=1) for steps in (50, 400)]
    assert plain[0] < 0.2 and plain[1] < plain[0] / 3
    assert round_trip(spread, 50, order=2) < plain[0] / 2 and round_trip(spread, 400, order=2) < plain[1] / 5


@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_fixed_point_round_trip_is_exact_where_plain_inversion_is_not(spread):
    assert round_trip(spread, 50, fixed_point_invert, iterations=30, tolerance=1e-7) < 1e-5
    assert round_trip(spread, 50, order=1) > 1e-3


@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_refined_levels_lead_back_to_the_image(spread):
    model, z0 = Gaussian(spread), spread * noise(1, 4, 8, 8)
    schedule, errors = Schedule(model, 50), []
    for refine in (0, 5):
        z = ddim_invert(model, z0, {}, schedule, refine=refine).latents[45]
        for i in range(45, 50):
            z, _ = schedule.step(z, model.predict(z, schedule.timesteps[i], {}), i)
        errors.append(rms(z - z0))
    assert errors[1] < errors[0] / 3


def test_fixed_point_leaves_no_more_of_the_equation_than_the_tolerance():
    model, z0 = tiny_model(), noise(1, 4, 8, 8)
    schedule, cond = Schedule(model, 6), model.embed("a ball")
    path = fixed_point_invert(model, z0, cond, schedule, iterations=20, tolerance=1e-5)
    for i, t in enumerate(schedule.timesteps):
        with torch.no_grad():
            landed, _ = schedule.step(path.latents[i], model.predict(path.latents[i], t, cond), i)
            put = schedule.carry(path.latents[i + 1], model.predict(path.latents[i], t, cond), i + 1, i)
        assert rms(put - path.latents[i]) <= 1e-5 and rms(landed - path.latents[i + 1]) < 2e-5
        assert torch.equal(path.inputs[i], path.latents[i])


def test_a_level_that_is_good_enough_costs_one_evaluation():
    model, z0 = tiny_model(), noise(1, 4, 8, 8)
    counts = []
    for invert in (
        partial(fixed_point_invert, tolerance=1e9),
        partial(fixed_point_invert, iterations=0),
        partial(fixed_point_invert, iterations=3, tolerance=0),
        partial(ddim_invert, refine=0),
        partial(ddim_invert, refine=2),
        partial(ddim_invert, refine=99),
    ):
        with counted(model.unet) as count:
            invert(model, z0, model.embed("a ball"), Schedule(model, 6))
        counts.append(count.evaluations)
    assert counts == [6, 6, 6 + 3 * 6, 6, 6 + 2 * 2, 6 + 2 * 6]


def test_each_of_a_batch_is_inverted_by_itself():
    model, z0 = tiny_model(), noise(2, 4, 8, 8)
    schedule, words = Schedule(model, 4), [model.embed(p)["encoder_hidden_states"] for p in ("a ball", "a cube")]
    invert = partial(fixed_point_invert, iterations=3, tolerance=0)
    both = invert(model, z0, {"encoder_hidden_states": torch.cat(words)}, schedule).z_T
    for k, word in enumerate(words):
        alone = invert(model, z0[k : k + 1], {"encoder_hidden_states": word}, schedule).z_T
        torch.testing.assert_close(both[k : k + 1], alone, atol=1e-4, rtol=0)


def affine(slopes, offset):
    """The iteration z <- slopes z + offset, as solve takes it: ε is the image itself."""
    return lambda z: Evaluation(z, slopes * z + offset), lambda eps: eps


def test_acceleration_finds_the_fixed_point_that_plain_iteration_flees():
    slopes, offset = torch.tensor([-3.0, 0.5]).view(2, 1, 1, 1), noise(2, 1, 4, 4)  # each of the batch has its own
    evaluate, put = affine(slopes, offset)
    found = solve(evaluate, put, torch.zeros(2, 1, 4, 4), 3, 1e-6, 0)
    torch.testing.assert_close(found.z, offset / (1 - slopes), atol=1e-5, rtol=0)
    pair = (torch.zeros(2, 1, 4, 4), offset)
    assert torch.equal(mixed(pair), offset) and torch.equal(mixed(pair, pair), offset)


@pytest.mark.parametrize("corrections", range(4))
def test_corrections_never_leave_more_than_there_was(corrections):
    def evaluate(z):
        return Evaluation(z, 3 * torch.sin(9 * z + 1))

    start = noise(1, 1, 4, 4)
    left = [
        rms(evaluate(at.z).eps - at.z)
        for at in (Evaluation(start, start), solve(evaluate, lambda e: e, start, corrections, 0.0, 0))
    ]
    assert left[1] <= left[0]


def test_a_level_that_gains_no_more_is_left():
    calls = []

    def evaluate(z):
        calls.append(z)
        return Evaluation(z, z + 1)  # no fixed point: the residual is 1 wherever it is evaluated

    assert solve(evaluate, lambda e: e, torch.zeros(1, 1, 4, 4), 100, 0.0, 0).z is calls[0]
    assert len(calls) == 1 + PATIENCE


def test_an_iteration_that_leaves_the_finite_numbers_names_its_step():
    model = Gaussian(1.0)
    model.predict = lambda z, t, cond: z / 0 if t == 1 else z
    with pytest.raises(NonFiniteError, match="step 3"):
        fixed_point_invert(model, noise(1, 4, 2, 2), {}, Schedule(model, 4))


@pytest.mark.parametrize(
    ("invert", "name", "value"),
    [
        (ddim_invert, "order", 3),
        (ddim_invert, "refine", -1),
        (ddim_invert, "refine", 1.5),
        (fixed_point_invert, "iterations", -1),
        (fixed_point_invert, "iterations", True),
        (fixed_point_invert, "tolerance", -1e-3),
        (fixed_point_invert, "tolerance", float("nan")),
        (partial(partial(null_text_invert, cfg=4.0), cfg=4.0), "cfg", 1),
        (partial(null_text_invert, cfg=4.0), "cfg", float("inf")),
        (partial(null_text_invert, cfg=4.0), "cfg", "4"),
        (partial(null_text_invert, cfg=4.0), "iterations", 2.0),
        (partial(null_text_invert, cfg=4.0), "tolerance", None),
        (partial(null_text_invert, cfg=4.0), "rate", 0),
        (partial(null_text_invert, cfg=4.0), "refine", -1),
        (partial(null_text_invert, cfg=4.0), "rate", -1.0),
    ],
)
def test_a_bad_number_is_named_before_anything_is_computed(invert, name, value):
    model = Gaussian(1.0)
    model.predict = lambda *_: pytest.fail("evaluated")
    with pytest.raises(InputError, match=f"^{name} is {value!r}"):
        invert(model, torch.zeros(1, 4, 8, 8), {}, Schedule(model, 4), **{name: value})


@pytest.mark.parametrize("name", INVERTERS)
def test_what_every_inverter_keeps_is_the_live_evaluation_bit_for_bit(name):
    model, z0 = tiny_model(), noise(1, 4, 8, 8)
    schedule, cond = Schedule(model, 5), model.embed("a ball")
    keep = Keep(layers=(2, 3), features=range(5), tokens=range(5))
    path = INVERTERS[name](model, z0, cond, schedule, keep=keep)
    assert sorted(path.tokens) == sorted(path.features) == sorted(path.inputs) == list(range(5))
    for i, t in enumerate(schedule.timesteps):
        if i < 4 or name != "ddim":  # plain inversion has not left the clean latent at t = 1
            assert torch.equal(path.inputs[i], path.latents[i])
        with torch.no_grad(), record(model.unet) as tokens:
            model.predict(path.inputs[i], t, cond)
            live = tap(model.unet, (2, 3), path.inputs[i], t, cond)
        assert all(torch.equal(path.features[i][k], live[k]) for k in (2, 3))
        assert path.tokens[i].keys() == tokens.keys() and all(torch.equal(path.tokens[i][k], tokens[k]) for k in tokens)


@pytest.mark.parametrize("name", INVERTERS)
def test_no_hook_is_left_after_an_interrupt(name):
    model, steps = tiny_model(), 4
    keep = Keep(layers=(2, 3), features=range(steps), tokens=range(steps))
    calls = []

    def fail(module, args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    handle = model.unet.mid_block.register_forward_pre_hook(fail)
    try:
        with pytest.raises(KeyboardInterrupt):
            INVERTERS[name](model, noise(1, 4, 8, 8), model.embed(""), Schedule(model, steps), keep=keep)
    finally:
        handle.remove()
    assert hooks(model) == 0


@pytest.mark.parametrize("name", INVERTERS)
def test_every_inverter_serves_an_edit(name):
    guidance = Guidance.preset("iclr").replace(steps=3, cfg=4.0)
    move = Move(box(64, 64, 20, 10, 40, 30), by=(10, 0))
    result = edit(tiny_model(), picture(64, 64), move, guidance=guidance, invert=INVERTERS[name], progress=False)
    assert result.tensor.shape == (3, 64, 64) and result.tensor.isfinite().all() and hooks(tiny_model()) == 0


def guided(model, path, cfg, steps=None):
    """Generation under classifier-free guidance from z_T: the latents after each step."""
    z, latents = path.z_T, []
    with torch.no_grad():
        for i, t in enumerate(path.schedule.timesteps[:steps]):
            eps = denoise(model, z, t, path.cond, path.empty.get(i, model.embed("")), cfg)
            z, _ = path.schedule.step(z, eps, i)
            latents.append(z)
    return latents


def test_null_text_brings_guided_generation_nearer_the_pivot():
    model, z0 = tiny_model(), noise(1, 4, 8, 8)
    schedule, cond = Schedule(model, 4), model.embed("a ball")
    with counted(model.unet) as count:
        path = null_text_invert(model, z0, cond, schedule, cfg=7.5, iterations=6, tolerance=0, rate=0.1, refine=0)
    assert count.evaluations == 4 + 4 * (1 + 1 + 6) and sorted(path.empty) == list(range(4))
    pivot = ddim_invert(model, z0, cond, schedule)
    assert all(torch.equal(path.latents[i], pivot.latents[i]) for i in range(5))
    with_fit, without = (guided(model, p, 7.5) for p in (path, pivot))
    for i, (z, plain) in enumerate(zip(with_fit, without, strict=True)):
        assert rms(z - pivot.latents[i + 1]) < 0.75 * rms(plain - pivot.latents[i + 1])
    assert not torch.equal(path.empty[1]["encoder_hidden_states"], path.empty[0]["encoder_hidden_states"])


def test_a_path_fitted_for_one_guidance_scale_is_refused_at_another():
    model, move = tiny_model(), Move(box(64, 64, 20, 10, 40, 30), by=(10, 0))
    schedule, w = Schedule(model, 2), Guidance.preset("iclr").replace(steps=2, cfg=7.5)
    path = null_text_invert(model, noise(1, 4, 8, 8), model.embed(""), schedule, cfg=7.5, iterations=1, refine=0)
    assert path.cfg == 7.5 and all(path.unconditional(model, 7.5)[i] is path.empty[i] for i in range(2))
    for cfg in (4.0, 1.0):
        with pytest.raises(InputError, match=f"cfg is {cfg:g}, but the inversion was made for cfg 7.5"):
            next(edit_steps(model, path, move, path.cond, w.replace(cfg=cfg)))
    next(edit_steps(model, path, move, path.cond, w))


@pytest.mark.parametrize("cfg", [2.0, 7.5])
def test_an_edit_tells_the_inverter_its_guidance_scale(cfg):
    model, mask, told = tiny_model(), box(64, 64, 20, 10, 40, 30), []

    def invert(*args, **options):
        told.append(options["cfg"])
        return null_text_invert(*args, **options, iterations=2, refine=0)

    paste = Paste(picture(64, 64, seed=1), mask, at=(30, 30))
    w = Guidance.preset("iclr", "paste").replace(steps=2, cfg=cfg)
    with counted(model.unet) as count:
        result = edit(model, picture(64, 64), paste, guidance=w, invert=invert, progress=False)
    assert told == [cfg, None]  # nothing is generated from the reference
    assert count.evaluations == result.nfe == 2 + 2 * (1 + 1 + 2) + 2 + 2 + 1
    fixed = partial(null_text_invert, iterations=2, refine=0, cfg=5.0)  # what edit() knows better counts
    again = edit(model, picture(64, 64), paste, guidance=w, invert=fixed, progress=False)
    assert torch.equal(result.tensor, again.tensor)


def test_an_edit_without_a_guidance_scale_cannot_be_fitted():
    move, w = Move(box(64, 64, 20, 10, 40, 30), by=(10, 0)), Guidance.preset("mini").replace(steps=2)
    with counted(tiny_model().unet) as count, pytest.raises(InputError, match="cfg is 1.* use ddim_invert"):
        edit(tiny_model(), picture(64, 64), move, guidance=w, invert=null_text_invert, progress=False)
    assert count.evaluations == 0


def test_null_text_leaves_every_other_entry_and_dtype_alone():
    added, words = torch.arange(6).view(1, 6), torch.zeros(1, 2, 3, dtype=torch.bfloat16)
    empty = {"encoder_hidden_states": words, "time_ids": added}
    pivot = torch.full((1, 1, 2, 3), 2.0)
    found, _ = fit(
        lambda c: c["encoder_hidden_states"].float()[:, None] + c["time_ids"].sum() * 0, empty, pivot, 3, 0.0, 0.1, 0
    )
    assert found["time_ids"] is added and found["encoder_hidden_states"].dtype == torch.bfloat16
    assert (found["encoder_hidden_states"] > 0).all() and not words.any()


@pytest.mark.parametrize("rate", [1e-2, 1e-1, 30.0])
def test_the_accepted_embedding_is_never_worse_than_its_start(rate):
    model, z = tiny_model(), noise(1, 4, 8, 8)
    empty, pivot = model.embed(""), noise(1, 4, 8, 8, seed=1)
    losses = []

    def land(words):
        there = 3 * model.predict(z, 501, words)
        losses.append(rms(there.detach() - pivot))
        return there

    with torch.no_grad():
        found, there = fit(land, empty, pivot, 6, 0.0, rate, 0)
        accepted = rms(land(found) - pivot)
    assert len(losses) == 8 and accepted == min(losses) <= losses[0]
    assert accepted == pytest.approx(rms(there - pivot), rel=1e-6)
    assert rate == 30.0 or accepted < losses[0]


def test_null_text_stops_early_within_the_tolerance():
    model, z0 = tiny_model(), noise(1, 4, 8, 8)
    with counted(model.unet) as count:
        path = null_text_invert(model, z0, model.embed("a ball"), Schedule(model, 6), cfg=4.0, tolerance=1e9, refine=2)
    assert count.evaluations == 6 + 2 * 2 + 6 * 2
    assert all(
        torch.equal(c["encoder_hidden_states"], model.embed("")["encoder_hidden_states"]) for c in path.empty.values()
    )


def test_a_loss_that_is_not_finite_names_its_step():
    model, z0 = tiny_model(), noise(1, 4, 8, 8)
    with pytest.raises(NonFiniteError, match="step 0"):
        null_text_invert(model, z0, model.embed("a ball"), Schedule(model, 3), cfg=1e38)


def test_as_many_evaluations_as_steps_and_every_level_kept(run):
    model, path, z0, evaluations = run
    assert evaluations == 6 and hooks(model) == 0
    assert sorted(path.latents) == list(range(7)) and sorted(path.inputs) == list(range(6))
    assert torch.equal(path.latents[6], z0) and path.z_T is path.latents[0]


def test_each_level_follows_from_the_formula(run):
    model, path, z0, _ = run
    a = alphas_cumprod(SCHEDULER)
    t, before = path.schedule.timesteps, None
    for i in range(5, -1, -1):
        z, clean = (z0, a[0]) if i == 5 else (path.latents[i], a[t[i]])
        assert torch.equal(path.inputs[i], z)
        with torch.no_grad():
            eps = model.predict(z, t[i], path.cond)
        ahead = eps if before is None else eps + (eps - before)
        before = eps
        if i:
            x0 = (z - (1 - clean).sqrt() * ahead) / clean.sqrt()
            expected = a[t[i - 1]].sqrt() * x0 + (1 - a[t[i - 1]]).sqrt() * ahead
            torch.testing.assert_close(path.latents[i - 1], expected)


def test_kept_features_and_tokens_are_the_live_ones_bit_for_bit(run):
    model, path, _, _ = run
    assert sorted(path.features) == [0, 1, 2, 3] and sorted(path.tokens) == [1, 2, 3, 4, 5]
    for i in range(6):
        t = path.schedule.timesteps[i]
        with torch.no_grad(), record(model.unet) as tokens:
            live = tap(model.unet, (2, 3), path.inputs[i], t, path.cond)
            model.predict(path.inputs[i], t, path.cond)
        for found in (path.features_at(model, i, (2, 3)), path.features_at(model, i, (3, 2), live=True)):
            assert all(torch.equal(found[k], live[k]) for k in (2, 3))
        for found in (path.tokens_at(model, i), path.tokens.get(i, tokens)):
            assert found.keys() == tokens.keys() and all(torch.equal(found[k], tokens[k]) for k in tokens)


def test_kept_features_cost_nothing_and_missing_ones_are_evaluated(run):
    model, path, _, _ = run
    with counted(model.unet) as count:
        path.features_at(model, 2, (2, 3))
        assert count.evaluations == 0
        path.features_at(model, 2, (1, 2))
        path.features_at(model, 5, (2,))
        path.features_at(model, 2, (2,), live=True)
    assert count.evaluations == 3


@pytest.mark.parametrize(
    ("changes", "features", "tokens"),
    [
        ({}, range(30), range(5, 50)),
        ({"reference": "live"}, range(0), range(5, 50)),
        ({"energy": 0}, range(0), range(5, 50)),
        ({"attention_mode": "off", "guided": (0.2, 0.4)}, range(10, 20), range(0)),
    ],
)
def test_no_more_is_kept_than_guidance_asks_for(changes, features, tokens):
    keep = Keep.wanted(Guidance().replace(**changes), Schedule(tiny_model(), 50))
    assert keep == Keep((2, 3), features, tokens)


def test_progress_sees_every_step():
    model = Gaussian(1.0)
    seen = []
    ddim_invert(
        model,
        torch.zeros(1, 4, 2, 2),
        {},
        Schedule(model, 5),
        progress=lambda steps: map(lambda i: seen.append(i) or i, steps),
    )
    assert seen == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("name", INVERTERS)
def test_every_inverter_shows_each_step_once(name):
    model, seen = tiny_model(), []
    INVERTERS[name](
        model,
        noise(1, 4, 8, 8),
        model.embed(""),
        Schedule(model, 3),
        progress=lambda steps: map(lambda i: seen.append(i) or i, steps),
    )
    assert sorted(seen) == [0, 1, 2]
