"""One .safetensors file in the original (CompVis, Stability) layout, converted by diffusers, without the network.

The file holds the networks' tensors and nothing else. Their configuration is told by the tensors' names and shapes and
is published (see ``published``), or is given; the tokenizer's vocabulary has to come from elsewhere.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from dragonkit.errors import InputError
from dragonkit.loading.cards import CARDS
from dragonkit.loading.folder import HUB_ID, place_of, schedule_of, vae_dtype
from dragonkit.loading.hub import cached, fetch_one
from dragonkit.loading.published import PUBLISHED
from dragonkit.loading.suits import WANTED, check_suits, check_unet, has_two, read_index, read_json
from dragonkit.loading.weights import check_file

Shapes = dict[str, tuple[int, ...]]

_UNET, _VAE, _TEXT = "model.diffusion_model.", "first_stage_model.", ("cond_stage_model.", "conditioner.embedders.")
_VOCABULARIES = ("vocab.json", "tokenizer.json")
_ELSEWHERE = ("openai/clip-vit-large-patch14", *(card.source for card in CARDS.values() if "/" in card.source))
_SIGNS = (
    ("double_blocks.", "a Flux transformer"),
    ("joint_blocks.", "a Stable Diffusion 3 transformer"),
    ("lora_", "a LoRA, not a model: load the model that it was made for, then model.load_lora(file)"),
    (".lora", "a LoRA, not a model: load the model that it was made for, then model.load_lora(file)"),
    ("control_model.", "a ControlNet"),
    ("controlnet_", "a ControlNet"),
    ("down_blocks.", "one network of the diffusers layout: give the folder of the whole model"),
    ("decoder.", "a bare autoencoder: give a whole model, and this as vae="),
    ("text_model.", "a bare text encoder"),
)


def read_file(
    file: Path,
    dtype: torch.dtype,
    *,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    vae: Callable[[Mapping[str, Any], bool], Any] | None = None,
) -> dict[str, Any]:
    """The parts of a model in one file.

    Args:
        file: a .safetensors file.
        dtype: of the weights; they are on the CPU.
        config: a name of ``PUBLISHED``, a diffusers folder or a hub id whose configuration the file's networks have;
            default what :func:`family` says.
        tokenizer: a folder or hub id with the vocabulary; default ``config``'s, or the local cache's.
        vae: what reads the autoencoder in place of the file's, given the configuration of that one, and whether the
            model has two text encoders.

    Returns:
        Arguments of :class:`dragonkit.models.Model`.

    Raises:
        InputError: the file is damaged, no model, or not one that an edit can use; or there is no vocabulary.
    """
    import diffusers

    check_file(file, file.name)
    shapes = shapes_of(file)
    check_kind(shapes, file.name)
    configs = dict(PUBLISHED[family(shapes, file.name)]) if config is None else _configs(config)
    two = "text_encoder_2" in configs
    index, noise = configs.pop("model_index", {}), schedule_of(configs.pop("scheduler"), two) | _told(shapes)
    check_unet(configs["unet"])
    _check_whole(shapes, file.name, vae is None)
    tokens = _tokenizers(_vocabulary(config, tokenizer, file.name), configs)
    kind = diffusers.StableDiffusionXLPipeline if two else diffusers.StableDiffusionPipeline
    given = _ABSENT[two] | ({} if vae is None else {"vae": vae(configs["vae"], two)})
    try:
        with tempfile.TemporaryDirectory() as folder:
            _write(Path(folder), configs | {"scheduler": noise}, kind.__name__)
            # The autoencoder may need more bits than the rest, so all is read as it is stored and then made narrower.
            pipe = kind.from_single_file(str(file), config=folder, local_files_only=True, **tokens, **given)
    except NotImplementedError as error:  # a tensor without data was to be moved
        raise InputError(f"{file.name} lacks tensors of its U-Net or autoencoder: fetch the file again") from error
    nets = {part: getattr(pipe, part) for part in configs}
    for part, net in nets.items():
        _finish(net, vae_dtype(net.config, dtype, two) if part == "vae" else dtype, file.name, part)
    parts = {**nets, **tokens, "schedule_config": noise}
    return parts | {"empty_is_zero": index.get("force_zeros_for_empty_prompt", True)} if two else parts


def read_vae_file(file: Path, dtype: torch.dtype, config: Mapping[str, Any]) -> Any:
    """An autoencoder from one file, in the original layout or that of diffusers, alone or in a whole model's.

    Args:
        file: a .safetensors file.
        dtype: of the weights.
        config: of a diffusers autoencoder, which the file has to fit.

    Raises:
        InputError: the file is damaged, or lacks tensors.
    """
    from diffusers import AutoencoderKL

    check_file(file, file.name)
    if not any(key.removeprefix(_VAE).startswith("decoder.") for key in shapes_of(file)):
        raise InputError(f"{file.name} holds no autoencoder: give one")
    shape = {key: value for key, value in config.items() if not key.startswith("_")}  # not where it was loaded from
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", **shape}), encoding="utf-8")
        vae = AutoencoderKL.from_single_file(str(file), config=folder, local_files_only=True)
    return _finish(vae, dtype, file.name, "the autoencoder")


def _finish(net: Any, dtype: torch.dtype, name: str, part: str) -> Any:
    """A network that has all its tensors, in a dtype; not by diffusers' own to(), which warns of nothing special."""
    absent = [key for key, tensor in net.state_dict().items() if tensor.is_meta]
    if absent:
        raise InputError(f"{name} lacks {part}'s {absent[0]} and {len(absent) - 1} more: fetch the file again")
    return torch.nn.Module.to(net, dtype)


