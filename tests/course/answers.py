"""What the tests try on an exercise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answers:
    """Answers to one exercise.

    Args:
        right: each is accepted.
        wrong: each is refused, with a hint.
        context: what the notebook passes to the check after the answer.
    """

    right: Sequence[Any]
    wrong: Sequence[Any]
    context: dict[str, Any] = field(default_factory=dict)
