"""One batch: edits of images of one size under one guidance, carried out in one run of the denoiser."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dragonkit.editor import checked, edit, edit_steps, visits
from dragonkit.edits.base import Edit
from dragonkit.generation import Generated
from dragonkit.guidance import Guidance
from dragonkit.inversion import Inverter, Keep, Path, ddim_invert
from dragonkit.many.abreast import Abreast, apart, beside, stacked
from dragonkit.memory import Memory, economy, frees
from dragonkit.models import Cond, Model
from dragonkit.preserve import preserve
from dragonkit.progress import Bar, bar
from dragonkit.regions import Frame, as_image, pad
from dragonkit.schedule import Schedule
from dragonkit.taps import Count, counted, unfused
from dragonkit.trace import Record, Result, Trace


@dataclass(frozen=True, eq=False)
class Wish:
    """What :func:`dragonkit.edit` takes for one image, checked.

    Args:
        image: float32 (3, H, W) in [0, 1], or what ``model.generate`` gave.
        edit: what to do.
        prompt: what the image shows.
        guidance: how.
        frame: of the image.
        traits: what regions the edit has, for only edits alike in that share a batch.
    """

    image: Tensor | Generated
    edit: Edit
    prompt: str
    guidance: Guidance
    frame: Frame
    traits: tuple[bool, ...]

    @classmethod
    def of(cls, model: Model, image: Any, edit: Any, prompt: str | None, guidance: Guidance | None) -> Wish:
        """Check what was given.

        Raises:
            InputError: anything of it cannot be used.
        """
        source = image if isinstance(image, Generated) else as_image(image)
        task, words, w, frame = checked(model, source, edit, None, prompt, guidance)
        m = task.regions(frame)
        return cls(source, task, words, w, frame, (m.target is None, m.edited is None))

    @property
    def pixels(self) -> Tensor:
        """The image (3, H, W)."""
        return self.image.tensor if isinstance(self.image, Generated) else self.image

    @property
    def kin(self) -> tuple[Any, ...]:
        """What wishes must have in common to share a batch."""
        return self.frame.height, self.frame.width, self.guidance, self.traits


@torch.inference_mode(False)  # under which nothing could be differentiated
@frees
def edit_together(
    model: Model,
    wishes: Sequence[Wish],
    *,
    invert: Inverter = ddim_invert,
    trace: bool | Record = False,
    progress: bool | Bar = False,
    memory: Memory = "full",
) -> list[Result]:
    """Carry out wishes of one kin in one batch.

    Inversion, the noise, the features and the gradient of the energies' sum are each one pass for all; encoding,
    decoding and what an edit does with its own regions go image by image. DDIM inversion is batched; other inverters
    may decide by the worst of a batch, so they are given one image at a time, as are reference images.

    A single wish is :func:`dragonkit.edit` itself, bit for bit. Results of more differ from it by the rounding of
    batched arithmetic. Traces of a batch have latents, gradients and energies, but neither attention nor features.

    Args:
        model: what edits.
        wishes: at least one; their ``kin`` is the same.
        invert: how images are inverted.
        trace: what to keep of every step.
        progress: show progress bars, see :func:`dragonkit.edit`.
        memory: see :func:`dragonkit.memory.economy`.

    Returns:
        Each wish's result, in order. ``nfe`` counts a pass for all as one of each; ``seconds`` is an equal share of the
        batch's time.

    Raises:
        NonFiniteError: something of one of them is not finite.
        OutOfMemoryError: the device's memory is too small.
    """
    if len(wishes) == 1:
        one = wishes[0]
        said: dict[str, Any] = {"guidance": one.guidance, "invert": invert, "trace": trace, "progress": progress}
        return [edit(model, one.image, one.edit, one.prompt, **said, memory=memory)]
    began, w, frame = time.perf_counter(), wishes[0].guidance, wishes[0].frame
    task, schedule = Abreast([wish.edit for wish in wishes]), Schedule(model, w.steps)
    alone = [0] * len(wishes)  # evaluations for one of the wishes only

    def decoded(z: Tensor) -> Tensor:
        return model.decode(z)[0, :, : frame.height, : frame.width].cpu()

    def embedded(prompts: list[str], z: Tensor) -> Cond:
        return beside([model.embed(words, model.size_of(z)) for words in prompts])

    def inverted(images: list[Tensor], prompts: list[str], keep: Keep, cfg: float | None = None) -> Path:
        z0 = torch.cat([model.encode(pad(image, model.multiple)[None]) for image in images])
        cond, shown = embedded(prompts, z0), bar("inversion", len(schedule), progress)
        path = invert(model, z0, cond, schedule, keep=keep, progress=shown, cfg=cfg)
        return replace(path, size=(images[0].shape[1], images[0].shape[2]))

    def inverted_alone(wish: Wish) -> Path:
        if isinstance(wish.image, Generated):
            return wish.image.filled(model, keep, partial(bar, "guidance branch", shown=progress))
        return inverted([wish.image], [wish.prompt], keep, w.cfg)

    traces = [Trace(decoded, trace) for _ in wishes]
    with model.current(), economy(model, memory) as store, unfused(model.unet), counted(model.unet) as count:
        keep = Keep.wanted(w, schedule, store)
        if invert is ddim_invert and not any(isinstance(wish.image, Generated) for wish in wishes):
            path = inverted([wish.pixels for wish in wishes], [wish.prompt for wish in wishes], keep, w.cfg)
        else:
            path = stacked([_counting(count, alone, k, inverted_alone, wish) for k, wish in enumerate(wishes)], store)
        cond = embedded([wish.prompt for wish in wishes], path.z_T)
        keep = keep if w.attention_mode == "mix" else replace(keep, tokens=range(0))
        references = (
            _counting(count, alone, k, inverted, [ref.image], [ref.prompt], keep)
            for k, wish in enumerate(wishes)
            for ref in wish.edit.references
        )
        path = replace(path, references=tuple(references))
        run = edit_steps(model, path, task, cond, w)
        for step in bar("edit", len(list(visits(schedule, w))), progress)(run):
            parts: list[Any] = apart(step, len(wishes))
            for kept, part in zip(traces, parts, strict=True):
                kept.add(part)
        path = replace(path, tokens={}, features={}, references=())  # room for the autoencoder
        if model.graphs is not None:
            model.graphs.tidy()
        images = [decoded(z) for z in step.z.split(1)]
        for k, wish in enumerate(wishes):
            if w.preserve and (places := wish.edit.places(frame)):
                through = decoded(path.latents[len(schedule)][k : k + 1])
                images[k] = preserve(images[k], through, wish.pixels.cpu(), *places, cell=model.factor)
    seconds, shared = (time.perf_counter() - began) / len(wishes), count.evaluations - sum(alone)
    ends = zip(images, step.z.split(1), traces, alone, strict=True)
    return [Result(image, z, kept, shared + own, seconds) for image, z, kept, own in ends]


def _counting(count: Count, alone: list[int], k: int, call: Callable[..., Path], *args: Any) -> Path:
    """Call what evaluates the denoiser for one of the wishes only, and note how often."""
    before = count.evaluations
    path = call(*args)
    alone[k] += count.evaluations - before
    return path