_ABSENT: dict[bool, dict[str, Any]] = {
    False: dict(safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False),
    True: dict(feature_extractor=None, image_encoder=None, add_watermarker=False),
}


def shapes_of(file: Path) -> Shapes:
    """The tensors of a safetensors file by name, from its header alone."""
    from safetensors import safe_open

    with safe_open(file, "pt") as tensors:
        return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118


def check_kind(shapes: Shapes, name: str) -> None:
    """Raise an InputError unless a checkpoint's U-Net is such as an edit can use; it says what the file is instead."""
    first = shapes.get(_UNET + "input_blocks.0.0.weight")
    if first is None:
        found = next((what for sign, what in _SIGNS if any(sign in key for key in shapes)), "no Stable Diffusion")
        raise InputError(f"{name} is {found}; {WANTED}")
    xl = _UNET + "label_emb.0.0.weight" in shapes
    width = {"cross_attention_dim": _words(shapes)} if xl else {}
    check_unet({"in_channels": first[1], "addition_embed_type": "text_time" if xl else None, **width})
    if "edm_mean" in shapes:
        raise InputError(f"{name} is an EDM model, as Playground 2.5 is; {WANTED}")


def _check_whole(shapes: Shapes, name: str, own_vae: bool) -> None:
    """Raise an InputError unless a checkpoint holds a text encoder, and an autoencoder if its own is to be used."""
    if not any(key.startswith(_TEXT) for key in shapes):
        raise InputError(f"{name} holds a U-Net without a text encoder: fetch the whole model")
    if own_vae and not any(key.startswith(_VAE) for key in shapes):
        raise InputError(f"{name} holds no autoencoder: give one as vae=, for instance the folder of a like model")


def family(shapes: Shapes, name: str) -> str:
    """Which of ``PUBLISHED`` a checkpoint's tensors belong to.

    Stable Diffusion 2.1 and its base have the same tensors. A file of theirs is taken for the former, which predicts v:
    for the base say ``config="sd21-base"``.

    Args:
        shapes: of the tensors.
        name: the file's, for errors.

    Raises:
        InputError: to none of them.
    """
    known = {768: "sd15", 1024: "sd21", 2048: "sdxl"}
    if (width := _words(shapes)) not in known:
        raise InputError(f"{name} has text embeddings {width} wide: {WANTED}, or say its config=")
    return known[width]


def _words(shapes: Shapes) -> int:
    """How wide the text embeddings are that the U-Net looks at; 0 if it looks at none."""
    key = next((key for key in shapes if key.startswith(_UNET) and key.endswith("attn2.to_k.weight")), None)
    return shapes[key][1] if key else 0


