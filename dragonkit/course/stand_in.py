"""What notebook 09 runs on: Stable Diffusion where there is a GPU and a checkpoint, else tiny models of its build.

A tiny model has the published network's every layer, and an eighth of its width; what is left of 860 million parameters
is 13. Its weights are random.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dragonkit.data import data_path
from dragonkit.errors import InputError
from dragonkit.film import to_pil
from dragonkit.loading.cards import CARDS, Card
from dragonkit.loading.published import PUBLISHED, build, byte_tokenizer, random_parts
from dragonkit.loading.sources import read_autoencoder
from dragonkit.models import Model, load
from dragonkit.regions import as_image
from dragonkit.taps import Tokens, attentions, record, tap
from dragonkit.text import WORDS

FAMILIES = ("sd15", "sd21", "sdxl")
NARROWER = 8
"""How many times narrower a tiny model is than the published one."""

TINY_SIZE = 128
"""Pixels of a tiny model's own pictures."""

_WIDTHS = (
    "cross_attention_dim",
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
)
_BY_TEXT_WIDTH = {PUBLISHED[name]["unet"]["cross_attention_dim"]: name for name in FAMILIES}


def tiny(family: str, seed: int = 0) -> Model:
    """A model of a published build, every width divided by ``NARROWER``, of random weights, on the CPU.

    Layers, attention modules, prediction type and noise schedule are the published ones; of the text encoders two
    layers are left. The tokenizer knows bytes, no words.

    Args:
        family: one of ``FAMILIES``.
        seed: of the weights.

    Raises:
        InputError: there is no such family.
    """
    configs = _published(family)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        parts = {part: build(_narrow(config)) for part, config in configs.items() if part != "scheduler"}
    parts |= {part.replace("text_encoder", "tokenizer"): byte_tokenizer(77) for part in parts if "text" in part}
    about = f"the published build at 1/{NARROWER} of its width with random weights: its pictures mean nothing"
    card = Card(source="memory", about=about, licence="none", guidance=CARDS[family].guidance)
    return Model(name=f"tiny {family}", card=card, schedule_config=dict(configs["scheduler"]), **parts)


def is_tiny(model: Model) -> bool:
    """Whether it is one of :func:`tiny`, so that fewer steps do, and its pictures mean nothing."""
    return model.name.startswith("tiny ")


def shape(family: str) -> Model:
    """A model of exactly the published shape, without any numbers in it: on torch's device "meta".

    What is computed with it has a shape and a dtype, and takes neither time nor memory.

    Args:
        family: one of ``FAMILIES``.

    Raises:
        InputError: there is no such family.
    """
    _published(family)
    return Model(name=family, card=CARDS[family], **random_parts(family, torch.device("meta"), torch.float16))


