"""From a prompt to what conditions the U-Net: one text encoder, or the two of Stable Diffusion XL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dragonkit.errors import InputError
from dragonkit.transfer import sent

Cond = dict[str, Tensor]
"""What conditions the U-Net, batch first: ``encoder_hidden_states`` (B, tokens, width), and for SDXL also
``text_embeds`` (B, width) and ``time_ids`` (B, 6). Flat, so that embeddings are joined and repeated entry by entry."""

WORDS = "encoder_hidden_states"


def arguments(cond: Cond) -> dict[str, Any]:
    """The U-Net's keyword arguments: what is not words goes to diffusers in a dict of its own."""
    added = {name: value for name, value in cond.items() if name != WORDS}
    return {WORDS: cond[WORDS], "added_cond_kwargs": added} if added else {WORDS: cond[WORDS]}


def tokens(tokenizer: Any, encoder: Any, prompt: str) -> dict[str, Tensor]:
    """A prompt's "input_ids" and "attention_mask", (1, window), cut to the encoder's window and padded to it.

    Raises:
        InputError: the encoder has no embedding of a token.
    """
    window = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    words = tokenizer([prompt], padding="max_length", max_length=window, truncation=True, return_tensors="pt")
    known, largest = encoder.get_input_embeddings().num_embeddings, int(words.input_ids.max())
    if largest >= known:
        raise InputError(f"prompt has token {largest}, the text encoder knows {known}: use the tokenizer it came with")
    return {name: sent(words[name], encoder.device) for name in ("input_ids", "attention_mask")}


def embed_one(tokenizer: Any, encoder: Any, prompt: str) -> Cond:
    """The encoder's last hidden states, as in Stable Diffusion 1 and 2.

    Stable Diffusion 2 wants OpenCLIP's last but one layer; its encoder is published without the last one. Padding is
    read like words, unless the encoder's configuration says ``use_attention_mask``.
    """
    words = tokens(tokenizer, encoder, prompt)
    mask = words["attention_mask"] if getattr(encoder.config, "use_attention_mask", False) else None
    return {WORDS: encoder(words["input_ids"], attention_mask=mask)[0]}


def embed_two(pairs: Sequence[tuple[Any, Any]], prompt: str, size: tuple[int, int], *, zeros: bool) -> Cond:
    """Both encoders' last but one hidden states side by side, and the second one's pooled embedding (SDXL, Sec. 2.2).

    Args:
        pairs: two (tokenizer, encoder), the second encoder with a projection.
        prompt: any text.
        size: (height, width) of the image in pixels. The model is told that its picture was of this size to begin with
            and has not been cropped, as diffusers does by default.
        zeros: give zeros for the empty prompt, which is what the model was trained with.
    """
    outs = [
        encoder(tokens(tokenizer, encoder, prompt)["input_ids"], output_hidden_states=True)
        for tokenizer, encoder in pairs
    ]
    device = outs[0].hidden_states[-2].device
    hidden = torch.cat([out.hidden_states[-2].to(device) for out in outs], dim=-1)
    pooled = outs[1].text_embeds.to(device)
    if zeros and prompt == "":
        hidden, pooled = torch.zeros_like(hidden), torch.zeros_like(pooled)
    # Whole pixels, of which bfloat16 knows only those up to 256: float32, whatever the rest is in.
    told = sent(torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32), device)
    return {WORDS: hidden, "text_embeds": pooled, "time_ids": told}
