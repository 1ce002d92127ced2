"""The studio's controls: what they are, how they stand together, and what is drawn on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
from PIL import Image

from dragonkit.edits import Edit
from dragonkit.guidance import Guidance
from dragonkit_widgets.advanced import Advanced
from dragonkit_widgets.assets import styles
from dragonkit_widgets.chooser import Chooser
from dragonkit_widgets.compare import Compare
from dragonkit_widgets.drawing import HINTS, REFERRED, SCALED, TURNED, Drawing, Kind, check_kinds
from dragonkit_widgets.notice import Notice, Snippet
from dragonkit_widgets.player import GuidancePlayer
from dragonkit_widgets.sketch import MaskPainter, Sketch
from dragonkit_widgets.sources import Picture
from dragonkit_widgets.strip import Strip

Layout = ipywidgets.Layout


class Status(Notice):
    """The studio's line of text, which also brings its styles."""

    _css = styles("common", "notice", "studio")


class Bench:
    """Every control of the studio.

    Args:
        image: to draw on.
        preset: of the guidance.
        size: of the canvases' longer side, CSS pixels.
        kinds: of edit, by name, beside those of the kit.

    Raises:
        InputError: a kind cannot be one.
    """

    def __init__(self, image: Image.Image, preset: str, size: int, kinds: Mapping[str, Kind]) -> None:
        check_kinds(kinds)
        self._size, self._kinds = size, dict(kinds)
        self.sketch = Sketch(image, size=size)
        self.reference = MaskPainter(Image.new("RGB", (256, 256), (200, 200, 200)), size=size)
        self._referred: Picture | None = None
        self.kind = ipywidgets.ToggleButtons(options=[*HINTS, *kinds], style={"button_width": "100px"})
        self.hint = ipywidgets.Label()
        self.hint.add_class("dk-studio-hint")
        self.prompt = ipywidgets.Text(
            description="prompt",
            placeholder="what the image shows",
            continuous_update=False,
            layout=Layout(width="640px"),
            style={"description_width": "70px"},
        )
        self.scale = _slider("scale", 1.0, 0.4, 2.0, 0.01, "new size over old")
        self.angle = _slider("angle", 0.0, -180.0, 180.0, 1.0, "degrees clockwise")
        self.run = _button("Run", "play", "do the edit", "primary")
        self.stop = _button("Stop", "stop", "end the run at its next step", "warning")
        self.fill = _button("Draw it for me", "magic", "draw the edit whose exact answer is known")
        self.looks = ipywidgets.Checkbox(
            description="record attention", tooltip="where the edited pixels look, for 'Step by step'", indent=False
        )
        self.status = Status()
        self.compare = Compare(size=size)
        self.player = GuidancePlayer(size=max(64, size * 2 // 3))
        self.tabs = ipywidgets.Tab([self.compare, self.player], titles=["Compare", "Step by step"])
        self.strip = Strip()
        self.advanced = Advanced(preset, self.kind.value)
        self.folder = ipywidgets.Text("my-edit", description="folder", style={"description_width": "70px"})
        self.save = _button("Save", "save", "the edit with its pictures, and the history")
        self.load = _button("Load", "folder-open", "an edit or a history that was saved")
        self.snippet = Snippet()
        self.kind.observe(lambda change: self._switch(), "value")

    def laid_out(
        self, choose: Callable[..., object], generate: Callable[[str, int], Picture]
    ) -> list[ipywidgets.Widget]:
        """The rows of the panel.

        Args:
            choose: begins to open a picture; ``reference=True`` for the second one.
            generate: makes a picture of a prompt with a seed.
        """
        self.chooser = Chooser(choose, generate)
        theirs = Chooser(lambda make: choose(make, reference=True), generate, "reference")
        self._second = ipywidgets.VBox([theirs, self.reference])
        self._choosers = (self.chooser, theirs)
        buttons = ipywidgets.HBox([self.run, self.stop, self.fill])
        left = ipywidgets.VBox(
            [self.sketch, self.scale, self.angle, buttons, self.looks, self.status],
            layout=Layout(width=f"{self._size + 30}px", max_width="100%", margin="0 16px 8px 0"),
        )
        self.tabs.layout = Layout(flex="1 1 440px", min_width="0")
        row = Layout(display="flex", flex_flow="row wrap", align_items="flex-start")
        files = ipywidgets.VBox([ipywidgets.HBox([self.folder, self.save, self.load]), self.snippet])
        more = ipywidgets.Accordion([self.advanced, files], titles=["Advanced", "Save, load, copy as Python"])
        self._switch()
        self.busy = False
        return [
            self.chooser,
            self.prompt,
            self.kind,
            self.hint,
            ipywidgets.Box([left, self.tabs], layout=row),
            self._second,
            self.strip,
            more,
        ]

    @property
    def busy(self) -> bool:
        """Whether something runs, so that only Stop can be pressed; settable."""
        return not self.stop.disabled

    @busy.setter
    def busy(self, busy: bool) -> None:
        self.stop.disabled = not busy
        for control in (self.run, self.fill, self.load, self.save, *(chooser.go for chooser in self._choosers)):
            control.disabled = busy
        self.strip.disabled = busy

    @property
    def drawing(self) -> Drawing:
        """What is drawn; sliders that are hidden do not count."""
        kind = self.kind.value
        known: dict[str, Any] = {
            "kind": kind,
            "points": tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in self.sketch.points),
            "mask": self.sketch.mask,
        }
        if kind in SCALED:
            known["scale"] = self.scale.value
        if kind in TURNED:
            known["angle"] = self.angle.value
        if kind in REFERRED and self._referred is not None:
            known |= {"reference": self._referred.image, "reference_prompt": self._referred.prompt}
            known["reference_mask"] = self.reference.mask
        return Drawing(**known)

    @property
    def edit(self) -> Edit:
        """What is drawn, as an edit.

        Raises:
            InputError: something is missing; the message says what to draw.
        """
        own = self._kinds.get(self.kind.value)
        return own.build(self.drawing) if own else self.drawing.edit

    def draw(self, drawing: Drawing) -> None:
        """Put a drawing on the canvases and sliders; a kind of edit that changes brings its preset."""
        self.kind.value = drawing.kind
        self.sketch.points, self.sketch.mask = list(drawing.points), drawing.mask
        self.scale.value, self.angle.value = drawing.scale, drawing.angle
        if drawing.reference is not None:
            self.refer(drawing.reference, drawing.reference_prompt)
            self.reference.mask = drawing.reference_mask

    def refer(self, image: Image.Image, prompt: str) -> None:
        """Take a reference image, nothing painted on it."""
        self._referred = Picture(image, prompt)
        self.reference.mask, self.reference.points = None, []
        self.reference.image = image

    def show(self, image: Image.Image, prompt: str, drawing: Drawing | None, guidance: Guidance | None) -> None:
        """Take a picture with a drawing on it, or an empty one, and the guidance that goes with the drawing."""
        self.sketch.points, self.sketch.mask = [], None
        self.sketch.image, self.prompt.value = image, prompt
        self.scale.value, self.angle.value = 1.0, 0.0
        if drawing is not None:
            self.draw(drawing)
        if guidance is not None:
            self.advanced.guidance = guidance

    def _switch(self) -> None:
        kind, own = self.kind.value, self._kinds.get(self.kind.value)
        self.hint.value = own.hint if own else HINTS[kind]
        self.scale.layout.display = "" if kind in SCALED else "none"
        self.angle.layout.display = "" if kind in TURNED else "none"
        self._second.layout.display = "" if kind in REFERRED else "none"
        guided = own.guided if own else kind
        if self.advanced.kind != guided:
            self.advanced.reset(guided)


def _slider(name: str, value: float, low: float, high: float, step: float, about: str) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        value, min=low, max=high, step=step, description=name, tooltip=about, style={"description_width": "50px"}
    )


def _button(text: str, icon: str, about: str, style: str = "") -> ipywidgets.Button:
    width = "140px" if len(text) > 8 else "100px"
    return ipywidgets.Button(description=text, icon=icon, tooltip=about, button_style=style, layout=Layout(width=width))
