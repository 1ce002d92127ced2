"""Editing on: each edit starts from what the last one gave (Fig. 8), and nothing is ever lost.

    0 source ── 1 ── 2 ── 3        undo goes to the parent, redo back to where one came from;
                └─── 4 ── 5        an edit after undo begins a branch beside the old one

What passes from edit to edit is the picture, in 8 bits as all images here: exactly what is seen and saved. So a
session read from disk goes on as if it had never stopped, and a replay gives the same bits. Each edit does encode the
picture anew, which costs what is redrawn some sharpness (about a decibel a time). Passing the latent on would spare
that, but it knows nothing of ``Guidance.preserve``, which puts the source's own pixels back where an edit changed
nothing: with it, what lies away from all edits does not drift, however many follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dragonkit.checks import check_text
from dragonkit.edits import Appearance, Edit, Paste, Several
from dragonkit.film import to_pil
from dragonkit.guidance import Guidance
from dragonkit.history import History, Node
from dragonkit.regions import as_image

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from PIL import Image

    from dragonkit.models import Model
    from dragonkit.result import Result


class Session:
    """Continuous editing, with undo, redo, branches and replay.

    Args:
        model: from :func:`dragonkit.load`.
        image: the source, see :func:`dragonkit.regions.as_image`; rounded to 8 bits.
        prompt: what it shows.
        guidance: how to edit; default the preset that suits the model and each edit.

    Raises:
        InputError: the image or the prompt is not usable.
    """

    def __init__(self, model: Model, image: Any, prompt: str = "", guidance: Guidance | None = None) -> None:
        check_text("prompt", prompt)
        self.model, self.guidance = model, guidance
        self.history = History((Node(id=0, parent=None, tensor=rounded(as_image(image)), prompt=prompt),))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All pictures, in the order in which they were made."""
        return self.history.nodes

    @property
    def current(self) -> Node:
        """Where one is."""
        return self.nodes[self.history.current]

    @property
    def image(self) -> Image.Image:
        """The current picture."""
        return self.current.image

    @property
    def branch(self) -> tuple[Node, ...]:
        """The path to the current node, and on along redo as far as it goes."""
        return self.history.branch()

    @property
    def can_undo(self) -> bool:
        """Whether there is something to undo."""
        return self.current.parent is not None

    @property
    def can_redo(self) -> bool:
        """Whether there is something to redo."""
        return self.history.current in self.history.ahead

    def path(self) -> tuple[Node, ...]:
        """The nodes from the source to the current one."""
        return self.history.path()

    def apply(
        self,
        edit: Edit | Sequence[Edit],
        guidance: Guidance | None = None,
        *,
        prompt: str | None = None,
        trace: Any = False,
        progress: Any = True,
        on_step: Any = None,
    ) -> Result:
        """Edit the current picture; the result becomes the current one.

        Whatever ends it early, an error or an interrupt, leaves the session as it was.

        Args:
            edit: one edit or several at once; a reference image is rounded to 8 bits.
            guidance: how, this time.
            prompt: what the picture shows; default as before.
            trace: see :func:`dragonkit.edit`.
            progress: see :func:`dragonkit.edit`.
            on_step: see :func:`dragonkit.edit`.

        Returns:
            The result, with its trace.

        Raises:
            InputError: as :func:`dragonkit.edit`.
        """
        from dragonkit.editor import edit as run

        history, node = self.history, self.current
        given: Any = edit if isinstance(edit, (list, tuple)) else [edit]
        edits = tuple(in_8_bits(one) for one in Several(given).edits)
        task = edits[0] if len(edits) == 1 else Several(edits)
        words = node.prompt if prompt is None else prompt
        w = guidance or self.guidance or Guidance.preset(self.model.default_guidance, task.kind)
        result = run(self.model, node.tensor, task, words, guidance=w, trace=trace, progress=progress, on_step=on_step)
        last = {name: [v for v in values if v == v][-1] for name, values in result.trace.energies.items()}
        self.history = history.added(
            tensor=rounded(result.tensor),
            prompt=words,
            edits=edits,
            guidance=w,
            nfe=result.nfe,
            seconds=result.seconds,
            energies=last,
        )
        return result

    def undo(self) -> Node:
        """Go to the parent; its branch stays."""
        self.history = self.history.undone()
        return self.current

    def redo(self) -> Node:
        """Go back to the child that was left, or made, last."""
        self.history = self.history.redone()
        return self.current

    def goto(self, place: int) -> Node:
        """Go to any node by its number."""
        self.history = self.history.at(place)
        return self.current

    def replay(self, model: Model | None = None, *, progress: Any = False) -> Session:
        """Do everything on the path from the source to the current picture again, as a session of its own.

        On a CPU and with the same model every picture is the same, bit for bit.

        Args:
            model: another model, if wished.
            progress: see :func:`dragonkit.edit`.
        """
        source, *nodes = self.path()
        session = Session(model or self.model, source.tensor, source.prompt, self.guidance)
        for node in nodes:
            session.apply(node.edits, node.guidance, prompt=node.prompt, progress=progress)
        return session

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write all of it into a folder, whole or not at all; see :mod:`dragonkit.session_folder`.

        Raises:
            InputError: the folder cannot be written to, or an edit is of a kind that cannot be.
        """
        from dragonkit.session_folder import save_session

        return save_session(self, folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], model: Model | None = None) -> Session:
        """Read what :meth:`save` wrote.

        Args:
            folder: where it was saved.
            model: what to go on with; default the model of that name, loaded.

        Raises:
            InputError: the folder holds no session, or a broken one.
        """
        from dragonkit.session_folder import load_session

        return load_session(folder, model)

    def __repr__(self) -> str:
        _, h, w = self.current.tensor.shape
        count = len(self.nodes) - 1
        return f"Session({w}x{h}, {count} edit{'s' * (count != 1)}, at {self.history.current})"


def in_8_bits(edit: Edit) -> Edit:
    """The same edit, the image that it draws on (if any) in 8 bits: as it will be saved, so that it runs the same."""
    if isinstance(edit, (Appearance, Paste)):
        return replace(edit, reference=to_pil(edit.references[0].image))
    return edit


def rounded(image: Tensor) -> Tensor:
    """An image (3, H, W) in [0, 1] as 8 bits a channel hold it, float32 on the CPU."""
    return as_image(to_pil(image))
