"""DDIM inversion: the deterministic sampler run backwards, with the noise at the next level guessed."""

from __future__ import annotations

import torch
from torch import Tensor

from dragonkit.checks import check_whole
from dragonkit.errors import InputError
from dragonkit.inversion.climb import climb
from dragonkit.inversion.path import NOTHING, Keep, Path, Progress
from dragonkit.models import Cond, Model
from dragonkit.schedule import Schedule

CORRECTIONS = 2  # of a refined level; one alone may overshoot, a third gains little


@torch.no_grad()
def ddim_invert(
    model: Model,
    z0: Tensor,
    cond: Cond,
    schedule: Schedule,
    *,
    keep: Keep = NOTHING,
    progress: Progress = iter,
    cfg: float | None = None,
    order: int = 2,
    refine: int = 0,
) -> Path:
    """DDIM inversion: run the deterministic sampler backwards.

    z_{t+} = √ᾱ_{t+} · x0(z_t, ε) + √(1 - ᾱ_{t+}) · ε, for t = 1, 21, … of 50 steps. Generation will step from z_{t+}
    with ε = ε_θ(z_{t+}, t+), which is not known yet. At ``order`` 1 it is taken to be ε_θ(z_t, t), as in the DDIM
    paper (Song et al., 2021); at order 2 it is extrapolated from the last two evaluations,
    2 ε_θ(z_t, t) - ε_θ(z_{t-}, t-), which costs nothing and leaves an error an order smaller. Either way there are
    ``steps`` evaluations: the first, at the clean latent, carries it through level t = 1 (all but clean too) to the
    next; the last, at z_T, moves nothing: it is the guidance branch's.

    Extrapolation supposes that ε_θ changes little and evenly from level to level. Next to the image it does not: from
    the clean latent to t = 1 and on to 21 and 41 the noise grows several-fold a step, and there is so little of it
    that what the denoiser takes for noise depends on the level. ``refine`` solves that many levels, those nearest the
    image, by fixed-point iteration instead (see :func:`fixed_point_invert`), two corrections each. That brings z_T's
    spread near 1, which extrapolation there leaves too small, and most images nearer; but on the path that it finds
    generation may magnify the errors left at the other levels, so it is not always a gain.

    Args:
        model: the denoiser.
        z0: (1, C, h, w), the image's latent; a batch may be inverted at once.
        cond: its prompt's embedding. No classifier-free guidance: it would drift.
        schedule: the levels.
        keep: which features and tokens to keep.
        progress: wraps the loop over steps, for a progress bar.
        cfg: scale of the generation to come, which makes no difference here.
        order: 1 or 2, see above.
        refine: levels to solve, from 0; all of them if there are fewer. Each costs two evaluations more.

    Returns:
        The path from image to noise.

    Raises:
        InputError: ``order`` or ``refine`` is not usable.
        NonFiniteError: the iteration at a refined level left the finite numbers.
    """
    if order not in (1, 2):
        raise InputError(f"order is {order!r}: give 1 (the plain formula) or 2 (extrapolated)")
    check_whole("refine", refine)
    steps = len(schedule)
    corrections = [CORRECTIONS if i >= steps - refine else 0 for i in range(steps)]
    return climb(model, z0, cond, schedule, keep, progress, order=order, corrections=corrections)
