"""``python -m dragonkit models``: the models that are known by name."""

from __future__ import annotations

import argparse
from typing import Any


def add_models(commands: Any) -> None:
    """Add the command to those of the program."""
    parser = commands.add_parser("models", help="list the models that are known by name")
    parser.set_defaults(run=_models)


def _models(args: argparse.Namespace) -> None:
    from dragonkit.loading.cards import CARDS

    wide = max(map(len, CARDS))
    for name, card in CARDS.items():
        print(f"{name:{wide}}  {card.about}")
        if "/" in card.source:
            print(f"{'':{wide}}  {card.source} on the hub, {card.licence}, preset {card.guidance!r}")
    print(
        "\nAny other model of these kinds: give its diffusers folder, its .safetensors file, or its hub id owner/name."
    )
