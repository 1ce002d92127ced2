"""A history as a strip of thumbnails: one row a branch, the current picture framed."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import traitlets
from PIL import Image

from dragonkit_widgets.assets import module, styles
from dragonkit_widgets.base import Base

if TYPE_CHECKING:
    from dragonkit.history import History, Node

SIDE = 72
"""Longest side of a thumbnail, in pixels; drawn at half that on a fine screen it is still sharp."""


def places(parents: Sequence[int | None]) -> list[tuple[int, int]]:
    """Where the nodes of a tree stand: (column, row) each, the column its depth; a first child stays in its row.

    Args:
        parents: of each node, which come before it; None for the first.
    """
    found: list[tuple[int, int]] = []
    taken: set[int] = set()  # nodes whose row goes on
    rows = 1
    for k, parent in enumerate(parents):
        if parent is None:
            found.append((0, 0))
            continue
        column, row = found[parent]
        if parent in taken:
            row, rows = rows, rows + 1
        taken.add(parent)
        found.append((column + 1, row))
        assert len(found) == k + 1
    return found


class Strip(Base):
    """The pictures of a history, to go back to.

    Attributes:
        act: called with "undo", "redo" or the number of the picture that was clicked; set it.
    """

    _esm = module("common", "strip")
    _css = styles("common", "strip")

    nodes: traitlets.List = traitlets.List(help="number, place, words and thumbnail of each").tag(sync=True)
    current = traitlets.Int(0).tag(sync=True)
    can_undo = traitlets.Bool(False).tag(sync=True)
    can_redo = traitlets.Bool(False).tag(sync=True)
    disabled = traitlets.Bool(False).tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self._source: Node | None = None
        self._thumbnails: dict[int, bytes] = {}
        self.act: Callable[[Any], object] = lambda what: None
        self.on_msg(self._told)

    def show(self, history: History) -> None:
        """Show a history; pictures are scaled down once."""
        if self._source is not history.nodes[0]:
            self._source, self._thumbnails = history.nodes[0], {}
        at = places([node.parent for node in history.nodes])
        nodes = [
            {
                "id": node.id,
                "parent": node.parent,
                "at": at[node.id],
                "label": "source" if node.parent is None else " + ".join(edit.kind for edit in node.edits),
                "about": _about(node),
                "picture": self._thumbnail(node),
            }
            for node in history.nodes
        ]
        with self.hold_sync():
            self.nodes, self.current = nodes, history.current
            self.can_undo = history.nodes[history.current].parent is not None
            self.can_redo = history.current in history.ahead

    def face(self) -> Image.Image:
        """The thumbnails in their rows."""
        columns = max((node["at"][0] for node in self.nodes), default=0) + 1
        rows = max((node["at"][1] for node in self.nodes), default=0) + 1
        sheet = Image.new("RGB", (columns * (SIDE + 6), rows * (SIDE + 6)), "white")
        for node in self.nodes:
            column, row = node["at"]
            sheet.paste(Image.open(io.BytesIO(node["picture"])), (column * (SIDE + 6), row * (SIDE + 6)))
        return sheet

    def __repr__(self) -> str:
        return f"Strip({len(self.nodes)} pictures, at {self.current})"

    def _thumbnail(self, node: Node) -> bytes:
        if node.id not in self._thumbnails:
            small, file = node.image, io.BytesIO()
            small.thumbnail((SIDE, SIDE))
            small.save(file, format="PNG")
            self._thumbnails[node.id] = file.getvalue()
        return self._thumbnails[node.id]

    def _told(self, widget: Any, content: dict[str, Any], buffers: Any) -> None:
        if not self.disabled:
            self.act(content["act"])


def _about(node: Node) -> str:
    if node.parent is None:
        return node.prompt
    return f"{node.nfe} evaluations, {node.seconds:.1f} s" + (f": {node.prompt}" if node.prompt else "")
