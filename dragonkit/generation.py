"""Images from a prompt, which need no inversion: the path from noise to image is known exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dragonkit.checks import check_number, check_seed, check_text
from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.inversion import Keep, Path
from dragonkit.models import Cond, Model
from dragonkit.passes import Looking, begin
from dragonkit.schedule import Schedule
from dragonkit.trace import to_pil

if TYPE_CHECKING:
    from PIL import Image


Progress = Callable[[Iterable[int]], Iterable[int]]
NOTHING = Keep()


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What an image was generated from: with the same model, enough to generate it again.

    Args:
        prompt: what to show.
        seed: of the noise.
        steps: of DDIM.
        cfg: classifier-free guidance scale.
        size: (height, width) in pixels.
    """

    prompt: str
    seed: int
    steps: int
    cfg: float
    size: tuple[int, int]

    def serves(self, prompt: str, w: Guidance) -> bool:
        """Whether the image's path serves an edit: only if, without the edit, the same run gives the same image."""
        return (prompt, w.steps, w.cfg) == (self.prompt, self.steps, self.cfg)

    def again(self, model: Model, **options: Any) -> Generated:
        """The image, generated again; ``options`` are ``keep`` and ``progress`` of :func:`generate`."""
        return generate(model, self.prompt, self.seed, steps=self.steps, cfg=self.cfg, size=self.size, **options)


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

    @property
    def origin(self) -> Origin:
        """What it was generated from."""
        height, width = self.tensor.shape[1:]
        steps = len(self.path.schedule)
        return Origin(prompt=self.prompt, seed=self.seed, steps=steps, cfg=self.cfg, size=(height, width))

    @torch.no_grad()
    def filled(self, model: Model, keep: Keep, bar: Callable[[int], Progress] = lambda count: iter) -> Path:
        """Its path with the tokens and features that an edit will ask for, each step evaluated once if it lacks any.

        Args:
            model: what generated it.
            keep: what is asked for.
            bar: given the number of steps to evaluate, what wraps the loop over them.
        """
        path = self.path.kept_in(keep.store)
        lacking = [
            i
            for i in sorted({*keep.tokens, *keep.features})
            if (i in keep.tokens and i not in path.tokens)
            or (i in keep.features and not set(keep.layers) <= path.features.get(i, {}).keys())
        ]
        for i in bar(len(lacking))(lacking) if lacking else ():
            path.visit(i, path.evaluate(model, path.inputs[i], i, keep))
        return path


@torch.no_grad()
def generate(
    model: Model,
    prompt: str,
    seed: int = 0,
    *,
    steps: int = 50,
    cfg: float = 3.0,
    size: tuple[int, int] | None = None,
    keep: Keep = NOTHING,
    progress: Progress = iter,
) -> Generated:
    """Generate an image by DDIM.

    Args:
        model: the denoiser.
        prompt: what to show.
        seed: of the noise, a whole number; drawn on the CPU, so the same on every device.
        steps: denoiser evaluations, at least 1; an edit of the image must have as many.
        cfg: classifier-free guidance scale, at least 0; 1 evaluates no unconditional half.
        size: (height, width) in pixels, multiples of ``model.multiple``; default the model's own.
        keep: tokens and features to keep on the way, which spares an edit that asks for them their evaluation. Only
            where ``cfg`` is 1: in a batch with its unconditional half, a pass gives other last bits than the guidance
            branch's own, and edits would depend on what was kept.
        progress: wraps the loop over steps, for a progress bar.

    Raises:
        InputError: a value is not usable.
    """
    check_text("prompt", prompt)
    check_seed(seed)
    check_number("cfg", cfg)
    if size is not None and (not isinstance(size, (list, tuple)) or len(size) != 2):
        raise InputError(f"size is {size!r}: give (height, width) in pixels, multiples of {model.multiple}")
    height, width = model.size if size is None else size
    for side in (height, width):
        if not isinstance(side, Integral) or side < model.multiple or side % model.multiple:
            raise InputError(f"size is {width}x{height}: give multiples of {model.multiple}")
    schedule, (cond, empty) = Schedule(model, steps), (model.embed(words, (height, width)) for words in (prompt, ""))
    shape = (1, model.unet.config.in_channels, height // model.factor, width // model.factor)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(model.device)
    path = Path(schedule, cond, latents={0: z}, size=(height, width))
    for i in progress(range(steps)):
        path.inputs[i] = z
        if cfg == 1:
            at = path.evaluate(model, z, i, keep)
            path.visit(i, at)
            eps = at.eps
        else:
            eps = denoise(model, z, schedule.timesteps[i], cond, empty, cfg)
        z, _ = schedule.step(z, eps, i)
        path.latents[i + 1] = z
    return Generated(model.decode(z)[0].cpu(), path, prompt, seed, float(cfg))


def denoise(
    model: Model, z: Tensor, t: int, cond: Cond, empty: Cond, cfg: float, look: Looking | None = None
) -> Tensor:
    """ε with classifier-free guidance: ε_∅ + cfg (ε_c - ε_∅), both halves in one pass; plain ε_c if cfg is 1."""
    return denoising(model, z, t, cond, empty, cfg, look)()


def denoising(
    model: Model, z: Tensor, t: int, cond: Cond, empty: Cond, cfg: float, look: Looking | None = None
) -> Callable[[], Tensor]:
    """:func:`denoise`, begun where a GPU can do it beside what comes next; call the result to wait for it, once."""
    if cfg == 1:
        one = begin(model, z, t, cond, look=look)
        return lambda: one().eps
    both = {name: torch.cat([cond[name], empty[name].expand_as(cond[name])]) for name in cond}
    pair = begin(model, torch.cat([z, z]), t, both, look=look)

    def end() -> Tensor:
        eps, eps_empty = pair().eps.chunk(2)
        return eps_empty + cfg * (eps - eps_empty)

    return end
