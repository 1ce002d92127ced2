"""Pickles from strangers, read without running anything of theirs.

A pickle is a program: it names functions and calls them. Here every name is refused but those that an array of numbers
needs, and these stand not for numpy's own functions but for others that only take down what the pickle says; the array
is made from that here, of a plain number type. So the file cannot call anything, not even numpy.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dragonkit.errors import InputError, one_line

LARGEST = 64 * 2**20
"""Bytes of the largest pickle that is read: a float64 mask of 2048 x 2048 is half of it."""


class _Dtype:
    """Takes down a dtype: ``dtype("u1", False, True)`` and then its state, whose second item is the byte order."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248])", code):
            raise InputError(f"an array of type {code!r}: only plain numbers are read")
        self.code, self.order = code.lstrip("<>|="), code[:1] if code[:1] in "<>=" else "="

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">", "=", "|"):
            self.order = "=" if state[1] == "|" else state[1]

    def made(self) -> np.dtype[Any]:
        """The dtype itself."""
        return np.dtype(self.order + self.code)


class _Array:
    """Takes down an array: made empty by ``_reconstruct``, then given (version, shape, dtype, is_fortran, data)."""

    value: np.ndarray[Any, Any]

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray[Any, Any]:
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        raise InputError("an array that is not of plain numbers: only those are read")
    if not all(type(n) is int and n >= 0 for n in shape) or len(data) != math.prod(shape) * dtype.made().itemsize:
        raise InputError(f"an array of shape {shape!r} with {len(data)} bytes: they do not belong together")
    return np.frombuffer(bytes(data), dtype.made()).reshape(shape, order="F" if order == "F" else "C")


class _Ndarray:
    """Only named, as the first argument of ``_reconstruct``; it cannot be made."""

    def __new__(cls, *args: Any) -> _Ndarray:
        raise InputError("an array made by hand: only arrays that numpy pickled are read")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _Ndarray:
        raise InputError("an array of a class of its own: only plain arrays are read")
    return _Array()


def _scalar(dtype: Any, data: Any) -> int | float | bool:
    return _array(data, dtype, (), "C").item()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> _Array:
    made = _Array()
    made.value = _array(data, dtype, shape, order)
    return made


def _encode(text: Any, encoding: Any) -> bytes:
    """What protocols 0 to 2 write bytes as."""
    if not isinstance(text, str) or encoding != "latin1":
        raise InputError(f"text to be encoded as {encoding!r}: only bytes written as latin1 are read")
    return text.encode("latin1")


ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,  # numpy 2 renamed numpy.core
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
}
"""What a pickle may name, and what it gets instead."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise InputError(f"it asks for {module}.{name}, which was not run: get the file from a place you trust")
        return ADMITTED[module, name]


def load_pickle(path: Path) -> Any:
    """Read a pickle of plain containers, texts, numbers and numeric arrays, and of nothing else.

    Args:
        path: a file of at most ``LARGEST`` bytes.

    Returns:
        Its content; an array that is the value of a dict at the top is a numpy array, read-only.

    Raises:
        InputError: the file is missing, too large or damaged, or names anything else, which is then not run.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path} is larger than {LARGEST >> 20} MiB: that is no annotation of an image")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give the path of a pickle") from None
    try:
        _check_sizes(data)
        content = _Unpickler(io.BytesIO(data)).load()
        if isinstance(content, dict):
            content = {key: value.value if isinstance(value, _Array) else value for key, value in content.items()}
        return content
    except InputError as error:
        raise InputError(f"{path} is not read: {error}") from None
    except Exception as error:  # a broken pickle may raise anything
        raise InputError(f"{path} is damaged ({one_line(error, 120)}): fetch it again") from None


def _check_sizes(data: bytes) -> None:
    """Walk through the pickle without running it: it must be whole, and not ask for more memory than it fills."""
    for code, argument, _ in pickletools.genops(data):
        if "PUT" in code.name and isinstance(argument, int) and argument > len(data):
            raise InputError(f"memory for {argument} objects: more than it has bytes")
