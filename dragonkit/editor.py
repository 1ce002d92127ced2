"""The edit itself: :func:`edit_steps`, the generator that is the method, and :func:`edit`, the one call.

Data flow::

    image ── encode ── z_0 ── invert ──> Path: z_T, and the guidance branch's tokens and features
                                          │
    edit.start(z_T) ──> z ──> ε_θ(z, t), its attention looking at the guidance tokens (Eq. 11)
                        │     + η ∂L/∂z, L = edit.terms(generation features, guidance features) (Eq. 6)
                        └──── DDIM step <──┘        ... 50 times, then decode
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dragonkit.attention import looking, mixing
from dragonkit.checks import check_text
from dragonkit.edits.base import Edit
from dragonkit.edits.several import Several
from dragonkit.energy import Watch, clipped
from dragonkit.errors import InputError
from dragonkit.generation import Generated, denoising
from dragonkit.gradient import Gradient, frame_of
from dragonkit.guidance import Guidance
from dragonkit.inversion import Inverter, Keep, Path, ddim_invert
from dragonkit.memory import Memory, economy, frees
from dragonkit.models import Cond, Model
from dragonkit.passes import joint, separate
from dragonkit.preserve import preserve
from dragonkit.progress import Bar
from dragonkit.progress import bar as bar
from dragonkit.regions import Frame, as_image, dilate, pad
from dragonkit.schedule import PURE_NOISE, Schedule
from dragonkit.taps import attentions, counted, features, unfused
from dragonkit.trace import NOTHING, Look, Observer, Record, Trace
from dragonkit.trace import Result as Result


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a run, as :func:`edit_steps` yields it.

    Args:
        i: index of the step, from 0.
        visit: from 0; more than one where time travel returns to the step.
        t: its training timestep.
        z: (1, C, h, w), the latent after the step; after the last it is the edited image's.
        x0: (1, C, h, w), the clean latent predicted at this step.
        energies: each term's value by name, 0-d; empty where not guided.
        grad: ∂L/∂z_t (1, C, h, w), regional if so guided; None where not guided.
        features: by decoder layer, (1, C, h, w), if recorded.
        attention: by layer name where the target's cells look, if recorded and rewired.
    """

    i: int
    t: int
    z: Tensor
    x0: Tensor
    energies: Mapping[str, Tensor] = field(default_factory=dict)
    grad: Tensor | None = None
    visit: int = 0
    features: Mapping[int, Tensor] = field(default_factory=dict)
    attention: Mapping[str, Look] = field(default_factory=dict)


