"""What an edit can use: a U-Net of Stable Diffusion's kind that denoises 4 latent channels. All else is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dragonkit.errors import InputError

WANTED = "give a text-to-image model of Stable Diffusion 1, 2 or XL"
_INPUTS = {
    5: "a depth-guided model",
    7: "an upscaler",
    8: "an instruct-pix2pix model, which takes an image beside the noise",
    9: "an inpainting model, which takes a mask and an image beside the noise",
}
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
QUANTISED = "which leaves no gradient to guide by: give float16 or wider weights"


def check_safe(options: Mapping[str, Any]) -> None:
    """Raise an InputError if options of diffusers' loaders would have a pickle read, or run code of a model's own."""
    for name in ("custom_pipeline", "trust_remote_code"):
        if options.get(name):
            raise InputError(f"{name} is {options[name]!r}, by which code of the model's own would run: leave it out")
    if options.get("use_safetensors") is False:
        raise InputError("use_safetensors is False, but a pickle may run code when read: leave it out")
    if not str(options.get("weight_name") or ".safetensors").endswith(".safetensors"):
        raise InputError(f"weight_name is {options['weight_name']!r}: name a .safetensors file")


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file.

    Raises:
        InputError: it is missing or no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = "is missing" if not path.is_file() else "cannot be read as JSON"
        raise InputError(f"{path.parent.name}/{path.name} {reason}: fetch the model again") from error
    if not isinstance(data, dict):
        raise InputError(f"{path.parent.name}/{path.name} holds no JSON object: fetch the model again")
    return data


def read_index(root: Path) -> dict[str, Any]:
    """What a diffusers folder says of itself in model_index.json, empty if there is none."""
    return read_json(root / "model_index.json") if (root / "model_index.json").is_file() else {}


def has_two(root: Path) -> bool:
    """Whether a folder's model has two text encoders; files left there by another model do not count."""
    index = read_index(root)
    if index.get("_class_name") and not (index.get("text_encoder_2") or [None])[0]:
        return False
    return any((root / part).is_dir() for part in ("text_encoder_2", "tokenizer_2"))


def check_suits(root: Path, called: str = "") -> None:
    """Raise an InputError unless a folder's configurations are those of a model that can be edited with.

    Weights are not looked at, so that this can be asked before they are fetched.

    Args:
        root: the folder.
        called: what the user calls it, if not by its name: in the local cache a folder's name is a commit's number.
    """
    index = read_index(root)
    name, called = index.get("_class_name", ""), called or root.name or str(root)
    if not (root / "unet").is_dir() and not index.get("unet"):
        raise InputError(f"{called!r} is {_what(root, index)}: {WANTED}")
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        file = root / part / "config.json"
        if file.is_file() and read_json(file).get("quantization_config"):
            raise InputError(f"{part} is quantised, {QUANTISED}")
    if (root / "unet" / "config.json").is_file():
        check_unet(read_json(root / "unet" / "config.json"))
    if (root / "vae" / "config.json").is_file():
        check_vae(read_json(root / "vae" / "config.json"))
    for part in ("text_encoder", "text_encoder_2"):
        if (root / part / "adapter_config.json").is_file():  # transformers would load whatever base it names
            raise InputError(f"{part} is an adapter to another model's: merge it, or fuse it with model.load_lora")
        if (root / part / "config.json").is_file():
            kinds = read_json(root / part / "config.json").get("architectures") or ["CLIPTextModel"]
            if not str(kinds[0]).startswith("CLIPTextModel"):
                raise InputError(f"{part} is a {kinds[0]}, not CLIP's: {WANTED}")
    for part, what in (("unet", "a U-Net"), ("vae", "an autoencoder"), ("text_encoder", "a text encoder")):
        if name and not (root / part).is_dir() and (index.get(part) or [None])[0] is None:
            raise InputError(f"{called!r} is a {name} without {what}: {WANTED}")


