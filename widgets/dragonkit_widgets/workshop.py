"""What the studio does, without its looks: a picture, its history, and work on it in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from dragonkit.checks import check_text
from dragonkit.edits import Edit
from dragonkit.errors import InputError
from dragonkit.film import to_pil
from dragonkit.generation import Generated
from dragonkit.guidance import Guidance
from dragonkit.memory import Memory
from dragonkit.models import CARDS, Card, Model, load
from dragonkit.result import Result
from dragonkit.session import Session
from dragonkit.spec import EDITS, load_task, save_spec
from dragonkit_widgets.drawing import Drawing
from dragonkit_widgets.recipe import recipe
from dragonkit_widgets.sources import Picture, fitted, generated
from dragonkit_widgets.twin import twin
from dragonkit_widgets.worker import Worker

HISTORY = "history"
"""Folder of the session beside a saved edit."""


class Workshop:
    """A session with a model that is loaded when it is needed, and one thread for what takes long.

    Args:
        model: a model, or the name of one.
        tell: see :class:`dragonkit_widgets.worker.Worker`.
        memory: of edits, see :func:`dragonkit.edit`.

    Attributes:
        worker: where long work runs.
        picture: what was opened last.
        result: of the last edit; None before there is one.
        preset: name of the guidance preset that edits are described by.
    """

    def __init__(
        self,
        model: Model | str = "mini",
        tell: Callable[[str, float], object] = lambda *_: None,
        memory: Memory = "full",
    ) -> None:
        if not isinstance(model, (Model, str)):
            raise InputError(
                f"model is a {type(model).__name__}: give a name such as 'mini', or what dragonkit.load gave"
            )
        self._model = model
        self._twin = twin(model) if isinstance(model, Model) else None
        self._tell, self._memory = tell, memory
        self.worker = Worker(tell)
        self.picture: Picture | None = None
        self.result: Result | None = None
        self.preset = (model.card if isinstance(model, Model) else CARDS.get(model, Card(source="", about=""))).guidance
        self._session: Session | None = None

    @property
    def model(self) -> Model:
        """The model, loaded now if it was not."""
        if isinstance(self._model, str):
            self._tell("loading the model", 0.0)
            model = load(self._model)
            self._twin, self._model = twin(model), model
        return self._model

    @property
    def runner(self) -> Model:
        """What runs in the worker's thread: the model with hooks of its own, for cells may use it meanwhile."""
        self.model  # noqa: B018 loaded now
        assert self._twin is not None
        return self._twin

    @property
    def model_name(self) -> str:
        """Of the model, which need not be loaded for it."""
        return self._model if isinstance(self._model, str) else self._model.name

    @property
    def session(self) -> Session:
        """The history of the picture.

        Raises:
            InputError: no picture is open.
        """
        if self._session is None:
            raise InputError("there is no picture yet: open a scene or a file, or generate one")
        return self._session

    @property
    def started(self) -> bool:
        """Whether a picture is open."""
        return self._session is not None

    def begin(self, picture: Picture) -> None:
        """Begin a new history with a picture."""
        check_text("prompt", picture.prompt)
        model: Any = self._model  # until something runs, its name will do
        self._session = Session(model, picture.made or picture.image, picture.prompt)
        self.picture, self.result = picture, None

    def resume(self, session: Session, picture: Picture | None = None) -> None:
        """Go on with a history that there is."""
        if not isinstance(session, Session):
            raise InputError(f"session is a {type(session).__name__}: give a dragonkit.Session")
        if isinstance(session.model, Model) and session.model is not self._model:
            self._model, self._twin = session.model, twin(session.model)
        self._session, self.result = session, None
        self.picture = picture or Picture(session.nodes[0].image, session.nodes[0].prompt)

    def ready(self) -> Session:
        """The session with its model loaded."""
        session = self.session
        if not isinstance(session.model, Model):
            session.model = self.model
        return session

    def apply(self, edit: Edit, guidance: Guidance, prompt: str, on_step: Any = None, trace: Any = True) -> Result:
        """Edit the current picture; for the worker's thread."""
        session = self.ready()
        self._tell("encoding", 0.0)
        self.result = session.apply(
            edit,
            guidance,
            prompt=prompt,
            trace=trace,
            progress=self.worker.bar,
            on_step=on_step,
            model=self.runner,
            memory=self._memory,
        )
        return self.result

    def generate(self, prompt: str, seed: int, guidance: Guidance) -> Picture:
        """A picture of a prompt, to be edited with a guidance; for the worker's thread."""
        check_text("prompt", prompt)
        return generated(self.runner, prompt, seed, guidance, self.worker.bar)

    @property
    def before(self) -> Image.Image:
        """The picture that the current one was made from; the source itself for the source."""
        parent = self.session.current.parent
        return self.session.nodes[parent or 0].image

    @property
    def answer(self) -> Image.Image | None:
        """What the current picture should look like, if it is the first edit of a case of that kind."""
        case = self.picture.case if self.picture else None
        node = self.session.current
        meant = case is not None and node.parent == 0 and len(node.edits) == 1 and _alike(node.edit, case.kind)
        return to_pil(case.after.image) if case and meant else None

    def coming(self, edit: Edit) -> Image.Image | None:
        """What an edit of the current picture should give, if that is known."""
        case = self.picture.case if self.picture else None
        first = case is not None and self.session.current.parent is None
        return to_pil(case.after.image) if case and first and _alike(edit, case.kind) else None

    @property
    def drawn_guidance(self) -> Guidance | None:
        """How :attr:`drawn` was run."""
        ahead = self.session.history.ahead.get(self.session.history.current)
        return self.session.nodes[ahead].guidance if ahead is not None and self.drawn else None

    @property
    def drawn(self) -> Drawing | None:
        """How the edit that redo would bring back was drawn: what stands on the canvas after undo."""
        ahead = self.session.history.ahead.get(self.session.history.current)
        edits = self.session.nodes[ahead].edits if ahead is not None else ()
        return Drawing.of(edits[0]) if len(edits) == 1 else None

    def task(self, drawn: Callable[[], tuple[Edit, Guidance, str]]) -> tuple[Any, tuple[Edit, ...], str, Guidance]:
        """What saved files and code repeat: the edit that made the current picture, or for the source the drawn one.

        Args:
            drawn: gives the edit, guidance and prompt that stand in the panel, or raises.

        Returns:
            What the edit starts from (the picture (3, H, W), or what the model generated), the edits, the prompt and
            the guidance.
        """
        session, node = self.session, self.session.current
        if node.parent is None or node.guidance is None:
            edit, guidance, prompt = drawn()
            return session.given(node, prompt, guidance), (edit,), prompt, guidance
        before = session.nodes[node.parent]
        return session.given(before, node.prompt, node.guidance), node.edits, node.prompt, node.guidance

    def code(self, drawn: Callable[[], tuple[Edit, Guidance, str]], folder: str | Path) -> str:
        """Python that repeats :meth:`task` from the files in a folder."""
        image, edits, prompt, guidance = self.task(drawn)
        origin = image.origin if isinstance(image, Generated) else None
        names = {"model": self.model_name, "preset": self.preset}
        return recipe(edits, prompt, guidance, folder=folder, origin=origin, **names)

    def save(self, drawn: Callable[[], tuple[Edit, Guidance, str]], folder: str | Path) -> Path:
        """Write :meth:`task` as edit.json with its pictures, and the whole history beside it.

        Raises:
            InputError: nothing can be repeated yet, or the folder cannot be written to.
        """
        image, edits, prompt, guidance = self.task(drawn)
        place = _folder(folder)
        path = save_spec(place, image, list(edits), prompt, guidance, self.model_name)
        session = self.session
        if isinstance(session.model, Model):
            session.save(place / HISTORY)
        return path

    def load(self, folder: str | Path) -> tuple[Drawing | None, Guidance | None]:
        """Go on with what :meth:`save` wrote, with a saved session, or with any edit.json; for the worker's thread.

        A picture that was generated is generated again.

        Returns:
            What to draw, and how to run it, if the folder holds an edit that was not done.

        Raises:
            InputError: there is nothing of that kind, or it is broken.
        """
        place = _folder(folder)
        for kept in (place / HISTORY, place):
            if (kept / "session.json").is_file():
                session = Session.load(kept, self.model)
                again = session.generated(self.runner, progress=self.worker.bar) and session.origin is None
                note = "but the source comes out otherwise here: edits of it invert it" if again else ""
                source = session.nodes[0]
                self.resume(session, Picture(source.image, source.prompt, note))
                return None, None
        task = load_task(place if place.suffix == ".json" else place / "edit.json").ready(self.runner)
        made = task.image if isinstance(task.image, Generated) else None
        self.begin(Picture(made.image, task.prompt, made=made) if made else fitted(task.picture, task.prompt))
        return (Drawing.of(task.edits[0]) if len(task.edits) == 1 else None), task.guidance


def _folder(name: str | Path) -> Path:
    if not str(name).strip():
        raise InputError("the folder has no name: give one, for instance 'my-edit'")
    return Path(name).expanduser()


def _alike(edit: Edit, case: str) -> bool:
    """Whether an edit is of the kind that a case asks for; a resize is a move to the editor."""
    return type(edit) in EDITS and (edit.kind == case or {edit.kind, case} == {"move", "resize"})
