"""What an edit is: regions on an image, and energy terms over features. A new edit needs only ``terms``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from dragonkit.checks import check_text
from dragonkit.energy import Term, attract, similarity
from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.regions import Frame, as_image, as_mask
from dragonkit.taps import Ragged
from dragonkit.transfer import sent


@dataclass(frozen=True)
class Branches:
    """Features of one decoder layer at one step, float32 (1, C, h, w) on the feature grid (``Frame.grid``).

    On a GPU the kit's own edits are given maps that are resized where :mod:`dragonkit.energy` looks at them
    (:class:`dragonkit.fused.finer.Finer`); whoever writes other terms has tensors.

    Args:
        gen: F_gen, the generation branch's; the gradient flows through these.
        gud: F_gud, the guidance branch's: the image being edited.
        refs: F_app, the reference branches', each on the grid of its image, in the order of ``Edit.references``.
        layer: number of the layer, from 1.
    """

    gen: Tensor
    gud: Tensor
    refs: tuple[Tensor, ...]
    layer: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Regions:
    """The masks of one edit, as places in the feature grid (see :func:`dragonkit.regions.pick`); None if empty.

    Args:
        gen: m_gen, where the content shall be.
        gud: where in the guidance (or reference) features that content is: as many places, in the same order.
        share: m_share, what shall stay.
        inpaint: m_inpaint, what is vacated: m_gud without m_gen.
        outside: the complement of m_gud.
        target: bool (h, w) on the latent: where the edit term's gradient acts if gradients are regional.
        landing: bool (h, w) on the latent: the cells that start with noise copied from elsewhere.
        source: positions (N, 2) on the latent where that noise comes from, in the order of ``landing``'s rows; or for
            what is taken as a whole, a bool mask (h, w).
        edited: bool (h, w) on the latent: everything that may change; the background lock keeps the rest.
        tokens: for "mix" attention: number of tokens of a layer -> indices int64 of the guidance tokens to look at.
        ref_tokens: the same for the tokens of each reference branch.
    """

    gen: Tensor | None = None
    gud: Tensor | None = None
    share: Tensor | None = None
    inpaint: Tensor | None = None
    outside: Tensor | None = None
    target: Tensor | None = None
    landing: Tensor | None = None
    source: Tensor | None = None
    edited: Tensor | None = None
    tokens: Mapping[int, Tensor] = field(default_factory=dict)
    ref_tokens: tuple[Mapping[int, Tensor], ...] = ()

    def to(self, device: torch.device) -> Self:
        """The same regions on a device; a GPU fetches them when it comes to it, and nobody waits for that."""
        return replace(self, **{one.name: _there(getattr(self, one.name), device) for one in fields(self) if one.init})

    @property
    def shape(self) -> Hashable:
        """What they have in common with regions from which the same operations follow: which there are, and how."""
        return tuple((one.name, _shape(getattr(self, one.name))) for one in fields(self))


def _there(x: Any, device: torch.device) -> Any:
    if isinstance(x, Tensor):
        return sent(x, device)
    if isinstance(x, Regions):
        return x.to(device)
    if isinstance(x, Mapping):
        return {name: _there(y, device) for name, y in x.items()}
    return tuple(_there(y, device) for y in x) if isinstance(x, tuple) else x


def _shape(x: Any) -> Hashable:
    if isinstance(x, Tensor):
        return x.dtype, x.ndim
    if isinstance(x, Regions):
        return x.shape
    if isinstance(x, Mapping):
        return tuple(x)
    return tuple(map(_shape, x)) if isinstance(x, tuple) else None


class Places(NamedTuple):
    """What an edit knows of where its object is; masks bool (H, W), in pixels.

    Args:
        was: where the object was.
        target: where it shall be.
        within: all that may change; None if anything may, for instance where shadows fall.
    """

    was: Tensor
    target: Tensor
    within: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Reference:
    """A second image that an edit draws on; it is inverted as the edited image is.

    Args:
        image: float32 (3, H, W) in [0, 1], of any size.
        mask: bool (H, W), the object in it.
        prompt: what it shows.
    """

    image: Tensor
    mask: Tensor
    prompt: str = ""


def reference(image: Any, mask: Any, prompt: str) -> Reference:
    """Check a second image, its mask and its prompt.

    Raises:
        InputError: one of them is not usable, or their sizes differ.
    """
    image, mask = as_image(image), as_mask(mask, "reference_mask")
    if mask.shape != image.shape[1:]:
        size, other = f"{mask.shape[1]}x{mask.shape[0]}", f"{image.shape[2]}x{image.shape[1]}"
        raise InputError(f"reference_mask is {size} but the reference is {other}: draw it on the reference")
    check_text("reference_prompt", prompt)
    return Reference(image, mask, prompt)


def content(f: Branches, m: Regions, w: Guidance) -> Iterator[Term]:
    """S_share over what stays (Eq. 5), if it has a weight and something stays."""
    if w.w_content and m.share is not None:
        s = similarity(f.gen, f.gud, m.share, m.share)
        yield Term("content", attract(s, w.w_content, w.alpha, w.beta))


class Edit(ABC):
    """Base of all edits.

    Attributes:
        kind: the kind of guidance preset it wants, one of :data:`dragonkit.guidance.KINDS`.
    """

    kind: ClassVar[str] = "move"

    @property
    def references(self) -> tuple[Reference, ...]:
        """The other images that the edit draws on; the default has none."""
        return ()

    @property
    def kinds(self) -> tuple[type[Edit], ...]:
        """Its class, and those of the edits that it is made of."""
        parts = [one for one in getattr(self, "edits", ()) if isinstance(one, Edit)]
        return type(self), *(kind for one in parts for kind in one.kinds)

    @property
    def recordable(self) -> bool:
        """Whether :meth:`terms` does at every step the same with other numbers, and asks nothing of them.

        Then a GPU may replay what it did (:mod:`dragonkit.graphs`). So it is of the kit's own edits; who writes terms
        of their own, and has them neither count steps nor read numbers off the device, may say so, too.
        """
        return type(self).terms.__module__.startswith("dragonkit.edits.")

    def regions(self, frame: Frame) -> Regions:
        """The edit's regions on an image's grids; the default has none. Called before any model runs, on the host.

        Raises:
            InputError: a mask does not fit the image, or the target is empty or off the image.
        """
        return Regions()

    def places(self, frame: Frame) -> Places | None:
        """Where the object was and where it shall be, if the edit knows; the default does not.

        With this, ``Guidance.preserve`` can tell what the edit may have changed.
        """
        return None

    @abstractmethod
    def terms(self, f: Branches, m: Regions, w: Guidance) -> Iterator[Term]:
        """The energy's terms for one layer, at one step.

        Args:
            f: features of the branches.
            m: what :meth:`regions` gave.
            w: weights; a term whose weight is 0 or whose region is empty is not yielded, and so not computed.

        Yields:
            Terms; those of one name are summed over layers, weighted by ``w.layer_weights``.
        """

    def start(self, z_T: Tensor, refs: tuple[Tensor, ...], m: Regions) -> Tensor:
        """The latent to start from if ``Guidance.start`` is "copy"; the default keeps z_T (1, C, h, w).

        ``refs`` are the z_T of the reference branches.
        """
        return z_T

    def context(self, own: Tensor, gud: Tensor, refs: tuple[Tensor, ...], m: Regions) -> Tensor | Ragged:
        """Tokens that a self-attention module attends to if ``Guidance.attention_mode`` is "mix".

        Args:
            own: the generation branch's tokens (B, N, C).
            gud: the guidance branch's (1, N, C).
            refs: the reference branches' (1, M, C).
            m: what :meth:`regions` gave.

        Returns:
            (1 or B, any number, C); the default is ``gud``, of which ``m.tokens`` selects, and of each of ``refs`` what
            ``m.ref_tokens`` selects.
        """
        chosen = [gud.index_select(1, m.tokens[gud.shape[1]]) if gud.shape[1] in m.tokens else gud]
        for ref, tokens in zip(refs, m.ref_tokens, strict=True):
            if ref.shape[1] in tokens:
                chosen.append(ref.index_select(1, tokens[ref.shape[1]]))
        joined = torch.cat(chosen, dim=1)
        return joined if joined.shape[1] else gud  # nothing left to look at: a mask over the whole image