@torch.inference_mode(False)  # under which nothing could be differentiated
@torch.no_grad()
def edit_steps(
    model: Model,
    path: Path,
    edit: Edit,
    cond: Cond,
    guidance: Guidance,
    *,
    record: Record = NOTHING,
    watch: Watch | None = None,
) -> Iterator[Step]:
    """Generate the edited image, step by step: the method in one screen.

    Args:
        model: the denoiser.
        path: the inverted image, with ``references`` set if the edit has any.
        edit: what to do.
        cond: embedding of the prompt to generate under, usually the path's own.
        guidance: how.
        record: which features and attention maps to yield beside the rest.
        watch: what notices numbers that are not finite; who gives one asks it, for instance when a GPU has other work
            to do meanwhile. Without one it is asked before the last step is yielded. On a CPU numbers are looked at
            step by step.

    Yields:
        Every visit of every step, the noisiest first. Abandon the iterator when you like: no hook outlives a step.

    Raises:
        InputError: the edit does not fit the image, or a layer is not there.
        NonFiniteError: an energy, a gradient or a latent is not finite.
    """
    w, schedule, noted = guidance, path.schedule, watch or Watch()
    m = edit.regions(frame_of(model, path)).to(model.device)
    mix = mixing(edit, m, w)
    observed = Observer(record, model.unet, path, m, mix)
    empty = path.unconditional(model, w.cfg)
    guided = [i for i in schedule.window(w.guided) if i < round(w.dense * len(schedule)) or i % 2 == 0]
    guided = [i for i in guided if w.energy and schedule.alpha(i) > PURE_NOISE]
    attended = schedule.window(w.attention) if w.attention_mode != "off" else range(0)
    locked = schedule.window(w.lock_window) if w.lock else range(0)
    outside = ~dilate(m.edited, w.lock_margin) if m.edited is not None else None
    stirred = m.edited if w.sde_inside or w.sde_outside else None
    churn = torch.where(stirred, w.sde_inside, w.sde_outside) if stirred is not None else None
    stochastic = schedule.window(w.sde) if churn is not None and churn.any() else range(0)
    generator = torch.Generator().manual_seed(w.seed)
    slope = Gradient(model, path, edit, m, w)
    if guided:
        slope.prepare(guided[0])
    z_refs = tuple(ref.z_T for ref in path.references)
    z = edit.start(path.z_T, z_refs, m) if w.start == "copy" else path.z_T

    for i, visit in visits(schedule, w):
        t = schedule.timesteps[i]
        look = looking(model, path, mix, i, w) if i in attended else None
        if w.one_pass and i in guided:
            with observed() as seen:
                eps, at = joint(model, z, t, cond, empty[i], w.cfg, w.layers, look)
            terms, grad = slope(at, i)
        else:
            with observed() as seen:
                noise = denoising(model, z, t, cond, empty[i], w.cfg, look)
            terms, grad = slope(separate(model, z, t, cond, w.layers), i) if i in guided else ([], None)
            eps = noise()  # a GPU predicted it beside the gradient
        guided_eps = eps if grad is None else eps + clipped(w.eta * grad, w.clip)
        fresh = torch.randn(z[:1].shape, generator=generator).to(z) if i in stochastic else None
        along = eps if w.through == "x0" else guided_eps
        z, x0 = schedule.step(z, along, i, towards=guided_eps, churn=churn, noise=fresh)
        if i in locked and outside is not None:
            z = torch.where(outside, path.latents[i + 1], z)
        noted.add(i, t, terms, grad, z)
        if watch is None and i == len(schedule) - 1:
            noted.check()
        energies = {term.name: term.value.detach() for term in terms}
        yield Step(i, t, z, x0, energies, grad, visit, seen.features, seen.attention)
        if travelled(i, schedule, w):
            # The last visit's way back is not taken, but evaluated, as the published counts have it.
            back = schedule.carry(z, model.predict(z, schedule.timesteps[i + 1], cond), i + 1, i)
            z = z if visit == w.repeats - 1 else back


def travelled(i: int, schedule: Schedule, w: Guidance) -> bool:
    """Whether time travel returns to step i: the even steps of its window, except the last of the run."""
    return w.repeats > 1 and i in schedule.window(w.travel) and i % 2 == 0 and i < len(schedule) - 1


def visits(schedule: Schedule, w: Guidance) -> Iterator[tuple[int, int]]:
    """(step, visit) in the order of a run."""
    for i in range(len(schedule)):
        for visit in range(w.repeats if travelled(i, schedule, w) else 1):
            yield i, visit


