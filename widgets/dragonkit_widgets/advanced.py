"""Every number of a guidance as a control, with a preset's values."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import ipywidgets

from dragonkit.errors import InputError
from dragonkit.guidance import PRESETS, Guidance
from dragonkit_widgets.notice import Notice

GROUPS = {
    "run": ("steps", "cfg", "seed", "start", "through", "reference", "one_pass", "preserve"),
    "energy": ("energy", "factor", "clip", "w_edit", "w_content", "w_contrast", "w_inpaint", "alpha", "beta"),
    "windows": ("guided", "dense", "attention", "lock_window", "travel", "sde"),
    "layers and attention": ("layers", "layer_weights", "attention_mode", "regional"),
    "background": ("lock", "lock_margin"),
    "time travel and noise": ("repeats", "sde_inside", "sde_outside"),
}
"""Every field of :class:`dragonkit.Guidance`, as they stand together."""

STEP = 0.01  # of windows, a fraction of the run


class Advanced(ipywidgets.VBox):
    """The fields of a :class:`dragonkit.Guidance`.

    Windows show hundredths of the run; one that is not moved keeps its exact value.

    Args:
        preset: name of the preset to begin with.
        kind: of edit.
    """

    def __init__(self, preset: str = "mini", kind: str = "move") -> None:
        self.kind = kind
        self._base = Guidance.preset(preset, kind)
        about, kinds = _about(), get_type_hints(Guidance)
        self.preset = ipywidgets.Dropdown(options=list(PRESETS), value=preset, description="preset")
        self._reset = ipywidgets.Button(description="Reset to preset", tooltip="every value as the preset has it")
        self.read = Notice()
        self.controls: dict[str, Any] = {
            name: _control(name, kinds[name], getattr(self._base, name), about.get(name, "")) for name in kinds
        }
        for control in self.controls.values():
            control.observe(lambda change: self._say(), "value")
        self.preset.observe(lambda change: self.reset(), "value")
        self._reset.on_click(lambda button: self.reset())
        boxes = [
            ipywidgets.VBox(
                [_titled(group), *(self.controls[name] for name in names)],
                layout=ipywidgets.Layout(width="320px", margin="0 12px 8px 0"),
            )
            for group, names in GROUPS.items()
        ]
        head = ipywidgets.HBox([self.preset, self._reset, self.read])
        wrapped = ipywidgets.Box(boxes, layout=ipywidgets.Layout(display="flex", flex_flow="row wrap"))
        super().__init__([head, wrapped])
        self._say()

    @property
    def guidance(self) -> Guidance:
        """What the controls say.

        Raises:
            InputError: a value is refused.
        """
        return self._base.replace(**self.changed)

    @guidance.setter
    def guidance(self, guidance: Guidance) -> None:
        for name, control in self.controls.items():
            control.value = _shown(getattr(guidance, name), control)
        if any(getattr(self.guidance, name) != getattr(guidance, name) for name in self.controls):
            self._base = guidance  # windows finer than the sliders are kept
            self._say()

    @property
    def changed(self) -> dict[str, Any]:
        """The fields that differ from the preset.

        Raises:
            InputError: a list of numbers cannot be read.
        """
        said: dict[str, Any] = {}
        for name, control in self.controls.items():
            value = getattr(self._base, name)
            now = _shown(control.value, control) if not isinstance(control.value, str) else control.value
            if now != _shown(value, control):
                said[name] = _meant(name, now, value)
        if "layers" in said and "layer_weights" not in said and len(said["layers"]) == len(self._base.layer_weights):
            said["layer_weights"] = self._base.layer_weights
        return said

    def reset(self, kind: str | None = None) -> None:
        """Take all values from the preset, for another kind of edit if wished."""
        self.kind = kind or self.kind
        self._base = Guidance.preset(self.preset.value, self.kind)
        for name, control in self.controls.items():
            control.value = _shown(getattr(self._base, name), control)
        self._say()

    def _say(self) -> None:
        try:
            names = list(self.changed)
        except InputError as error:
            self.read.say(str(error), error=True)
            return
        same = f"as preset {self.preset.value} has them for {self.kind}"
        self.read.say(f"changed: {', '.join(names)}" if names else same)


def _control(name: str, kind: Any, value: Any, about: str) -> Any:
    """A control for a field, by its type."""
    common = {"description": name, "tooltip": about, "style": {"description_width": "110px"}}
    common |= {"layout": ipywidgets.Layout(width="310px")}
    if get_origin(kind) is Literal:
        return ipywidgets.Dropdown(options=list(get_args(kind)), value=value, **common)
    if kind is bool:
        return ipywidgets.Checkbox(value=value, indent=True, **common)
    if kind is int:
        return ipywidgets.IntText(value=value, **common)
    if kind is float:
        return ipywidgets.FloatText(value=value, step=None, **common)
    if get_args(kind)[-1] is not ...:
        return ipywidgets.FloatRangeSlider(
            value=value, min=0, max=1, step=STEP, readout_format=".2f", continuous_update=False, **common
        )
    return ipywidgets.Text(value=_listed(value), continuous_update=False, **common)


def _shown(value: Any, control: Any) -> Any:
    """A field's value as its control has it."""
    if isinstance(control, ipywidgets.Text):
        return _listed(value)
    if isinstance(control, ipywidgets.FloatRangeSlider):
        return tuple(round(v, 2) for v in value)  # the browser's own steps are not that exact
    return value


def _meant(name: str, shown: Any, before: Any) -> Any:
    """A control's value as the field wants it."""
    if not isinstance(before, tuple):
        return shown
    if not isinstance(shown, str):
        return shown
    number = int if name == "layers" else float
    try:
        return tuple(number(part) for part in shown.replace(",", " ").split())
    except ValueError:
        raise InputError(f"{name} is {shown!r}: give numbers, for instance {_listed(before)}") from None


def _listed(values: Any) -> str:
    return ", ".join(f"{v:g}" for v in values)


def _titled(text: str) -> ipywidgets.Label:
    label = ipywidgets.Label(text, layout=ipywidgets.Layout(margin="4px 0 0 0"))
    label.add_class("dk-studio-head")
    return label


def _about() -> dict[str, str]:
    """What the docstring of Guidance says of each field."""
    text = inspect.cleandoc(Guidance.__doc__ or "").partition("Args:\n")[2].partition("\nRaises:")[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, flags=re.MULTILINE)
    return {name: re.sub(r"\s+|``", lambda m: " " if m[0].isspace() else "", said) for name, said in entries}


assert {name for names in GROUPS.values() for name in names} == {f.name for f in fields(Guidance)}
