"""Images from a prompt, which need no inversion: the path from noise to image is known exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dragonkit.checks import check_number, check_seed, check_text
from dragonkit.errors import InputError
from dragonkit.inversion import Path
from dragonkit.models import Cond, Model
from dragonkit.schedule import Schedule
from dragonkit.trace import to_pil

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False)
class Generated:
    """A generated image; :func:`dragonkit.edit` takes it in place of an image.

    Args:
        tensor: float32 (3, H, W) in [0, 1], on the CPU.
        path: every latent on the way, from z_T on; its tokens and features are evaluated when an edit asks for them.
        prompt: what it was generated from.
        seed: of z_T.
        cfg: classifier-free guidance scale that it was generated with.
    """

    tensor: Tensor
    path: Path
    prompt: str
    seed: int
    cfg: float

    @property
    def image(self) -> Image.Image:
        """The image, 8 bits a channel."""
        return to_pil(self.tensor)

    @property
    def z_T(self) -> Tensor:
        """The noise (1, C, h, w) that it was generated from."""
        return self.path.z_T


@torch.no_grad()
def generate(
    model: Model,
    prompt: str,
    seed: int = 0,
    *,
    steps: int = 50,
    cfg: float = 3.0,
    size: tuple[int, int] | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Generated:
    """Generate an image by DDIM.

    Args:
        model: the denoiser.
        prompt: what to show.
        seed: of the noise, a whole number; drawn on the CPU, so the same on every device.
        steps: denoiser evaluations, at least 1; an edit of the image must have as many.
        cfg: classifier-free guidance scale, at least 0; 1 evaluates no unconditional half.
        size: (height, width) in pixels, multiples of ``model.multiple``; default the model's own.
        progress: wraps the loop over steps, for a progress bar.

    Raises:
        InputError: a value is not usable.
    """
    check_text("prompt", prompt)
    check_seed(seed)
    check_number("cfg", cfg)
    height, width = size or (model.unet.config.sample_size * model.factor,) * 2
    for side in (height, width):
        if side < model.multiple or side % model.multiple:
            raise InputError(f"size is {width}x{height}: give multiples of {model.multiple}")
    schedule, cond, empty = Schedule(model, steps), model.embed(prompt), model.embed("")
    shape = (1, model.unet.config.in_channels, height // model.factor, width // model.factor)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(model.device)
    path = Path(schedule, cond, latents={0: z}, size=(height, width))
    for i in progress(range(steps)):
        path.inputs[i] = z
        z, _ = schedule.step(z, denoise(model, z, schedule.timesteps[i], cond, empty, cfg), i)
        path.latents[i + 1] = z
    return Generated(model.decode(z)[0].cpu(), path, prompt, seed, float(cfg))


def denoise(model: Model, z: Tensor, t: int, cond: Cond, empty: Cond, cfg: float) -> Tensor:
    """ε with classifier-free guidance: ε_∅ + cfg (ε_c - ε_∅), both halves in one pass; plain ε_c if cfg is 1."""
    if cfg == 1:
        return model.predict(z, t, cond)
    both = {name: torch.cat([cond[name], empty[name]]) for name in cond}
    eps, eps_empty = model.predict(torch.cat([z, z]), t, both).chunk(2)
    return eps_empty + cfg * (eps - eps_empty)
