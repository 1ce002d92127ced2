"""Choosing a picture: a scene, one with a known answer, a file, or a prompt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import ipywidgets

from dragonkit.world import KINDS
from dragonkit_widgets.opener import Opener
from dragonkit_widgets.sources import Picture, answered, example, examples, opened, sampled

Make = Callable[[], Picture]
"""Gives a picture; may take a while."""


class Chooser(ipywidgets.HBox):
    """Controls that end in a picture.

    Args:
        start: called with what makes the picture, and is to run it where it blocks nobody.
        generate: makes a picture of a prompt with a seed.
        title: what the picture is for.
    """

    def __init__(
        self, start: Callable[[Make], object], generate: Callable[[str, int], Picture], title: str = "image"
    ) -> None:
        self._start, self._generate = start, generate
        narrow, style = ipywidgets.Layout(width="150px"), {"description_width": "initial"}
        self.source = ipywidgets.Dropdown(
            options=["scene", "random scene", "scene with exact answer", "file", "prompt"],
            description=title,
            layout=ipywidgets.Layout(width="270px"),
            style={"description_width": "70px"},
        )
        self.scene = ipywidgets.Dropdown(options=examples(), layout=narrow)
        self.kind = ipywidgets.Dropdown(options=list(KINDS), layout=narrow, tooltip="what the answer is to")
        self.prompt = ipywidgets.Text(placeholder="a red ball on grass at day", layout=ipywidgets.Layout(width="300px"))
        self.seed = ipywidgets.IntText(0, description="seed", layout=ipywidgets.Layout(width="130px"), style=style)
        self.file = Opener(lambda data, name, size: self._start(partial(opened, data, name, size)))
        self.go = ipywidgets.Button(description="Open", layout=ipywidgets.Layout(width="100px"))
        self.go.on_click(lambda button: self._start(self.make))
        self.source.observe(lambda change: self._switch(), "value")
        self._parts = {
            "scene": (self.scene, self.go),
            "random scene": (self.seed, self.go),
            "scene with exact answer": (self.kind, self.seed, self.go),
            "file": (self.file,),
            "prompt": (self.prompt, self.seed, self.go),
        }
        super().__init__(layout=ipywidgets.Layout(flex_flow="row wrap", align_items="center"))
        self._switch()

    @property
    def make(self) -> Make:
        """What makes the picture that is chosen; files are taken when they are dropped or chosen, not here."""
        source = self.source.value
        if source == "scene":
            return partial(example, self.scene.value)
        if source == "random scene":
            return partial(sampled, self.seed.value)
        if source == "scene with exact answer":
            return partial(answered, self.kind.value, self.seed.value)
        return partial(self._generate, self.prompt.value, self.seed.value)

    def _switch(self) -> None:
        self.go.description = "Generate" if self.source.value == "prompt" else "Open"
        self.children = (self.source, *self._parts[self.source.value])
