"""Checks of plain values that many calls take: each raises an InputError of one line, or does nothing."""

from __future__ import annotations

import sys
from typing import Any

from dragonkit.errors import InputError


def check_whole(name: str, value: Any, least: int | None = 0, most: int | None = None) -> None:
    """Raise an InputError unless ``value`` is a whole number from ``least`` to ``most``; None sets no limit."""
    if not _whole(value, least, most):
        span = "" if least is None else f" from {least}" if most is None else f" from {least} to {most}"
        raise InputError(f"{name} is {value!r}: give a whole number{span}")


def check_seed(value: Any) -> None:
    """Raise an InputError unless ``value`` can seed one of torch's generators."""
    if not _whole(value, 0, 2**63 - 1):
        raise InputError(f"seed is {value!r}: give a whole number from 0 to 2**63 - 1")


def check_number(name: str, value: Any, *, positive: bool = False) -> None:
    """Raise an InputError unless ``value`` is a finite number from 0, or above 0 if it must be positive."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= sys.float_info.max or (positive and value == 0):
        raise InputError(f"{name} is {value!r}: give a finite number {'above' if positive else 'from'} 0")


def check_text(name: str, value: Any) -> None:
    """Raise an InputError unless ``value`` is a text that can be written down, be it empty."""
    if not isinstance(value, str):
        raise InputError(f"{name} is {value!r}: give a text, '' if there is nothing to say")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name} has {value[error.start]!r}, which is half a character: leave it out") from error


def _whole(value: Any, least: int | None, most: int | None) -> bool:
    """Whether a value is a whole number in a range; True and False are none."""
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    return (least is None or value >= least) and (most is None or value <= most)
