"""Each kind of edit as data: one class a kind, that builds the edit from its pictures and is made from an edit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field
from torch import Tensor

from dragonkit.edits import Appearance, Drag, Edit, Move, Paste, Resize, Rotate, Several
from dragonkit.errors import InputError
from dragonkit.files import read_image, read_mask
from dragonkit.strict import Strict

Put = Callable[[str, Tensor], str]
"""(what it is, picture) -> path: writes an image (3, H, W) in [0, 1] or a mask (H, W)."""


def _relative(path: str) -> str:
    if PurePosixPath(path).is_absolute() or Path(path).is_absolute():
        raise ValueError("write the path relative to the spec file")
    if "\0" in path:
        raise ValueError("a path has no NUL in it")
    return path


RelativePath = Annotated[str, AfterValidator(_relative)]


class EditSpec(Strict):
    """An edit as data; paths are relative to the file that it stands in."""

    @abstractmethod
    def build(self, folder: Path) -> Edit:
        """Read its pictures and make the edit.

        Raises:
            InputError: a picture is missing, broken or of a wrong mode, or a value is out of range.
        """

    @classmethod
    @abstractmethod
    def of(cls, edit: Any, put: Put) -> EditSpec:
        """The data of an edit, its pictures handed to ``put``; images are rounded to 8 bits."""


class MoveSpec(EditSpec):
    """A `Move`: take what the mask marks elsewhere, larger or turned if wished."""

    kind: Literal["move"]
    mask: RelativePath
    by: tuple[float, float]
    scale: float = 1.0
    angle: float = 0.0

    def build(self, folder: Path) -> Move:
        """Make the edit."""
        return Move(read_mask(folder / self.mask), by=self.by, scale=self.scale, angle=self.angle)

    @classmethod
    def of(cls, edit: Move, put: Put) -> MoveSpec:
        """Take an edit apart."""
        return cls(kind="move", mask=put("mask", edit.mask), by=edit.by, scale=edit.scale, angle=edit.angle)


class ResizeSpec(EditSpec):
    """A `Resize`: grow or shrink what the mask marks."""

    kind: Literal["resize"]
    mask: RelativePath
    scale: float

    def build(self, folder: Path) -> Resize:
        """Make the edit."""
        return Resize(read_mask(folder / self.mask), self.scale)

    @classmethod
    def of(cls, edit: Resize, put: Put) -> ResizeSpec:
        """Take an edit apart."""
        return cls(kind="resize", mask=put("mask", edit.mask), scale=edit.scale)


class AppearanceSpec(EditSpec):
    """An `Appearance`: give what the mask marks the looks of an object in another image."""

    kind: Literal["appearance"]
    mask: RelativePath
    reference: RelativePath
    reference_mask: RelativePath
    reference_prompt: str = ""

    def build(self, folder: Path) -> Appearance:
        """Make the edit."""
        reference, theirs = read_image(folder / self.reference), read_mask(folder / self.reference_mask)
        return Appearance(read_mask(folder / self.mask), reference, theirs, self.reference_prompt)

    @classmethod
    def of(cls, edit: Appearance, put: Put) -> AppearanceSpec:
        """Take an edit apart."""
        (ref,) = edit.references
        return cls(
            kind="appearance",
            mask=put("mask", edit.mask),
            reference=put("reference", ref.image),
            reference_mask=put("reference-mask", ref.mask),
            reference_prompt=ref.prompt,
        )


class PointsSpec(EditSpec):
    """An edit by points (x0, y0, x1, y1): from there to there."""

    edit: ClassVar[type[Drag]]

    points: tuple[tuple[float, float, float, float], ...]
    mask: RelativePath | None = None

    def build(self, folder: Path) -> Drag:
        """Make the edit."""
        return self.edit(self.points, read_mask(folder / self.mask) if self.mask is not None else None)

    @classmethod
    def of(cls, edit: Drag, put: Put) -> PointsSpec:
        """Take an edit apart."""
        (kind,) = get_args(cls.model_fields["kind"].annotation)
        mask = put("mask", edit.mask) if edit.mask is not None else None
        return cls.model_validate({"kind": kind, "points": edit.points, "mask": mask})


class DragSpec(PointsSpec):
    """A `Drag`: take what is at some points to other points."""

    edit = Drag
    kind: Literal["drag"]


class RotateSpec(PointsSpec):
    """A `Rotate`: turn the surface that the mask marks in depth, as the points say."""

    edit = Rotate
    kind: Literal["rotate"]


class PasteSpec(EditSpec):
    """A `Paste`: put an object of another image here."""

    kind: Literal["paste"]
    reference: RelativePath
    reference_mask: RelativePath
    at: tuple[float, float]
    scale: float = 1.0
    reference_prompt: str = ""

    def build(self, folder: Path) -> Paste:
        """Make the edit."""
        reference, theirs = read_image(folder / self.reference), read_mask(folder / self.reference_mask)
        return Paste(reference, theirs, self.at, self.scale, self.reference_prompt)

    @classmethod
    def of(cls, edit: Paste, put: Put) -> PasteSpec:
        """Take an edit apart."""
        (ref,) = edit.references
        return cls(
            kind="paste",
            reference=put("reference", ref.image),
            reference_mask=put("reference-mask", ref.mask),
            at=edit.at,
            scale=edit.scale,
            reference_prompt=ref.prompt,
        )


AnyEdit = Annotated[
    MoveSpec | ResizeSpec | AppearanceSpec | DragSpec | RotateSpec | PasteSpec, Field(discriminator="kind")
]

EDITS: dict[type[Edit], type[EditSpec]] = {
    Move: MoveSpec,
    Resize: ResizeSpec,
    Appearance: AppearanceSpec,
    Drag: DragSpec,
    Rotate: RotateSpec,
    Paste: PasteSpec,
}
"""The class of data for each class of edit."""


def flat(edits: Any) -> tuple[Edit, ...]:
    """One edit, several or a list of them as a tuple of simple ones, all of which can be written.

    Raises:
        InputError: there is none, or one is of a kind that cannot be written.
    """
    simple = Several(edits).edits if isinstance(edits, (list, tuple)) else Several([edits]).edits
    for edit in simple:
        if type(edit) not in EDITS:
            names = ", ".join(cls.__name__ for cls in EDITS)
            raise InputError(f"an edit of type {type(edit).__name__} cannot be written: write one of {names}")
    return tuple(simple)


def edit_spec(edit: Edit, put: Put) -> EditSpec:
    """The data of a simple edit, its pictures handed to ``put``."""
    return EDITS[type(edit)].of(edit, put)
