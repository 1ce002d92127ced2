"""The ways that lead to a model's parts: random, from a folder, from the hub, from one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dragonkit.errors import InputError
from dragonkit.loading.folder import HUB_ID, explained, find, place_of, read, read_vae, vae_dtype
from dragonkit.loading.hub import fetch_one
from dragonkit.loading.published import PUBLISHED, random_parts
from dragonkit.loading.suits import PICKLES, check_pair, check_vae, read_json
from dragonkit.loading.weights import check_weights

Parts = dict[str, Any]


def read_any(
    source: str,
    known: Iterable[str],
    device: torch.device,
    dtype: torch.dtype,
    *,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    vae: str | Path | None = None,
) -> Parts:
    """The parts of a model, wherever it is from; see :func:`dragonkit.load`.

    Args:
        source: "mini", "sd15-random" and its like, a folder, a hub id or a single file.
        known: names to suggest instead.
        device: where random weights are made; all others are on the CPU.
        dtype: of the weights.
        config: for a single file, what it is.
        tokenizer: for a single file, where its vocabulary is.
        vae: an autoencoder to use instead.

    Returns:
        Arguments of :class:`dragonkit.models.Model`.

    Raises:
        InputError: it is not there, not whole, or not of use.
    """
    instead = None if vae is None else partial(read_autoencoder, vae, known, dtype)
    if source.removesuffix("-random") in PUBLISHED and source.endswith("-random"):
        parts = random_parts(source.removesuffix("-random"), device, dtype)
    else:
        place = find(source, known, dtype)
        if not place.is_file() and (config is not None or tokenizer is not None):
            name = "config" if config is not None else "tokenizer"
            raise InputError(f"{name} is given, but {source!r} is no single file and has its own: leave it out")
        with explained(source, known):
            if place.is_file():
                from dragonkit.loading.single_file import read_file

                parts = read_file(place, dtype, config=config, tokenizer=tokenizer, vae=instead)
                instead = None
            else:
                parts = read(place, dtype)
    if instead is not None:
        parts["vae"] = instead(parts["vae"].config, "text_encoder_2" in parts)
    check_pair(parts["unet"], {name: net for name, net in parts.items() if name.startswith("text_encoder")})
    return parts


def read_autoencoder(
    source: str | Path, known: Iterable[str], dtype: torch.dtype, config: Mapping[str, Any], two: bool
) -> Any:
    """An autoencoder by itself: from its own folder, a model's folder, one file, or the hub.

    Args:
        source: where it is.
        known: names of models, to suggest.
        dtype: of its weights, unless they must be float32.
        config: of the one that it stands for, which one file has to fit.
        two: whether it serves a model of two text encoders.

    Raises:
        InputError: it is not there, damaged, or of another kind.
    """
    place = place_of(source, "vae")
    if place.is_file():
        from dragonkit.loading.single_file import read_vae_file

        if place.suffix in PICKLES:
            raise InputError(f"{place.name} is a pickle, which may run code when read: fetch it as .safetensors")
        if place.suffix != ".safetensors":
            raise InputError(f"{place.name} is no .safetensors file: give one, a folder, or a hub id 'owner/name'")
        with explained(str(source), known):
            return read_vae_file(place, vae_dtype(config, dtype, two), config)
    if not place.is_dir():
        if not HUB_ID.fullmatch(str(source)):
            raise InputError(f"no autoencoder {str(source)!r}: give its folder, a model's folder, a file or a hub id")
        place = fetch_one(str(source), ("config.json", "vae/config.json"))
        fetch_one(
            str(source),
            tuple(
                f"{'vae/' * (place.name == 'vae')}diffusion_pytorch_model{half}.safetensors" for half in ("", ".fp16")
            ),
        )
    elif (place / "vae").is_dir():
        place = place / "vae"
    check_vae(read_json(place / "config.json"))
    check_weights(place.parent, place.name)
    with explained(str(source), known):
        return read_vae(place, dtype, two)
