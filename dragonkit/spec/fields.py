"""What a spec file may say: the present version, and the older ones with the way from each to the next."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from dragonkit.files import MAX_SIDE
from dragonkit.guidance import Guidance
from dragonkit.spec.edits import AnyEdit, MoveSpec, RelativePath
from dragonkit.strict import Strict

Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
"""Pixels; as many as a picture that is read may have."""


class Seeded(Strict):
    """What an image is generated from; size is (height, width), by default the model's own."""

    prompt: str
    seed: int
    cfg: float = 3.0
    size: tuple[Side, Side] | None = None


class GenerateSpec(Strict):
    """An image made by the model rather than read, in as many steps as the guidance has."""

    generate: Seeded


def _source(value: Any) -> str:
    return "file" if isinstance(value, str) else "generated"


ImageSpec = Annotated[
    Annotated[RelativePath, Tag("file")] | Annotated[GenerateSpec, Tag("generated")], Discriminator(_source)
]


class Truth1(Strict):
    """The exact answer, if it is known: the image, and the mask of the object in it."""

    image: RelativePath
    mask: RelativePath


class TruthSpec(Truth1):
    """The same, and the object's mask in the source where no edit says it."""

    source: RelativePath | None = None


def _finite(value: Any) -> bool:
    """Whether every number in a JSON value is finite."""
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


class GuidanceSpec(Strict):
    """A preset's name, and any field of `Guidance` to replace in it; `Guidance` itself checks names and values."""

    model_config = {"extra": "allow"}

    @model_validator(mode="after")
    def _finite(self) -> GuidanceSpec:
        if not _finite(self.model_extra):
            raise ValueError("a number is not finite: give finite numbers")
        return self

    preset: str | None = None

    def build(self, kind: str, default: str, **base: Any) -> Guidance:
        """The preset for a kind of edit with the given fields replaced.

        Args:
            kind: see :data:`dragonkit.guidance.KINDS`.
            default: the preset if none is named.
            base: fields to replace unless this says otherwise.
        """
        return Guidance.preset(self.preset or default, kind=kind).replace(**{**base, **(self.model_extra or {})})

    @classmethod
    def of(cls, guidance: Guidance) -> GuidanceSpec:
        """Every field of a guidance, so that it is the same whatever becomes of the presets."""
        return cls.model_validate_json(json.dumps(asdict(guidance)))


class Spec(Strict):
    """A spec file, version 2."""

    version: Literal[2]
    model: str = "mini"
    image: ImageSpec
    prompt: str = ""
    edits: Annotated[tuple[AnyEdit, ...], Field(min_length=1)]
    guidance: GuidanceSpec = GuidanceSpec()
    truth: TruthSpec | None = None


class Spec1(Strict):
    """A spec file, version 1: one edit, a move."""

    version: Literal[1]
    model: str = "mini"
    image: RelativePath
    prompt: str = ""
    edit: MoveSpec
    guidance: GuidanceSpec = GuidanceSpec()
    truth: Truth1 | None = None

    def migrated(self) -> Spec:
        """The same in version 2."""
        said: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set - {"version", "edit"}}
        if self.truth:
            said["truth"] = TruthSpec(image=self.truth.image, mask=self.truth.mask)
        return Spec(version=2, edits=(self.edit,), **said)


VERSIONS: dict[int, type[Spec1] | type[Spec]] = {1: Spec1, 2: Spec}
"""Each version's own class. All but the last have ``migrated``, which leads to the next version."""
