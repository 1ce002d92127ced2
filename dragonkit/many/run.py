"""Many edits with one model: batched, streamed, resumed."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dragonkit.checks import check_whole
from dragonkit.errors import InputError, OutOfMemoryError
from dragonkit.evaluate.parts import fingerprint
from dragonkit.inversion import Inverter, ddim_invert
from dragonkit.many.folder import Folder, stamp
from dragonkit.many.jobs import Job, Ready, as_job, check_name
from dragonkit.many.together import Wish, edit_together
from dragonkit.memory import Memory, check_memory
from dragonkit.models import Model
from dragonkit.progress import Bar
from dragonkit.trace import Record, Result

BATCH = 4
"""Edits at once on a GPU, where one alone leaves most of it idle; a CPU gains a quarter, and does them one by one."""

HELD = 4
"""Batches' worth of jobs that are held while they wait for others of their kin."""

PAUSE = 0.2
"""Seconds between looks at what other processes are working at."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one job.

    Args:
        name: the job's.
        result: what :func:`dragonkit.edit` would have returned; None if it failed or was kept.
        error: why it failed; None if it did not.
        folder: where its result is written, if it is.
        kept: it was done already, by an earlier run or another process.
    """

    name: str
    result: Result | None = None
    error: Exception | None = None
    folder: Path | None = None
    kept: bool = False

    @property
    def state(self) -> str:
        """In a word: "done", "kept" or "failed"."""
        return "failed" if self.error is not None else "kept" if self.kept else "done"

    @property
    def image(self) -> Image.Image:
        """The edited image, from memory or from its folder.

        Raises:
            Exception: why the job failed, if it did.
        """
        if self.error is not None:
            raise self.error
        if self.result is not None:
            return self.result.image
        assert self.folder is not None
        with Image.open(self.folder / "edit.png") as image:
            return image.copy()


@dataclass(frozen=True, eq=False)
class _Entry:
    """A job that is ready to be carried out."""

    job: Job
    wish: Wish
    stamp: str


def edit_many(
    model: Model,
    jobs: Iterable[Any],
    *,
    out: str | os.PathLike[str] | None = None,
    batch: int | None = None,
    invert: Inverter = ddim_invert,
    trace: bool | Record = False,
    progress: bool | Bar = False,
    memory: Memory = "full",
) -> Iterator[Outcome]:
    """Carry out many edits, and yield each one's outcome as soon as it is there.

    Jobs of one image size and one guidance share batches. A job that cannot be done is an outcome too, and the others
    go on; what fails in a batch is tried again alone, and after a lack of memory batches are half as large.

    With ``out`` every result is written to a folder of its job's name, whole or not at all. A job whose result is there
    is not done again: its outcome is ``kept``. So a run that was interrupted or killed goes on where it was, and any
    number of processes, on other GPUs for instance, may share the work by sharing the folder; none does what another is
    doing, and what a killed one was doing another takes over. A job that failed is tried again by the next run. One
    that is not the job of that name which was done (another picture, edit, prompt, guidance, inverter or model) fails
    rather than replaces its result.

    Args:
        model: what edits.
        jobs: each a :class:`dragonkit.many.Job`, or the path of a spec file, read when its turn comes and carried out
            with ``model`` whatever it names; taken from the iterable as they are needed.
        out: the folder.
        batch: how many edits at once, at most; default 4 on a GPU and 1 on a CPU. One alone is
            :func:`dragonkit.edit`, bit for bit; in a batch sums are rounded differently.
        invert: how images are inverted.
        trace: what results keep of every step. Attention and features are kept of edits done alone, so with them
            ``batch`` is 1.
        progress: show progress bars of the steps.
        memory: see :func:`dragonkit.memory.economy`.

    Yields:
        Every job's outcome, once, in the order in which they finish.

    Raises:
        InputError: ``jobs``, ``batch``, ``trace``, ``memory`` or ``out`` is not usable; at once, before the first job.
    """
    if not isinstance(model, Model):
        raise InputError(f"model is a {type(model).__name__}: load one with dragonkit.load('mini')")
    if isinstance(jobs, (str, bytes, os.PathLike, Job)) or not isinstance(jobs, Iterable):
        raise InputError(f"jobs is a {type(jobs).__name__}: give a list of jobs, or what read_jobs makes of a folder")
    record = Record.of(trace, model.unet)
    batch = (1 if model.device.type == "cpu" else BATCH) if batch is None else batch
    check_whole("batch", batch, 1)
    batch = 1 if record.attention or record.features else batch
    check_memory(memory)
    if out is not None and (not isinstance(out, (str, os.PathLike)) or out == ""):
        raise InputError(f"out is {out!r}: give a folder, or None to keep results in memory")
    folder = None if out is None else Folder(Path(out))
    options: dict[str, Any] = {"invert": invert, "trace": record, "progress": progress, "memory": memory}
    return _Run(model, folder, batch, options).outcomes(jobs)


