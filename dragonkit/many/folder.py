"""The folder that many results are written to: which jobs are done in it, and which one each process is working at.

A job NAME leaves ``NAME/edit.png`` and ``NAME/result.json``, which appear together, or ``NAME.error.json`` if it
failed. While a process works at it, it holds a lock on ``.NAME.lock``. The operating system lets go of a lock when its
holder ends, however it ends, so a killed process leaves no claim behind; and any number may share a folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image
from torch import Tensor

from dragonkit.errors import InputError
from dragonkit.evaluate.report import Report, made_with, tidy
from dragonkit.files import check_folder, whole_folder, write_image
from dragonkit.generation import Generated
from dragonkit.many.jobs import Job
from dragonkit.trace import Result


class Folder:
    """Results by the names of their jobs.

    Args:
        path: made if it is not there.

    Raises:
        InputError: it cannot be a folder.
    """

    def __init__(self, path: Path) -> None:
        check_folder(path)
        mark = path / ".begun"
        try:
            path.mkdir(parents=True, exist_ok=True)
            mark.touch()
        except OSError as error:
            raise InputError(f"{path} cannot be written to ({error.strerror}): give another place") from None
        self.path = path
        self._began = mark.stat().st_mtime_ns  # the time by the clock that the files of others are dated by
        self._locks: dict[str, FileLock] = {}

    def __contains__(self, name: object) -> bool:
        """Whether a job is claimed by this process."""
        return name in self._locks

    def claim(self, name: str) -> bool:
        """Try to become the only one who works at a job.

        Raises:
            InputError: its result could not be written.
        """
        place = self.path / name
        check_folder(place)
        lock = FileLock(self.path / f".{name}.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        self._locks[name] = lock
        for scratch in (*self.path.glob(".*"), *place.glob(".*")):  # of a process that was killed while it wrote
            if re.fullmatch(rf"\.{re.escape(name)}-[a-z0-9_]{{8}}", scratch.name) and scratch.is_dir():
                shutil.rmtree(scratch, ignore_errors=True)
        return True

    def release(self, name: str) -> None:
        """Give up a claim. The lock's file goes too once nobody will have a use for it."""
        lock = self._locks.pop(name)
        with suppress(OSError, InputError):  # some systems do not remove a file that is open
            if self.stamp(name) is not None:
                (self.path / f".{name}.lock").unlink()
        lock.release()

    def release_all(self) -> None:
        """Give up every claim."""
        for name in list(self._locks):
            self.release(name)

    def stamp(self, name: str) -> str | None:
        """What a finished job was, see :func:`stamp`; None if it is not finished, or its picture has been removed.

        Raises:
            InputError: there is something else in its place.
        """
        path = self.path / name / "result.json"
        if not _holds(path):
            return None
        try:
            stamped = str(json.loads(path.read_text(encoding="utf-8"))["stamp"])
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path} is not of a run of many: give another --out, or remove it") from None
        return stamped if _holds(path.with_name("edit.png")) else None

    def fault(self, name: str) -> str | None:
        """What another process, at work since this one began, found wrong with a job."""
        path = self.path / f"{name}.error.json"
        try:
            if path.stat().st_mtime_ns >= self._began:
                return str(json.loads(path.read_text(encoding="utf-8"))["error"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def put(self, job: Job, stamped: str, result: Result) -> Path:
        """Write a result, whole or not at all.

        Raises:
            OSError: it cannot be written, the disk may be full.
        """
        data: dict[str, Any] = {"name": job.name, "stamp": stamped}
        if job.task is None:
            data |= {"nfe": result.nfe, "seconds": round(result.seconds, 3)}
            data |= {"energies": tidy(result.trace.energies), "made_with": made_with()}
        else:
            data |= json.loads(Report.of(job.task, result).to_json())
        with whole_folder(self.path / job.name) as draft:
            write_image(result.tensor, draft / "edit.png")
            (draft / "result.json").write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (self.path / f"{job.name}.error.json").unlink(missing_ok=True)
        return self.path / job.name

    def put_fault(self, name: str, error: Exception) -> None:
        """Write down why a job failed, if that can be. It is no result: the next run tries the job again."""
        said = {"name": name, "kind": type(error).__name__, "error": str(error)}
        draft = self.path / f".{name}.error"  # nobody else's, for the job is claimed
        try:
            draft.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
            draft.replace(self.path / f"{name}.error.json")
        except OSError:  # what made the job fail may be that nothing can be written
            draft.unlink(missing_ok=True)


def _holds(path: Path) -> bool:
    """Whether there is a file with something in it; what was written just before the power failed may be empty."""
    return path.is_file() and path.stat().st_size > 0


def stamp(*things: Any) -> str:
    """A short text that differs between things that differ: what a job does, and with what.

    Raises:
        InputError: something is of a kind whose content cannot be seen.
    """
    digest = hashlib.sha256()
    for thing in things:
        _feed(digest, thing)
    return digest.hexdigest()[:24]


def _feed(digest: Any, x: Any) -> None:
    """Feed a digest with a value's type and content; containers, item by item."""
    digest.update(f"{type(x).__module__}.{type(x).__qualname__}(".encode())
    if isinstance(x, Generated):
        _feed(digest, x.origin)
    elif isinstance(x, Image.Image):
        digest.update(f"{x.mode}{x.size}".encode() + x.tobytes())
    elif isinstance(x, Tensor):
        flat = x.detach().cpu().contiguous().flatten()
        digest.update(f"{x.dtype}{tuple(x.shape)}".encode() + flat.view(torch.uint8).numpy().tobytes())
    elif isinstance(x, np.ndarray):
        digest.update(f"{x.dtype}{x.shape}".encode() + np.ascontiguousarray(x).tobytes())
    elif isinstance(x, (type(None), bool, int, float, str, bytes, torch.dtype)):
        digest.update(repr(x).encode())
    elif isinstance(x, (list, tuple, range)):
        for item in x:
            _feed(digest, item)
    elif isinstance(x, dict):
        for item in x.items():
            _feed(digest, item)
    elif isinstance(x, (FunctionType, type)):
        digest.update(f"{x.__module__}.{x.__qualname__}".encode())
    elif isinstance(x, partial):
        _feed(digest, (x.func, x.args, x.keywords))
    elif is_dataclass(x):
        _feed(digest, {f.name: getattr(x, f.name) for f in fields(x)})
    elif hasattr(x, "__dict__"):
        _feed(digest, vars(x))
    else:
        raise InputError(f"a job holds a {type(x).__name__}, whose content cannot be compared: give plain values")
    digest.update(b")")
