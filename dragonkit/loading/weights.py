"""Files of weights: which of a part's are read, and whether they are whole, by their headers alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from dragonkit.errors import InputError
from dragonkit.loading.suits import PICKLES, QUANTISED, read_json

_NAME = re.compile(
    r"(?:diffusion_pytorch_model|model)"
    r"(?:\.(\w+))?(?:-\d+-of-\d+)?(?:\.(\w+))?\.safetensors(?:\.index(?:\.(\w+))?\.json)?"
)


def by_variant(names: Iterable[str]) -> dict[str, list[str]]:
    """The files of a part that diffusers and transformers would read, by variant, "" being the plain one.

    A set is one file, or shards and the index that lists them.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        if match := _NAME.fullmatch(name):
            found.setdefault(match[1] or match[2] or match[3] or "", []).append(name)
    return found


def chosen(variants: Iterable[str], *, half: bool = False) -> str:
    """The variant to read: the plain one before the one in half precision, or after it, and others only if need be."""
    return min(variants, key=lambda name: ({"": half, "fp16": not half}.get(name, 2), name))


def check_weights(root: Path, part: str) -> str:
    """Raise an InputError unless a part's folder holds safetensors, none of them cut short and no shard missing.

    Returns:
        The variant that is to be read, "" if it is the plain one. Others are not looked at.
    """
    there = [path.name for path in (root / part).glob("*")]
    sets = by_variant(there)
    base = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    if not sets:
        pickles = sorted(name for name in there if name.endswith(PICKLES))
        found = f" ({pickles[0]} is a pickle, which may run code when read)" if pickles else ""
        name = f"{base}.safetensors" if any(name.endswith(".safetensors") for name in there) else "*.safetensors"
        raise InputError(f"no {part}/{name} in {root}{found}: fetch the model again, in safetensors format")
    variant = chosen(sets)
    suffix = f".{variant}" if variant else ""
    whole, index = f"{base}{suffix}.safetensors", f"{base}.safetensors.index{suffix}.json"
    if not {whole, index} & set(sets[variant]):
        raise InputError(f"no {part}/{whole} or {index} in {root}: fetch the model again")
    files = {name for name in sets[variant] if name.endswith(".safetensors")}
    if index in sets[variant]:
        shards = read_json(root / part / index).get("weight_map")
        if not isinstance(shards, dict):
            raise InputError(f"{part}/{index} lists no weights: fetch the model again")
        files |= {str(name) for name in shards.values()}
    for name in sorted(files):
        if not (root / part / name).exists():
            raise InputError(f"no {part}/{name} in {root}: fetch the model again")
        check_file(root / part / name, f"{part}/{name}")
    return variant


def check_file(file: Path, name: str) -> None:
    """Raise an InputError unless a file is readable safetensors of its full length, and of numbers with a fraction."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as tensors:
            kinds = {tensors.get_slice(key).get_dtype(): key for key in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{name} is damaged ({error}): fetch the model again") from error
    for kind in {"I8", "U8"} & kinds.keys():
        raise InputError(f"{name} is quantised ({kinds[kind]} is of type {kind}), {QUANTISED}")
