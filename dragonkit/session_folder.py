"""A session as a folder: session.json, and every picture and mask as PNG.

Of a generated source the file says what it was generated from, and not its path, which follows from that.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from dragonkit.errors import InputError
from dragonkit.files import check_folder, read_image, write_image
from dragonkit.generation import Origin
from dragonkit.history import History, Node
from dragonkit.models import Model, load
from dragonkit.regions import as_image
from dragonkit.session import Session
from dragonkit.shelf import document, read_index
from dragonkit.spec.edits import AnyEdit, edit_spec, flat
from dragonkit.spec.fields import GuidanceSpec
from dragonkit.strict import FileName, Strict

INDEX = "session.json"


class _Node(Strict):
    parent: int | None
    image: FileName
    prompt: str
    edits: tuple[AnyEdit, ...]
    guidance: GuidanceSpec | None
    nfe: int
    seconds: float
    energies: dict[str, float]


class _Origin(Strict):
    prompt: str
    seed: int
    steps: Annotated[int, Field(ge=1)]
    cfg: Annotated[float, Field(ge=0)]


class _Index(Strict):
    """session.json, version 1."""

    version: Literal[1]
    model: str
    guidance: GuidanceSpec | None
    generated: _Origin | None = None
    nodes: tuple[_Node, ...]
    current: int
    ahead: tuple[tuple[int, int], ...]
    files: tuple[FileName, ...]


def save_session(session: Session, folder: str | os.PathLike[str]) -> Path:
    """Write a session; see :meth:`Session.save`."""
    out, history = Path(folder), session.history
    check_folder(out)
    for node in history.nodes[1:]:
        flat(node.edits)  # refused before anything is written

    with document(out, INDEX) as draft:

        def put(name: str, picture: Tensor) -> str:
            return draft.put(name, ".png", partial(write_image, picture))

        def described(node: Node) -> dict[str, Any]:
            return {
                "parent": node.parent,
                "image": put("image", node.tensor),
                "prompt": node.prompt,
                "edits": [edit_spec(edit, put).model_dump(mode="json") for edit in node.edits],
                "guidance": GuidanceSpec.of(node.guidance).model_dump(mode="json") if node.guidance else None,
                "nfe": node.nfe,
                "seconds": node.seconds,
                "energies": dict(node.energies),
            }

        draft.index = {
            "version": 1,
            "model": session.model.name,
            "guidance": GuidanceSpec.of(session.guidance).model_dump(mode="json") if session.guidance else None,
            "generated": _said(session.origin),
            "nodes": [described(node) for node in history.nodes],
            "current": history.current,
            "ahead": sorted(history.ahead.items()),
        }
    return out


def load_session(folder: str | os.PathLike[str], model: Model | None = None) -> Session:
    """Read a session; see :meth:`Session.load`."""
    place = Path(folder)
    index = read_index(place / INDEX, _Index)
    _check_tree(index, place / INDEX)
    nodes = tuple(_node(k, node, place) for k, node in enumerate(index.nodes))
    if len({node.tensor.shape for node in nodes}) > 1:
        raise InputError(f"{place / INDEX} names pictures of different sizes: save the session again")
    session = Session(model or load(index.model), nodes[0].tensor, nodes[0].prompt, _guidance(index.guidance))
    if index.generated:
        height, width = nodes[0].tensor.shape[1:]
        session.origin = Origin(size=(height, width), **index.generated.model_dump())
    session.history = History(nodes, index.current, dict(index.ahead))
    return session


def _said(origin: Origin | None) -> dict[str, Any] | None:
    """What a picture's pixels do not say of how it was generated."""
    return {name: getattr(origin, name) for name in _Origin.model_fields} if origin else None


def _node(k: int, said: _Node, place: Path) -> Node:
    return Node(
        id=k,
        parent=said.parent,
        tensor=as_image(read_image(place / said.image)),
        prompt=said.prompt,
        edits=tuple(edit.build(place) for edit in said.edits),
        guidance=_guidance(said.guidance),
        nfe=said.nfe,
        seconds=said.seconds,
        energies=said.energies,
    )


def _check_tree(index: _Index, path: Path) -> None:
    """Raise unless the nodes are a tree whose parents come first, and one is at one of them."""
    parents = [node.parent for node in index.nodes]
    rooted = parents[:1] == [None] and all(p is not None and 0 <= p < k for k, p in enumerate(parents) if k)
    known = range(len(parents))
    if not rooted or index.current not in known or any(b not in known or parents[b] != a for a, b in index.ahead):
        raise InputError(f"{path} does not describe a tree of pictures: save the session again")
    if any(bool(node.edits) != bool(k) for k, node in enumerate(index.nodes)):
        raise InputError(f"{path} has a picture that no edit explains: save the session again")


def _guidance(said: GuidanceSpec | None) -> Any:
    return said.build("move", "iclr") if said else None  # every field was written, so the preset does not matter
