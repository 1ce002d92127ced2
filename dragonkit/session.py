"""Editing on: each edit starts from what the last one gave (Fig. 8), and nothing is ever lost.

    0 source ── 1 ── 2 ── 3        undo goes to the parent, redo back to where one came from;
                └─── 4 ── 5        an edit after undo begins a branch beside the old one

What passes from edit to edit is the picture, in 8 bits as all images here: exactly what is seen and saved. So a
session read from disk goes on as if it had never stopped, and a replay gives the same bits. Each edit does encode the
picture anew, which costs what is redrawn some sharpness (about a decibel a time). Passing the latent on would spare
that, but it knows nothing of ``Guidance.preserve``, which puts the source's own pixels back where an edit changed
nothing: with it, what lies away from all edits does not drift, however many follow.

A generated source is the exception: the path that generated it is known exactly, and an edit of it takes that path
instead of inverting, if it has the steps, the scale and the prompt of the generation. (With others the same path leads
to another picture; such an edit inverts, as edits of edited pictures do.) A session read from disk generates the
source again when that is first needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dragonkit.checks import check_text
from dragonkit.edits import Appearance, Edit, Paste, Several
from dragonkit.film import to_pil
from dragonkit.generation import NOTHING, Generated, Origin
from dragonkit.guidance import Guidance
from dragonkit.history import History, Node
from dragonkit.inversion import Keep
from dragonkit.regions import as_image
from dragonkit.schedule import Schedule

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from PIL import Image

    from dragonkit.memory import Memory
    from dragonkit.models import Model
    from dragonkit.result import Result


class Session:
    """Continuous editing, with undo, redo, branches and replay.

    Args:
        model: from :func:`dragonkit.load`.
        image: the source, see :func:`dragonkit.regions.as_image`; rounded to 8 bits. Or what ``model.generate`` gave.
        prompt: what it shows; default '', or what it was generated from.
        guidance: how to edit; default the preset that suits the model and each edit.

    Attributes:
        origin: what the source was generated from; None if it was not.

    Raises:
        InputError: the image or the prompt is not usable.
    """

    def __init__(self, model: Model, image: Any, prompt: str | None = None, guidance: Guidance | None = None) -> None:
        made = image if isinstance(image, Generated) else None
        words = (made.prompt if made else "") if prompt is None else prompt
        check_text("prompt", words)
        self.model, self.guidance = model, guidance
        self.origin: Origin | None = made.origin if made else None
        self._made = made
        source = rounded(made.tensor if made else as_image(image))
        self.history = History((Node(id=0, parent=None, tensor=source, prompt=words),))

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

    def given(self, node: Node, prompt: str, w: Guidance) -> Tensor | Generated:
        """What an edit of a node starts from: its picture, or the generated image with its path if that serves.

        Args:
            node: of this session.
            prompt: what the edit is told that the picture shows.
            w: how it is done.
        """
        path = node.parent is None and self._made is not None and self._made.origin.serves(prompt, w)
        return self._made if path and self._made is not None else node.tensor

    def generated(self, model: Model | None = None, *, keep: Keep = NOTHING, progress: Any = False) -> int:
        """Generate the source again, if it was generated and its path is not there.

        If that gives another picture (another device, another dtype, other weights) there is a warning, and edits of
        the source invert it from then on.

        Args:
            model: what runs; default the session's.
            keep: see :func:`dragonkit.generation.generate`.
            progress: see :func:`dragonkit.edit`.

        Returns:
            Denoiser evaluations that it took.
        """
        from dragonkit.editor import bar

        if self.origin is None or self._made is not None:
            return 0
        origin = self.origin
        shown = bar("generation", origin.steps, progress)
        made = origin.again(model or self.model, keep=keep, progress=shown)
        if torch.equal(rounded(made.tensor), self.nodes[0].tensor):
            self._made = made
        else:
            warnings.warn("the source cannot be generated again to the bit here: edits of it invert it", stacklevel=2)
            self.origin = None
        return origin.steps

    def apply(
        self,
        edit: Edit | Sequence[Edit],
        guidance: Guidance | None = None,
        *,
        prompt: str | None = None,
        trace: Any = False,
        progress: Any = True,
        on_step: Any = None,
        model: Model | None = None,
        memory: Memory = "full",
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
            model: what runs; default the session's. A thread of its own needs hooks of its own, so a copy of the
                denoiser's modules.
            memory: see :func:`dragonkit.edit`.

        Returns:
            The result, with its trace.

        Raises:
            InputError: as :func:`dragonkit.edit`.
        """
        from dragonkit.editor import checked
        from dragonkit.editor import edit as run

        node, runs = self.current, model or self.model
        parts: Any = edit if isinstance(edit, (list, tuple)) else [edit]
        edits = tuple(in_8_bits(one) for one in Several(parts).edits)
        task = edits[0] if len(edits) == 1 else Several(edits)
        words = node.prompt if prompt is None else prompt
        w, origin = guidance or self.guidance, self.origin if node.parent is None else None
        if w is None:
            w = Guidance.preset(self.model.default_guidance, task.kind)
            w = w.replace(steps=origin.steps, cfg=origin.cfg) if origin else w
        spent = 0
        if origin and self._made is None and origin.serves(words, w):
            checked(runs, node.tensor, task, None, words, w)  # before it is generated again
            spent = self.generated(runs, keep=Keep.wanted(w, Schedule(runs, w.steps)), progress=progress)
        source = self.given(node, words, w)
        options = {"trace": trace, "progress": progress, "on_step": on_step, "memory": memory}
        result = run(runs, source, task, words, guidance=w, **options)
        result = replace(result, nfe=result.nfe + spent) if spent else result
        last = {name: [v for v in values if v == v][-1] for name, values in result.trace.energies.items()}
        self.history = self.history.at(node.id).added(  # to what others may have added meanwhile
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
        if session.model is self.model:
            session.origin, session._made = self.origin, self._made
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
