"""``bench inversion``: how near inversion and generation come back to the image, and what that costs.

How the numbers are made. Scenes with seeds S, S + 1, ..., S + n - 1 of the split are rendered, encoded, inverted under
their own caption and generated again from z_T, one at a time. PSNR compares the decoded latent with the rendered image,
whole and where objects are, per scene and then averaged over scenes; the ceiling is the autoencoder alone, encoded and
decoded. ``drift`` is the root mean square distance, by level from z_T (0) to the image, between the latents that
inversion went through and those that generation did, averaged over scenes. ``noise`` is z_T's mean and standard
deviation: 0 and 1 if inversion ends in the noise that the model was trained on. ``nfe``, ``backwards`` and ``seconds``
are of the inversion alone, means for one image; generation evaluates the denoiser once a step in every method.

Methods that end in ``_cfg``, and null-text, generate under classifier-free guidance.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from dragonkit.checks import check_number, check_whole
from dragonkit.errors import InputError
from dragonkit.evaluate.report import made_with, tidy
from dragonkit.evaluate.scores import average, psnr
from dragonkit.generation import denoise
from dragonkit.inversion import Inverter, Keep, Path, ddim_invert, fixed_point_invert, null_text_invert
from dragonkit.schedule import Schedule
from dragonkit.taps import Count, counted
from dragonkit.world import Scene, caption, sample_scene
from dragonkit.world.render import render_batch

if TYPE_CHECKING:
    from dragonkit.models import Model

Row = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """An inversion to measure.

    Args:
        about: one line.
        invert: the inverter.
        guided: whether generation uses classifier-free guidance.
    """

    about: str
    invert: Inverter
    guided: bool = False


METHODS = {
    "ddim": Method("DDIM inversion, the plain formula", partial(ddim_invert, order=1)),
    "ddim2": Method("DDIM inversion, extrapolated", ddim_invert),
    "ddim2_refined": Method("DDIM inversion, extrapolated, five levels refined", partial(ddim_invert, refine=5)),
    "fixed_point": Method("fixed-point inversion", fixed_point_invert),
    "ddim2_cfg": Method("DDIM inversion, extrapolated; guided generation", ddim_invert, guided=True),
    "null_text": Method("null-text inversion; guided generation", null_text_invert, guided=True),
}


def check_bench_inversion(methods: Sequence[str], n: int, seed: int, split: str, steps: int, cfg: float) -> None:
    """Refuse a bench that cannot be run.

    Raises:
        InputError: an unknown method or split, fewer than one scene or step, a scale that null-text does not take.
    """
    for name in methods:
        if name not in METHODS:
            raise InputError(f"unknown method {name!r}: choose from {', '.join(METHODS)}")
    if not methods:
        raise InputError(f"no method: choose from {', '.join(METHODS)}")
    check_whole("n", n, 1)
    check_whole("steps", steps, 1)
    check_number("cfg", cfg)
    if cfg == 1:
        raise InputError("cfg is 1, where the empty prompt has no effect: give another, such as 4")
    sample_scene(seed, split)


def bench_inversion(
    model: Model,
    methods: Sequence[str] = tuple(METHODS),
    n: int = 16,
    seed: int = 0,
    *,
    split: str = "test",
    steps: int = 50,
    cfg: float = 4.0,
    progress: bool = True,
) -> dict[str, Any]:
    """Invert ``n`` scenes with each method and generate them again.

    Args:
        model: the model to invert with.
        methods: keys of ``METHODS``.
        n: scenes.
        seed: the first scene's seed.
        split: "test", or "train" for tuning.
        steps: DDIM steps.
        cfg: classifier-free guidance scale of guided generation.
        progress: whether to show a bar.

    Returns:
        What the JSON file holds: ``{"ceiling": PSNR, "methods": {name: summary}, "run": ..., "made_with": ...}``.

    Raises:
        InputError: see :func:`check_bench_inversion`.
        NonFiniteError: an inversion left the finite numbers.
    """
    methods = list(dict.fromkeys(methods))
    check_bench_inversion(methods, n, seed, split, steps, cfg)
    schedule, seeds = Schedule(model, steps), range(seed, seed + n)
    items: dict[str, list[Row]] = {name: [] for name in methods}
    ceilings = []
    with tqdm(total=n * len(methods), desc="inversion", disable=not progress) as bar:
        for s in seeds:
            scene = sample_scene(s, split)
            image, cover = (x[0].cpu() for x in render_batch([scene]))
            z0 = model.encode(image[None])
            ceilings.append(_psnr(model, z0, image, cover))
            for name in methods:
                row = _bench_item(model, scene, z0, schedule, METHODS[name], cfg)
                z = row.pop("z")
                items[name].append({"seed": s, "psnr": _psnr(model, z, image, cover), **row})
                bar.update()
    report = {
        "ceiling": average(ceilings),
        "methods": {name: {"about": METHODS[name].about, **summary(items[name])} for name in methods},
        "run": {"model": model.name, "split": split, "seeds": list(seeds), "steps": steps, "cfg": cfg},
        "made_with": made_with(),
    }
    return tidy(report)


@torch.no_grad()
def _bench_item(model: Model, scene: Scene, z0: Tensor, schedule: Schedule, method: Method, cfg: float) -> Row:
    """Invert one scene, generate it again: the latent it comes back to, drift, noise and cost."""
    cond = model.embed(caption(scene), model.size_of(z0))
    scale, began = cfg if method.guided else 1.0, time.perf_counter()
    with counted(model.unet) as count, counted_backwards(model.unet) as backwards:
        path = method.invert(model, z0, cond, schedule, keep=Keep(), progress=iter, cfg=scale)
    seconds = time.perf_counter() - began
    latents = retrace(model, path, scale)
    return {
        "z": latents[-1],
        "drift": [(z - path.latents[i]).square().mean().sqrt().item() for i, z in enumerate(latents)],
        "noise": {"mean": path.z_T.mean().item(), "std": path.z_T.std().item()},
        "nfe": count.evaluations,
        "backwards": backwards.evaluations,
        "seconds": seconds,
    }


def _psnr(model: Model, z: Tensor, image: Tensor, cover: Tensor) -> dict[str, float]:
    decoded = model.decode(z)[0].cpu()
    return {"whole": psnr(decoded, image), "objects": psnr(decoded, image, cover > 0.5)}


@torch.no_grad()
def retrace(model: Model, path: Path, cfg: float = 1.0) -> list[Tensor]:
    """Generate from a path's z_T under its own prompt.

    Args:
        model: the denoiser.
        path: an inverted image, with the empty prompt's embeddings if the inversion found any.
        cfg: classifier-free guidance scale.

    Returns:
        The latents by level, (1, C, h, w) each; the first is z_T.

    Raises:
        InputError: the inversion was made for another scale.
    """
    z, empty, latents = path.z_T, path.unconditional(model, cfg), [path.z_T]
    for i, t in enumerate(path.schedule.timesteps):
        z, _ = path.schedule.step(z, denoise(model, z, t, path.cond, empty[i], cfg), i)
        latents.append(z)
    return latents


@contextmanager
def counted_backwards(unet: Any) -> Iterator[Count]:
    """Count the backward passes that go through the U-Net's forward passes inside the block."""
    count = Count()

    def add(grad: Tensor) -> None:
        count.evaluations += 1

    def watch(module: Any, args: Any, output: Any) -> None:
        if output[0].requires_grad:
            output[0].register_hook(add)

    handle = unet.register_forward_hook(watch)
    try:
        yield count
    finally:
        handle.remove()


