"""Where a model computes, in how many bits, and how its weights lie in memory there."""

from __future__ import annotations

from typing import Any

import torch

from dragonkit.errors import InputError
from dragonkit.fused import AVAILABLE

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What a model may compute in."""


def device_of(device: Any) -> torch.device:
    """The device meant, which is there and can hold numbers; the GPU, if there is one, where None is said.

    Raises:
        InputError: it is not there.
    """
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=place).item()
    except (RuntimeError, AssertionError, TypeError) as error:  # torch raises each of them, for one reason or another
        there = ["'cpu'", *(f"'cuda:{k}'" for k in range(torch.cuda.device_count()))]
        raise InputError(f"device is {device!r}, which is not there: choose from {', '.join(there)}") from error
    return place


def dtype_of(dtype: Any, place: torch.device) -> torch.dtype:
    """The dtype meant, or where None is said the one that suits a device.

    Raises:
        InputError: it is none of ``DTYPES``.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}: choose from {', '.join(map(str, DTYPES))}")
    return dtype or (torch.float32 if place.type == "cpu" else torch.float16)


def dtype_named(name: str) -> torch.dtype:
    """The one of ``DTYPES`` of that name.

    Raises:
        InputError: it is none of them.
    """
    names = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
    if name not in names:
        raise InputError(f"dtype is {name!r}: choose from {', '.join(names)}")
    return names[name]


def lay_out(*parts: Any) -> None:
    """Lay the weights of convolutions as suits where they are: with channels last, on a CPU and on a GPU.

    A CPU is somewhat faster so, and in float16 twenty times. On a GPU convolutions compute in that layout whatever they
    are given; and blocks are fused, see :mod:`dragonkit.fused`.
    """
    for part in parts:
        kind = next(part.parameters()).device.type
        if kind in ("cpu", "cuda"):
            part.to(memory_format=torch.channels_last)
        if kind == "cuda" and AVAILABLE:
            from dragonkit.fused.blocks import fuse

            fuse(part)
