"""Whether blocks and energies compute with the kernels of this package."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

AVAILABLE = importlib.util.find_spec("triton") is not None

_on = ContextVar("fused", default=False)


def is_on() -> bool:
    """Whether they do here and now."""
    return _on.get()


@contextmanager
def fused(device: str = "cuda") -> Iterator[None]:
    """Let what is inside compute with fewer passes over memory, if Triton is there and it is a GPU.

    For what is recorded as a CUDA graph, and for what is large, as pictures and energies are. Else asking for one of
    these kernels takes Python longer than PyTorch takes to ask for all of its own.

    Args:
        device: type of the device that computes.
    """
    before = _on.set(AVAILABLE and device == "cuda")
    try:
        yield
    finally:
        _on.reset(before)