def summary(items: Sequence[Row]) -> Row:
    """Means over scenes: n, psnr, drift by level, noise, nfe, backwards, seconds; and the items."""
    return {
        "n": len(items),
        "psnr": average([item["psnr"] for item in items]),
        "drift": [fmean(level) for level in zip(*(item["drift"] for item in items), strict=True)],
        "noise": average([item["noise"] for item in items]),
        **{key: fmean(item[key] for item in items) for key in ("nfe", "backwards", "seconds")},
        "items": list(items),
    }


def table(report: dict[str, Any]) -> str:
    """The report as text, a line for each method."""
    run = report["run"]
    width = max(len(name) for name in [*report["methods"], "autoencoder"])
    names = ("whole", "objects", "drift", "z_T mean", "std", "NFE", "backward", "seconds")
    how = f"n = {len(run['seeds'])}, {run['steps']} steps, cfg {run['cfg']:g} where guided"
    lines = [
        f"inversion and back, {how}; PSNR in dB",
        " " * width + "".join(f"{name:>10}" for name in names),
        f"{'autoencoder':{width}}" + "".join(_cell(report["ceiling"][key], ".2f") for key in ("whole", "objects")),
    ]
    for name, scores in report["methods"].items():
        lines.append(
            f"{name:{width}}"
            + "".join(_cell(scores["psnr"][key], ".2f") for key in ("whole", "objects"))
            + _cell(scores["drift"][-1], ".4f")
            + "".join(_cell(scores["noise"][key], ".3f") for key in ("mean", "std"))
            + "".join(_cell(scores[key], ".1f") for key in ("nfe", "backwards", "seconds"))
        )
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>10}"
