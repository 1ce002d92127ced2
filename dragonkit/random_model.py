"""Models of exactly the published shapes with random weights: to measure and to test, without the weights."""

from __future__ import annotations

import torch

from dragonkit.checks import check_seed
from dragonkit.errors import InputError
from dragonkit.loading.cards import CARDS
from dragonkit.loading.place import device_of, dtype_of, lay_out
from dragonkit.loading.published import PUBLISHED, random_parts
from dragonkit.models import Model


def random_model(
    name: str, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None, seed: int = 0
) -> Model:
    """A model of the exact shape of a published one, with random weights.

    ``load("sd15-random")`` has those of seed 0. Its pictures mean nothing, and its tokenizer knows bytes, no words.

    Args:
        name: "sd15", "sd21", "sd21-base" or "sdxl".
        device: default the GPU if there is one.
        dtype: one of ``DTYPES``; default float32 on a CPU, float16 on a GPU.
        seed: of the weights; the same give the same on one kind of device.

    Raises:
        InputError: a value is not one of these.
    """
    if name not in PUBLISHED:
        raise InputError(f"no published shape {name!r}: choose from {', '.join(PUBLISHED)}")
    check_seed(seed)
    place, card = device_of(device), CARDS[f"{name}-random"]
    model = Model(name=card.source, card=card, **random_parts(name, place, dtype_of(dtype, place), seed))
    lay_out(model.unet, model.vae)
    return model
