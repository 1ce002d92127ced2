"""What stands in the studio's panel: the picture, the drawing, and the edit that they make."""

from __future__ import annotations

import ipywidgets
from PIL import Image

from dragonkit.edits import Edit
from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.result import Result
from dragonkit.session import Session
from dragonkit_widgets.base import Face, Meta
from dragonkit_widgets.bench import Bench
from dragonkit_widgets.drawing import Drawing
from dragonkit_widgets.workshop import Workshop


class Panel(Face, ipywidgets.VBox, metaclass=Meta):
    """The studio's state, to read and to set; :class:`dragonkit_widgets.EditStudio` adds what it does.

    Args:
        workshop: the picture and its history.
        bench: the controls.
        rows: how the controls stand together.
    """

    def __init__(self, workshop: Workshop, bench: Bench, rows: list[ipywidgets.Widget]) -> None:
        self._workshop, self._bench = workshop, bench
        self.sketch, self.reference, self.advanced = bench.sketch, bench.reference, bench.advanced
        self.compare, self.player, self.status, self.strip = bench.compare, bench.player, bench.status, bench.strip
        super().__init__(rows)
        self.add_class("dk-studio")

    @property
    def session(self) -> Session:
        """The history, its model loaded."""
        return self._workshop.ready()

    @property
    def result(self) -> Result | None:
        """Of the last edit; None before there is one."""
        return self._workshop.result

    @property
    def image(self) -> Image.Image:
        """The current picture."""
        return self._workshop.session.image

    @property
    def kind(self) -> str:
        """Of the edit: "move", "resize", "rotate", "appearance", "drag", "paste" or one of one's own; settable."""
        return self._bench.kind.value

    @kind.setter
    def kind(self, kind: str) -> None:
        if kind not in self._bench.kind.options:
            raise InputError(f"kind is {kind!r}: choose from {', '.join(self._bench.kind.options)}")
        self._bench.kind.value = kind

    @property
    def prompt(self) -> str:
        """What the picture shows; settable."""
        return self._bench.prompt.value

    @prompt.setter
    def prompt(self, prompt: str) -> None:
        self._bench.prompt.value = prompt

    @property
    def drawing(self) -> Drawing:
        """What is drawn now; settable."""
        return self._bench.drawing

    @drawing.setter
    def drawing(self, drawing: Drawing) -> None:
        self._bench.draw(drawing)

    @property
    def edit(self) -> Edit:
        """The edit that is drawn.

        Raises:
            InputError: something is missing; the message says what to draw.
        """
        return self._bench.edit

    @property
    def guidance(self) -> Guidance:
        """What stands under 'Advanced'; settable.

        Raises:
            InputError: a value is refused.
        """
        return self.advanced.guidance

    @guidance.setter
    def guidance(self, guidance: Guidance) -> None:
        self.advanced.guidance = guidance

    @property
    def code(self) -> str:
        """Python that repeats the current picture's edit (the source's: the drawn one) from what :meth:`save` wrote.

        Raises:
            InputError: there is no edit yet.
        """
        return self._workshop.code(self._task, self._bench.folder.value)

    def face(self) -> Image.Image:
        """What is drawn, and the result beside it if there is one."""
        shown = [self.sketch.face()]
        if self._workshop.session.current.parent is not None:
            shown += [self.compare.face()]
        height = max(image.height for image in shown)
        shown = [image.resize((round(image.width * height / image.height), height)) for image in shown]
        sheet = Image.new("RGB", (sum(image.width + 8 for image in shown) - 8, height), "white")
        for k, image in enumerate(shown):
            sheet.paste(image, (sum(other.width + 8 for other in shown[:k]), 0))
        return sheet

    def __repr__(self) -> str:
        return f"EditStudio({self.kind}, {self._workshop.session!r})"

    def _task(self) -> tuple[Edit, Guidance, str]:
        return self.edit, self.guidance, self.prompt