def one_pass(model: Model) -> tuple[dict[int, Tensor], Tokens]:
    """What one pass of the denoiser leaves to look at, at the model's own size, from zeros.

    Args:
        model: any, for instance of :func:`shape`.

    Returns:
        Features by decoder layer (1, C, h, w), and the tokens (1, N, C) that each self-attention of the decoder reads.
    """
    height, width = model.size
    at: dict[str, Any] = {"device": model.device, "dtype": model.dtype}
    cond = {WORDS: torch.zeros(1, 77, model.unet.config.cross_attention_dim, **at)}
    if model.text_encoder_2 is not None:
        pooled = model.text_encoder_2.config.projection_dim
        cond |= {"text_embeds": torch.zeros(1, pooled, **at), "time_ids": torch.zeros(1, 6, device=model.device)}
    z = torch.zeros(1, 4, height // model.factor, width // model.factor, device=model.device)
    with torch.no_grad(), record(model.unet) as tokens:
        return tap(model.unet, range(1, len(model.unet.up_blocks) + 1), z, 500, cond), tokens


def card(model: Model) -> dict[str, str]:
    """What differs between models, in words, by fact."""
    scheduler = model.schedule_config
    return {
        "parameters": f"{sum(p.numel() for p in model.unet.parameters()) / 1e6:,.0f} M",
        "layers": f"{len(model.unet.up_blocks)} in the decoder",
        "attention": f"{len(attentions(model.unet))} modules",
        "words": f"77 x {model.unet.config.cross_attention_dim}",
        "prediction": {"v_prediction": "v"}.get(scheduler["prediction_type"], "ε"),
        "pixels": f"{model.size[1]} x {model.size[0]}",
        "sides": f"multiples of {model.multiple}",
        "scheduler": scheduler["_class_name"].removesuffix("Scheduler"),
        "preset": model.default_guidance,
    }


def family_of(model: Model) -> str:
    """Which of ``FAMILIES`` a model is of, by what its denoiser takes for words.

    Raises:
        InputError: it is of none.
    """
    width = model.unet.config.cross_attention_dim
    width = width * NARROWER if is_tiny(model) else width
    if width not in _BY_TEXT_WIDTH:
        raise InputError(f"{model.name!r} is no Stable Diffusion 1, 2 or XL: name one that is")
    return _BY_TEXT_WIDTH[width]


def models(named: str = "") -> dict[str, Model]:
    """One model of each family, and say which: what is named, where there is a GPU; the others tiny.

    Tiny models get the bundled model's autoencoder, so that pictures can be recognised.

    Args:
        named: what :func:`dragonkit.load` takes, several with commas between; the empty text loads and downloads
            nothing.

    Returns:
        Models by family.

    Raises:
        InputError: what is named is not there, or of none of the families, or two are of one.
    """
    found: dict[str, Model] = {}
    names = [name.strip() for name in named.split(",") if name.strip()]
    if names and not torch.cuda.is_available():
        print(f"There is no GPU here, so {', '.join(names)} would take hours: tiny models instead.")
        names = []
    for name in names:
        model = load(name)
        family = family_of(model)
        if family in found:
            raise InputError(f"{found[family].name!r} and {name!r} are both of {family}: name one of each")
        found[family] = model
    autoencoder = read_autoencoder(data_path("mini"), CARDS, torch.float32, {}, False)
    for family in FAMILIES:
        if family not in found:
            found[family] = tiny(family)
            found[family].vae = autoencoder.eval().requires_grad_(False)
        print(f"{family}: {found[family].name!r} on {found[family].device}, {found[family].card.about}")
    return {family: found[family] for family in FAMILIES}


def fit(image: Any, model: Model) -> Image.Image:
    """A picture in its own proportions, with as many pixels as those that a model was trained on.

    Args:
        image: whatever :func:`dragonkit.regions.as_image` takes.
        model: the model.

    Returns:
        The picture, each side rounded to a pixel; :func:`dragonkit.edit` extends it to what the model takes, and crops.
    """
    picture = to_pil(as_image(image))
    height, width = model.size
    scale = (height * width / (picture.height * picture.width)) ** 0.5
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)


def _published(family: str) -> dict[str, Any]:
    """A family's configurations, by part; raises an InputError if there is no such family."""
    if family not in FAMILIES:
        raise InputError(f"no family {family!r}: choose from {', '.join(FAMILIES)}")
    return PUBLISHED[family]


def _narrow(config: dict[str, Any]) -> dict[str, Any]:
    """A network's configuration, narrower."""
    narrow = config | {key: config[key] // NARROWER for key in _WIDTHS if key in config}
    if "block_out_channels" in config:
        narrow |= dict(block_out_channels=[w // NARROWER for w in config["block_out_channels"]], norm_num_groups=4)
        narrow |= dict(sample_size=TINY_SIZE if config["_class_name"] == "AutoencoderKL" else TINY_SIZE // 8)
    else:
        narrow |= dict(num_hidden_layers=2, num_attention_heads=config["num_attention_heads"] // 4, vocab_size=514)
    return narrow
