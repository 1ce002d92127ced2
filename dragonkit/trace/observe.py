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
from dragonkit.taps import attentions, features
from dragonkit.trace.record import Record

if TYPE_CHECKING:
    from dragonkit.edits.base import Regions
    from dragonkit.inversion import Path

Mixing = Callable[[Tensor, Tensor, tuple[Tensor, ...]], Tensor]
"""(own, guidance, reference tokens) -> the tokens attended to; it selects and joins along dimension 1."""


@dataclass(frozen=True, eq=False)
class Look:
    """Where the target's cells look in one rewired layer at one step: attention averaged over cells and heads.

    Args:
        weights: float32 (P,), the maps below, row by row and one after the other; they add up to 1.
        shapes: (h, w) of each map: the generation branch's own, the source image's, and each reference's.
    """

    weights: Tensor
    shapes: tuple[tuple[int, int], ...]

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """All maps, float32 (h, w) each."""
        parts = self.weights.split([h * w for h, w in self.shapes])
        return tuple(part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True))

    @property
    def own(self) -> Tensor:
        """On the generation branch itself (h, w); 0 if its tokens are replaced."""
        return self.maps[0]

    @property
    def source(self) -> Tensor:
        """On the source image, the guidance branch (h, w)."""
        return self.maps[1]

    @property
    def references(self) -> tuple[Tensor, ...]:
        """On each reference image (h', w')."""
        return self.maps[2:]


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
    """For layers of one size: the target's cells, and where on the maps each attended token belongs."""

    cells: Tensor
    address: Tensor
    shapes: tuple[tuple[int, int], ...]


class Observer:
    """Calls of it are ``with`` blocks round one pass of the denoiser, and yield what was :class:`Seen`.

    Args:
        record: what to look for; nothing asked, no hook hung.
        unet: the denoiser.
        path: the guidance branch, for its size and its references'.
        m: the edit's regions; the cells that look are those of ``m.target``, or else of ``m.edited``. An edit that
            has neither is not observed.
        mixing: how rewired attention chooses its tokens. It is applied to numbered tokens, which tells what it chose.

    Raises:
        InputError: a layer that is not there, or ``mixing`` does not choose but computes.
    """

    def __init__(self, record: Record, unet: Any, path: Path, m: Regions, mixing: Mixing) -> None:
        self.record, self.unet = Record.of(record, unet), unet
        target = m.target if m.target is not None else m.edited
        self._levels = _levels(path, target, mixing) if record.attention and target is not None else {}

    @contextmanager
    def __call__(self) -> Iterator[Seen]:
        """Observe the passes inside the block; the last one is what remains."""
        seen = Seen()
        with ExitStack() as stack:
            if self._levels:
                for name, module in attentions(self.unet).items():
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
                p = attention_weights(module, own[0].index_select(0, level.cells), theirs[0]).mean(dim=(0, 1))
                maps = p.new_zeros(sum(h * w for h, w in level.shapes))
                seen.attention[name] = Look(maps.index_add(0, level.address, p), level.shapes)

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


def _levels(path: Path, target: Tensor, mixing: Mixing) -> dict[int, _Level]:
    """By number of tokens, for the latent's grid and its halvings."""
    found: dict[int, _Level] = {}
    grids = [path.z_T.shape[-2:]] * 2 + [ref.z_T.shape[-2:] for ref in path.references]
    size = 1
    while all(h % size == 0 and w % size == 0 for h, w in grids):
        shapes = tuple((h // size, w // size) for h, w in grids)
        cover = F.avg_pool2d(target.float()[None], size)[0]
        cells = cover >= 0.5 if (cover >= 0.5).any() else cover > 0
        counts = [h * w for h, w in shapes]
        numbers = torch.arange(sum(counts), dtype=torch.float32, device=target.device)[None, :, None]
        own, gud, *refs = numbers.split(counts, dim=1)
        address = mixing(own, gud, tuple(refs)).flatten()
        if not torch.equal(address, address.round()):
            raise InputError("the edit's context mixes tokens rather than choosing them: trace without attention")
        found[counts[0]] = _Level(cells.flatten().nonzero()[:, 0], address.long(), shapes)
        size *= 2
    return found
