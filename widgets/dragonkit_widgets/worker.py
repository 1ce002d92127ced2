"""Long work in a thread of its own, one piece at a time, that tells how far it is and ends when told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dragonkit.errors import InputError, NonFiniteError


class Stopped(Exception):
    """Raised inside the work when it was told to stop."""


class Worker:
    """Runs one piece of work at a time.

    Args:
        tell: called in the work's thread with a line of text and the fraction done, in [0, 1].
    """

    def __init__(self, tell: Callable[[str, float], object]) -> None:
        self._tell = tell
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._busy = False

    @property
    def busy(self) -> bool:
        """Whether something is under way."""
        return self._busy

    def start(self, work: Callable[[], Any], ended: Callable[[Any, Exception | None], object]) -> None:
        """Begin, and return at once.

        Args:
            work: what to do; it should loop inside :meth:`bar`, or ask :meth:`check` now and then.
            ended: called in the same thread with what came of it and None, or with None and what was raised.

        Raises:
            InputError: something is under way.
        """
        if self.busy:
            raise InputError("something is still running: stop it, or wait for it")
        self._stop.clear()
        self._busy = True

        def run() -> None:
            found, error = None, None
            try:
                found = work()
            except Exception as raised:
                error = raised.with_traceback(None)  # whose frames would hold on to the model's tensors
            self._busy = False  # first: who is told of the end may begin again at once
            ended(found, error)

        self._thread = threading.Thread(target=run, daemon=True, name="dragonkit-studio")
        self._thread.start()

    def stop(self) -> None:
        """Have the work end at its next step; nothing happens if there is none."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the work has ended and this was told, at most ``timeout`` seconds; whether it has."""
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def check(self) -> None:
        """Raise :class:`Stopped` if told to stop."""
        if self._stop.is_set():
            raise Stopped

    def bar(self, title: str, count: int) -> Callable[[Iterable[Any]], Iterable[Any]]:
        """What :func:`dragonkit.edit` takes as ``progress``: every loop tells its steps and stops between two."""

        def wrap(steps: Iterable[Any]) -> Iterator[Any]:
            self.check()
            self._tell(f"{title} 0/{count}", 0.0)
            for k, step in enumerate(steps, start=1):
                self.check()
                yield step
                self._tell(f"{title} {k}/{count}", k / count)

        return wrap


def explained(error: Exception) -> str:
    """An error in one line: its own words if it is one of ours, else its type as well."""
    if isinstance(error, Stopped):
        return "stopped"
    said = next(iter(str(error).splitlines()), "")
    ours = isinstance(error, (InputError, NonFiniteError)) and said
    return said if ours else f"{type(error).__name__}: {said}".removesuffix(": ")
