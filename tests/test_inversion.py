"""Inversion: exact where the answer is known, and a guidance branch for free."""

import dataclasses

import pytest
import torch

from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.inversion import Keep, ddim_invert
from dragonkit.schedule import Schedule, alphas_cumprod
from dragonkit.taps import counted, record, tap
from tests.tiny import SCHEDULER, hooks, tiny_model


class Gaussian:
    """The exact denoiser of data distributed as N(0, spread²), and of its probability flow."""

    schedule_config = SCHEDULER

    def __init__(self, spread):
        self.spread = spread

    def alpha(self, t):
        return alphas_cumprod(SCHEDULER)[t]

    def predict(self, z, t, cond):
        a = self.alpha(t)
        return (1 - a) ** 0.5 * z / (a * self.spread**2 + 1 - a)


@pytest.fixture(scope="module")
def run():
    model, schedule = tiny_model(), Schedule(tiny_model(), 6)
    z0 = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(0))
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


def round_trip(spread, steps, order):
    model, z0 = Gaussian(spread), spread * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    schedule = Schedule(model, steps)
    z = ddim_invert(model, z0, {}, schedule, order=order).z_T
    for i, t in enumerate(schedule.timesteps):
        z, _ = schedule.step(z, model.predict(z, t, {}), i)
    return ((z - z0).norm() / z0.norm()).item()


@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_inversion_and_generation_of_gaussian_data_round_trip(spread):
    plain = [round_trip(spread, steps, order=1) for steps in (50, 400)]
    assert plain[0] < 0.2 and plain[1] < plain[0] / 3
    assert round_trip(spread, 50, order=2) < plain[0] / 2 and round_trip(spread, 400, order=2) < plain[1] / 5


def test_an_unknown_order_is_named():
    model = Gaussian(1.0)
    with pytest.raises(InputError, match="order is 3"):
        ddim_invert(model, torch.zeros(1, 4, 8, 8), {}, Schedule(model, 4), order=3)


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
    assert dataclasses.astuple(keep) == ((2, 3), features, tokens)


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
