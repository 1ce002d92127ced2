"""An edit as Python code, which gives the same picture again from files saved beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from dragonkit.edits import Edit
from dragonkit.generation import Origin
from dragonkit.guidance import KINDS, PRESETS, Guidance
from dragonkit.spec.edits import edit_spec, flat

PICTURES = ("mask", "reference", "reference_mask")
"""What of an edit stands in files."""


def recipe(
    edits: Sequence[Edit],
    prompt: str,
    guidance: Guidance,
    *,
    model: str,
    preset: str,
    folder: str | Path,
    origin: Origin | None = None,
) -> str:
    """Code that does an edit again, for the folder that :func:`dragonkit.spec.save_spec` wrote it to.

    Args:
        edits: done at once.
        prompt: what the picture shows.
        guidance: how.
        model: what to load.
        preset: name of the preset whose differences to ``guidance`` are written out.
        folder: where the pictures are.
        origin: what the picture was generated from, if the edit goes along its path; else it is read from a file.

    Raises:
        InputError: an edit is of a kind that has no code: one that is not of this kit.
    """
    calls = [_call(edit, number) for number, edit in enumerate(flat(list(edits)), start=1)]
    task = calls[0] if len(calls) == 1 else "[\n    " + ",\n    ".join(calls) + ",\n]"
    lines = [
        "from pathlib import Path",
        "",
        "from PIL import Image",
        "",
        "import dragonkit as dk",
        "",
        f"folder = Path({str(folder)!r})",
        f"model = dk.load({model!r})",
        'image = Image.open(folder / "before.png")' if origin is None else f"image = {_generated(origin)}",
        f"edit = {task}",
        f"guidance = {_guidance(guidance, preset, _kind(edits))}",
        f"result = dk.edit(model, image, edit, {prompt!r}, guidance=guidance)",
        'result.save(folder / "result.png")',
    ]
    return "\n".join(lines) + "\n"


def _call(edit: Edit, number: int) -> str:
    """How an edit is made, its pictures read from the folder."""

    def put(name: str, picture: Tensor) -> str:
        return f"{name}.png" if number == 1 else f"{name}-{number}.png"

    said = edit_spec(edit, put)
    values: dict[str, Any] = {name: getattr(said, name) for name in type(said).model_fields if name != "kind"}
    shown = {
        name: f'Image.open(folder / "{value}")' if name in PICTURES and value is not None else repr(value)
        for name, value in values.items()
    }
    return f"dk.{type(edit).__name__}({', '.join(f'{name}={value}' for name, value in shown.items())})"


def _generated(origin: Origin) -> str:
    """How a picture is generated."""
    named = ", ".join(f"{name}={getattr(origin, name)!r}" for name in ("steps", "cfg", "size"))
    return f"model.generate({origin.prompt!r}, {origin.seed!r}, {named})"


def _kind(edits: Sequence[Edit]) -> str:
    kind = edits[0].kind
    return kind if kind in KINDS else "move"


def _guidance(guidance: Guidance, preset: str, kind: str) -> str:
    """The preset and what differs from it."""
    preset = preset if preset in PRESETS else "iclr"
    base = Guidance.preset(preset, kind)
    changed = [f.name for f in fields(Guidance) if getattr(guidance, f.name) != getattr(base, f.name)]
    if "layers" in changed and "layer_weights" not in changed:
        changed.append("layer_weights")  # given without, the weights would be shared out anew
    call = f'dk.Guidance.preset("{preset}", "{kind}")'
    rest = ", ".join(f"{name}={getattr(guidance, name)!r}" for name in changed)
    return f"{call}.replace({rest})" if rest else call
