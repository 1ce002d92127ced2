"""Exercises: a check runs what the reader wrote and says what came of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor


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
            _written(answer)
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
        Wrong: it is no function, or returns NaN.
    """
    if not callable(function):
        raise Wrong(f"write a function; this is {function!r}")
    found = function(*args, **options)
    _written(found)
    return found


def _written(found: Any) -> None:
    """Raise ToDo where nothing was written, and Wrong where NaN was: no comparison would find it wrong."""
    if found is None or found is ...:
        raise ToDo
    if _has_nan(found):
        raise Wrong("yours holds NaN: is 0 divided by 0, or a root or a logarithm taken of a negative number?")


def _has_nan(found: Any) -> bool:
    if isinstance(found, (list, tuple)):
        return any(map(_has_nan, found))
    if isinstance(found, float):
        return math.isnan(found)
    return isinstance(found, Tensor) and bool(found.isnan().any())


def number(found: Any, *, tensor: bool = False) -> float:
    """What was answered, as a number.

    Args:
        found: the answer, or what a reader's function returned.
        tensor: whether it has to be a tensor, for instance because its gradient is asked for next.

    Raises:
        ToDo: nothing was answered.
        Wrong: it is no single finite number.
    """
    _written(found)
    try:
        value = float(found.detach() if isinstance(found, Tensor) else found)
    except (TypeError, ValueError, RuntimeError):
        value = math.nan
    if not math.isfinite(value) or (tensor and not isinstance(found, Tensor)):
        raise Wrong(f"{'return a tensor of' if tensor else 'give'} one finite number; this is a {type(found).__name__}")
    return value
