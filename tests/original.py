"""A pipeline's tensors by their names in the original layout: the inverse of what diffusers does when it loads one."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_HEADS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2", "mid_block.attentions.0": "middle_block.1",
}  # fmt: skip


def unet_key(key: str, layers: int, attends: set[int]) -> str:
    """A U-Net tensor's original name; ``attends`` are the up blocks with attention."""
    for ours, theirs in _HEADS.items():
        if key.startswith(ours + "."):
            return theirs + key.removeprefix(ours)

    def inner(rest: str) -> str:
        name, _, leaf = rest.partition(".")
        return f"{_RESNET[name]}.{leaf}"

    if m := re.fullmatch(r"mid_block\.resnets\.(\d)\.(.+)", key):
        return f"middle_block.{2 * int(m[1])}.{inner(m[2])}"
    m = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", key)
    assert m, key
    side, i, kind, j, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
    if kind == "downsamplers":
        return f"input_blocks.{(i + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{i * (layers + 1) + layers}.{2 if i in attends else 1}.{rest}"
    block = f"input_blocks.{1 + i * (layers + 1) + j}" if side == "down" else f"output_blocks.{i * (layers + 1) + j}"
    return f"{block}.0.{inner(rest)}" if kind == "resnets" else f"{block}.1.{rest}"


def vae_key(key: str, levels: int) -> str:
    """An autoencoder tensor's original name."""
    for ours, theirs in (
        ("conv_norm_out", "norm_out"), ("conv_shortcut", "nin_shortcut"), ("mid_block.attentions.0", "mid.attn_1"),
        ("mid_block.resnets.0", "mid.block_1"), ("mid_block.resnets.1", "mid.block_2"),
        ("downsamplers.0", "downsample"), ("upsamplers.0", "upsample"), ("group_norm", "norm"), ("to_q", "q"),
        ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"), ("resnets", "block"), ("down_blocks", "down"),
    ):  # fmt: skip
        key = key.replace(ours, theirs)
    return re.sub(r"up_blocks\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}", key)


def clip_state(net: Any, prefix: str) -> State:
    """CLIP's tensors keep their names in transformers."""
    state = {key.removeprefix("text_model."): tensor for key, tensor in net.state_dict().items()}
    return {f"{prefix}transformer.text_model.{key}": tensor for key, tensor in state.items()}


def open_clip_state(net: Any, prefix: str) -> State:
    """OpenCLIP joins queries, keys and values, and turns its projection round."""
    state = {key.removeprefix("text_model."): tensor for key, tensor in net.state_dict().items()}
    names = {
        "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.token_embedding.weight": "token_embedding.weight",
    }
    found: State = {}
    for key, tensor in state.items():
        if key == "text_projection.weight":
            found["text_projection"] = tensor.T.contiguous()
        elif key in names:
            found[names[key]] = tensor
        elif key.startswith("final_layer_norm"):
            found[key.replace("final_layer_norm", "ln_final")] = tensor
        elif "q_proj" in key:
            joined = torch.cat([state[key.replace("q_proj", f"{x}_proj")] for x in "qkv"])
            found[
                re.sub(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.", r"transformer.resblocks.\1.attn.in_proj_", key)
            ] = joined
        elif "k_proj" not in key and "v_proj" not in key and "position_ids" not in key:
            for ours, theirs in (
                ("encoder.layers", "transformer.resblocks"), ("layer_norm", "ln_"), ("fc1", "c_fc"), ("fc2", "c_proj"),
                ("self_attn", "attn"),
            ):  # fmt: skip
                key = key.replace(ours, theirs)
            found[key] = tensor
    return {prefix + key: tensor for key, tensor in found.items()}


def original(family: str, parts: dict[str, Any]) -> State:
    """A family's checkpoint in one dict: what its single .safetensors file holds."""
    unet, vae = parts["unet"], parts["vae"]
    attends = {i for i, name in enumerate(unet.config.up_block_types) if "Attn" in name}
    layers, levels = unet.config.layers_per_block, len(vae.config.block_out_channels)
    state = {
        "model.diffusion_model." + unet_key(key, layers, attends): tensor for key, tensor in unet.state_dict().items()
    }
    for key, tensor in vae.state_dict().items():
        name = vae_key(key, levels)
        conv = "attn_1" in name and name.endswith("weight") and "norm" not in name
        state["first_stage_model." + name] = tensor[..., None, None] if conv else tensor
    if family == "sd15":
        state |= clip_state(parts["text_encoder"], "cond_stage_model.")
    elif family == "sd21":
        state |= open_clip_state(parts["text_encoder"], "cond_stage_model.model.")
    else:
        state |= clip_state(parts["text_encoder"], "conditioner.embedders.0.")
        state |= open_clip_state(parts["text_encoder_2"], "conditioner.embedders.1.model.")
    return {key: tensor.clone().contiguous() for key, tensor in state.items()}
