"""What a session remembers: a tree of pictures, and a place in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dragonkit.edits import Edit, Several
from dragonkit.errors import InputError
from dragonkit.film import to_pil
from dragonkit.guidance import Guidance

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """A state of a session: a picture, and how it came of its parent.

    Args:
        id: its number; the source is 0.
        parent: number of the node it was made from, None for the source.
        tensor: the picture, float32 (3, H, W), every value a whole number over 255.
        prompt: what it shows.
        edits: what was done to the parent's picture, at once; none for the source.
        guidance: how; None for the source.
        nfe: denoiser evaluations that took.
        seconds: wall clock that took.
        energies: each energy term's last value.
    """

    id: int
    parent: int | None
    tensor: Tensor
    prompt: str
    edits: tuple[Edit, ...] = ()
    guidance: Guidance | None = None
    nfe: int = 0
    seconds: float = 0.0
    energies: Mapping[str, float] = field(default_factory=dict)

    @property
    def image(self) -> Image.Image:
        """The picture."""
        return to_pil(self.tensor)

    @property
    def edit(self) -> Edit:
        """The edits as one; not for the source, which has none."""
        return self.edits[0] if len(self.edits) == 1 else Several(self.edits)


@dataclass(frozen=True, eq=False)
class History:
    """A tree of nodes and a place in it. It is never changed: every step gives a new history.

    Args:
        nodes: by number; each one's parent stands before it.
        current: number of the node one is at.
        ahead: for nodes that one has gone back from, or passed, the child that redo leads to.
    """

    nodes: tuple[Node, ...]
    current: int = 0
    ahead: Mapping[int, int] = field(default_factory=dict)

    def path(self, to: int | None = None) -> tuple[Node, ...]:
        """The nodes from the source to a node, by default the current one."""
        found: list[Node] = []
        at = self.current if to is None else to
        while at is not None:
            found.append(self.nodes[at])
            at = self.nodes[at].parent  # type: ignore[assignment]
        return tuple(reversed(found))

    def branch(self) -> tuple[Node, ...]:
        """The path to the current node, and on along redo as far as it goes."""
        tip = self.current
        while tip in self.ahead:
            tip = self.ahead[tip]
        return self.path(tip)

    def added(self, **fields: Any) -> History:
        """A new child of the current node, at which one then is; ``fields`` as in :class:`Node`."""
        node = Node(id=len(self.nodes), parent=self.current, **fields)
        return replace(self, nodes=(*self.nodes, node)).at(node.id)

    def at(self, place: int) -> History:
        """At another node; redo will lead there again from everywhere on the way."""
        if type(place) is not int or not 0 <= place < len(self.nodes):
            raise InputError(f"there is no node {place!r}: give a number from 0 to {len(self.nodes) - 1}")
        way = self.path(place)
        ahead = {a.id: b.id for a, b in zip(way, way[1:], strict=False)}
        return replace(self, current=place, ahead={**self.ahead, **ahead})

    def undone(self) -> History:
        """At the parent.

        Raises:
            InputError: this is the source.
        """
        parent = self.nodes[self.current].parent
        if parent is None:
            raise InputError("there is nothing to undo: this is the source")
        return self.at(parent)

    def redone(self) -> History:
        """At the child that one came from last.

        Raises:
            InputError: nothing was undone here.
        """
        if self.current not in self.ahead:
            raise InputError("there is nothing to redo: this is the newest picture of its branch")
        return self.at(self.ahead[self.current])
