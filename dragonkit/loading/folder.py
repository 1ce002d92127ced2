"""From a name to a place, and from a diffusers folder to the parts of a model: damage is named, and what is missing."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dragonkit.errors import InputError, one_line
from dragonkit.loading.hub import fetch
from dragonkit.loading.suits import PICKLES, check_suits, has_two, read_index, read_json
from dragonkit.loading.weights import check_weights

_ALONE = threading.RLock()
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def place_of(source: Any, name: str, known: Iterable[str] = ()) -> Path:
    """The path that a source would be, whether or not it is there.

    Args:
        source: what the user gave.
        name: what it is, for errors.
        known: names to suggest, beside a path.

    Raises:
        InputError: it is no path, or none that the file system could hold.
    """
    try:
        if source == "":
            raise ValueError("no name")  # pathlib takes it for the current folder
        place = Path(source).expanduser()
        place.exists()
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        names = "".join(f"{other}, " for other in known)
        raise InputError(
            f"{name} is {repr(source)[:100]}: give {names}a folder, a .safetensors file or a hub id 'owner/name'"
        ) from error
    return place


def find(source: str, known: Iterable[str], dtype: torch.dtype) -> Path:
    """The local folder of a source, complete and such as an edit can use, or a single .safetensors file.

    Args:
        source: "mini", a folder, a file, or "owner/name" on the hub, which is looked for in the local cache first.
        known: names to suggest instead.
        dtype: what it will be loaded in.

    Raises:
        InputError: it is none of these, or a file is missing or damaged, or the model is of another kind.
    """
    if source == "mini":
        from dragonkit.data import data_path

        place = Path(data_path("mini"))
    else:
        place = place_of(source, "model name", known)
    if place.is_dir():
        check_suits(place)
        check_complete(place)
        return place
    if place.is_file():
        if place.suffix.lower() in PICKLES:
            raise InputError(f"{place.name} is a pickle, which may run code when read: fetch it as .safetensors")
        if place.suffix != ".safetensors":
            raise InputError(f"{place.name} is no .safetensors file: give one, a folder, or a hub id 'owner/name'")
        return place
    if HUB_ID.fullmatch(source):
        return fetch(source, dtype, check_complete)
    names = ", ".join(known)
    raise InputError(
        f"no model {source!r}: give one of {names}, an existing folder or .safetensors file, or a hub id 'owner/name'"
    )


def check_complete(root: Path) -> None:
    """Raise an InputError unless each part of a diffusers folder has its files, none of them cut short."""
    second = has_two(root)
    for part in ("unet", "vae", "text_encoder", *["text_encoder_2"] * second):
        check_weights(root, part)
        read_json(root / part / "config.json")
    for part in ("tokenizer", *["tokenizer_2"] * second):
        if not any((root / part / name).is_file() for name in ("vocab.json", "tokenizer.json")):
            raise InputError(f"no {part}/vocab.json in {root}: fetch the model again")  # an empty one would be made
    read_json(root / "scheduler" / "scheduler_config.json")


@contextmanager
def explained(name: str, known: Iterable[str]) -> Iterator[None]:
    """Turn what diffusers and transformers raise while loading model ``name`` into an InputError of one line."""
    try:
        with quiet():
            yield
    except InputError:
        raise
    except Exception as error:  # of diffusers, transformers, torch: whichever notices first what is wrong with a file
        names = ", ".join(known)
        raise InputError(
            f"model {name!r} cannot be loaded ({one_line(error, 160)}): fetch it again, or give one of {names}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Let diffusers and transformers draw no bars and warn of nothing: what is wrong is said by an error's one line.

    One thread at a time: these are switches of the whole process, and so are those by which networks are built empty.
    """
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    with _ALONE, warnings.catch_warnings():
        before = [(kind, kind.get_verbosity()) for kind in (diffusers, transformers)]
        warnings.simplefilter("ignore")
        try:
            for kind, _ in before:
                kind.disable_progress_bar()
                kind.set_verbosity(diffusers.CRITICAL)
            yield
        finally:
            for kind, level in before:
                kind.set_verbosity(level)


def read(root: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Every part of a diffusers folder that an edit needs; nothing else is read, least of all from the network.

    Args:
        root: what :func:`find` gave.
        dtype: of the weights; they are on the CPU.

    Returns:
        Arguments of :class:`dragonkit.models.Model`: networks, tokenizers and the schedule's configuration.

    Raises:
        InputError: a tensor is missing.
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    def tokenizer(part: str) -> Any:
        return CLIPTokenizer.from_pretrained(root, subfolder=part, local_files_only=True)

    two = has_two(root)
    parts = {
        "unet": part_of(root, "unet", UNet2DConditionModel, dtype),
        "vae": read_vae(root / "vae", dtype, two),
        "text_encoder": part_of(root, "text_encoder", CLIPTextModel, dtype),
        "tokenizer": tokenizer("tokenizer"),
        "schedule_config": schedule_of(read_json(root / "scheduler" / "scheduler_config.json"), two),
    }
    if two:
        parts |= {
            "text_encoder_2": part_of(root, "text_encoder_2", CLIPTextModelWithProjection, dtype),
            "tokenizer_2": tokenizer("tokenizer_2"),
            "empty_is_zero": bool(read_index(root).get("force_zeros_for_empty_prompt", True)),
        }
    return parts


def read_vae(folder: Path, dtype: torch.dtype, two: bool) -> Any:
    """An autoencoder from its own folder, in :func:`vae_dtype`."""
    from diffusers import AutoencoderKL

    return part_of(folder.parent, folder.name, AutoencoderKL, vae_dtype(read_json(folder / "config.json"), dtype, two))


def vae_dtype(config: Mapping[str, Any], dtype: torch.dtype, two: bool) -> torch.dtype:
    """What an autoencoder computes in: float32 where float16 overflows, which its ``force_upcast`` says.

    As in diffusers only models with two text encoders, SDXL, are asked: the others' flag is a default of no meaning.
    """
    return torch.float32 if two and dtype == torch.float16 and config.get("force_upcast", True) else dtype


def schedule_of(config: Mapping[str, Any], two: bool) -> dict[str, Any]:
    """A scheduler's configuration, its offset set to 1 as diffusers does in every Stable Diffusion 1 or 2."""
    outdated = not two and config.get("steps_offset", 1) != 1
    return {**config, "steps_offset": 1} if outdated else dict(config)


def part_of(root: Path, part: str, cls: Any, dtype: torch.dtype) -> Any:
    """A network from a folder of its own.

    Raises:
        InputError: a tensor is missing.
    """
    net, info = cls.from_pretrained(
        root,
        subfolder=part,
        use_safetensors=True,
        torch_dtype=dtype,
        variant=check_weights(root, part) or None,
        output_loading_info=True,
        local_files_only=True,
    )
    if missing := sorted(info["missing_keys"]):
        raise InputError(f"{part} weights lack {missing[0]} and {len(missing) - 1} more: fetch the model again")
    return net
