"""Checks of the numbers that inverters take."""

from __future__ import annotations

import math

from dragonkit.errors import InputError


def check_whole(name: str, value: object, least: int = 0) -> None:
    """Raise an InputError unless ``value`` is a whole number, at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} is {value!r}: give a whole number from {least}")


def check_number(name: str, value: object, *, positive: bool = False) -> None:
    """Raise an InputError unless ``value`` is a finite number from 0, or above 0 if it must be positive."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    if not good or (positive and value == 0):
        raise InputError(f"{name} is {value!r}: give a finite number {'above' if positive else 'from'} 0")