def _told(shapes: Shapes) -> dict[str, Any]:
    """What some checkpoints of Stable Diffusion XL say of their training by empty tensors of these names."""
    told: dict[str, Any] = {"prediction_type": "v_prediction"} if "v_pred" in shapes else {}
    return told | ({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if "ztsnr" in shapes else {})


def _configs(source: str | Path) -> dict[str, Any]:
    """Every part's configuration, from a name, a folder or the hub."""
    if str(source) in PUBLISHED:
        return dict(PUBLISHED[str(source)])
    place = place_of(source, "config")
    if not place.is_dir():
        if not HUB_ID.fullmatch(str(source)):
            raise InputError(f"config is {str(source)!r}: give one of {', '.join(PUBLISHED)}, a folder, or a hub id")
        place = fetch_one(str(source), ("model_index.json",))
        for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
            if part in read_json(place / "model_index.json"):
                fetch_one(str(source), (f"{part}/config.json",))
        fetch_one(str(source), ("scheduler/scheduler_config.json",))
    check_suits(place)
    parts = [part for part in ("unet", "vae", "text_encoder") if (place / part).is_dir()]
    parts += ["text_encoder_2"] * has_two(place)
    configs = {part: read_json(place / part / "config.json") for part in parts}
    configs["model_index"] = read_index(place)
    return configs | {"scheduler": read_json(place / "scheduler" / "scheduler_config.json")}


def _vocabulary(config: str | Path | None, tokenizer: str | Path | None, name: str) -> Path:
    """A folder with CLIP's vocabulary: the one that is given, or else one of those in the local cache."""
    for given in (tokenizer, config):
        if given is None or str(given) in PUBLISHED:
            continue
        place = place_of(given, "tokenizer" if given is tokenizer else "config")
        for folder in (place / "tokenizer", place):
            if any((folder / file).is_file() for file in _VOCABULARIES):
                return folder
        if not place.exists() and HUB_ID.fullmatch(str(given)):
            return fetch_one(str(given), ("tokenizer/vocab.json", "tokenizer/tokenizer.json", *_VOCABULARIES))
        raise InputError(f"no vocab.json in {given} or its tokenizer/: name a folder or a hub id that has one")
    for repo in _ELSEWHERE:
        for file in ("tokenizer/vocab.json", *_VOCABULARIES):
            if path := cached(repo, file):
                return path.parent
    raise InputError(
        f"{name} holds no tokenizer, and the local cache has none: give tokenizer=, a model's folder or a hub id, "
        f"for instance {_ELSEWHERE[0]!r}"
    )


def _tokenizers(folder: Path, configs: dict[str, Any]) -> dict[str, Any]:
    """The tokenizers of a model, which share CLIP's vocabulary: OpenCLIP's encoders are padded with "!" (token 0)."""
    from transformers import CLIPTokenizer

    second = folder.parent / "tokenizer_2"
    found = {}
    for name, part in (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")):
        if part not in configs:
            continue
        window = configs[part]["max_position_embeddings"]
        if part == "text_encoder_2" and second.is_dir():
            found[name] = CLIPTokenizer.from_pretrained(second, local_files_only=True, model_max_length=window)
            continue
        found[name] = CLIPTokenizer.from_pretrained(folder, local_files_only=True, model_max_length=window)
        if len(found[name]) > 40000:  # CLIP's own, not a test's
            open_clip = configs[part]["hidden_act"] == "gelu"
            found[name].pad_token = "!" if open_clip else "<|endoftext|>"
    return found


def _write(folder: Path, configs: dict[str, Any], kind: str) -> None:
    """A diffusers folder without weights, which says to diffusers what to make of the file."""
    index: dict[str, Any] = {"_class_name": kind}
    libraries = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    for part, config in configs.items():
        (folder / part).mkdir()
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part / name).write_text(json.dumps(config), encoding="utf-8")
        if part == "scheduler":
            index[part] = ["diffusers", "DDIMScheduler"]  # whichever it is: only its configuration is read
        elif part in libraries:
            index[part] = ["diffusers", libraries[part]]
        else:
            second = part == "text_encoder_2"
            index[part] = ["transformers", "CLIPTextModelWithProjection" if second else "CLIPTextModel"]
            index[part.replace("text_encoder", "tokenizer")] = ["transformers", "CLIPTokenizer"]
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
