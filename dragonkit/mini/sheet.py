"""A sheet to judge the bundled model by eye: ``python -m dragonkit.mini.sheet --out FILE.png``.

Sixteen samples by the stock ``StableDiffusionPipeline``, then four renders above their reconstructions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from dragonkit.data import data_path
from dragonkit.models import load
from dragonkit.world.render import render_batch
from dragonkit.world.scene import caption, sample_scene


def samples(folder: Path, prompts: list[str], scale: float = 3.0) -> Tensor:
    """One sample a prompt, seeded by its index: (N, 3, 256, 256) in [0, 1]."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    images = [
        pipeline(
            prompt,
            height=256,
            width=256,
            guidance_scale=scale,
            generator=torch.Generator().manual_seed(index),
            output_type="pt",
        ).images
        for index, prompt in enumerate(prompts)
    ]
    return torch.cat(images)


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    prompts = [caption(sample_scene(seed, "test")) for seed in range(16)]
    drawn = samples(data_path("mini"), prompts)
    model = load("mini")
    renders, _ = render_batch([sample_scene(seed, "test") for seed in range(16, 20)])
    tiles = torch.cat([drawn, renders, model.decode(model.encode(renders))])
    grid = tiles.view(6, 4, 3, 256, 256).permute(0, 3, 1, 4, 2).reshape(6 * 256, 4 * 256, 3)
    Image.fromarray((grid.clamp(0, 1) * 255).round().byte().numpy()).save(args.out)
    for index, prompt in enumerate(prompts):
        print(f"row {index // 4 + 1}, column {index % 4 + 1}: {prompt}")


if __name__ == "__main__":
    main()
