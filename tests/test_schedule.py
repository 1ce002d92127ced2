"""The schedule against diffusers' own scheduler, bit for bit, and against its own inverse."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from dragonkit.errors import InputError
from dragonkit.schedule import Schedule, alphas_cumprod
from tests.tiny import SCHEDULER


def schedule(steps, **config):
    return Schedule(SimpleNamespace(schedule_config=SCHEDULER | config), steps)


@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": np.linspace(0.001, 0.02, 1000, dtype=np.float32).tolist()},
        {"set_alpha_to_one": True, "steps_offset": 0},
    ],
)
def test_backward_steps_are_diffusers_bit_for_bit(steps, config):
    ours, theirs = (
        schedule(steps, **config),
        DDIMScheduler(**{k: v for k, v in (SCHEDULER | config).items() if k[0] != "_"}),
    )
    theirs.set_timesteps(steps)
    assert ours.timesteps == theirs.timesteps.tolist()
    z = torch.randn(1, 4, 5, 3, generator=torch.Generator().manual_seed(steps))
    for i, t in enumerate(ours.timesteps):
        eps = torch.randn(z.shape, generator=torch.Generator().manual_seed(i))
        expected = theirs.step(eps, t, z)
        z, x0 = ours.step(z, eps, i)
        assert torch.equal(z, expected.prev_sample) and torch.equal(x0, expected.pred_original_sample)


def test_levels_of_fifty_steps():
    s = schedule(50)
    assert s.timesteps[:2] == [981, 961] and s.timesteps[-1] == 1 and len(s) == 50
    assert s.alpha(50) == alphas_cumprod(SCHEDULER)[0] and s.alpha(0) == alphas_cumprod(SCHEDULER)[981]
    assert all(s.alpha(i) < s.alpha(i + 1) for i in range(50))


def test_carrying_there_and_back_along_one_noise_is_the_identity():
    s, z, eps = schedule(10), torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(s.carry(s.carry(z, eps, 8, 3), eps, 3, 8), z)
    torch.testing.assert_close(s.step(z, eps, 3)[0], s.carry(z, eps, 3, 4))


def test_guidance_through_x0_leaves_the_direction_alone():
    s, z, eps, other = schedule(10), *torch.randn(3, 1, 4, 4, 4)
    (plain, x0), (towards, moved) = s.step(z, eps, 4), s.step(z, eps, 4, towards=other)
    assert torch.equal(moved, s.x0(z, other, 4))
    torch.testing.assert_close(towards - plain, s.alpha(5) ** 0.5 * (moved - x0))


@pytest.mark.parametrize(
    ("steps", "fractions", "expected"),
    [
        (50, (0, 0.6), range(30)),
        (50, (0.1, 1), range(5, 50)),
        (20, (0, 0.6), range(12)),
        (1, (0, 1), range(1)),
        (9, (0, 0), range(0)),
    ],
)
def test_windows_are_fractions_of_the_run(steps, fractions, expected):
    assert schedule(steps).window(fractions) == expected


@pytest.mark.parametrize("steps", [0, -3, 1000, 2.5, "50", True, None])
def test_steps_out_of_range_are_refused(steps):
    with pytest.raises(InputError, match=f"steps is {steps!r}"):
        schedule(steps)


@pytest.mark.parametrize(
    "config",
    [
        {"beta_schedule": "sigmoid"},
        {"timestep_spacing": "own"},
        {"trained_betas": [0.1]},
        {"trained_betas": "x"},
        {"beta_end": None},
    ],
)
def test_schedules_of_another_kind_are_refused(config):
    with pytest.raises(InputError):
        schedule(10, **config)


@pytest.mark.parametrize("eta", [0.2, 1.0])
def test_stochastic_steps_are_diffusers_and_noise_stays_in_its_region(eta):
    ours, theirs = schedule(10), DDIMScheduler(**{k: v for k, v in SCHEDULER.items() if k[0] != "_"})
    theirs.set_timesteps(10)
    z, eps, noise = torch.randn(3, 1, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    region = torch.zeros(5, 3, dtype=torch.bool)
    region[1:3] = True
    for i, t in enumerate(ours.timesteps):
        expected = theirs.step(eps, t, z, eta=eta, variance_noise=noise).prev_sample
        everywhere, x0 = ours.step(z, eps, i, churn=torch.tensor(eta), noise=noise)
        torch.testing.assert_close(everywhere, expected, atol=2e-6, rtol=1e-5)
        split, _ = ours.step(z, eps, i, churn=torch.where(region, eta, 0.0), noise=noise)
        assert torch.equal(split[..., region], everywhere[..., region])
        torch.testing.assert_close(split[..., ~region], ours.step(z, eps, i)[0][..., ~region], atol=1e-6, rtol=1e-6)
