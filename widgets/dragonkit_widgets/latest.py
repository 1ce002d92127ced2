"""Questions answered in a thread of its own, of which only the latest matters."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Latest:
    """Answers one question at a time; a new one takes the place of those that are not answered yet.

    One that is being worked on cannot be interrupted: it is worked on to its end, but its answer is dropped.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="dragonkit-latest")
        self._asked = 0

    def ask(self, work: Callable[[], Any], done: Callable[[Any, Exception | None], object]) -> Future[None]:
        """Begin, and return at once.

        Args:
            work: finds the answer.
            done: called in the same thread with the answer and None, or with None and what was raised; it is not called
                if another question came meanwhile.

        Returns:
            What is done when all of this is.
        """
        self.drop()
        mine = self._asked

        def run() -> None:
            if mine != self._asked:
                return
            found, error = None, None
            try:
                found = work()
            except Exception as raised:
                error = raised.with_traceback(None)  # whose frames would hold on to what the work had in hand
            if mine == self._asked:
                done(found, error)

        return self._pool.submit(run)

    def drop(self) -> None:
        """Let nothing come of what was asked so far."""
        self._asked += 1

    def close(self) -> None:
        """End, and take no more questions."""
        self.drop()
        self._pool.shutdown(wait=False, cancel_futures=True)
