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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dragonkit.edits.base import Branches, Edit, Regions
from dragonkit.energy import Term, Watch, gradient, total
from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.inversion import Inverter, Keep, Path, ddim_invert
from dragonkit.models import Cond, Model
from dragonkit.preserve import preserve
from dragonkit.regions import Frame, as_image, dilate, pad
from dragonkit.schedule import Schedule
from dragonkit.taps import attentions, counted, features, rewire, tap, unfused
from dragonkit.trace import Result as Result
from dragonkit.trace import Trace


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a run, as :func:`edit_steps` yields it.

    Args:
        i: index of the step, from 0.
        t: its training timestep.
        z: (1, C, h, w), the latent after the step; after the last it is the edited image's.
        x0: (1, C, h, w), the clean latent predicted at this step.
        energies: each term's value by name, 0-d; empty where not guided.
        grad: ∂L/∂z_t (1, C, h, w), regional if so guided; None where not guided.
    """

    i: int
    t: int
    z: Tensor
    x0: Tensor
    energies: Mapping[str, Tensor] = field(default_factory=dict)
    grad: Tensor | None = None


@torch.no_grad()
def edit_steps(model: Model, path: Path, edit: Edit, cond: Cond, guidance: Guidance) -> Iterator[Step]:
    """Generate the edited image, step by step: the method in one screen.

    Args:
        model: the denoiser.
        path: the inverted image, with ``reference`` set if the edit has one.
        edit: what to do.
        cond: embedding of the prompt to generate under, usually the path's own.
        guidance: how.

    Yields:
        Every step once, the noisiest first. Abandon the iterator when you like: no hook outlives a step.

    Raises:
        InputError: the edit does not fit the image, or a layer is not there.
        NonFiniteError: an energy or a gradient is not finite.
    """
    w, schedule, watch = guidance, path.schedule, Watch()
    frame = frame_of(model, path)
    m = edit.regions(frame)
    both = pair(cond, model.embed("")) if w.cfg != 1 else cond
    guided = schedule.window(w.guided) if w.energy else range(0)
    attended = schedule.window(w.attention) if w.attention_mode != "off" else range(0)
    locked = schedule.window(w.lock_window) if w.lock else range(0)
    outside = ~dilate(m.edited, w.lock_margin) if m.edited is not None else None
    z_ref = path.reference.z_T if path.reference else None
    z = edit.start(path.z_T, z_ref, m) if w.start == "copy" else path.z_T

    for i, t in enumerate(schedule.timesteps):
        with attention(model, path, edit, m, i, w) if i in attended else nullcontext():
            eps = denoise(model, z, t, both, w.cfg)
        terms, grad = energy(model, path, edit, m, frame, z, i, cond, w) if i in guided else ([], None)
        guided_eps = eps if grad is None else eps + w.eta * grad
        z, x0 = schedule.step(z, eps if w.through == "x0" else guided_eps, i, towards=guided_eps)
        if i in locked and outside is not None:
            z = torch.where(outside, path.latents[i + 1], z)
        if grad is not None:
            watch.add(i, t, terms, grad)
        if i == len(schedule) - 1:
            watch.check()
        yield Step(i, t, z, x0, {term.name: term.value.detach() for term in terms}, grad)


def denoise(model: Model, z: Tensor, t: int, cond: Cond, cfg: float) -> Tensor:
    """ε with classifier-free guidance: ε_∅ + cfg (ε_c - ε_∅), both halves in one pass; plain ε_c if cfg is 1."""
    if cfg == 1:
        return model.predict(z, t, cond)
    eps, eps_empty = model.predict(torch.cat([z, z]), t, cond).chunk(2)
    return eps_empty + cfg * (eps - eps_empty)


def attention(model: Model, path: Path, edit: Edit, m: Regions, i: int, w: Guidance) -> AbstractContextManager[None]:
    """Decoder self-attention that looks at the guidance branch at step i (Eq. 11)."""
    tokens = path.tokens_at(model, i)
    others = path.reference.tokens_at(model, i) if path.reference and w.attention_mode == "mix" else {}

    def context(name: str, own: Tensor) -> Tensor:
        if w.attention_mode == "replace":
            return tokens[name]
        if w.attention_mode == "concat":
            return torch.cat([own, tokens[name].expand_as(own)], dim=1)
        return edit.context(own, tokens[name], others.get(name), m)

    return rewire(model.unet, context)


@torch.enable_grad()
def energy(
    model: Model, path: Path, edit: Edit, m: Regions, frame: Frame, z: Tensor, i: int, cond: Cond, w: Guidance
) -> tuple[list[Term], Tensor | None]:
    """The energy's terms at z, step i, and ∂L/∂z: one pass through the denoiser and back.

    The pass is plain: its attention is not rewired, as the guidance branch's is not. No terms, no gradient.
    """
    live, t = w.reference == "live", path.schedule.timesteps[i]
    z = z.detach().requires_grad_()
    gud = path.features_at(model, i, w.layers, live=live)
    ref = path.reference.features_at(model, i, w.layers, live=live) if path.reference else {}
    gen = tap(model.unet, w.layers, z, t, cond)
    ref_grid = frame_of(model, path.reference).grid if path.reference else frame.grid

    def on_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
        return F.interpolate(x.float(), grid, mode="bilinear")

    def branches(layer: int) -> Branches:
        other = on_grid(ref[layer], ref_grid) if layer in ref else None
        return Branches(on_grid(gen[layer], frame.grid), on_grid(gud[layer], frame.grid), other, layer)

    by_layer = zip(w.layer_weights, w.layers, strict=True)
    terms = total((weight, edit.terms(branches(layer), m, w)) for weight, layer in by_layer if weight)
    return terms, gradient(terms, z, m.target if w.regional else None) if terms else None


def pair(cond: Cond, empty: Cond) -> Cond:
    """Both conditions of classifier-free guidance as one batch, the prompt first."""
    return {name: torch.cat([cond[name], empty[name]]) for name in cond}


def frame_of(model: Model, path: Path) -> Frame:
    """The frame of an inverted image."""
    h, w = path.z_T.shape[-2:]
    height, width = path.size or (h * model.factor, w * model.factor)
    return Frame(height, width, model.factor, model.multiple, model.device)


def edit(
    model: Model,
    image: Any,
    edit: Edit,
    prompt: str = "",
    *,
    guidance: Guidance | None = None,
    invert: Inverter = ddim_invert,
    trace: bool = False,
    progress: bool = True,
) -> Result:
    """Edit an image.

    Args:
        model: from :func:`dragonkit.load`.
        image: a PIL image of mode RGB, a uint8 array (H, W, 3), or a float tensor (3, H, W) in [0, 1]. At least 64
            pixels a side; sizes that the model does not take are extended by reflection and cropped back.
        edit: what to do, for instance ``Move(mask, by=(40, 0))``.
        prompt: what the image shows.
        guidance: how; default the preset that suits the model and the edit.
        invert: how the image is inverted.
        trace: keep latents and gradients of every step, see :class:`dragonkit.trace.Trace`.
        progress: show progress bars.

    Returns:
        The edited image, of the same size.

    Raises:
        InputError: anything given cannot be used; raised before the denoiser runs.
        NonFiniteError: an energy or a gradient is not finite.
    """
    began = time.perf_counter()
    source = as_image(image)
    w, frame = checked(model, source, edit, prompt, guidance)
    schedule = Schedule(model, w.steps)
    keep = Keep.wanted(w, schedule)

    def inverted(picture: Tensor, words: str, title: str) -> Path:
        z0 = model.encode(pad(picture, model.multiple)[None])
        path = invert(model, z0, model.embed(words), schedule, keep=keep, progress=bar(title, len(schedule), progress))
        return replace(path, size=(picture.shape[1], picture.shape[2]))

    def decoded(z: Tensor) -> Tensor:
        return model.decode(z)[0, :, : frame.height, : frame.width].cpu()

    kept = Trace(decoded, latents=trace)
    with unfused(model.unet), counted(model.unet) as count:
        path = inverted(source, prompt, "inversion")
        if edit.second:
            keep = keep if w.attention_mode == "mix" else replace(keep, tokens=range(0))
            path.reference = inverted(edit.second.image, edit.second.prompt, "reference")
        for step in bar("edit", len(schedule), progress)(edit_steps(model, path, edit, path.cond, w)):
            kept.add(step)
    result, places = decoded(step.z), edit.places()
    if w.preserve and places:
        through = decoded(path.latents[len(schedule)])
        result = preserve(result, through, source.cpu(), *places, cell=model.factor)
    return Result(result, step.z, kept, count.evaluations, time.perf_counter() - began)


def checked(model: Any, image: Tensor, edit: Any, prompt: Any, w: Any) -> tuple[Guidance, Frame]:
    """Everything that can be known to be wrong before a network runs.

    Raises:
        InputError: the first thing found wrong.
    """
    if not isinstance(model, Model):
        raise InputError(f"model is a {type(model).__name__}: load one with dragonkit.load('mini')")
    if not isinstance(edit, Edit):
        raise InputError(f"edit is a {type(edit).__name__}: give an edit such as Move(mask, by=(40, 0))")
    if not isinstance(prompt, str):
        raise InputError(f"prompt is {prompt!r}: give a text, '' if there is nothing to say")
    w = Guidance.preset(model.default_guidance, edit.kind) if w is None else w
    if not isinstance(w, Guidance):
        raise InputError(f"guidance is a {type(w).__name__}: give a Guidance, for instance Guidance.preset('iclr')")
    frame = Frame(image.shape[1], image.shape[2], model.factor, model.multiple)
    edit.regions(frame)
    Schedule(model, w.steps)
    with features(model.unet, w.layers):  # are the layers there, and is there attention to rewire?
        if w.attention_mode != "off":
            attentions(model.unet)
    model.check_weights()
    return w, frame


def bar(title: str, count: int, shown: bool) -> Any:
    """A function that wraps an iterable in a progress bar, or leaves it as it is."""
    if not shown:
        return lambda steps: steps

    from tqdm import tqdm

    def wrap(steps: Iterable[Any]) -> Iterable[Any]:
        return tqdm(steps, desc=title, total=count)

    return wrap
