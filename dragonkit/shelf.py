"""Folders that are one document: an index in JSON, and the files that it names.

A file's name holds a digest of its content, so saving again never changes a file that the old index names; and the
index moves into place last, in one go. Whoever is stopped in between leaves the old document as it was.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dragonkit.errors import InputError
from dragonkit.files import whole_folder
from dragonkit.strict import one_line

_OURS = re.compile(r"[a-z-]+\.[0-9a-f]{12}\.[a-z]+")

Index = TypeVar("Index", bound=BaseModel)


class Draft:
    """A document being written.

    Args:
        folder: where its files are until all of them are there.

    Attributes:
        index: what the index says; set it before the block ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.index: dict[str, Any] = {}

    def put(self, stem: str, suffix: str, write: Callable[[Path], object]) -> str:
        """Write a file; equal content under one stem is one file.

        Args:
            stem: what the file's name begins with: small letters and hyphens.
            suffix: what it ends with.
            write: called with the path to write to.

        Returns:
            Its name.
        """
        draft = self._folder / f"{stem}{suffix}"
        write(draft)
        name = f"{stem}.{hashlib.sha256(draft.read_bytes()).hexdigest()[:12]}{suffix}"
        draft.replace(self._folder / name)
        return name


@contextmanager
def document(out: Path, index: str) -> Iterator[Draft]:
    """Write a document; it appears, or takes the old one's place, only if the block ends well.

    Args:
        out: the folder; other files in it are left alone.
        index: name of the index, in alphabetical order behind all others.

    Raises:
        InputError: the folder cannot be written to.
    """
    with whole_folder(out) as folder:
        draft = Draft(folder)
        yield draft
        files = {file.name for file in folder.iterdir()}
        assert all(map(_OURS.fullmatch, files)) and index > max(files, default="")  # moved in this order
        text = json.dumps(draft.index | {"files": sorted(files)}, indent=1, allow_nan=False)
        (folder / index).write_text(text + "\n", encoding="utf-8")
        old = _files(out / index)
    for name in old - files:
        (out / name).unlink(missing_ok=True)


def read_index(path: Path, model: type[Index]) -> Index:
    """Read a document's index, and see that its files are there.

    Args:
        path: of the index.
        model: what it must look like; has a field ``files``.

    Raises:
        InputError: the index is missing, broken or of another version, or a file is missing.
    """
    try:
        index = model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give the folder that was saved") from None
    except ValidationError as error:
        raise InputError(f"{path}: {one_line(error, model)}") from None
    for name in index.files:  # type: ignore[attr-defined]
        if not (path.parent / name).is_file():
            raise InputError(f"{path.parent / name} is missing: save the folder again")
    return index


def _files(index: Path) -> set[str]:
    """The files of the document that is there now; none if it is not one of ours."""
    try:
        named = json.loads(index.read_bytes())["files"]
        return {name for name in named if _OURS.fullmatch(name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
