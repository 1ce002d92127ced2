"""Held-out measurements of the bundled model: ``python -m dragonkit.mini.measure --json FILE``.

Three bars, on test scenes that nothing was tuned on: how well the autoencoder keeps a picture, how well DDIM inversion
and generation give it back, and whether the denoiser knows what a caption says. Inversion is measured twice: with every
step solved for ("inversion", :func:`dragonkit.inversion.fixed_point_invert`), and extrapolated, which costs one
evaluation a step ("extrapolated", :func:`dragonkit.inversion.ddim_invert`). The classifier is a diffusion classifier:
the denoising loss should be lower under the true caption than under one with one word changed.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dragonkit.evaluate.scores import psnr
from dragonkit.inversion import Inverter, Keep, ddim_invert, fixed_point_invert
from dragonkit.models import Cond, Model, load
from dragonkit.schedule import Schedule, alphas_cumprod
from dragonkit.world.render import render_batch
from dragonkit.world.scene import COLOURS, GROUNDS, SHAPES, Scene, caption, sample_scene, stream

INVERTERS: dict[str, Inverter] = {"inversion": fixed_point_invert, "extrapolated": ddim_invert}
BARS = ("autoencoder", *INVERTERS, "classifier")
ATTRIBUTES = ("colour", "shape", "ground")


def each_psnr(images: Tensor, answers: Tensor, masks: Tensor | None = None) -> Tensor:
    """:func:`dragonkit.evaluate.scores.psnr` of each of a batch (B, 3, H, W), (B,); ``masks`` are bool (B, H, W)."""
    regions = [None] * len(images) if masks is None else masks
    return torch.tensor([psnr(*one) for one in zip(images, answers, regions, strict=True)])


def embed_all(model: Model, prompts: list[str]) -> Cond:
    """The embeddings of several prompts as one batch."""
    return {"encoder_hidden_states": torch.cat([model.embed(p)["encoder_hidden_states"] for p in prompts])}


def changed(scene: Scene, attribute: str, seed: int) -> Scene:
    """The scene with one word of its caption changed: one object's colour or shape, or the ground."""
    rng = stream("changed", attribute, seed)
    if attribute == "ground":
        return replace(scene, ground=rng.choice([g for g in GROUNDS if g != scene.ground]))
    k = rng.randrange(len(scene.objects))
    o = scene.objects[k]
    names = [n for n in (COLOURS if attribute == "colour" else SHAPES) if n != getattr(o, attribute)]
    name = rng.choice(names)
    o = replace(o, colour=name) if attribute == "colour" else replace(o, shape=name)
    return replace(scene, objects=(*scene.objects[:k], o, *scene.objects[k + 1 :]))


@torch.no_grad()
def denoising_loss(model: Model, z0: Tensor, cond: Cond, draws: int, seed: int) -> Tensor:
    """Mean squared error of ε over ``draws`` stratified timesteps, the same noise for every caller: (B,)."""
    alphas, total = alphas_cumprod(model.schedule_config).to(z0.device), torch.zeros(len(z0), device=z0.device)
    generator = torch.Generator().manual_seed(seed)
    for k in range(draws):
        t = int((k + 0.5) / draws * len(alphas))
        noise = torch.randn(z0.shape, generator=generator).to(z0.device)
        zt = alphas[t] ** 0.5 * z0 + (1 - alphas[t]) ** 0.5 * noise
        total += (model.predict(zt, t, cond) - noise).square().mean((1, 2, 3))
    return total / draws


@torch.no_grad()
def measure(
    model: Model, scenes: list[Scene], bars: Sequence[str] = BARS, steps: int = 50, draws: int = 64, batch: int = 16
) -> dict[str, Any]:
    """Some of the bars over some scenes; means over scenes, see the module's docstring."""
    rows: dict[str, list[Tensor]] = {}

    def add(**values: Tensor) -> None:
        for name, value in values.items():
            rows.setdefault(name, []).append(value.float())

    schedule = Schedule(model, steps)
    for first in range(0, len(scenes), batch):
        part = scenes[first : first + batch]
        image, cover = render_batch(part, device=model.device)
        z0, cond = model.encode(image), embed_all(model, [caption(s) for s in part])
        if "autoencoder" in bars:
            through = model.decode(z0)
            add(autoencoder=each_psnr(through, image), autoencoder_objects=each_psnr(through, image, cover > 0.5))
        for name in INVERTERS.keys() & set(bars):
            path = INVERTERS[name](model, z0, cond, schedule, keep=Keep(), progress=iter, cfg=None)
            z = path.z_T
            for i, t in enumerate(schedule.timesteps):
                z, _ = schedule.step(z, model.predict(z, t, cond), i)
            back = model.decode(z)
            add(**{name: each_psnr(back, image), f"{name}_objects": each_psnr(back, image, cover > 0.5)})
            add(**{f"{name}_noise_spread": path.z_T.flatten(1).std(1)})
        if "classifier" in bars:
            true = denoising_loss(model, z0, cond, draws, first)
            add(denoising_loss=true)
            for name in ATTRIBUTES:
                others = embed_all(model, [caption(changed(s, name, first + k)) for k, s in enumerate(part)])
                add(**{f"classifier_{name}": true < denoising_loss(model, z0, others, draws, first)})
    means = {name: round(float(torch.cat(values).mean()), 4) for name, values in rows.items()}
    return {"scenes": len(scenes), "steps": steps, "draws": draws, **means}


def main() -> None:
    """Parse arguments, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--bars", nargs="+", default=BARS, choices=BARS)
    parser.add_argument("--n", type=int, default=256, help="number of scenes")
    parser.add_argument("--split", default="test", choices=("train", "test"))
    parser.add_argument("--first", type=int, default=0, help="seed of the first scene")
    parser.add_argument("--draws", type=int, default=64, help="timesteps and noises a caption")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default=None)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    start, model = time.time(), load(args.model, device=args.device, dtype=torch.float32)
    scenes = [sample_scene(args.first + k, args.split) for k in range(args.n)]
    result = measure(model, scenes, args.bars, draws=args.draws, batch=args.batch)
    name = torch.cuda.get_device_name() if model.device.type == "cuda" else f"{platform.machine()} CPU"
    result |= {"split": args.split, "first": args.first, "hardware": name, "seconds": round(time.time() - start, 1)}
    text = json.dumps(result, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
