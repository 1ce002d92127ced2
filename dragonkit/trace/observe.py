"""Looking into the denoiser while it generates: features, and where the edited cells look.

An observer hangs hooks on the denoiser for the length of one pass. They read and compute, and change nothing: an
observed pass gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dragonkit.errors import InputError
from dragonkit.taps import Mixing as Mixing
from dragonkit.taps import Ragged, attentions, features, heard
from dragonkit.trace.look import Look, Rows, Shapes, spread
from dragonkit.trace.record import Record

if TYPE_CHECKING:
    from dragonkit.edits.base import Regions
    from dragonkit.inversion import Path


MOST = 2**22
"""Numbers that the cells of one layer may take at one step, 8 MB; where they are more, only their mean is kept."""

CHUNK = 256
"""Cells whose attention is computed at once: it is (heads, cells, tokens) before the mean over heads is taken."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen in one pass.

    Args:
        features: by decoder layer, (1, C, h, w); under classifier-free guidance the prompt's half.
        attention: by the name of the self-attention module, where it was rewired.
    """

    features: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[str, Look] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Level:
    """For layers of one size.

    Args:
        cells: int64 (N,), the cells that are observed.
        target: int64, which of them are the target's, counted from 0.
        tokens: int64 (M,), where on the maps each attended token belongs.
        shapes: of the maps.
        single: whether each cell's own attention is kept.
    """

    cells: Tensor
    target: Tensor
    tokens: Tensor
    shapes: Shapes
    single: bool


class Observer:
    """Calls of it are ``with`` blocks round one pass of the denoiser, and yield what was :class:`Seen`.

    Args:
        record: what to look for; nothing asked, no hook hung.
        unet: the denoiser.
        path: the guidance branch, for its size and its references'.
        m: the edit's regions. The mean is over the cells of ``m.target``, or else of ``m.edited``; an edit that has
            neither is not observed. Each cell that either of them touches is kept alone too, unless that were more
            than ``MOST`` numbers a layer and step.
        mixing: how rewired attention chooses its tokens. It is applied to numbered tokens, which tells what it chose.

    Raises:
        InputError: a layer that is not there, or ``mixing`` does not choose but computes.
    """

    def __init__(self, record: Record, unet: Any, path: Path, m: Regions, mixing: Mixing) -> None:
        self.record, self.unet = Record.of(record, unet), unet
        self._levels = _levels(path, m, mixing) if record.attention else {}

    @contextmanager
    def __call__(self) -> Iterator[Seen]:
        """Observe the passes inside the block; the last one is what remains."""
        seen = Seen()
        with ExitStack() as stack:
            if self._levels:
                modules = attentions(self.unet)
                stack.enter_context(heard(self.unet, modules.values()))
                for name, module in modules.items():
                    stack.callback(module.register_forward_hook(self._look(name, seen), with_kwargs=True).remove)
            if self.record.features:
                found = stack.enter_context(features(self.unet, self.record.features))
            yield seen
            if self.record.features:
                seen.features.update((layer, self._kept(found[layer])) for layer in sorted(found))

    def _kept(self, x: Tensor) -> Tensor:
        kept = x[:1].detach()
        if self.record.half:
            return kept.half()
        return kept.clone() if len(x) > 1 else kept  # a view would keep the other half too

    def _look(self, name: str, seen: Seen) -> Callable[..., None]:
        """A hook after self-attention: its arguments are then as they were rewired."""

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            own, theirs = args[0] if args else kwargs["hidden_states"], kwargs.get("encoder_hidden_states")
            level = self._levels.get(own.shape[1])
            if theirs is not None and level is not None:
                queries = own[0].index_select(0, level.cells).split(CHUNK)
                p = torch.cat([attention_weights(module, q, theirs[0]).mean(dim=0) for q in queries])
                mean = p.index_select(0, level.target).mean(dim=0)
                # In half precision: rows are by far the most that such a trace holds, and three digits are plenty.
                rows = Rows(p.half(), level.cells, level.tokens) if level.single else None
                seen.attention[name] = Look(spread(mean, level.tokens, level.shapes), level.shapes, rows)

        return hook


@torch.no_grad()
def attention_weights(module: Any, queries: Tensor, context: Tensor) -> Tensor:
    """softmax(Q Kᵀ / √d) of a diffusers self-attention module (``attn1``), whose own projections are used.

    Args:
        module: the module.
        queries: tokens that look, (N, C).
        context: tokens that are looked at, (M, C).

    Returns:
        Float32 (heads, N, M); every row adds up to 1.
    """

    def heads(x: Tensor, norm: Any) -> Tensor:
        x = x.view(len(x), module.heads, -1).transpose(0, 1)
        return (x if norm is None else norm(x)).float()

    q, k = heads(module.to_q(queries), module.norm_q), heads(module.to_k(context), module.norm_k)
    return (module.scale * q @ k.transpose(1, 2)).softmax(dim=-1)


def taken(mixing: Mixing, counts: list[int], device: torch.device) -> Tensor:
    """Which tokens a mixing takes, and in what order: it says so itself when it is given their numbers in their stead.

    Args:
        mixing: what chooses.
        counts: number of tokens of each branch: own, guidance, and each reference's.
        device: of the answer.

    Returns:
        int64 (M,), counted through all branches.

    Raises:
        InputError: it does not choose but computes.
    """
    numbers = torch.arange(sum(counts), dtype=torch.float32, device=device)[None, :, None]
    own, gud, *refs = numbers.split(counts, dim=1)
    chosen = mixing(own, gud, tuple(refs))
    found = own if isinstance(chosen, Ragged) else chosen.flatten()
    if isinstance(chosen, Ragged) or not torch.equal(found, found.round()):
        raise InputError(
            "the context mixes tokens rather than choosing them: choose tokens, or trace without attention"
        )
    return found.long()


def _levels(path: Path, m: Regions, mixing: Mixing) -> dict[int, _Level]:
    """By number of tokens, for the latent's grid and its halvings; none if nothing is edited."""
    found: dict[int, _Level] = {}
    target = m.target if m.target is not None and m.target.any() else m.edited
    if target is None or not target.any():
        return found
    edited = target if m.edited is None else target | m.edited
    grids = [path.z_T.shape[-2:]] * 2 + [ref.z_T.shape[-2:] for ref in path.references]
    size = 1
    while all(h % size == 0 and w % size == 0 for h, w in grids):
        shapes = tuple((h // size, w // size) for h, w in grids)
        cover, touched = (F.avg_pool2d(mask.float()[None], size)[0].flatten() for mask in (target, edited))
        cells = cover >= 0.5 if (cover >= 0.5).any() else cover > 0
        tokens = taken(mixing, [h * w for h, w in shapes], target.device)
        single = int((touched > 0).sum()) * len(tokens) <= MOST
        observed = (touched > 0 if single else cells).nonzero()[:, 0]
        among = cells.index_select(0, observed).nonzero()[:, 0]
        found[len(cells)] = _Level(observed, among, tokens, shapes, single)
        size *= 2
    return found
