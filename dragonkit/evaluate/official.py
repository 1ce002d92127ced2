"""The same edit with the official implementation's cost: what ``bench speed`` compares with.

One loop, two shapes. Both compute the mathematics of :func:`dragonkit.editor.edit_steps`, written plainly, and give its
result; they differ in what they evaluate again.

- "official": as the method's own code is built. Inversion keeps what attention needs; the guidance features are
  evaluated at every guided step, then the generation features, each pass ending after the last tapped layer; the
  gradients of the edit term and of the content terms are two backward passes. What attention needs waits in the host's
  memory, where there is another.
- "uncached": nothing is kept but latents, as the paper draws it. The guidance branch is evaluated, whole, at every step
  that looks at it and yields tokens and features; the differentiated pass is whole too; two backward passes.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dragonkit.attention import mixing
from dragonkit.edits.base import Branches, Edit, Regions
from dragonkit.energy import clipped, total
from dragonkit.errors import InputError
from dragonkit.generation import denoise
from dragonkit.guidance import Guidance
from dragonkit.inversion import Keep, Path, ddim_invert
from dragonkit.models import Cond, Model
from dragonkit.preserve import preserve
from dragonkit.regions import Frame, dilate, pad
from dragonkit.schedule import Schedule
from dragonkit.taps import Tokens, counted, features, record, rewire, tap
from dragonkit.trace import Result, Trace

Shape = Literal["official", "uncached"]


def check_shape(w: Guidance) -> None:
    """Refuse guidance that these loops do not know.

    Raises:
        InputError: it has time travel, stochastic or thinned steps, or takes noise and features from one pass.
    """
    if w.one_pass:
        raise InputError("the guidance takes noise and features from one pass, these loops from two: one_pass=False")
    if w.repeats > 1 or w.sde_inside or w.sde_outside or w.dense < 1:
        raise InputError("the guidance has time travel, stochastic or thinned steps: compare with another preset")


@torch.no_grad()
def official_edit(
    model: Model, image: Tensor, edit: Edit, prompt: str, guidance: Guidance, shape: Shape = "official"
) -> Result:
    """Edit an image the expensive way.

    Args:
        model: the denoiser.
        image: (3, H, W) in [0, 1].
        edit: what to do.
        prompt: what the image shows.
        guidance: how; time travel and stochastic steps are not in these loops.
        shape: what is evaluated again, see above.

    Returns:
        As :func:`dragonkit.edit`, within rounding.

    Raises:
        InputError: :func:`check_shape` refuses the guidance.
    """
    w, began = guidance, time.perf_counter()
    check_shape(w)
    schedule = Schedule(model, w.steps)
    frame = Frame(image.shape[1], image.shape[2], model.factor, model.multiple, model.device)
    m = edit.regions(frame)
    guided = schedule.window(w.guided) if w.energy else range(0)
    attended = schedule.window(w.attention) if w.attention_mode != "off" else range(0)
    locked = schedule.window(w.lock_window) if w.lock else range(0)
    host = partial(_OnHost, device=model.device) if model.device.type != "cpu" else dict
    keep = Keep(tokens=attended if shape == "official" else range(0), store=host)

    with counted(model.unet) as count:

        def inverted(picture: Tensor, words: str, keep: Keep) -> Path:
            z0 = model.encode(pad(picture, model.multiple)[None])
            return ddim_invert(model, z0, model.embed(words, model.size_of(z0)), schedule, keep=keep)

        path = inverted(image, prompt, keep)
        keep = keep if w.attention_mode == "mix" else replace(keep, tokens=range(0))
        refs = [inverted(ref.image, ref.prompt, keep) for ref in edit.references]
        grids = [frame.like(*ref.image.shape[1:]).grid for ref in edit.references]
        cond = path.cond
        empty = model.embed("", model.size_of(path.z_T))
        z = edit.start(path.z_T, tuple(ref.z_T for ref in refs), m) if w.start == "copy" else path.z_T
        for i, t in enumerate(schedule.timesteps):
            branches = [_Branch(model, branch, i, w, shape) for branch in (path, *refs)]
            with _looking_at(branches, edit, m, w) if i in attended else nullcontext():
                eps = denoise(model, z, t, cond, empty, w.cfg)
            towards = eps
            if i in guided:
                grad = _gradient(model, branches, edit, m, z, t, cond, w, shape, [frame.grid, *grids])
                towards = eps + clipped(w.eta * grad, w.clip)
            a, b = schedule.alpha(i), schedule.alpha(i + 1)
            x0 = (z - (1 - a) ** 0.5 * towards) / a**0.5
            z = b**0.5 * x0 + (1 - b) ** 0.5 * (eps if w.through == "x0" else towards)
            if i in locked and m.edited is not None:
                z = torch.where(dilate(m.edited, w.lock_margin), z, path.latents[i + 1])

    def decoded(z: Tensor) -> Tensor:
        return model.decode(z)[0, :, : frame.height, : frame.width].cpu()

    result, places = decoded(z), edit.places(frame)
    if w.preserve and places:
        result = preserve(result, decoded(path.latents[len(schedule)]), image, *places, cell=model.factor)
    return Result(result, z, Trace(), count.evaluations, time.perf_counter() - began)


class _OnHost(dict[int, Any]):
    """Tokens by step and name, moved to the host when they are put in and back when they are asked for.

    Twice each, for the original moves keys and values instead, and either of them is as large as the tokens.
    """

    def __init__(self, *, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __setitem__(self, i: int, tensors: dict[Any, Tensor]) -> None:
        super().__setitem__(i, {name: (x.cpu(), x.cpu()) for name, x in tensors.items()})

    def __getitem__(self, i: int) -> dict[Any, Tensor]:
        both = {name: [x.to(self.device) for x in pair] for name, pair in super().__getitem__(i).items()}
        return {name: first for name, (first, _) in both.items()}


class _Branch:
    """What the guidance branch, or a reference's, has to show at one step."""

    def __init__(self, model: Model, path: Path, i: int, w: Guidance, shape: Shape) -> None:
        self.model, self.path, self.i, self.w, self.shape = model, path, i, w, shape
        self._live: tuple[Tokens, dict[int, Tensor]] | None = None

    def tokens(self) -> Tokens:
        return self.path.tokens[self.i] if self.shape == "official" else self.live()[0]

    def features(self) -> dict[int, Tensor]:
        if self.shape == "uncached":
            return self.live()[1]
        z, t = self.path.inputs[self.i], self.path.schedule.timesteps[self.i]
        return tap(self.model.unet, self.w.layers, z, t, self.path.cond)

    def live(self) -> tuple[Tokens, dict[int, Tensor]]:
        """One whole evaluation of the branch."""
        if self._live is None:
            with ExitStack() as stack:
                tokens = stack.enter_context(record(self.model.unet)) if self.w.attention_mode != "off" else {}
                found = stack.enter_context(features(self.model.unet, self.w.layers))
                self.model.predict(self.path.inputs[self.i], self.path.schedule.timesteps[self.i], self.path.cond)
            self._live = tokens, found
        return self._live


