"""Tiny random pipelines of the three families: Stable Diffusion 1.5, 2.1 (v-prediction) and XL. Seeded."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from dragonkit.models import Model
from tests.tiny import SCHEDULER, tiny_tokenizer, tiny_vae

FAMILIES = ("sd15", "sd21", "sdxl")

_UNET: dict[str, Any] = dict(
    sample_size=8,
    in_channels=4,
    out_channels=4,
    block_out_channels=(32, 32, 64, 64),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    cross_attention_dim=16,
    attention_head_dim=4,
    norm_num_groups=8,
)
UNETS: dict[str, dict[str, Any]] = {
    "sd15": _UNET,
    "sd21": _UNET | dict(attention_head_dim=(2, 4, 4, 8), cross_attention_dim=24, use_linear_projection=True),
    "sdxl": _UNET
    | dict(
        sample_size=16,
        block_out_channels=(32, 32, 64),
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(2, 4, 4),
        cross_attention_dim=40,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24,
    ),
}


def clip(width: int, layers: int, act: str, kind: Any = CLIPTextModel) -> Any:
    """A text encoder as narrow as that."""
    words = len(tiny_tokenizer())
    return kind(
        CLIPTextConfig(
            vocab_size=words,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=12,
            hidden_act=act,
            projection_dim=width,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
        )
    )


def family_parts(family: str, seed: int = 0) -> dict[str, Any]:
    """The parts of a family's tiny model, new at every call, at 64 px (SDXL 128 px) by default."""
    torch.manual_seed(seed)
    vae = tiny_vae(0.13025 if family == "sdxl" else 0.18215)
    parts = {"unet": UNet2DConditionModel(**UNETS[family]), "vae": vae, "tokenizer": tiny_tokenizer()}
    parts["schedule_config"] = SCHEDULER | {
        "prediction_type": "v_prediction" if family == "sd21" else "epsilon",
    }
    if family == "sd15":
        return parts | {"text_encoder": clip(16, 2, "quick_gelu")}
    if family == "sd21":
        return parts | {"text_encoder": clip(24, 2, "gelu")}
    second = tiny_tokenizer()
    second.pad_token = "!"
    return parts | {
        "text_encoder": clip(16, 2, "quick_gelu"),
        "text_encoder_2": clip(24, 3, "gelu", CLIPTextModelWithProjection),
        "tokenizer_2": second,
    }


def family_pipeline(family: str, seed: int = 0) -> Any:
    """diffusers' own pipeline of these parts."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    parts = family_parts(family, seed)
    scheduler = DDIMScheduler.from_config(parts.pop("schedule_config"))
    if family == "sdxl":
        pipe: Any = StableDiffusionXLPipeline(**parts, scheduler=scheduler, add_watermarker=False)
    else:
        pipe = StableDiffusionPipeline(
            **parts, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@functools.cache
def family_model(family: str) -> Model:
    """One shared tiny model of a family; tests that change a model make their own from ``family_parts``."""
    return Model(name=f"tiny {family}", **family_parts(family))


def edited_json(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
