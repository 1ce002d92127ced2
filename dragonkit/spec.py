"""An edit as a small JSON file beside its pictures: validated, versioned, and loaded.

```json
{"version": 1, "model": "mini", "image": "before.png", "prompt": "a red ball on grass at day",
 "edit": {"kind": "move", "mask": "mask.png", "by": [40, 0], "scale": 1.0, "angle": 0.0},
 "guidance": {"preset": "mini", "steps": 50}, "truth": {"image": "after.png", "mask": "target.png"}}
```

Paths are relative to the spec file, so that a folder can be moved or sent. `Spec` is the file as data; `Task` is what
the editor needs, with pictures read and the edit built. Every mistake in a spec is an `InputError` of one line.
"""

from __future__ import annotations

import difflib
import json
import math
import reprlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from dragonkit.edits import Move
from dragonkit.errors import InputError
from dragonkit.files import read_image, read_mask, whole_folder, write_image
from dragonkit.guidance import Guidance
from dragonkit.models import CARDS, Card
from dragonkit.regions import as_image

if TYPE_CHECKING:
    from PIL import Image
    from pydantic_core import ErrorDetails
    from torch import Tensor

    from dragonkit.world import Counterfactual


def _relative(path: str) -> str:
    if PurePosixPath(path).is_absolute() or Path(path).is_absolute():
        raise ValueError("write the path relative to the spec file")
    return path


