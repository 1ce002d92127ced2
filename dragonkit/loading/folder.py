"""From a name to a place, and from a diffusers folder to the parts of a model: damage is named, and what is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dragonkit.errors import InputError, one_line
from dragonkit.loading.hub import fetch
from dragonkit.loading.suits import PICKLES, check_suits, read_json

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def find(source: str, known: Iterable[str], dtype: torch.dtype) -> Path:
    """The local folder of a source, complete and such as an edit can use, or a single .safetensors file.

    Args:
        source: "mini", a folder, a file, or "owner/name" on the hub, which is looked for in the local cache first.
        known: names to suggest instead.
        dtype: what it will be loaded in.

    Raises:
        InputError: it is none of these, or a file is missing or damaged, or the model is of another kind.
    """
    place = Path(source).expanduser()
    if source == "mini":
        from dragonkit.data import data_path

        place = Path(data_path("mini"))
    if source and place.is_dir():
        check_suits(place)
        check_complete(place)
        return place
    if source and place.is_file():
        if place.suffix.lower() in PICKLES:
            raise InputError(f"{place.name} is a pickle, which may run code when read: fetch it as .safetensors")
        if place.suffix.lower() != ".safetensors":
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
    second = (root / "text_encoder_2").is_dir() or (root / "tokenizer_2").is_dir()
    for part in ("unet", "vae", "text_encoder", *["text_encoder_2"] * second):
        check_weights(root, part)
    for part in ("tokenizer", *["tokenizer_2"] * second):
        if not any((root / part / name).is_file() for name in ("vocab.json", "tokenizer.json")):
            raise InputError(f"no {part}/vocab.json in {root}: fetch the model again")  # an empty one would be made
    read_json(root / "scheduler" / "scheduler_config.json")


def check_weights(root: Path, part: str) -> None:
    """Raise an InputError unless a part's folder holds safetensors, none of them cut short and no shard missing."""
    files = sorted((root / part).glob("*.safetensors"))
    if not files:
        pickles = sorted(p.name for p in (root / part).glob("*") if p.suffix in PICKLES)
        found = f" ({pickles[0]} is a pickle, which may run code when read)" if pickles else ""
        raise InputError(f"no {part}/*.safetensors in {root}{found}: fetch the model again, in safetensors format")
    for file in files:
        check_file(file, f"{part}/{file.name}")
    for index in (root / part).glob("*.safetensors.index*.json"):
        half = ".fp16" in index.name
        if half != all(".fp16" in file.name for file in files):
            continue  # of a variant that is not here
        for name in sorted({str(name) for name in read_json(index).get("weight_map", {}).values()}):
            if not (root / part / name).is_file():
                raise InputError(f"no {part}/{name} in {root}: fetch the model again")


def check_file(file: Path, name: str) -> None:
    """Raise an InputError unless a file is readable safetensors of its full length."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(f"{name} is damaged ({error}): fetch the model again") from error


@contextmanager
def explained(name: str, known: Iterable[str]) -> Iterator[None]:
    """Turn what diffusers and transformers raise while loading model ``name`` into an InputError of one line."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, ImportError) as error:
        names = ", ".join(known)
        raise InputError(
            f"model {name!r} cannot be loaded ({one_line(error, 160)}): known names are {names}"
        ) from error


def quiet() -> None:
    """No bars over files: they would end up in notebooks, and before an error's one line."""
    from diffusers.utils.logging import disable_progress_bar as quiet_diffusers
    from transformers.utils.logging import disable_progress_bar as quiet_transformers

    quiet_diffusers()
    quiet_transformers()


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

    quiet()

    def tokenizer(part: str) -> Any:
        return CLIPTokenizer.from_pretrained(root, subfolder=part, local_files_only=True)

    two = (root / "text_encoder_2").is_dir()
    parts = {
        "unet": part_of(root, "unet", UNet2DConditionModel, dtype),
        "vae": read_vae(root / "vae", dtype, two),
        "text_encoder": part_of(root, "text_encoder", CLIPTextModel, dtype),
        "tokenizer": tokenizer("tokenizer"),
        "schedule_config": read_json(root / "scheduler" / "scheduler_config.json"),
    }
    if two:
        index = read_json(root / "model_index.json") if (root / "model_index.json").is_file() else {}
        parts |= {
            "text_encoder_2": part_of(root, "text_encoder_2", CLIPTextModelWithProjection, dtype),
            "tokenizer_2": tokenizer("tokenizer_2"),
            "empty_is_zero": bool(index.get("force_zeros_for_empty_prompt", True)),
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


def part_of(root: Path, part: str, cls: Any, dtype: torch.dtype) -> Any:
    """A network from a folder of its own.

    Raises:
        InputError: a tensor is missing.
    """
    plain = any(".fp16" not in path.name for path in (root / part).glob("*.safetensors"))
    net, info = cls.from_pretrained(
        root,
        subfolder=part,
        use_safetensors=True,
        torch_dtype=dtype,
        variant=None if plain else "fp16",
        output_loading_info=True,
        local_files_only=True,
    )
    if missing := sorted(info["missing_keys"]):
        raise InputError(f"{part} weights lack {missing[0]} and {len(missing) - 1} more: fetch the model again")
    return net