class _Run:
    """One call of :func:`edit_many`."""

    def __init__(self, model: Model, folder: Folder | None, batch: int, options: dict[str, Any]) -> None:
        self.model, self.folder, self.batch, self.options = model, folder, batch, options
        self.weights = fingerprint(model) if folder else ""
        self.elsewhere: list[Ready] = []  # jobs that another process is working at
        self.names: set[str] = set()

    def outcomes(self, jobs: Iterable[Any]) -> Iterator[Outcome]:
        """Every job's outcome."""
        try:
            yield from self._round(map(self._named, jobs))
            while self.elsewhere:
                time.sleep(PAUSE)
                again, self.elsewhere = self.elsewhere, []
                yield from self._round(again)
        finally:
            if self.folder:
                self.folder.release_all()

    def _named(self, given: Any) -> Ready | Outcome:
        """A job of a name of its own, or what is wrong with it."""
        try:
            job = as_job(given)
            if self.folder or not isinstance(job.name, str):
                check_name(job.name)
            if job.name in self.names:
                raise InputError(f"two jobs are named {job.name!r}: rename one")
        except InputError as error:
            return Outcome(str(getattr(given, "name", given))[:200], error=error)
        self.names.add(job.name)
        return job

    def _round(self, jobs: Iterable[Ready | Outcome]) -> Iterator[Outcome]:
        """Carry out what nobody else is working at."""
        groups: dict[Any, list[_Entry]] = {}
        for job in jobs:
            found = job if isinstance(job, Outcome) else self._admitted(job)
            if found is None:
                assert not isinstance(job, Outcome)
                self.elsewhere.append(job)
            elif isinstance(found, Outcome):
                yield found
            else:
                group = groups.setdefault(found.wish.kin, [])
                group.append(found)
                held = sum(map(len, groups.values()))
                if len(group) >= self.batch or held >= HELD * self.batch:
                    yield from self._carried_out(groups.pop(max(groups, key=lambda kin: len(groups[kin]))))
        for group in groups.values():
            yield from self._carried_out(group)

    def _admitted(self, given: Ready) -> _Entry | Outcome | None:
        """A job that is this process's to do; or its outcome, if that is known; or None while it is another's."""
        name, folder = given.name, self.folder
        try:
            if folder and folder.stamp(name) is None and not folder.claim(name):
                return None
            job = given.ready(self.model)
            wish = Wish.of(self.model, job.image, job.edit, job.prompt, job.guidance)
            if not folder:
                return _Entry(job, wish, "")
            now = stamp(self.weights, self.options["invert"], wish.image, wish.edit, wish.prompt, wish.guidance)
            done, fault = folder.stamp(name), folder.fault(name)
            if done is None and fault is None:
                return _Entry(job, wish, now)
            self._let_go(name)
            if done is None:
                return Outcome(name, error=RuntimeError(fault))
            if done != now:
                place = folder.path / name
                raise InputError(f"{place} is the result of another job of this name: rename the job, or remove that")
            return Outcome(name, folder=folder.path / name, kept=True)
        except Exception as error:
            return self._failed(name, error)

    def _carried_out(self, group: list[_Entry]) -> Iterator[Outcome]:
        """The outcomes of jobs of one kin."""
        try:
            results = edit_together(self.model, [entry.wish for entry in group], **self.options)
        except Exception as error:
            if len(group) == 1:
                yield self._failed(group[0].job.name, error)
                return
            size = 1
            if isinstance(error, OutOfMemoryError):
                self.batch = size = (len(group) + 1) // 2
        else:
            yield from map(self._done, group, results)
            return
        for first in range(0, len(group), size):
            yield from self._carried_out(group[first : first + size])

    def _done(self, entry: _Entry, result: Result) -> Outcome:
        name = entry.job.name
        try:
            written = self.folder.put(entry.job, entry.stamp, result) if self.folder else None
        except OSError as error:
            said = f"its result cannot be written ({error.strerror or error}): make room for it, and run again"
            return self._failed(name, OSError(said))
        except Exception as error:
            return self._failed(name, error)
        self._let_go(name)
        return Outcome(name, result, folder=written)

    def _failed(self, name: str, error: Exception) -> Outcome:
        error.add_note("".join(traceback.format_exception(error)))
        error.__traceback__ = error.__context__ = None  # it may be kept for long, and their frames hold tensors
        if self.folder and name in self.folder:
            self.folder.put_fault(name, error)
            self._let_go(name)
        return Outcome(name, error=error)

    def _let_go(self, name: str) -> None:
        if self.folder and name in self.folder:
            self.folder.release(name)
