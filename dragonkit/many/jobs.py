"""What there is to do: jobs with their pictures at hand, and jobs read from spec files when their turn comes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from dragonkit.edits import Edit
from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.models import Model
from dragonkit.spec import Spec, Task, model_of, parse, read_spec, read_task

_NAME = re.compile(r"[^\s./\\:*?\"<>|\x00-\x1f\x7f\ud800-\udfff][^/\\:*?\"<>|\x00-\x1f\x7f\ud800-\udfff]*")
_LONGEST = 200  # bytes of a name; file systems take 255, of which what is added to it needs some


class Ready(Protocol):
    """What :func:`dragonkit.many.edit_many` takes: a :class:`Job`, or what can become one."""

    @property
    def name(self) -> str:
        """What its results are called; a plain name, for it may become a folder's."""
        ...

    def ready(self, model: Model) -> Job:
        """The job, its pictures read."""
        ...


@dataclass(frozen=True, eq=False)
class Job:
    """One edit to carry out.

    Args:
        name: what its result is called.
        image: what to edit, see :func:`dragonkit.edit`.
        edit: what to do.
        prompt: what the image shows.
        guidance: how.
        task: the spec that it is from, if it is from one; its result is then scored against the spec's truth.
    """

    name: str
    image: Any
    edit: Edit | Sequence[Edit]
    prompt: str | None = None
    guidance: Guidance | None = None
    task: Task | None = None

    def ready(self, model: Model) -> Job:
        """Itself."""
        return self


@dataclass(frozen=True)
class Written:
    """A job in a spec, whose pictures are read when its turn comes.

    Args:
        name: what its result is called.
        spec: reads and validates the spec.
        folder: what its paths are relative to.
        strict: whether the spec's own model must be the one that edits; else it edits whatever the spec names.
    """

    name: str
    spec: Callable[[], Spec]
    folder: Path
    strict: bool = False

    def ready(self, model: Model) -> Job:
        """Read it.

        Raises:
            InputError: the spec or a picture cannot be used, or the spec names another model.
        """
        spec = self.spec()
        named = _named(spec, self.folder)
        if self.strict and named != model.name:
            raise InputError(f"its model is {named!r} and this run's {model.name!r}: give --model to use one for all")
        task = read_task(spec.model_copy(update={"model": model.name}), self.folder).ready(model)
        return Job(self.name, task.image, task.edit, task.prompt, task.guidance, task)


def as_job(given: Any) -> Ready:
    """A job as it is, or the path of a spec as one.

    Raises:
        InputError: it is neither.
    """
    if isinstance(given, (str, os.PathLike)):
        path = Path(given)
        name = path.resolve().parent.name if path.name == "edit.json" else path.stem
        return Written(name, partial(read_spec, path), path.parent)
    if not isinstance(given, (Job, Written)):
        raise InputError(f"a job is a {type(given).__name__}: give a Job, or the path of a spec file")
    return given


def check_name(name: Any) -> None:
    """Raise an InputError unless ``name`` can be a job's whose result is a folder."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name.encode()) > _LONGEST:
        raise InputError(f"the name {name!r} cannot be a folder's: give a few letters, digits, '-' and '_'")
    if name.lower().endswith(".error.json"):
        raise InputError(f"the name {name!r} is that of a file which tells of a failure: give another ending")


def read_jobs(source: str | os.PathLike[str], *, strict: bool = False) -> list[Written]:
    """The specs of a folder, or of a file with one a line.

    Of a folder: every NAME.json in it, and every NAME/edit.json; not what is hidden, nor a NAME.error.json, which tells
    of a job that failed. Of a .jsonl file: every line that is not empty, a spec as JSON whose paths are relative to the
    file; a field "name" may say its name, else it is the line's number.

    Args:
        source: the folder or the file.
        strict: see :class:`Written`.

    Returns:
        In order of name, or of lines. What is wrong with a spec will be said when it is read.

    Raises:
        InputError: there is no such folder or file, it may not be read, no spec is in it, or two of one name.
    """
    source = Path(source)
    try:
        found = _found(source, strict)
    except OSError as error:
        raise InputError(f"{source} cannot be read ({error.strerror}): give a folder or file that can") from None
    if not found:
        raise InputError(f"{source} holds no spec: put NAME.json or NAME/edit.json there, or a spec on each line")
    names = [job.name for job in found]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise InputError(f"{source} has two specs of the name {twice!r}: rename one")
    return found


def _found(source: Path, strict: bool) -> list[Written]:
    """The specs of a folder or a file, as they are."""
    if source.is_dir():
        seen = [path for path in sorted(source.iterdir()) if not path.name.startswith(".")]
        files = {p: p.stem for p in seen if p.suffix == ".json" and not p.is_dir() and not p.match("*.error.json")}
        files |= {p / "edit.json": p.name for p in seen if p.is_dir() and _may_be(p / "edit.json")}
        found = [Written(files[path], partial(read_spec, path), path.parent, strict) for path in files]
        return sorted(found, key=lambda job: job.name)
    if source.suffix.lower() == ".jsonl" and source.is_file():
        lines = enumerate(source.read_bytes().splitlines(), start=1)
        return [_line(source, number, text, strict) for number, text in lines if text.strip()]
    raise InputError(f"{source} is neither a folder of specs nor a .jsonl file: give one of the two")


def _may_be(path: Path) -> bool:
    """Whether there is a file, if it is known; what may not be looked at is said when its turn comes."""
    try:
        return path.exists() or path.is_symlink()
    except OSError:
        return True


def _line(source: Path, number: int, text: bytes, strict: bool) -> Written:
    """A line of a .jsonl file."""
    name, where = f"{number:06d}", f"{source}, line {number}"
    try:
        data = json.loads(text)
        if isinstance(data, dict) and "name" in data:
            check_name(data["name"])
            name, text = data.pop("name"), json.dumps(data).encode()
    except InputError as error:
        return Written(name, partial(_refused, f"{where}: {error}"), source.parent, strict)
    except (ValueError, RecursionError):
        pass  # parse() will say it better, when the job's turn comes
    return Written(name, partial(_parsed, text, where), source.parent, strict)


def _refused(fault: str) -> Spec:
    raise InputError(fault)


def _parsed(text: bytes, where: str) -> Spec:
    try:
        return parse(text)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _named(spec: Spec, folder: Path) -> str:
    """The model that a spec names; however one folder is reached, it has one name."""
    return os.path.normpath(model_of(spec, folder))


def model_named(jobs: Sequence[Written]) -> str:
    """The model that the first sound spec names.

    Raises:
        InputError: no spec is sound; the first one's fault.
    """
    fault: InputError | None = None
    for job in jobs:
        try:
            return _named(job.spec(), job.folder)
        except InputError as error:
            fault = fault or error
    raise fault or InputError("there is no job: give at least one spec")
