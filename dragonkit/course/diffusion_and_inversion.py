"""Exercises of notebook 01: noising, the clean latent, a DDIM step, the way up, a better guess, and drift.

The references come from diffusers' ``DDIMScheduler``, which shares no code with this library, or from noises for which
the right answer is known in closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dragonkit.course.exercise import ToDo, Wrong, called, exercise
from dragonkit.schedule import Schedule

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

__all__ = ["check_clean", "check_guess", "check_inversion", "check_noising", "check_prediction", "check_step"]

SHAPE = (1, 4, 8, 8)
BETAS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
PLAIN: dict[str, Any] = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}


@cache
def scheduler(steps: int) -> DDIMScheduler:
    """The scheduler of diffusers, with Stable Diffusion's noise levels; not to be changed, for it is shared."""
    from diffusers import DDIMScheduler

    made = DDIMScheduler(**BETAS, **PLAIN)
    made.set_timesteps(steps)
    return made


class Plain:
    """What :class:`dragonkit.schedule.Schedule` reads of a model."""

    schedule_config = BETAS | PLAIN


def drawn(count: int, seed: int) -> list[Tensor]:
    """Latents of standard normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator) for _ in range(count)]


def noised(z0: Tensor, eps: Tensor, t: int) -> Tensor:
    """Eq. 1 by diffusers."""
    return scheduler(10).add_noise(z0, eps, torch.tensor([t]))


def as_latent(found: Any) -> Tensor:
    """The answer as a latent.

    Raises:
        Wrong: it is none, or not finite.
    """
    if not isinstance(found, Tensor) or found.shape != SHAPE:
        told = tuple(found.shape) if isinstance(found, Tensor) else repr(found)[:40]
        raise Wrong(f"return a latent of the shape {SHAPE} that went in; yours is {told}")
    if not found.isfinite().all():
        raise Wrong("yours holds infinite numbers: is something divided by 0, or a root taken of a negative number?")
    return found


def near(a: Tensor, b: Tensor, tolerance: float = 1e-3) -> bool:
    """Whether two latents agree, within a share of the second one's size."""
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


