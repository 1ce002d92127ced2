"""The published configurations of Stable Diffusion's networks, as facts, and random models of exactly these shapes.

From the ``config.json`` files of the repositories named in ``cards``: Stable Diffusion 1.5, 2.1, 2.1 base and XL base
1.0. What is not listed has the default of its class in diffusers or transformers.
"""

from __future__ import annotations

from typing import Any

import torch

from dragonkit.loading.folder import vae_dtype

Config = dict[str, Any]

_NOISE: Config = dict(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    clip_sample=False,
    set_alpha_to_one=False,
    skip_prk_steps=True,
    steps_offset=1,
    trained_betas=None,
)
_PLMS = dict(_class_name="PNDMScheduler", prediction_type="epsilon") | _NOISE

_VAE: Config = dict(
    _class_name="AutoencoderKL",
    in_channels=3,
    out_channels=3,
    down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
    block_out_channels=[128, 256, 512, 512],
    layers_per_block=2,
    latent_channels=4,
    norm_num_groups=32,
)

_UNET: Config = dict(
    _class_name="UNet2DConditionModel",
    sample_size=64,
    in_channels=4,
    out_channels=4,
    down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    block_out_channels=[320, 640, 1280, 1280],
    layers_per_block=2,
    attention_head_dim=8,
    cross_attention_dim=768,
)
_UNET_2: Config = _UNET | dict(attention_head_dim=[5, 10, 20, 20], cross_attention_dim=1024, use_linear_projection=True)
_UNET_XL: Config = _UNET | dict(
    sample_size=128,
    down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
    up_block_types=["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
    block_out_channels=[320, 640, 1280],
    transformer_layers_per_block=[1, 2, 10],
    attention_head_dim=[5, 10, 20],
    cross_attention_dim=2048,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)


def _clip(kind: str, width: int, layers: int, heads: int, act: str, projection: int) -> Config:
    return dict(
        architectures=[kind],
        model_type="clip_text_model",
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act=act,
        projection_dim=projection,
        max_position_embeddings=77,
        vocab_size=49408,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,  # as published; with this number the end of a text is taken to be its largest token
    )


_CLIP_L = _clip("CLIPTextModel", 768, 12, 12, "quick_gelu", 768)
_CLIP_H = _clip("CLIPTextModel", 1024, 23, 16, "gelu", 512)  # 24 layers less the last
_CLIP_G = _clip("CLIPTextModelWithProjection", 1280, 32, 20, "gelu", 1280)

PUBLISHED: dict[str, dict[str, Config]] = {
    "sd15": {
        "unet": _UNET,
        "vae": _VAE | dict(sample_size=512, scaling_factor=0.18215),
        "text_encoder": _CLIP_L,
        "scheduler": _PLMS,
    },
    "sd21": {
        "unet": _UNET_2 | dict(sample_size=96),
        "vae": _VAE | dict(sample_size=768, scaling_factor=0.18215),
        "text_encoder": _CLIP_H,
        "scheduler": _NOISE | dict(_class_name="DDIMScheduler", prediction_type="v_prediction"),
    },
    "sd21-base": {
        "unet": _UNET_2,
        "vae": _VAE | dict(sample_size=512, scaling_factor=0.18215),
        "text_encoder": _CLIP_H,
        "scheduler": _PLMS,
    },
    "sdxl": {
        "unet": _UNET_XL,
        "vae": _VAE | dict(sample_size=1024, scaling_factor=0.13025, force_upcast=True),
        "text_encoder": _CLIP_L,
        "text_encoder_2": _CLIP_G,
        "scheduler": _NOISE
        | dict(_class_name="EulerDiscreteScheduler", prediction_type="epsilon", timestep_spacing="leading"),
    },
}
"""By card and by the folder of the part."""


def build(config: Config) -> Any:
    """A network of a configuration, its weights drawn from torch's default generator, on torch's default device."""
    import diffusers
    import transformers

    if "_class_name" in config:
        return getattr(diffusers, config["_class_name"]).from_config(config)
    kind = getattr(transformers, config["architectures"][0])
    return kind(kind.config_class(**{k: v for k, v in config.items() if k != "architectures"}))


def random_parts(name: str, device: torch.device, dtype: torch.dtype, seed: int = 0) -> dict[str, Any]:
    """Networks of a published shape with random weights, the same for a seed on one kind of device.

    Args:
        name: one of ``PUBLISHED``.
        device: where they are made; nothing is made elsewhere first.
        dtype: of the weights.
        seed: of the weights.

    Returns:
        Arguments of :class:`dragonkit.models.Model`, with tokenizers that take any text as bytes.
    """
    configs, before = PUBLISHED[name], torch.get_default_dtype()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(device):
        torch.manual_seed(seed)
        parts = {}
        try:
            for part, config in configs.items():
                if part == "scheduler":
                    continue
                two = "text_encoder_2" in configs
                torch.set_default_dtype(vae_dtype(config, dtype, two) if part == "vae" else dtype)
                parts[part] = build(config)
        finally:
            torch.set_default_dtype(before)
    words = byte_tokenizer(configs["text_encoder"]["max_position_embeddings"])
    parts["tokenizer"] = words
    if "text_encoder_2" in parts:
        parts["tokenizer_2"] = words
    return {**parts, "schedule_config": dict(configs["scheduler"])}


def byte_tokenizer(window: int) -> Any:
    """A CLIP tokenizer that knows bytes and no words: it takes any text, and means nothing to trained weights."""
    import json
    import tempfile
    from pathlib import Path

    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}), encoding="utf-8")
        Path(folder, "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=window)