@frees
@torch.inference_mode(False)
def edit(
    model: Model,
    image: Any,
    edit: Edit | Sequence[Edit] | None = None,
    prompt: str | None = None,
    *,
    edits: Sequence[Edit] | None = None,
    guidance: Guidance | None = None,
    invert: Inverter = ddim_invert,
    trace: bool | Record = False,
    progress: bool | Bar = True,
    on_step: Callable[[Trace], object] | None = None,
    memory: Memory = "full",
) -> Result:
    """Edit an image.

    Args:
        model: from :func:`dragonkit.load`.
        image: a PIL image of mode RGB, a uint8 array (H, W, 3), or a float tensor (3, H, W) in [0, 1]. At least 64
            pixels a side; sizes that the model does not take are extended by reflection and cropped back. Or what
            ``model.generate`` gave, which needs no inversion.
        edit: what to do, for instance ``Move(mask, by=(40, 0))``, or several edits to do at once.
        prompt: what the image shows; default '', or what the image was generated from.
        edits: several edits, given by name instead of ``edit``.
        guidance: how; default the preset that suits the model and the edit.
        invert: how the image is inverted.
        trace: keep latents and gradients of every step, or what a :class:`dragonkit.trace.Record` says.
        progress: show progress bars; or a function of a title and a number of steps that gives what to wrap their
            loop in. Whatever that raises ends the edit at that step, inversions included.
        on_step: called after every step of the edit with its trace so far. What it raises ends the edit.
        memory: "low" takes less of a GPU's and somewhat more time, see :func:`dragonkit.memory.economy`.

    Returns:
        The edited image, of the same size.

    Raises:
        InputError: anything given cannot be used; raised before the denoiser runs.
        NonFiniteError: an energy, a gradient, a latent or the image is not finite.
        OutOfMemoryError: the device's memory is too small; the message names what takes less.
    """
    began = time.perf_counter()
    if not callable(invert):
        raise InputError(f"invert is a {type(invert).__name__}: give a function such as ddim_invert")
    generated = image if isinstance(image, Generated) else None
    source = generated.tensor if generated else as_image(image)
    task, words, w, frame = checked(model, image if generated else source, edit, edits, prompt, guidance)
    schedule = generated.path.schedule if generated else Schedule(model, w.steps)
    record = Record.of(trace, model.unet)

    def inverted(picture: Tensor, words: str, title: str, cfg: float | None = None) -> Path:
        z0, shown = model.encode(pad(picture, model.multiple)[None]), bar(title, len(schedule), progress)
        path = invert(model, z0, model.embed(words, model.size_of(z0)), schedule, keep=keep, progress=shown, cfg=cfg)
        return replace(path, size=(picture.shape[1], picture.shape[2]))

    def decoded(z: Tensor) -> Tensor:
        return model.decode(z)[0, :, : frame.height, : frame.width].cpu()

    kept, watch = Trace(decoded, record), Watch()
    with model.current(), economy(model, memory) as store, unfused(model.unet), counted(model.unet) as count:
        keep = Keep.wanted(w, schedule, store)
        ahead = partial(bar, "guidance branch", shown=progress)
        path = generated.filled(model, keep, ahead) if generated else inverted(source, words, "inversion", w.cfg)
        again = generated is None or words == generated.prompt
        cond = path.cond if again else model.embed(words, model.size_of(path.z_T))
        keep = keep if w.attention_mode == "mix" else replace(keep, tokens=range(0))
        path = replace(path, references=tuple(inverted(r.image, r.prompt, "reference") for r in task.references))
        run = edit_steps(model, path, task, cond, w, record=record, watch=watch)
        for step in bar("edit", len(list(visits(schedule, w))), progress)(run):
            kept.add(step)
            if on_step:
                on_step(kept)
        path = replace(path, tokens={}, features={}, references=())  # room for the autoencoder
        if model.graphs is not None:
            model.graphs.tidy()
        try:
            result = decoded(step.z)
        finally:
            watch.check()  # what it names comes before what the picture lacks
        if w.preserve and (places := task.places(frame)):
            through = decoded(path.latents[len(schedule)])
            result = preserve(result, through, source.cpu(), *places, cell=model.factor)
    return Result(result, step.z, kept, count.evaluations, time.perf_counter() - began)


def checked(model: Any, image: Any, edit: Any, edits: Any, prompt: Any, w: Any) -> tuple[Edit, str, Guidance, Frame]:
    """Everything that can be known to be wrong before a network runs: the edit, its prompt, guidance and frame.

    Raises:
        InputError: the first thing found wrong.
    """
    if not isinstance(model, Model):
        raise InputError(f"model is a {type(model).__name__}: load one with dragonkit.load('mini')")
    if (edit is None) == (edits is None):
        raise InputError(f"{'no edit is' if edit is None else 'edit and edits are both'} given: give one of the two")
    given = edit if edits is None else edits
    task = Several(given) if isinstance(given, (list, tuple)) else given
    if not isinstance(task, Edit):
        raise InputError(f"edit is a {type(task).__name__}: give an edit such as Move(mask, by=(40, 0))")
    generated = image if isinstance(image, Generated) else None
    prompt = (generated.prompt if generated else "") if prompt is None else prompt
    check_text("prompt", prompt)
    if w is None:
        w = Guidance.preset(model.default_guidance, task.kind)
        w = w.replace(steps=len(generated.path.schedule), cfg=generated.cfg) if generated else w
    if not isinstance(w, Guidance):
        raise InputError(f"guidance is a {type(w).__name__}: give a Guidance, for instance Guidance.preset('iclr')")
    if generated and len(generated.path.schedule) != w.steps:
        took = len(generated.path.schedule)
        raise InputError(f"the image was generated in {took} steps and guidance has {w.steps}: make them equal")
    sound = model.checking_weights()
    height, width = (generated.tensor if generated else image).shape[1:]
    frame = Frame(height, width, model.factor, model.multiple)
    task.regions(frame)
    Schedule(model, w.steps)
    with features(model.unet, w.layers):  # are the layers there, and is there attention to rewire?
        if w.attention_mode != "off":
            attentions(model.unet)
    if model.graphs is not None:
        model.graphs.look()
    sound()
    return task, prompt, w, frame