def check_unet(config: Mapping[str, Any]) -> None:
    """Raise an InputError unless a U-Net is of the kind that an edit can use, by its configuration."""
    kind = config.get("_class_name", "UNet2DConditionModel")
    if kind != "UNet2DConditionModel":
        raise InputError(f"the denoiser is a {kind}: {WANTED}")
    inputs, outputs = config.get("in_channels", 4), config.get("out_channels", 4)
    if inputs != 4 or outputs != 4:
        what = _INPUTS.get(inputs, "another kind of model")
        raise InputError(f"the U-Net takes {inputs} channels and gives {outputs}, {what}: {WANTED}")
    extra = config.get("class_embed_type") or config.get("num_class_embeds") or config.get("encoder_hid_dim_type")
    if extra or config.get("time_cond_proj_dim"):
        what = f"conditioning on more than a prompt ({extra or 'a distilled guidance scale'})"
        raise InputError(f"the U-Net wants {what}: {WANTED}")
    added = config.get("addition_embed_type")
    if added not in (None, "text_time"):
        raise InputError(f"the U-Net has addition_embed_type {added!r}: {WANTED}")
    if added and config.get("cross_attention_dim") == 1280:
        raise InputError("the U-Net is Stable Diffusion XL's refiner: give the base model")
    size = config.get("sample_size")
    sides = size if isinstance(size, (list, tuple)) and len(size) == 2 else [size]
    if size is not None and not all(isinstance(side, int) and side > 0 for side in sides):
        raise InputError(f"the U-Net's sample_size is {size!r}: fetch the model again")


def check_vae(config: Mapping[str, Any]) -> None:
    """Raise an InputError unless an autoencoder gives 4 latent channels that one factor scales."""
    kind = config.get("_class_name", "AutoencoderKL")
    if kind != "AutoencoderKL":
        raise InputError(f"the autoencoder is a {kind}: give one of class AutoencoderKL")
    channels = config.get("latent_channels", 4)
    if channels != 4:
        raise InputError(f"the autoencoder has {channels} latent channels, the U-Net 4: {WANTED}")
    if config.get("latents_mean") or config.get("latents_std") or config.get("shift_factor"):
        raise InputError(f"the autoencoder's latents are shifted, as in an EDM model: {WANTED}")
    scale = config.get("scaling_factor", 1.0)
    if not isinstance(scale, (int, float)) or not 0 < scale < float("inf"):
        raise InputError(f"the autoencoder's scaling_factor is {scale!r}: fetch the model again")


def check_pair(unet: Any, encoders: Mapping[str, Any]) -> None:
    """Raise an InputError unless the text encoders are those that the U-Net was trained with, by their widths."""
    extra, second = unet.config.addition_embed_type, encoders.get("text_encoder_2")
    if (extra == "text_time") != (second is not None):
        wants, has = ("two", "one") if extra else ("one", "two")
        raise InputError(f"the U-Net wants {wants} text encoder{'s' * bool(extra)} and the model has {has}: {WANTED}")
    width = sum(encoder.config.hidden_size for encoder in encoders.values() if encoder is not None)
    wanted = unet.config.cross_attention_dim
    if isinstance(wanted, int) and width != wanted:
        raise InputError(f"text embeddings are {width} wide, the U-Net wants {wanted}: use the encoders it came with")
    if second is not None:
        given = 6 * unet.config.addition_time_embed_dim + second.config.projection_dim
        if given != unet.config.projection_class_embeddings_input_dim:
            wanted = unet.config.projection_class_embeddings_input_dim
            raise InputError(f"pooled text and sizes are {given} wide, the U-Net wants {wanted}: {WANTED}")


def _what(root: Path, index: Mapping[str, Any]) -> str:
    """What a folder without a U-Net seems to be, in words."""
    if index:
        inner = "a transformer" if index.get("transformer") else "no U-Net"
        return f"a {index.get('_class_name', 'pipeline')} with {inner}"
    names = sorted(path.name for path in root.iterdir())
    if "pytorch_lora_weights.safetensors" in names or "adapter_config.json" in names:
        return "a LoRA, not a model (load the model that it was made for, then model.load_lora(folder))"
    if "config.json" in names:
        return f"a bare {read_json(root / 'config.json').get('_class_name', 'network')}, not a whole model"
    if files := [name for name in names if name.endswith(".safetensors")]:
        return f"not in the diffusers layout (if {files[0]} is a whole checkpoint, give that file)"
    if files := [name for name in names if name.endswith(PICKLES)]:
        return f"only pickles such as {files[0]}, which may run code when read"
    return "not a model's folder: no unet/ in it"
