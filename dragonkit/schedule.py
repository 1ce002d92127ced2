"""Noise levels of a run, and the one DDIM formula that moves a latent between them.

A run of ``steps`` steps has ``steps + 1`` levels. Level ``i < steps`` is where the denoiser is evaluated at step ``i``
(``timesteps[i]``, from 981 down to 1 for 50 steps); level ``steps`` is the clean latent::

    level    0      1     ...   steps - 1   steps
    t       981    961    ...       1       (clean, alpha = alphas_cumprod[0])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dragonkit.checks import check_number, check_whole
from dragonkit.errors import InputError

if TYPE_CHECKING:
    from dragonkit.models import Model


PURE_NOISE = 2.0**-24
"""Stands for ᾱ = 0, noise without a trace of an image: of that x0 cannot be told from ε, nor steps go on from it."""


def alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    """The cumulative product ᾱ_t of 1 - β_t (Eq. 1), for every training timestep.

    Args:
        config: a diffusers scheduler configuration: ``num_train_timesteps``, ``beta_start``, ``beta_end``,
            ``beta_schedule`` ("scaled_linear", Stable Diffusion's, "linear" or "squaredcos_cap_v2"), ``trained_betas``,
            which lists every β_t instead, and ``rescale_betas_zero_snr``: √ᾱ is then stretched so that the last
            timestep is noise alone (Lin et al., 2024, Alg. 1), here ``PURE_NOISE``.

    Returns:
        Float32, (num_train_timesteps,), decreasing, in (0, 1).

    Raises:
        InputError: the schedule is of another kind, or its numbers cannot be used.
    """
    betas = _betas(config)
    if not ((betas > 0) & (betas < 1)).all():
        raise InputError(
            f"the scheduler's betas are from {betas.min():g} to {betas.max():g}: use a model with betas between 0 and 1"
        )
    table = torch.cumprod(1.0 - betas, dim=0)
    if config.get("rescale_betas_zero_snr"):
        root = table.sqrt()
        table = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square().clamp(min=PURE_NOISE)
    return table


def _betas(config: Mapping[str, Any]) -> Tensor:
    """Every β_t of a configuration, float32 (num_train_timesteps,)."""
    missing = [name for name in ("num_train_timesteps", "beta_start", "beta_end") if config.get(name) is None]
    if missing:
        kind = config.get("_class_name", "scheduler")
        raise InputError(f"the {kind} has no {missing[0]}: use a model trained on a schedule of betas")
    count, start, end = config["num_train_timesteps"], config["beta_start"], config["beta_end"]
    check_whole("num_train_timesteps", count, 2)
    check_number("beta_start", start)
    check_number("beta_end", end)
    kind, listed = config.get("beta_schedule", "linear"), config.get("trained_betas")
    if listed is not None:
        betas = np.asarray(listed)
        if betas.shape != (count,) or betas.dtype.kind != "f":
            raise InputError(f"trained_betas is {str(listed)[:40]}: use a model whose scheduler lists {count} numbers")
        return torch.from_numpy(betas.astype(np.float32))
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32) ** 2
    if kind == "linear":
        return torch.linspace(start, end, count, dtype=torch.float32)
    if kind == "squaredcos_cap_v2":  # Nichol and Dhariwal, 2021, Eq. 17
        part = torch.arange(count + 1, dtype=torch.float64) / count
        table = torch.cos((part + 0.008) / 1.008 * torch.pi / 2) ** 2
        return (1 - table[1:] / table[:-1]).clamp(max=0.999).float()
    raise InputError(
        f"beta_schedule {kind!r} is not known: use a model with 'scaled_linear', 'linear' or 'squaredcos_cap_v2'"
    )


def spaced(config: Mapping[str, Any], steps: int) -> list[int]:
    """The timesteps of a run, falling, as diffusers' ``DDIMScheduler`` chooses them by ``timestep_spacing``."""
    count, kind = config["num_train_timesteps"], config.get("timestep_spacing", "leading")
    if kind == "leading":
        offset = config.get("steps_offset", 0)
        check_whole("steps_offset", offset, 0, count - 1)
        check_whole("steps", steps, 1, count - offset)
        return [i * (count // steps) + offset for i in reversed(range(steps))]
    check_whole("steps", steps, 1, count)
    if kind == "trailing":
        return [round(count - i * count / steps) - 1 for i in range(steps)]
    if kind == "linspace":
        return [round(i * (count - 1) / max(steps - 1, 1)) for i in reversed(range(steps))]
    raise InputError(f"timestep_spacing {kind!r} is not known: use 'leading', 'trailing' or 'linspace'")


class Schedule:
    """The levels of one run, and deterministic DDIM steps (η = 0) between any two of them.

    Bit for bit what diffusers' ``DDIMScheduler`` does with "leading" spacing, in float32. With another spacing each
    step goes to the next timestep of the run, as in diffusers' ``EulerDiscreteScheduler`` (the same steps, told by
    noise over signal); its ``DDIMScheduler`` goes down by as many timesteps at every step, and misses the next one.

    Args:
        model: anything with a ``schedule_config``, see :func:`alphas_cumprod` and :func:`spaced`;
            ``set_alpha_to_one`` is read too.
        steps: number of denoiser evaluations, at least 1.

    Raises:
        InputError: ``steps`` is not a whole number that the model's training timesteps allow.
    """

    def __init__(self, model: Model, steps: int) -> None:
        config = model.schedule_config
        table = alphas_cumprod(config)
        self.timesteps: list[int] = spaced(config, steps)
        clean = torch.ones(()) if config.get("set_alpha_to_one", True) else table[0]
        self.alphas: list[Tensor] = [*table[self.timesteps], clean]  # 0-d and on the CPU: no synchronisation

    def __len__(self) -> int:
        return len(self.timesteps)

    def alpha(self, level: int) -> Tensor:
        """ᾱ of a level, 0-d float32; level 0 is the noisiest, ``len(self)`` the clean latent."""
        return self.alphas[level]

    def x0(self, z: Tensor, eps: Tensor, level: int) -> Tensor:
        """The clean latent that z at ``level`` promises if ``eps`` is its noise: (z - √(1-ᾱ) ε) / √ᾱ."""
        a = self.alphas[level]
        return (z - (1 - a) ** 0.5 * eps) / a**0.5

    def carry(self, z: Tensor, eps: Tensor, here: int, there: int) -> Tensor:
        """Move z from one level to another along ε, towards noise or away from it (DDIM, η = 0).

        z_there = √ᾱ_there · x0(z, ε) + √(1 - ᾱ_there) · ε.
        """
        a = self.alphas[there]
        return a**0.5 * self.x0(z, eps, here) + (1 - a) ** 0.5 * eps

    def step(
        self,
        z: Tensor,
        eps: Tensor,
        i: int,
        towards: Tensor | None = None,
        churn: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One generation step, from level i to level i + 1.

        z_{i+1} = √ᾱ_{i+1} x0 + √(1 - ᾱ_{i+1} - σ²) ε + σ noise, with σ = 0 unless ``churn`` is given: DDIM's Eq. 16,
        σ² = churn² (1 - ᾱ_{i+1}) / (1 - ᾱ_i) (1 - ᾱ_i / ᾱ_{i+1}).

        Args:
            z: (B, C, h, w), at level i.
            eps: (B, C, h, w), the noise in z that gives the direction.
            i: index of the step, 0 is the first (noisiest).
            towards: the noise by which x0 is predicted, if another: this is how guidance enters through x0 alone.
            churn: DDIM's η by cell (h, w) or 0-d, in [0, 1]: 0 deterministic, 1 ancestral; it may differ by region.
            noise: (B, C, h, w) standard normal, needed with ``churn``.

        Returns:
            The latent at level i + 1, and the predicted clean latent.
        """
        a = self.alphas[i + 1]
        x0 = self.x0(z, eps if towards is None else towards, i)
        if churn is None or noise is None:
            return a**0.5 * x0 + (1 - a) ** 0.5 * eps, x0
        here = self.alphas[i]
        variance = churn**2 * ((1 - a) / (1 - here) * (1 - here / a)).clamp(min=0)
        return a**0.5 * x0 + (1 - a - variance).clamp(min=0) ** 0.5 * eps + variance**0.5 * noise, x0

    def window(self, fractions: tuple[float, float]) -> range:
        """Indices of the steps in a window given as fractions of the run: (0, 0.6) of 50 is steps 0 to 29."""
        start, end = fractions
        return range(round(start * len(self)), round(end * len(self)))
