"""What a network is set to beside its weights: a recorded pass has it built in."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import nn

_MODULES_OWN = frozenset(vars(nn.Module())) - {"training"}  # weights, submodules and hooks are looked after elsewhere


def settings(network: nn.Module) -> Hashable:
    """What all modules of a network are set to, to compare: their classes, numbers, switches and processors.

    A LoRA's strength is in it while its layers are apart, so are FreeU's factors and what diffusers' attention
    processors hold.
    """
    return tuple((type(module), _of(module)) for module in network.modules())


def _of(thing: Any) -> Hashable:
    return tuple((name, _value(name, x)) for name, x in vars(thing).items() if name not in _MODULES_OWN)


def _value(name: str, x: Any) -> Hashable:
    if x is None or isinstance(x, (bool, int, float, str)):
        return x
    if isinstance(x, dict):
        return tuple((key, _value(name, y)) for key, y in x.items())
    if isinstance(x, (list, tuple)):
        return tuple(_value(name, y) for y in x)
    if name == "processor" and hasattr(x, "__dict__"):
        return type(x), id(x), _of(x)
    return id(x)
