"""What can go wrong: the input, the numbers, or the memory.

Every check that runs before a model does raises :class:`InputError` with one line that names the offending value and
the remedy. Nothing has been written when it is raised.
"""


class InputError(ValueError):
    """What the caller gave cannot be used; the message is one line: the value, then the remedy."""


class NonFiniteError(ArithmeticError):
    """An energy or its gradient became infinite or NaN; the message names the step and the term."""


class OutOfMemoryError(MemoryError):
    """The device's memory is too small for what was asked; the message names the settings that take less."""


def one_line(error: BaseException, most: int | None = None) -> str:
    """What an error says, on one line of ``most`` characters; its kind if it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__
