"""EditStudio: a picture, an edit drawn on it, the run as it goes, and everything made so far, in one panel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.memory import Memory, check_memory
from dragonkit.models import Model
from dragonkit.result import Result
from dragonkit.session import Session
from dragonkit.trace import Record, Trace
from dragonkit_widgets.bench import Bench
from dragonkit_widgets.drawing import Drawing, Kind
from dragonkit_widgets.panel import Panel
from dragonkit_widgets.sources import Picture, example, examples, given
from dragonkit_widgets.worker import explained
from dragonkit_widgets.workshop import Workshop

PREVIEW = 2
"""Steps to one decoded preview: decoding costs about as much as a step."""


class EditStudio(Panel):
    """Edit a picture by drawing on it.

    Everything that takes long runs in a thread of its own, one thing at a time. Buttons and methods do the same;
    methods return at once, and what goes wrong stands in the panel's line of text. What runs is a copy of the model's
    modules (:func:`dragonkit_widgets.twin.twin`), so cells may use the model meanwhile.

    A picture is generated from a prompt with the steps and the ``cfg`` under 'Advanced'. Edits of it with these numbers
    and that prompt take the path that generated it; where one of them was changed, the picture is inverted like any
    other.

    Args:
        model: what :func:`dragonkit.load` gave, or a name for it, loaded when it is first needed; default the bundled
            one.
        image: whatever :func:`dragonkit.regions.as_image` takes, scaled down to at most 512 pixels a side; default a
            bundled scene.
        prompt: what the image shows.
        session: a history to go on with, instead of an image.
        size: of the canvases' longer side, CSS pixels.
        kinds: edits of one's own by name, see :class:`dragonkit_widgets.Kind`. They run, and stand in the history, like
            all others; files and code know the kit's own kinds only.
        memory: "low" takes less of a GPU's, see :func:`dragonkit.memory.economy`. An edit then moves the model's own
            weights to and fro, so cells must not use the model meanwhile.

    Attributes:
        sketch: where to draw: its ``mask`` and ``points`` can be set.
        reference: the second canvas, for appearance and paste.
        advanced: every number of the guidance.
        compare: before and after.
        player: the run, step by step.

    Raises:
        InputError: a value is not usable.
    """

    def __init__(
        self,
        model: Model | str | None = None,
        image: Any = None,
        *,
        prompt: str = "",
        session: Session | None = None,
        size: int = 420,
        kinds: Mapping[str, Kind] | None = None,
        memory: Memory = "full",
    ) -> None:
        check_memory(memory)
        if session is not None and image is not None:
            raise InputError("image and session are both given: a session has its picture already, give one of the two")
        if model is None:
            model = session.model if isinstance(session, Session) else "mini"
        self._workshop = Workshop(model, lambda text, fraction: self.status.say(text, fraction=fraction), memory)
        if session is not None:
            self._workshop.resume(session)
        else:
            self._workshop.begin(example(examples()[0]) if image is None else given(image, prompt))
        bench = Bench(self._workshop.session.image, self._workshop.preset, size, kinds or {})
        super().__init__(self._workshop, bench, bench.laid_out(self._choose, self._generate))
        self._wire()
        self._show()

    def _wire(self) -> None:
        bench = self._bench
        bench.run.on_click(lambda button: self.run())
        bench.stop.on_click(lambda button: self.stop())
        bench.fill.on_click(lambda button: self._safely(self.fill_in))
        bench.strip.act = self._go
        bench.save.on_click(lambda button: self._safely(self.save))
        bench.load.on_click(lambda button: self.load(bench.folder.value))
        bench.snippet.copied = lambda: self._safely(self.save)
        for source in (bench.kind, bench.scale, bench.angle, bench.folder, bench.prompt):
            source.observe(lambda change: self._recode(), "value")
        self.sketch.observe(lambda change: self._recode(), ["points", "mask_data"])

    def begin(self, image: Any, prompt: str = "") -> None:
        """Begin again with another picture.

        Args:
            image: a :class:`dragonkit_widgets.sources.Picture`, or whatever :func:`dragonkit.regions.as_image` takes.
            prompt: what it shows.

        Raises:
            InputError: the image is not usable, or something is running.
        """
        self._idle()
        self._workshop.begin(image if isinstance(image, Picture) else given(image, prompt))
        self._show()

    def fill_in(self) -> None:
        """Draw the edit whose exact answer is known.

        Raises:
            InputError: the picture is no scene of that kind, or was edited already.
        """
        case = self._workshop.picture.case if self._workshop.picture else None
        drawing = Drawing.of(case.edit) if case else None
        if drawing is None or self._workshop.session.current.parent is not None:
            raise InputError("this picture has no edit with an exact answer: open a 'scene with exact answer'")
        self.drawing = drawing

    def run(self) -> None:
        """Do the edit that is drawn, as the button does."""
        try:
            edit, guidance, prompt = self._task()
            answer = self._workshop.coming(edit)
            references = [ref.image for ref in edit.references]
            self._idle()
        except Exception as error:
            return self.status.say(explained(error), error=True)
        self.player.show(None, self.image, answer, references=references)
        self._bench.tabs.selected_index = 1
        record = Record(attention=self._bench.looks.value)
        some, last = self.player.watch(PREVIEW), self.player.watch(1)

        def preview(trace: Trace) -> None:
            """Decode some steps, and the last one whatever their number."""
            (last if trace.steps[-1] == guidance.steps - 1 else some)(trace)

        self._start(partial(self._workshop.apply, edit, guidance, prompt, preview, record), self._edited)

    def stop(self) -> None:
        """End what is running, at its next step; the picture stays as it was."""
        if self._workshop.worker.busy:
            self.status.say("stopping", fraction=0)
        self._workshop.worker.stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing runs, at most ``timeout`` seconds; whether it is so."""
        return self._workshop.worker.wait(timeout)

    def save(self, folder: str | Path | None = None) -> Path:
        """Write edit.json with its pictures, and the history beside it.

        Args:
            folder: where; default what stands in the panel.

        Returns:
            The path of edit.json.

        Raises:
            InputError: there is no edit yet, something is running, or the folder cannot be written to.
        """
        self._idle()
        if folder is not None:
            self._bench.folder.value = str(folder)
        path = self._workshop.save(self._task, self._bench.folder.value)
        self.status.say(f"saved {path}")
        return path

    def load(self, folder: str | Path) -> None:
        """Go on with what :meth:`save` wrote, or with any saved session or edit.json.

        Args:
            folder: of it.
        """
        self._bench.folder.value = str(folder)
        self._start(partial(self._workshop.load, folder), self._loaded)

    def _idle(self) -> None:
        if self._workshop.worker.busy:
            raise InputError("something is still running: stop it, or wait for it")

    def _start(self, work: Callable[[], Any], then: Callable[[Any], str]) -> None:
        """Run something in the background, then show what came of it; ``then`` gives the closing line."""

        def ended(said: str | None, error: Exception | None) -> None:
            self._bench.busy = False
            self.status.say(explained(error) if error else said or "", error=error is not None)

        try:
            self._idle()
        except InputError as error:
            return self.status.say(str(error), error=True)
        self._bench.busy = True  # before it begins, for it may be over at once
        self._workshop.worker.start(lambda: then(work()), ended)

    def _generate(self, prompt: str, seed: int) -> Picture:
        return self._workshop.generate(prompt, seed, self.guidance)

    def _choose(self, make: Callable[[], Picture], *, reference: bool = False) -> None:
        self._start(make, self._referred if reference else self._opened)

    def _opened(self, picture: Picture) -> str:
        self._workshop.begin(picture)
        self._show()
        return picture.note or f"opened: {picture.prompt}"

    def _referred(self, picture: Picture) -> str:
        self._bench.refer(picture.image, picture.prompt)
        return picture.note or f"reference: {picture.prompt}"

    def _edited(self, result: Result) -> str:
        self._show()
        return f"done: {result.nfe} evaluations, {result.seconds:.1f} s"

    def _loaded(self, found: tuple[Drawing | None, Guidance | None]) -> str:
        self._show()
        drawing, guidance = found
        if drawing is not None:
            self.drawing = drawing
        if guidance is not None:
            self.guidance = guidance
        note = self._workshop.picture.note if self._workshop.picture else ""
        return f"loaded, {note}" if note else "loaded"

    def _go(self, where: str | int) -> None:
        """Undo, redo, or go to a picture."""

        def go() -> None:
            self._idle()
            session = self._workshop.session
            session.goto(where) if isinstance(where, int) else {"undo": session.undo, "redo": session.redo}[where]()
            self._show()
            self.status.say(f"picture {session.current.id}")

        self._safely(go)

    def _safely(self, action: Callable[[], Any]) -> None:
        """Do something; what goes wrong is said in the panel."""
        try:
            action()
        except Exception as error:
            self.status.say(explained(error), error=True)

    def _show(self) -> None:
        """Show the current picture, and how it came about; the canvas shows what was drawn on it, if it was left."""
        workshop, bench = self._workshop, self._bench
        session = workshop.session
        done = session.current.parent is not None
        bench.show(session.image, session.current.prompt, workshop.drawn, workshop.drawn_guidance)
        if done:
            bench.compare.show(workshop.before, session.image, workshop.answer)
        else:
            bench.compare.clear()
        bench.strip.show(session.history)
        bench.tabs.selected_index = 0
        bench.fill.layout.display = "" if not done and workshop.picture and workshop.picture.case else "none"
        self._recode()

    def _recode(self) -> None:
        try:
            self._bench.snippet.code = self.code
        except InputError:
            self._bench.snippet.code = ""
