"""Train the bundled model from nothing but the world: ``python -m dragonkit.mini.train --out DIR``.

Three stages, each as long as it is told to take: render scenes, train the autoencoder, train the denoiser and the
text encoder on its latents (Eq. 2). On several GPUs start it with ``torchrun --nproc_per_node N -m
dragonkit.mini.train``: plain data parallelism, each process rendering scenes of its own. ``--compile`` fuses kernels;
a process started with ``--warm`` fills the compile cache while the others render. Checkpoints are EMA weights in the
layout that ``StableDiffusionPipeline.from_pretrained`` loads, and ``--resume DIR`` goes on from one.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

if "LOCAL_RANK" in os.environ:  # each process sees one GPU, so that compiled kernels are shared through the cache
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", os.environ["LOCAL_RANK"])

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from dragonkit.mini import architecture
from dragonkit.mini.export import save_pipeline
from dragonkit.mini.loop import Optimiser, Run, clocked
from dragonkit.world.render import render_batch
from dragonkit.world.scene import caption, sample_scene

VALIDATION = 10**9  # training scenes from this seed on are held out of training


def render_scenes(
    run: Run, first: int, count: int, batch: int, seconds: float = math.inf
) -> tuple[Tensor, Tensor, list[str]]:
    """Render training scenes: (images uint8 (N, 3, H, W), object cover uint8 (N, H, W), captions)."""
    images, covers, captions, begun = [], [], [], time.time()
    for start in range(first, first + count, batch):
        if time.time() - begun > seconds:
            break
        scenes = [sample_scene(seed) for seed in range(start, min(start + batch, first + count))]
        image, cover = render_batch(scenes, architecture.SIZE, 2, run.device)
        images.append((image * 255).round().to(torch.uint8))
        covers.append((cover * 255).round().to(torch.uint8))
        captions += [caption(scene) for scene in scenes]
        if len(captions) % (20 * batch) == 0:
            run.log("rendered", len(captions), "of", count)
    return torch.cat(images), torch.cat(covers), captions


def _gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def autoencoder_loss(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 and squared error, plus L1 of the image gradients at two scales.

    Args:
        y: (B, 3, H, W) reconstruction in [-1, 1].
        x: the image.
        weight: (B, 1, H, W), larger on objects.
    """
    error = y - x
    loss = (weight * (error.abs() + 2 * error.square())).mean()
    half = F.avg_pool2d(error * weight, 2)
    for part in (*_gradients(error * weight), *_gradients(half)):
        loss = loss + 0.4 * part.abs().mean()
    return loss


def train_autoencoder(
    run: Run, vae: AutoencoderKL, images: Tensor, covers: Tensor, held: Tensor, seconds: float, batch: int, fast: bool
) -> None:
    """Train the autoencoder for so many seconds and leave its averaged weights in it."""

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        z = vae.encode(x).latent_dist.mean
        # A little noise on the latents, 2% of their spread, keeps the decoder calm under the denoiser's small errors.
        noisy = z + 0.02 * z.detach().std() * torch.randn_like(z)
        return vae.decode(noisy).sample, z

    forward: Callable[[Tensor], tuple[Tensor, Tensor]] = torch.compile(reconstruct) if fast else reconstruct
    optimiser = Optimiser(run, [vae], 1e-3, 1e-4, 0.999)
    for progress in clocked(run, seconds):
        index = torch.randint(0, len(images), (batch,), device=run.device)
        x = images[index].float() / 127.5 - 1
        weight = 1 + 4 * F.max_pool2d(covers[index, None].float() / 255, 7, stride=1, padding=3)
        if optimiser.steps % 2:
            x, weight = x.flip(-1), weight.flip(-1)
        with run.autocast():
            y, z = forward(x.contiguous(memory_format=torch.channels_last))
        loss = autoencoder_loss(y.float(), x, weight / weight.mean()) + 1e-4 * z.float().square().mean()
        optimiser.step(loss, progress)
        if optimiser.steps in (1, 20) or optimiser.steps % 400 == 0:
            run.log(f"autoencoder step {optimiser.steps} images {optimiser.steps * batch * run.world} loss {loss:.4f}")
        if optimiser.steps % 2000 == 0:
            run.log(f"held-out autoencoder PSNR {_psnr(run, vae, held):.2f} dB")
    optimiser.swap()
    run.log(f"autoencoder done: {optimiser.steps} steps, averaged PSNR {_psnr(run, vae, held):.2f} dB")


