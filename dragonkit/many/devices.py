"""One process for each device, all at work on one folder.

Jobs are independent, so nothing needs to be exchanged: each process claims in the folder what it will do next (see
:mod:`dragonkit.many.folder`), a faster one claims more, and the last one ends at most a batch after the others. What
is left for an engine is to start processes, to watch them and to end them. :func:`rows_on` does so for the devices
that are named; where torchrun or ``accelerate launch`` does, :func:`launched` says which of its processes this one is.
Both come with what is installed anyway, where Ray would be a large dependency for what one host needs. No process group
is made: there is nothing to send through it that is not in the folder, and it would tie each process to the slowest.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

from dragonkit.errors import InputError, one_line


@dataclass(frozen=True)
class Row:
    """What became of one job, in few words.

    Args:
        name: the job's; "" where it is about a whole process.
        state: of a job "done", "kept" or "failed"; of a process "ready" once its model is loaded, "lost" if it cannot
            work or was killed.
        device: where.
        at: when, in seconds since 1970.
        nfe: evaluations of the denoiser, where done.
        seconds: the job's share of the time, where done.
        error: why it failed or was lost, in one line.
    """

    name: str
    state: str
    device: str
    at: float
    nfe: int | None = None
    seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Place:
    """This process among those that a launcher has started.

    Args:
        rank: its number among all of them, from 0.
        count: how many they are.
        device: where it works: the GPU of its number on this host, round again if there are fewer; or "cpu".
    """

    rank: int
    count: int
    device: str


def launched() -> Place | None:
    """This process's place as torchrun and ``accelerate launch`` tell it in the environment; None if neither has.

    Raises:
        InputError: what the environment says is not a number.
    """
    if not {"LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys():
        return None
    import torch

    local, count = _told("LOCAL_RANK"), _told("WORLD_SIZE")
    gpus = torch.cuda.device_count()
    return Place(_told("RANK", local), count, f"cuda:{local % gpus}" if gpus else "cpu")


def _told(name: str, default: int = 0) -> int:
    said = os.environ.get(name, str(default))
    if not said.isdecimal():
        raise InputError(f"the environment's {name} is {said!r}: let torchrun set it, to 0 or more, or unset it")
    return int(said)


@dataclass(frozen=True)
class Work:
    """What every process is told.

    Args:
        source: the folder of specs or the .jsonl file.
        out: where results go.
        model: what to load.
        strict: see :class:`dragonkit.many.jobs.Written`.
        options: keyword arguments of :func:`dragonkit.many.edit_many`.
    """

    source: Path
    out: Path
    model: str
    strict: bool
    options: dict[str, Any]

    def rows(self, device: str | None) -> Iterator[Row]:
        """Work on one device until every job is done, here or elsewhere.

        Raises:
            InputError: the device, the model, the folder or an option cannot be used.
        """
        import torch

        from dragonkit.many.jobs import read_jobs
        from dragonkit.many.run import edit_many
        from dragonkit.models import load

        model = load(self.model, device=device)
        if model.device.type == "cuda":
            torch.cuda.set_device(model.device)  # or what names no device would be on the first one
        place = str(model.device)
        outcomes = edit_many(model, read_jobs(self.source, strict=self.strict), out=self.out, **self.options)
        yield Row("", "ready", place, time.time())
        for outcome in outcomes:
            nfe, seconds = (outcome.result.nfe, outcome.result.seconds) if outcome.result else (None, None)
            said = None if outcome.error is None else one_line(outcome.error)
            yield Row(outcome.name, outcome.state, place, time.time(), nfe, seconds, said)


def rows_on(work: Work, devices: list[str]) -> Iterator[Row]:
    """Work on several devices at once, one process each; a device may be named twice.

    Yields:
        What the processes report, as it comes. A job that one has done or found wrong, others may report as well.

    Raises:
        InputError: no process could work at all; what the first of them found wrong.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share the parent's GPU, threads and locks
    processes, places = [], dict[Any, str]()
    for device in devices:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(work, device, len(devices), there), daemon=True)
        process.start()
        there.close()  # so that its end is the pipe's
        processes.append(process)
        places[here] = device
    worked, lost = False, list[str]()
    try:
        while places:
            for here in cast("list[Connection]", wait(list(places))):
                try:
                    row = here.recv()
                except EOFError:
                    row = Row("", "lost", places[here], time.time(), error="the process was killed")
                if row is None or row.state == "lost":
                    device = places.pop(here)
                    lost += [f"{device}: {row.error}"] if row else []
                worked |= row is None or row.state == "ready"
                if row:
                    yield row
    finally:
        for process in processes:
            process.terminate()  # who has ended well is not there any more
        for process in processes:
            process.join()
    if not worked:
        raise InputError(lost[0])


def _work(work: Work, device: str, count: int, said: Connection) -> None:
    """One process: its rows, and None at the end."""
    import torch

    parent = multiprocessing.parent_process()
    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    try:
        for row in work.rows(device):
            said.send(row)
            if parent is not None and not parent.is_alive():
                return
        said.send(None)
    except (KeyboardInterrupt, BrokenPipeError):  # the parent has been stopped, and says so
        pass
    except Exception as error:
        said.send(Row("", "lost", device, time.time(), error=one_line(error)))