def _looking_at(branches: list[_Branch], edit: Edit, m: Regions, w: Guidance) -> AbstractContextManager[None]:
    gud = branches[0].tokens()
    refs = [branch.tokens() for branch in branches[1:]] if w.attention_mode == "mix" else []

    mix = mixing(edit, m, w)
    return rewire(branches[0].model.unet, lambda name, own: mix(own, gud[name], tuple(ref[name] for ref in refs)))


def _gradient(
    model: Model,
    branches: list[_Branch],
    edit: Edit,
    m: Regions,
    z: Tensor,
    t: int,
    cond: Cond,
    w: Guidance,
    shape: Shape,
    grids: list[tuple[int, int]],
) -> Tensor:
    """∂L/∂z: the edit term's gradient and the content terms', one backward pass each."""
    others = [branch.features() for branch in branches]
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        if shape == "official":
            gen = tap(model.unet, w.layers, z, t, cond)
        else:
            with features(model.unet, w.layers) as gen:
                model.predict(z, t, cond)

        def at(layer: int) -> Branches:
            gud, *refs = [_on(found[layer], grid) for found, grid in zip(others, grids, strict=True)]
            return Branches(_on(gen[layer], grids[0]), gud, tuple(refs), layer)

        terms = total((v, edit.terms(at(k), m, w)) for v, k in zip(w.layer_weights, w.layers, strict=True) if v)
        parts = [[term.value for term in terms if (term.region == "edit") is inside] for inside in (True, False)]
        sums = [torch.stack(values).sum() if values else None for values in parts]
        grads = [
            torch.autograd.grad(s, z, retain_graph=k == 0 and sums[1] is not None)[0] if s is not None else 0 * z
            for k, s in enumerate(sums)
        ]
    inside = m.target if w.regional else None
    return (grads[0] + grads[1] if inside is None else grads[0] * inside + grads[1] * ~inside).detach()


def _on(x: Tensor, grid: tuple[int, int]) -> Tensor:
    return F.interpolate(x.float(), grid, mode="bilinear")
