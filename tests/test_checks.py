"""Plain values are let through or refused in one line that names them."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest

from dragonkit.checks import check_number, check_seed, check_text, check_whole
from dragonkit.errors import InputError

COUNT = partial(check_whole, "n")
RANGE = partial(check_whole, "n", least=2, most=5)
ANY = partial(check_whole, "n", least=None)
NUMBER = partial(check_number, "x")
POSITIVE = partial(check_number, "x", positive=True)
TEXT = partial(check_text, "prompt")


@pytest.mark.parametrize(
    ("check", "values"),
    [
        (COUNT, [0, 1, 10**30]),
        (RANGE, [2, 5]),
        (ANY, [-(10**30), 0]),
        (check_seed, [0, 2**63 - 1]),
        (NUMBER, [0, 0.0, 5e-324, 3, 1e308]),
        (POSITIVE, [5e-324, 1]),
        (TEXT, ["", "a ball"]),
    ],
)
def test_what_is_usable_passes(check: Any, values: list[Any]) -> None:
    for value in values:
        check(value)


@pytest.mark.parametrize(
    ("check", "values", "message"),
    [
        (COUNT, [-1, 1.0, True, "1", None, float("nan")], "n is {}: give a whole number from 0"),
        (RANGE, [1, 6, 3.0], "n is {}: give a whole number from 2 to 5"),
        (ANY, [False, 0.5], "n is {}: give a whole number"),
        (check_seed, [-1, 2**63, 1.0, True, None], "seed is {}: give a whole number from 0 to 2**63 - 1"),
        (NUMBER, [-0.5, 10**400, float("inf"), float("nan"), True, "1", None], "x is {}: give a finite number from 0"),
        (POSITIVE, [0, 0.0, -1], "x is {}: give a finite number above 0"),
        (TEXT, [None, 3, b"a"], "prompt is {}: give a text, '' if there is nothing to say"),
    ],
)
def test_what_is_not_is_named(check: Any, values: list[Any], message: str) -> None:
    for value in values:
        with pytest.raises(InputError, match=f"^{re.escape(message.format(repr(value)))}$"):
            check(value)
