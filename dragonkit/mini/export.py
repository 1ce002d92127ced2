"""Write the parts of a latent diffusion model as a diffusers folder: fp16, safetensors, in shards."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

SHARD = "15MB"  # the denoiser is cut into files of at most this size


def save_pipeline(
    folder: Path,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    scheduler: DDIMScheduler,
) -> None:
    """Save a pipeline that ``StableDiffusionPipeline.from_pretrained(folder)`` loads; the parts are not changed.

    Args:
        folder: created if missing.
        unet: the denoiser.
        vae: the autoencoder.
        text_encoder: the text encoder.
        tokenizer: its tokenizer.
        scheduler: the noise schedule.
    """
    with torch.no_grad():
        for name, part in (("unet", unet), ("vae", vae), ("text_encoder", text_encoder)):
            half = copy.deepcopy(part).to("cpu", torch.float16, memory_format=torch.contiguous_format)
            half.save_pretrained(folder / name, safe_serialization=True, max_shard_size=SHARD)
        # transformers loads in the dtype that the config names, diffusers in float32: let them agree
        config = folder / "text_encoder" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    tokenizer.save_pretrained(folder / "tokenizer")
    scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
