"""Tiny random models, shaped like Stable Diffusion, and small pictures. Seeded: the same at every call."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dragonkit.models import Model

SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def tiny_unet(seed: int = 0) -> UNet2DConditionModel:
    """Four levels, three with attention, as Stable Diffusion's, but a few channels wide."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=16,
        attention_head_dim=(2, 2, 4, 4),
        norm_num_groups=4,
    )


def tiny_tokenizer() -> CLIPTokenizer:
    """A byte-level vocabulary that encodes any text."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that stand for themselves; others from 256
    letters = [chr(b) for b in shown] + [chr(256 + k) for k in range(256 - len(shown))]
    words = letters + [c + "</w>" for c in letters] + ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
        Path(folder, "merges.txt").write_text("#version: 0.2\n")
        Path(folder, "tokenizer_config.json").write_text(json.dumps({"model_max_length": 12}))
        return CLIPTokenizer.from_pretrained(folder)


def tiny_vae(scaling_factor: float = 0.5) -> AutoencoderKL:
    """An autoencoder four channels wide; 64 px images become 8 x 8 latents."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        scaling_factor=scaling_factor,
    )


def tiny_parts(seed: int = 0) -> dict[str, Any]:
    """The parts of a tiny model, new at every call: 64 px images become 8 x 8 latents."""
    unet, tokenizer, vae = tiny_unet(seed), tiny_tokenizer(), tiny_vae()
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=12,
            bos_token_id=len(tokenizer) - 2,
            eos_token_id=len(tokenizer) - 1,
        )
    )
    return {"unet": unet, "vae": vae, "text_encoder": text, "tokenizer": tokenizer}


@functools.cache
def tiny_model() -> Model:
    """One shared tiny model; tests that change a model build their own with :func:`fresh_model`."""
    return Model(name="tiny", schedule_config=SCHEDULER, **tiny_parts())


def fresh_model(**schedule: Any) -> Model:
    """A model of its own, to break or to reconfigure."""
    return Model(name="tiny", schedule_config=SCHEDULER | schedule, **tiny_parts())


def save_pipeline(folder: Path, model: Model) -> Path:
    """Write the ordinary diffusers folder layout."""
    for name, part in model.parts.items():
        part.save_pretrained(folder / name, safe_serialization=True)
    model.tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(model.schedule_config))
    return folder


def hooks(model: Model) -> int:
    """How many hooks hang on the denoiser."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.unet.modules())


def picture(height: int = 128, width: int = 128, seed: int = 0) -> Tensor:
    """A smooth random image (3, height, width) in [0, 1]."""
    noise = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")[0]


def box(height: int, width: int, top: int, left: int, bottom: int, right: int) -> Tensor:
    """A bool mask (height, width), set from top to bottom - 1 and left to right - 1."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask
