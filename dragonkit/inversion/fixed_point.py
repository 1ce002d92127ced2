"""Fixed-point inversion: at every level, solve for the latent from which generation steps back to the one before."""

from __future__ import annotations

import torch
from torch import Tensor

from dragonkit.checks import check_number, check_whole
from dragonkit.inversion.climb import climb
from dragonkit.inversion.path import NOTHING, Keep, Path, Progress
from dragonkit.models import Cond, Model
from dragonkit.schedule import Schedule


@torch.no_grad()
def fixed_point_invert(
    model: Model,
    z0: Tensor,
    cond: Cond,
    schedule: Schedule,
    *,
    keep: Keep = NOTHING,
    progress: Progress = iter,
    cfg: float | None = None,
    iterations: int = 30,
    tolerance: float = 1e-6,
) -> Path:
    """Fixed-point inversion (Pan et al., AIDI, ICCV 2023; Meiri et al., 2023).

    Generation steps from z_{t+} with ε_θ(z_{t+}, t+). So its start must solve

        z_{t+} = carry(z_t, ε_θ(z_{t+}, t+)),   carry(z, ε) = √ᾱ_{t+} · x0(z, ε) + √(1 - ᾱ_{t+}) · ε,

    at every level, and then generation retraces the path. The equation is iterated from the extrapolation that
    :func:`ddim_invert` stops at, with Anderson acceleration as in AIDI (see ``climb.mixed``), until putting the
    latent in changes it by no more than ``tolerance``. The evaluation that shows this is also the guidance branch's
    at that level and the start of the next, so a level whose extrapolation is good enough costs one evaluation, as in
    DDIM inversion.

    How small is small enough depends on the image. Where generation decides what the picture shows it may magnify a
    difference ten thousandfold in ten steps, so what looks solved at 1e-4 can end as another picture. The default is
    near the floor of float32; where less is known to do, a larger tolerance halves the evaluations.

    Args:
        model: the denoiser.
        z0: (1, C, h, w), the image's latent. In a batch, all go on until the worst is good enough.
        cond: its prompt's embedding.
        schedule: the levels.
        keep: which features and tokens to keep.
        progress: wraps the loop over steps, for a progress bar.
        cfg: scale of the generation to come, which makes no difference here.
        iterations: most corrections of one level, from 0; each is one evaluation. Levels at which several in a row
            gain nothing are left sooner.
        tolerance: root mean square of what is left of the equation, in units of the latent, whose own is about 1.

    Returns:
        The path from image to noise. A level that did not come within the tolerance keeps its best iterate.

    Raises:
        InputError: ``iterations`` or ``tolerance`` is not usable.
        NonFiniteError: an iterate left the finite numbers; the message names the step.
    """
    check_whole("iterations", iterations)
    check_number("tolerance", tolerance)
    corrections = [iterations] * len(schedule)
    return climb(model, z0, cond, schedule, keep, progress, corrections=corrections, tolerance=tolerance)
