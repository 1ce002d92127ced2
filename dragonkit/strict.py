"""Files as data: models that refuse what they do not know, and their complaints in one line."""

from __future__ import annotations

import difflib
import reprlib
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Models = list[type[BaseModel]]


class Strict(BaseModel):
    """Base of all that is read from a file: unknown fields, other types and numbers that are not finite are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def _plain(name: str) -> str:
    if name in ("", ".", "..") or any(c in name for c in "/\\:\0"):
        raise ValueError("name a file in the same folder, without any folder")
    return name


FileName = Annotated[str, AfterValidator(_plain)]
"""A file beside the one that names it."""


def one_line(error: ValidationError, model: type[BaseModel]) -> str:
    """The first of pydantic's complaints about a ``model`` as one line: field, value, remedy."""
    first, *others = error.errors(include_url=False)
    return _explain(first, model) + (f" (and {len(others)} more)" if others else "")


def _explain(error: ErrorDetails, model: type[BaseModel]) -> str:
    value, known = reprlib.repr(error["input"]), error["type"]
    if known == "extra_forbidden":
        path, models = _followed(error["loc"][:-1], model)
        name = str(error["loc"][-1])
        names = list(dict.fromkeys(field for m in models for field in m.model_fields))
        near = difflib.get_close_matches(name, names, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
        return f"unknown field {'.'.join([*path, name])!r}: {remedy}"
    field = ".".join(_followed(error["loc"], model)[0])
    match known:
        case "json_invalid":
            return f"not JSON ({error['ctx']['error']}): check quotes, commas and brackets"
        case "missing":
            return f"the field {field!r} is missing: add it"
        case "union_tag_not_found":
            tag = error["ctx"]["discriminator"].strip("'")
            return f"the field '{field}.{tag}' is missing: add it"
        case "union_tag_invalid":
            tag = error["ctx"]["discriminator"].strip("'")
            return f"{field}.{tag} is {error['ctx']['tag']!r}: choose from {error['ctx']['expected_tags']}"
        case "value_error":
            return f"{field or 'the file'} is {value}: {error['ctx']['error']}"
        case _:
            return f"{field or 'the file'} is {value}: {error['msg'].replace('Input should', 'it should')}"


def _followed(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[list[str], Models]:
    """A complaint's place without the tags of unions, which are not in the file, and the models that may be there."""
    path, models = list[str](), [model]
    for step in loc:
        fields = [m.model_fields[step] for m in models if step in m.model_fields] if isinstance(step, str) else []
        if isinstance(step, str) and models and not fields:  # the tag of a union, which chooses a model
            models = [m for m in models if _tag(m) == step] or models
            continue
        path.append(str(step))
        if isinstance(step, str):
            models = [m for field in fields for m in _models(field.annotation)]
    return path, models


def _tag(model: type[BaseModel]) -> str | None:
    kind = model.model_fields.get("kind")
    return get_args(kind.annotation)[0] if kind else None


def _models(hint: Any) -> Models:
    """The models that a type hint holds, however deep."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return [hint]
    return [model for inner in get_args(hint) for model in _models(inner)]
