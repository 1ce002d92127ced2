"""From a diffusers folder or a hub id to the parts of a model: safetensors only, no foreign code, damage named."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dragonkit.errors import InputError


def find(source: str, known: Iterable[str]) -> Path | str:
    """The local folder of a source, its safetensors checked, or the hub id if it is one.

    Args:
        source: "mini", a folder, or "owner/name" on the hub.
        known: names to suggest instead.

    Raises:
        InputError: it is none of these, or a file is missing or damaged.
    """
    if source == "mini":
        from dragonkit.data import data_path

        root = Path(data_path("mini"))
    elif source and Path(source).expanduser().is_dir():
        root = Path(source).expanduser()
    elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        return source
    else:
        names = ", ".join(known)
        raise InputError(f"no model {source!r}: give one of {names}, an existing folder, or a hub id 'owner/name'")
    for part in ("unet", "vae", "text_encoder"):
        _check_files(root, part)
    if not any((root / "tokenizer" / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        raise InputError(f"no tokenizer/vocab.json in {root}: fetch the model again")  # an empty one would be made
    return root


def _check_files(root: Path, part: str) -> None:
    """Raise unless the part's folder holds readable safetensors of their full length."""
    from safetensors import SafetensorError, safe_open

    files = sorted((root / part).glob("*.safetensors"))
    if not files:
        raise InputError(f"no {part}/*.safetensors in {root}: fetch the model again, in safetensors format")
    for file in files:
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise InputError(f"{part}/{file.name} is damaged ({error}): fetch the model again") from error


@contextmanager
def explained(name: str, known: Iterable[str]) -> Iterator[None]:
    """Turn what diffusers and transformers raise while loading model ``name`` into an InputError of one line."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"model {name!r} cannot be loaded ({reason}): known names are {', '.join(known)}") from error


def read(folder: Path | str, dtype: torch.dtype) -> dict[str, Any]:
    """Every part of a diffusers folder or hub model that an edit needs.

    Args:
        folder: what :func:`find` gave.
        dtype: of the weights; they are on the CPU.

    Returns:
        Arguments of :class:`dragonkit.models.Model`: three networks, the tokenizer and the schedule's configuration.

    Raises:
        InputError: a tensor is missing.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.utils.logging import disable_progress_bar as quiet_diffusers
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils.logging import disable_progress_bar as quiet_transformers

    quiet_diffusers()  # bars over three files would end up in notebooks, and before an error's one line
    quiet_transformers()
    local = isinstance(folder, Path)
    common: dict[str, Any] = {"local_files_only": local}
    if local:
        config = json.loads((Path(folder) / "scheduler" / "scheduler_config.json").read_text())
    else:
        config = dict(DDIMScheduler.load_config(folder, subfolder="scheduler"))

    def weights(cls: Any, part: str) -> Any:
        half = local and not any(p for p in (Path(folder) / part).glob("*.safetensors") if ".fp16." not in p.name)
        net, info = cls.from_pretrained(
            folder,
            subfolder=part,
            use_safetensors=True,
            torch_dtype=dtype,
            variant="fp16" if half else None,
            output_loading_info=True,
            **common,
        )
        missing = sorted(info["missing_keys"])
        if missing:
            raise InputError(f"{part} weights lack {missing[0]} and {len(missing) - 1} more: fetch the model again")
        return net

    return {
        "unet": weights(UNet2DConditionModel, "unet"),
        "vae": weights(AutoencoderKL, "vae"),
        "text_encoder": weights(CLIPTextModel, "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", **common),
        "schedule_config": config,
    }
