"""Exercises: a check runs what the reader wrote and says what came of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


class Wrong(Exception):
    """An answer that is not right, with a hint. A notebook shows the hint alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"Not yet: {self}"]


class ToDo(Exception):
    """Nothing has been written yet."""


def exercise(check: Callable[..., str]) -> Callable[..., bool | None]:
    """Make an exercise of a function that looks at an answer.

    Args:
        check: takes the answer first, and whatever else it needs; returns what is right about it, in a few words, and
            raises :class:`Wrong` with a hint if it is not. The first line of its docstring is the task.

    Returns:
        The exercise: it prints "Right: ..." and returns True; or, where the answer is still None or ``...``, prints the
        task and returns None, so that a notebook nobody has worked on yet runs to its end.

    Raises:
        Wrong: from the exercise, for a wrong answer, and for one whose code ends in an error.
    """

    @functools.wraps(check)
    def checked(answer: Any, *args: Any, **options: Any) -> bool | None:
        try:
            if answer is None or answer is ...:
                raise ToDo
            said = check(answer, *args, **options)
        except ToDo:
            print(f"To do: {(check.__doc__ or '').splitlines()[0]}")
            return None
        except Wrong:
            raise
        except Exception as error:
            raise Wrong(f"your answer ends in {type(error).__name__}: {error}") from error
        print(f"Right: {said}")
        return True

    checked.is_exercise = True  # type: ignore[attr-defined]
    return checked


def called(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What a reader's function returns.

    Raises:
        ToDo: it returns None or ``...``: its body has not been written.
        Wrong: it is no function.
    """
    if not callable(function):
        raise Wrong(f"write a function; this is {function!r}")
    found = function(*args, **options)
    if found is None or found is ...:
        raise ToDo
    return found
