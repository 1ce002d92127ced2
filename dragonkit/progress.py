"""Progress bars round loops over steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Bar = Callable[[str, int], Callable[[Iterable[Any]], Iterable[Any]]]
"""(title, number of steps) -> what a loop over the steps is wrapped in."""


def bar(title: str, count: int, shown: bool | Bar) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """A function that wraps an iterable in a progress bar, or leaves it as it is."""
    if callable(shown):
        return shown(title, count)
    if not shown:
        return lambda steps: steps

    from tqdm import tqdm

    def wrap(steps: Iterable[Any]) -> Iterable[Any]:
        return tqdm(steps, desc=title, total=count)

    return wrap