@torch.no_grad()
def _psnr(run: Run, vae: AutoencoderKL, held: Tensor) -> float:
    errors = []
    for part in held.split(32):
        x = part.float() / 127.5 - 1
        with run.autocast():
            y = vae.decode(vae.encode(x).latent_dist.mean).sample.float().clamp(-1, 1)
        errors.append(((y - x) / 2).square().mean((1, 2, 3)))
    return float((-10 * torch.log10(torch.cat(errors))).mean())


@torch.no_grad()
def encode_all(run: Run, vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Latents of all images and of their mirror images, (2N, 4, H/8, W/8) float16."""
    parts = []
    for mirrored in (False, True):
        for part in images.split(128):
            x = (part.flip(-1) if mirrored else part).float() / 127.5 - 1
            with run.autocast():
                z = vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean
            parts.append(z.half())
    return torch.cat(parts)


def train_denoiser(
    run: Run,
    unet: UNet2DConditionModel,
    text: CLIPTextModel,
    latents: Tensor,
    tokens: Tensor,
    empty: Tensor,
    seconds: float,
    rate: float,
    batch: int,
    fast: bool,
    save: Callable[[], None],
) -> None:
    """Eq. 2: predict the noise in z_t = √ᾱ_t z_0 + √(1-ᾱ_t) ε, the caption dropped in one of ten samples."""
    alphas = architecture.build_scheduler().alphas_cumprod.to(run.device)

    def predict(zt: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        return unet(zt, t, text(ids)[0]).sample

    forward: Callable[[Tensor, Tensor, Tensor], Tensor] = torch.compile(predict) if fast else predict
    optimiser = Optimiser(run, [unet, text], rate, 1e-2, 0.9995)
    total, saved = torch.zeros((), device=run.device), 0.0
    for progress in clocked(run, seconds):
        index = torch.randint(0, len(latents), (batch,), device=run.device)
        z, ids = latents[index].float(), tokens[index % len(tokens)]
        ids = torch.where(torch.rand(batch, 1, device=run.device) < 0.1, empty, ids)
        t = torch.randint(0, len(alphas), (batch,), device=run.device)
        noise, a = torch.randn_like(z), alphas[t].view(-1, 1, 1, 1)
        zt = (a.sqrt() * z + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        with run.autocast():
            predicted = forward(zt, t, ids)
        loss = F.mse_loss(predicted.float(), noise)
        optimiser.step(loss, progress)
        total += loss.detach()
        if optimiser.steps == 1 or optimiser.steps % 400 == 0:
            mean = total / (1 if optimiser.steps == 1 else 400)
            run.log(f"denoiser step {optimiser.steps} samples {optimiser.steps * batch * run.world} loss {mean:.5f}")
            total.zero_()
        if progress - saved > 0.2 and run.rank == 0:
            saved = progress
            optimiser.swap()
            save()
            optimiser.swap()
    optimiser.swap()
    run.log(f"denoiser done: {optimiser.steps} steps, {optimiser.steps * batch * run.world} samples")


def _tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    return torch.tensor(tokenizer(texts, padding="max_length", truncation=True).input_ids)


def warm(run: Run, args: argparse.Namespace) -> None:
    """Compile both training steps on random data, only to fill the compile cache."""
    vae, unet, text, tokenizer = _build(run, args)
    size = architecture.SIZE
    images = torch.randint(0, 255, (args.vae_batch, 3, size, size), dtype=torch.uint8, device=run.device)
    train_autoencoder(run, vae, images, images[:, 0], images[:2], 1e-3, args.vae_batch, args.compile)
    run.log("warm: autoencoder")
    latents = torch.randn(args.batch, 4, size // 8, size // 8, device=run.device).half()
    tokens = _tokens(tokenizer, [""] * 2).to(run.device)
    train_denoiser(run, unet, text, latents, tokens, tokens[0], 1e-3, args.rate, args.batch, args.compile, lambda: None)
    run.log("warm: denoiser")


def _build(
    run: Run, args: argparse.Namespace
) -> tuple[AutoencoderKL, UNet2DConditionModel, CLIPTextModel, CLIPTokenizer]:
    """The parts, new or from ``--resume``, the same on every process."""
    torch.manual_seed(0)
    if args.resume:
        source = Path(args.resume)
        vae = AutoencoderKL.from_pretrained(source / "vae", torch_dtype=torch.float32)
        unet = UNet2DConditionModel.from_pretrained(source / "unet", torch_dtype=torch.float32)
        text = CLIPTextModel.from_pretrained(source / "text_encoder", torch_dtype=torch.float32)
        tokenizer = CLIPTokenizer.from_pretrained(source / "tokenizer")
    else:
        folder = run.out / "tokenizer"
        if run.rank == 0:  # once for all: the trainer breaks ties as it likes
            architecture.build_tokenizer(folder)
        run.wait()
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        vae, unet = architecture.build_vae(), architecture.build_unet()
        text = architecture.build_text_encoder(tokenizer)
    torch.manual_seed(run.rank + 1)
    vae, unet = (m.to(run.device, memory_format=torch.channels_last) for m in (vae, unet))
    return vae, unet, text.to(run.device), tokenizer


def main() -> None:
    """Parse arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model, checkpoints and the log")
    parser.add_argument("--scenes", type=int, default=40_000, help="scenes to render, a process")
    parser.add_argument("--render-seconds", type=float, default=math.inf, help="stop rendering after so long")
    parser.add_argument("--first", type=int, default=0, help="seed of the first scene")
    parser.add_argument("--vae-seconds", type=float, default=330, help="0 with --resume keeps the autoencoder")
    parser.add_argument("--seconds", type=float, default=900, help="of denoiser training")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate of the denoiser")
    parser.add_argument("--vae-batch", type=int, default=64, help="images a process")
    parser.add_argument("--batch", type=int, default=256, help="samples a process")
    parser.add_argument("--render-batch", type=int, default=64)
    parser.add_argument("--resume", help="a folder that an earlier run wrote")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--warm", action="store_true", help="only fill the compile cache")
    args = parser.parse_args()
    run = Run(args.out)
    torch._dynamo.config.cache_size_limit = 64
    if args.warm:
        warm(run, args)
        return

    vae, unet, text, tokenizer = _build(run, args)
    held, _, _ = render_scenes(run, VALIDATION, min(128, args.scenes), args.render_batch)
    images, covers, captions = render_scenes(
        run, args.first + run.rank * args.scenes, args.scenes, args.render_batch, args.render_seconds
    )
    run.log("rendered", len(images), "scenes on each of", run.world, "processes")

    if args.vae_seconds:
        train_autoencoder(run, vae, images, covers, held, args.vae_seconds, args.vae_batch, args.compile)
        del covers
        sample = encode_all(run, vae, images[:2000]).float()
        mean = run.mean(sample.mean((0, 2, 3)))
        std = run.mean((sample - mean.view(1, -1, 1, 1)).square().mean((0, 2, 3))).sqrt()
        architecture.standardise_latents(vae, mean, std)
        run.log("latents standardised from mean", mean.tolist(), "spread", std.tolist())

    def save() -> None:
        save_pipeline(run.out / "model", unet, vae, text, tokenizer, architecture.build_scheduler())
        run.log("saved")

    if run.rank == 0:
        save()
    if args.seconds:
        latents = encode_all(run, vae, images)
        del images
        run.log(f"latents: {len(latents)}, mean {latents.float().mean():.3f}, spread {latents.float().std():.3f}")
        tokens, empty = _tokens(tokenizer, captions).to(run.device), _tokens(tokenizer, [""])[0].to(run.device)
        train_denoiser(run, unet, text, latents, tokens, empty, args.seconds, args.rate, args.batch, args.compile, save)
        if run.rank == 0:
            save()
    run.leave()
    run.log("finished")


if __name__ == "__main__":
    main()
