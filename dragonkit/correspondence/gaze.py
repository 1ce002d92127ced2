"""Where the attention of an edited picture looks: the weights of the rewired self-attention (Eq. 11), as maps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dragonkit.checks import check_whole
from dragonkit.correspondence.place import shares
from dragonkit.editor import frame_of
from dragonkit.errors import InputError
from dragonkit.inversion import Path
from dragonkit.taps import Ragged, attentions, record, rewire
from dragonkit.trace.look import Look, spread
from dragonkit.trace.observe import Mixing, attention_weights, taken

if TYPE_CHECKING:
    from dragonkit.models import Model

JOINS: dict[str, Mixing] = {
    "replace": lambda own, gud, refs: gud,
    "concat": lambda own, gud, refs: torch.cat([own, gud], dim=1),
    "off": lambda own, gud, refs: own,
}


@torch.no_grad()
def gaze(
    model: Model,
    path: Path,
    i: int,
    at: Any,
    *,
    z: Tensor | None = None,
    modules: str | Iterable[str] = "up_blocks",
    join: str | Mixing = "replace",
) -> dict[str, Look]:
    """Where a place of the generated picture looks at step i.

    The denoiser runs once at (z, t_i), rewired as during the edit, and the weights of its queries at the place are
    worked out again from the tokens that each module really got.

    Args:
        model: the denoiser.
        path: the guidance branch, with ``references`` set if the edit has any.
        i: index of the step, 0 is the noisiest.
        at: a point (x, y) in the generated picture's pixels, its four tokens weighted bilinearly; or a mask (H, W),
            whose tokens are averaged.
        z: (1, C, h, w), the generation's latent at step i, such as what :func:`dragonkit.edit_steps` yielded at step
            i - 1; if None the path's own, which shows how the source looks at itself.
        modules: decoder self-attention modules, or beginnings of their names: "up_blocks.2" is all of layer 3.
        join: which tokens are attended to: "replace", "concat" or "off" as in ``Guidance.attention_mode``, or a
            function; for "mix" ``lambda own, gud, refs: edit.context(own, gud, refs, regions)``.

    Returns:
        Module name -> how much the place attends to every token of each branch, averaged over heads, as maps on the
        grid of that module; all of them together sum to 1.

    Raises:
        InputError: no such step, module or join, or the place is not on the picture.
    """
    frame, join = frame_of(model, path), _joined(join)
    steps = len(path.schedule)
    check_whole("step i", i, 0, steps - 1)
    shares(at, frame, frame.latent)  # refuses a place that is not on the picture
    chosen = _chosen(model, modules)
    gud, others = path.tokens_at(model, i), [ref.tokens_at(model, i) for ref in path.references]

    def joined(name: str, x: Tensor) -> Tensor | Ragged:
        return join(x, gud[name], tuple(ref[name] for ref in others))

    with record(model.unet) as own, rewire(model.unet, joined):
        model.predict(path.inputs[i] if z is None else z, path.schedule.timesteps[i], path.cond)

    found = {}
    for name, module in chosen.items():
        index, share = shares(at, frame, grid_of(own[name], path))
        weights = attention_weights(module, own[name][0, index], joined(name, own[name])[0]).mean(dim=0)
        branches = [own[name], gud[name], *(ref[name] for ref in others)]
        shapes = tuple(grid_of(x, p) for x, p in zip(branches, (path, path, *path.references), strict=True))
        tokens = taken(join, [x.shape[1] for x in branches], weights.device)
        found[name] = Look(spread(share @ weights, tokens, shapes), shapes)
    return found


def grid_of(tokens: Tensor, path: Path) -> tuple[int, int]:
    """The grid (h, w) on which tokens (1, N, C) of a path's picture lie: its latent's, halved until they fit.

    Raises:
        InputError: no halving of the latent has as many cells.
    """
    h, w = path.z_T.shape[-2:]
    while h * w > tokens.shape[1]:
        h, w = (h + 1) // 2, (w + 1) // 2
    if h * w != tokens.shape[1]:
        size = "x".join(map(str, path.z_T.shape[:-3:-1]))
        raise InputError(f"{tokens.shape[1]} tokens lie on no halving of the {size} latent: choose other modules")
    return h, w


def _joined(join: str | Mixing) -> Mixing:
    if isinstance(join, str):
        if join not in JOINS:
            raise InputError(f"join is {join!r}: choose from {', '.join(JOINS)}, or give a function")
        return JOINS[join]
    return join


def _chosen(model: Model, modules: str | Iterable[str]) -> dict[str, Any]:
    """The decoder's self-attention modules whose names are, or begin with, one of those given."""
    known, found = attentions(model.unet), {}
    for wanted in [modules] if isinstance(modules, str) else modules:
        some = {name: m for name, m in known.items() if name == wanted or name.startswith(f"{wanted}.")}
        if not some:
            raise InputError(f"no decoder self-attention is named {wanted!r}: choose from {', '.join(known)}")
        found.update(some)
    return found