@exercise
def check_noising(noising: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """Write z_t from z_0, the noise and alpha-bar (Eq. 1, all steps in one)."""
    z0, eps = drawn(2, seed=1)
    for t in (1, 400, 950):
        alpha = scheduler(10).alphas_cumprod[t]
        found, want = as_latent(called(noising, z0, eps, alpha)), noised(z0, eps, t)
        if near(found, want):
            continue
        if near(found, noised(eps, z0, t)):
            raise Wrong("the weights are exchanged: alpha-bar is near 1 where there is little noise")
        if near(found, alpha * z0 + (1 - alpha) * eps):
            raise Wrong("your weights add up to 1, but variances add as squares: take the roots of both")
        if near(found, want - 2 * (1 - alpha) ** 0.5 * eps):
            raise Wrong("the noise is added, not taken away")
        raise Wrong(
            f"at t = {t} its standard deviation is {found.std():.2f} and diffusers' {want.std():.2f}; "
            "z0 is weighted by the root of alpha-bar, the noise so that the squares add up to 1"
        )
    return "as diffusers noises, at three levels"


@exercise
def check_clean(clean: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """Write the clean latent from z_t, its noise and alpha-bar: Eq. 1 solved for z_0."""
    z0, eps = drawn(2, seed=2)
    for t in (1, 400, 950):
        alpha, z = scheduler(10).alphas_cumprod[t], noised(z0, eps, t)
        found = as_latent(called(clean, z, eps, alpha))
        if near(found, z0):
            continue
        if near(found * (1 / alpha) ** 0.5, z0):
            raise Wrong("the noise is out, but what is left is still shrunk: divide by the weight that z0 had")
        if near(found, (z + (1 - alpha) ** 0.5 * eps) / alpha**0.5):
            raise Wrong("you add the noise a second time: take it away")
        raise Wrong(
            f"at t = {t} the latent does not come back (off by up to {(found - z0).abs().max():.2g}); "
            "take the noise away with the weight that it had in Eq. 1, then divide by the weight that z0 had"
        )
    return "latents noised by diffusers come back, at three levels"


@exercise
def check_step(step: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> str:
    """Write the DDIM step: believe the clean latent, and noise it again to another level."""
    ours = scheduler(10)
    z, eps = drawn(2, seed=3)
    for i in (0, 4, 9):
        t = int(ours.timesteps[i])
        here = ours.alphas_cumprod[t]
        there = ours.alphas_cumprod[int(ours.timesteps[i + 1])] if i < 9 else ours.final_alpha_cumprod
        found, want = as_latent(called(step, z, eps, here, there)), ours.step(eps, t, z).prev_sample
        if near(found, want):
            continue
        if near(found, ours.step(eps, t, z).pred_original_sample):
            raise Wrong("that is the clean latent itself: noise it again, to the level there")
        if near(found, noised(z, eps, 1)) or near(found, there**0.5 * z + (1 - there) ** 0.5 * eps):
            raise Wrong("you noise z, which is noisy already: noise the clean latent that it promises")
        raise Wrong(
            f"the step from t = {t} is off by up to {(found - want).abs().max():.2g} from diffusers' "
            "DDIMScheduler; the clean latent belongs to the level here, the noising to the level there"
        )
    return "three steps as diffusers' DDIMScheduler takes them"


@exercise
def check_inversion(inversion: Callable[[Callable[[Tensor, int], Tensor], Tensor, Schedule], Tensor]) -> str:
    """Write the way up: from the clean latent to z_T, with the noise of the level below."""
    schedule = Schedule(Plain(), 10)  # type: ignore[arg-type]
    z0, a, b = drawn(3, seed=4)
    asked: list[int] = []

    def predict(z: Tensor, t: int) -> Tensor:  # changes with the latent and with the level, as a denoiser's does
        asked.append(int(t))
        return a + t / 1000 * b + 0.3 * torch.tanh(z)

    found = as_latent(called(inversion, predict, z0, schedule))
    if near(found, climbed(predict_quietly(predict, asked), z0)):
        return "diffusers' own way down, with the noises that you took, leads back to z0"
    if not asked:
        raise Wrong("predict was never called: every level has its own noise")
    if asked != sorted(asked):
        raise Wrong(f"you asked for the noise at t = {asked}: inversion starts at the smallest t, next to the image")
    if asked[0] != schedule.timesteps[-1]:
        raise Wrong(f"your first noise is that of t = {asked[0]}; it should be that of the smallest timestep, t = 1")
    if not 9 <= len(set(asked)) <= 10:
        raise Wrong(
            f"you asked for the noise at {len(set(asked))} levels of 10: each level's own carries it to the next"
        )
    raise Wrong(
        "the levels are right, but not z_T. The step goes from alpha(i + 1) to alpha(i), with the noise evaluated at "
        "level i + 1; the first noise, found at the clean latent, carries it through t = 1 and on to the next level"
    )


def predict_quietly(predict: Callable[[Tensor, int], Tensor], asked: list[int]) -> Callable[[Tensor, int], Tensor]:
    """The same noise, without a note of having been asked."""

    def quiet(z: Tensor, t: int) -> Tensor:
        eps = predict(z, t)
        asked.pop()
        return eps

    return quiet


def climbed(predict: Callable[[Tensor, int], Tensor], z0: Tensor) -> Tensor:
    """The z_T from which diffusers' DDIM steps, given the noises of the way up, lead back to z0.

    Every one of its steps is a z + b ε, so what it does to 0 and to ε alone is all that there is to know of it.
    """
    ours = scheduler(10)
    z, eps = z0, predict(z0, int(ours.timesteps[-1]))
    for i in reversed(range(10)):
        t, none = int(ours.timesteps[i]), torch.zeros(SHAPE)
        scale = ours.step(none, t, torch.ones(SHAPE)).prev_sample
        z = (z - ours.step(eps, t, none).prev_sample) / scale
        if i < 9:
            eps = predict(z, t)
    return z


@exercise
def check_guess(guess: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Write the noise one level up, if it goes on changing as it did from the level before to here."""
    start, change = drawn(2, seed=5)
    levels = [start + k * change for k in range(3)]
    found = as_latent(called(guess, levels[1], levels[0]))
    if near(found, levels[1]):
        raise Wrong("that is the plain formula: the noise of here. Use how it changed since the level before")
    if near(found, 2 * levels[0] - levels[1]) or near(found, levels[0]):
        raise Wrong("that goes back down: the change is eps_now - eps_before, and it is added to eps_now")
    if near(found, (levels[0] + levels[1]) / 2):
        raise Wrong("the mean of two levels lies between them; the next one lies beyond")
    if not near(found, levels[2]):
        raise Wrong("noise that changes evenly should be met exactly: eps_now, and once more the change up to it")
    return "noise that changes evenly is met exactly"


@exercise
def check_prediction(prediction: Mapping[str, Any], ratios: Mapping[str, float]) -> str:
    """Say for each case whether the drift is "more" or "less" than the plain inversion's at 20 steps."""
    if not isinstance(prediction, Mapping) or set(prediction) != set(ratios):
        raise Wrong(f'give a dictionary with "more" or "less" for each of {", ".join(ratios)}')
    if any(said is None or said is ... for said in prediction.values()):
        raise ToDo
    for case, said in prediction.items():
        if said not in ("more", "less"):
            raise Wrong(f'for {case!r} you say {said!r}: say "more" or "less"')
    missed = [case for case, said in prediction.items() if (ratios[case] > 1) != (said == "more")]
    if missed:
        raise Wrong(
            f"it came out otherwise for {', '.join(missed)}. Ask of each: is the noise taken on the way up "
            "that of the way down, and how far apart are the levels?"
        )
    return "as measured: " + ", ".join(f"{said} with {case}" for case, said in prediction.items())
