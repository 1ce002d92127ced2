"""Null-text inversion: an empty prompt's embedding for every step that keeps guided generation on the inverted path."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dragonkit.checks import check_number, check_whole
from dragonkit.errors import InputError, NonFiniteError
from dragonkit.inversion.ddim import ddim_invert
from dragonkit.inversion.path import NOTHING, Keep, Path, Progress
from dragonkit.models import Cond, Model
from dragonkit.schedule import Schedule
from dragonkit.text import WORDS  # the one entry of an embedding that is optimised


@torch.no_grad()
def null_text_invert(
    model: Model,
    z0: Tensor,
    cond: Cond,
    schedule: Schedule,
    *,
    keep: Keep = NOTHING,
    progress: Progress = iter,
    cfg: float | None,
    iterations: int = 10,
    tolerance: float = 3e-3,
    rate: float = 3e-2,
    refine: int = 5,
) -> Path:
    """Null-text inversion (Mokady et al., CVPR 2023), for generation under classifier-free guidance.

    DDIM inversion without guidance gives the pivot z*_T, ..., z*_0. Guided generation from z*_T would leave it, so at
    each step, from noise to image, the empty prompt's embedding ∅ is optimised by Adam to minimise

        |z*_{t-} - carry(z̄_t, ε_∅ + cfg (ε_c - ε_∅))|²,   ε_∅ = ε_θ(z̄_t, t, ∅),

    where z̄ is where guided generation has come to with the embeddings found so far. The embedding of the step before
    is the start of the next, and the best that was seen is kept, the start among them.

    A step costs an evaluation for ε_c and one for ε_∅, and for each iteration one more and a backward pass.

    Args:
        model: the denoiser.
        z0: (1, C, h, w), the image's latent; a batch gets an embedding each.
        cond: its prompt's embedding.
        schedule: the levels.
        keep: which features and tokens of the pivot to keep.
        progress: wraps the loop over the steps of the optimisation, for a progress bar.
        cfg: the classifier-free guidance scale of the generation to come, the only one that the path will serve;
            :func:`dragonkit.edit` gives its own. None if nothing will be generated: then the pivot is all.
        iterations: most changes of the embedding at one step, from 0; the paper has 10.
        tolerance: root mean square distance to the pivot at which a step's optimisation stops early.
        rate: Adam's learning rate. The paper has 1e-2; with ten iterations the bundled model comes nearer at 3e-2.
        refine: levels of the pivot that are solved, see :func:`ddim_invert`: where guided generation cannot follow an
            inexact pivot, no embedding helps.

    Returns:
        The pivot's path, with the embeddings in ``empty`` by step, and ``cfg``.

    Raises:
        InputError: a number is not usable, or ``cfg`` is 1, where the empty prompt has no effect.
        NonFiniteError: the loss is infinite or NaN; the message names the step.
    """
    if cfg is not None:
        check_number("cfg", cfg)
    if cfg == 1:
        raise InputError("cfg is 1, where the empty prompt has no effect: give another, or use ddim_invert")
    check_whole("iterations", iterations)
    check_number("tolerance", tolerance)
    check_number("rate", rate, positive=True)
    check_whole("refine", refine)
    path = ddim_invert(model, z0, cond, schedule, keep=keep, refine=refine)
    if cfg is None:
        return path
    path.cfg = float(cfg)
    z, plain = path.z_T, model.embed("", model.size_of(z0))
    empty = {name: x.expand(len(z0), *x.shape[1:]) for name, x in plain.items()}
    for i in progress(range(len(schedule))):
        eps = model.predict(z, schedule.timesteps[i], cond)

        def land(empty: Cond, z: Tensor = z, eps: Tensor = eps, i: int = i) -> Tensor:
            eps_empty = model.predict(z, schedule.timesteps[i], empty)
            return schedule.carry(z, eps_empty + cfg * (eps - eps_empty), i, i + 1)

        empty, z = fit(land, empty, path.latents[i + 1], iterations, tolerance, rate, i)
        path.empty[i] = empty
    return path


def fit(
    land: Callable[[Cond], Tensor], empty: Cond, pivot: Tensor, iterations: int, tolerance: float, rate: float, i: int
) -> tuple[Cond, Tensor]:
    """Optimise an empty prompt's embedding so that a step lands on the pivot.

    Args:
        land: where the step goes with an embedding, (B, C, h, w); differentiable.
        empty: the embedding to start from, batch B.
        pivot: (B, C, h, w), where it should go.
        iterations: most changes.
        tolerance: root mean square distance at which to stop, in the worst of the batch.
        rate: Adam's learning rate.
        i: the step, to be named in an error.

    Returns:
        For each of the batch the best embedding seen, and where the step goes with it.

    Raises:
        NonFiniteError: the loss is infinite or NaN.
    """
    words = empty[WORDS].detach().float().clone().requires_grad_()  # in float32, whatever the model computes in
    adam = torch.optim.Adam([words], lr=rate)
    best, nearest, least = words.detach().clone(), pivot, torch.full((len(pivot),), torch.inf, device=pivot.device)
    for left in range(iterations, -1, -1):
        with torch.enable_grad():
            there = land({**empty, WORDS: words.to(empty[WORDS].dtype)})
            loss = (there - pivot).square().flatten(1).mean(1)
            total = loss.sum()  # of losses that share nothing, so each has its own gradient
        if not loss.isfinite().all():
            raise NonFiniteError(f"null-text inversion, step {i}: the loss is {loss.max().item()}; lower the rate")
        better = (loss < least).view(-1, 1, 1)
        best = torch.where(better, words.detach(), best)
        nearest = torch.where(better[..., None], there.detach(), nearest)
        least = torch.minimum(least, loss.detach())
        if not left or least.max().sqrt() <= tolerance:
            break
        (words.grad,) = torch.autograd.grad(total, [words])
        adam.step()
    return {**empty, WORDS: best.to(empty[WORDS].dtype)}, nearest