RelativePath = Annotated[str, AfterValidator(_relative)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class MoveSpec(_Strict):
    """A `Move`: take what the mask marks elsewhere, larger or turned if wished."""

    kind: Literal["move"]
    mask: RelativePath
    by: tuple[float, float]
    scale: float = 1.0
    angle: float = 0.0

    def build(self, mask: Tensor) -> Move:
        """Make the edit of a mask (H, W) that has been read."""
        return Move(mask, by=self.by, scale=self.scale, angle=self.angle)


class TruthSpec(_Strict):
    """The exact answer, if it is known."""

    image: RelativePath
    mask: RelativePath


def _finite(value: Any) -> bool:
    """Whether every number in a JSON value is finite."""
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


class GuidanceSpec(_Strict):
    """A preset's name, and any field of `Guidance` to replace in it; `Guidance` itself checks names and values."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _finite(self) -> GuidanceSpec:
        if not _finite(self.model_extra):
            raise ValueError("a number is not finite: give finite numbers")
        return self

    preset: str | None = None

    def build(self, kind: str, default: str) -> Guidance:
        """The preset for a kind of edit, ``default`` if none is named, with the given fields replaced."""
        return Guidance.preset(self.preset or default, kind=kind).replace(**(self.model_extra or {}))


class Spec(_Strict):
    """A spec file, version 1. Each new kind of edit adds its own class to ``edit``."""

    version: Literal[1]
    model: str = "mini"
    image: RelativePath
    prompt: str = ""
    edit: MoveSpec
    guidance: GuidanceSpec = GuidanceSpec()
    truth: TruthSpec | None = None


@dataclass(frozen=True)
class Truth:
    """The exact answer to an edit: image (3, H, W) in [0, 1] and the object's mask (H, W)."""

    image: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Task:
    """A spec with its pictures read and its edit built: all that ``load`` and ``edit`` need."""

    spec: Spec
    model: str
    image: Image.Image
    mask: Tensor
    prompt: str
    edit: Move
    guidance: Guidance
    truth: Truth | None


def read_spec(path: Path) -> Spec:
    """Read and validate a spec file, without opening its pictures.

    Raises:
        InputError: the file is missing or not JSON, or a field is unknown, missing, of a wrong type or out of range.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give the path of a spec, a JSON file") from None
    try:
        return Spec.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{path}: {_one_line(error)}") from None


def load_task(path: str | Path) -> Task:
    """Read a spec file with everything it names except the model.

    Raises:
        InputError: as `read_spec`, or a picture is missing, broken or of a wrong mode or size.
    """
    spec, folder = read_spec(Path(path)), Path(path).parent
    image = read_image(folder / spec.image)
    mask = read_mask(folder / spec.edit.mask)
    truth = None
    if spec.truth:
        truth = Truth(as_image(read_image(folder / spec.truth.image)), read_mask(folder / spec.truth.mask))
        for name, pixels in ((spec.truth.image, truth.image), (spec.truth.mask, truth.mask)):
            height, width = pixels.shape[-2:]
            if (width, height) != image.size:
                raise InputError(
                    f"{folder / name} is {width}x{height}, the image {image.width}x{image.height}: "
                    "give the truth in the image's size"
                )
    return Task(
        spec=spec,
        # "./weights" is a place, found from the spec like every other path; "mini" or "owner/name" is a name.
        model=str(folder / spec.model) if spec.model.startswith(("./", "../")) else spec.model,
        image=image,
        mask=mask,
        prompt=spec.prompt,
        edit=spec.edit.build(mask),
        guidance=spec.guidance.build(spec.edit.kind, CARDS.get(spec.model, Card).guidance),
        truth=truth,
    )


def save_case(case: Counterfactual, out: Path, guidance: GuidanceSpec | None = None) -> Path:
    """Write a case of the bundled world as a spec folder: edit.json, before, mask, after and target as PNG.

    Args:
        case: what `dragonkit.world.counterfactual` returned; of kind "move" or "resize".
        out: the folder; files of the same names are replaced.
        guidance: written into the spec; the preset "mini" if None.

    Returns:
        The path of edit.json.

    Raises:
        InputError: the edit has no spec yet.
    """
    if case.kind not in ("move", "resize"):
        raise InputError(f"an edit of kind {case.kind!r} cannot be written as a spec yet: choose move or resize")
    move = cast(Move, case.edit)
    spec = Spec(
        version=1,
        image="before.png",
        prompt=case.prompt,
        edit=MoveSpec(kind="move", mask="mask.png", by=move.by, scale=move.scale, angle=move.angle),
        guidance=guidance or GuidanceSpec(preset="mini"),
        truth=TruthSpec(image="after.png", mask="target.png"),
    )
    with whole_folder(out) as folder:
        write_image(case.before.image, folder / "before.png")
        write_image(case.after.image, folder / "after.png")
        write_image(case.mask, folder / "mask.png")
        write_image(case.target, folder / "target.png")
        fields = spec.model_dump(mode="json", exclude_unset=True)
        (folder / "edit.json").write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    return out / "edit.json"


def _one_line(error: ValidationError) -> str:
    """The first of pydantic's complaints as one line: field, value, remedy."""
    first, *others = error.errors(include_url=False)
    return _explain(first) + (f" (and {len(others)} more)" if others else "")


def _explain(error: ErrorDetails) -> str:
    field, value = ".".join(map(str, error["loc"])), reprlib.repr(error["input"])
    match error["type"]:
        case "json_invalid":
            return f"not JSON ({error['ctx']['error']}): check quotes, commas and brackets"
        case "missing":
            return f"the field {field!r} is missing: add it"
        case "extra_forbidden":
            known = _fields_at(error["loc"][:-1])
            near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
            return f"unknown field {field!r}: " + (
                f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            )
        case "value_error":
            return f"{field} is {value}: {error['ctx']['error']}"
        case _:
            return f"{field or 'the spec'} is {value}: {error['msg'].replace('Input should', 'it should')}"


def _fields_at(loc: tuple[int | str, ...]) -> list[str]:
    """The names that the part of a spec at ``loc`` may have."""
    model: Any = Spec
    for step in loc:
        hint = model.model_fields[step].annotation
        model = next(t for t in (hint, *get_args(hint)) if isinstance(t, type) and issubclass(t, BaseModel))
    return list(model.model_fields)
