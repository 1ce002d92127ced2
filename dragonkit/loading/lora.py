"""LoRAs: low-rank changes of a model's weights, read by diffusers and added to the weights for good."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dragonkit.errors import InputError, one_line
from dragonkit.loading.folder import HUB_ID, place_of, quiet
from dragonkit.loading.hub import cached
from dragonkit.loading.hub import explained as explained_hub
from dragonkit.loading.suits import PICKLES
from dragonkit.loading.weights import check_file

if TYPE_CHECKING:
    from dragonkit.models import Model


@torch.no_grad()
def fuse(model: Model, source: str | Path, scale: float = 1.0) -> None:
    """Add a LoRA to a model's weights: W <- W + scale (α / r) B A (Hu et al., 2021), for each layer that it changes.

    Args:
        model: the model, changed in place; if the LoRA is refused, it is left as it was.
        source: a .safetensors file, a folder that holds one, or a hub id.
        scale: the LoRA's strength.

    Raises:
        InputError: there is no such LoRA, it is a pickle or damaged, holds what is not finite, or does not fit.
    """
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise InputError(f"scale is {scale!r}: give a finite number, 1 for the LoRA's full strength")
    file = lora_file(source)
    _check_finite(file)
    pipe, parts = _pipeline(model), [part for part in _PARTS if part in model.parts]
    try:
        with quiet():
            pipe.load_lora_weights(str(file.parent), weight_name=file.name, use_safetensors=True, local_files_only=True)
        changed = [m for part in parts for m in model.parts[part].modules() if hasattr(m, "lora_A")]
        _check_sum(changed, scale, file.name)
        if changed:
            pipe.fuse_lora(components=parts, lora_scale=scale)  # in place
    except InputError:
        raise
    except Exception as error:  # of diffusers, of peft, of torch: whichever notices first that it does not fit
        raise InputError(f"{file.name} is no LoRA for {model.name!r} ({one_line(error, 160)})") from error
    finally:
        pipe.unload_lora_weights()  # the layers that were added; what was fused stays
        for net in model.parts.values():
            net.eval().requires_grad_(False)
    if not changed:
        raise InputError(f"{file.name} changes nothing in {model.name!r}: it is no LoRA, or made for another model")


_PARTS = ("unet", "text_encoder", "text_encoder_2")


def lora_file(source: str | Path) -> Path:
    """The .safetensors file of a LoRA, its length checked.

    Raises:
        InputError: there is none, there are several, or it is damaged.
    """
    place = place_of(source, "LoRA")
    if place.is_dir():
        files = sorted(place.glob("*.safetensors"))
        named = [file for file in files if file.name == "pytorch_lora_weights.safetensors"] or files
        if len(named) != 1:
            pickles = sorted(path.name for path in place.glob("*") if path.suffix in PICKLES)
            found = ", ".join(file.name for file in named) or ", ".join(pickles) or "nothing"
            raise InputError(f"{source} holds {found}: give one .safetensors file")
        place = named[0]
    elif not place.is_file():
        if not HUB_ID.fullmatch(str(source)):
            raise InputError(f"no LoRA {str(source)!r}: give a .safetensors file, its folder, or a hub id 'owner/name'")
        place = _fetch(str(source))
    if place.suffix != ".safetensors":
        raise InputError(f"{place.name} is no .safetensors file: fetch the LoRA in that format")
    check_file(place, place.name)
    return place


def _check_finite(file: Path) -> None:
    from safetensors import safe_open

    with safe_open(file, "pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118
            if not tensors.get_tensor(key).float().isfinite().all():  # float8 cannot be asked
                raise InputError(f"{file.name}: {key} holds NaN or infinity; fetch the LoRA again")


def _check_sum(layers: list[Any], scale: float, name: str) -> None:
    """Raise an InputError unless every changed weight is finite, before the first one is changed."""
    for layer in layers:
        change = sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)
        if not (layer.weight + scale * change).isfinite().all():
            raise InputError(
                f"{name} at scale {scale} leaves weights infinite in {layer.weight.dtype}: lower the scale"
            )


def _fetch(repo: str) -> Path:
    """A LoRA on the hub; the local cache first."""
    from huggingface_hub import HfApi, hf_hub_download

    usual = "pytorch_lora_weights.safetensors"
    if found := cached(repo, usual):
        return found
    with explained_hub(repo):
        files = [file for file in HfApi().list_repo_files(repo) if file.endswith(".safetensors")]
        chosen = [usual] if usual in files else files
        if len(chosen) != 1:
            raise InputError(f"{repo!r} on the hub holds {', '.join(files) or 'no .safetensors'}: download one file")
        return Path(hf_hub_download(repo, chosen[0]))


def _pipeline(model: Model) -> Any:
    """A diffusers pipeline over the model's own networks: what knows how to read LoRAs."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise InputError("LoRAs need the package peft: run pip install 'dragonkit[lora]'") from None
    import diffusers

    scheduler = diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)  # with which diffusers warns of nothing
    parts = {**model.parts, "tokenizer": model.tokenizer, "scheduler": scheduler}
    if model.text_encoder_2 is not None:
        return diffusers.StableDiffusionXLPipeline(**parts, tokenizer_2=model.tokenizer_2, add_watermarker=False)
    absent: dict[str, Any] = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return diffusers.StableDiffusionPipeline(**parts, **absent)
