"""Exercises of notebook 09: what differs between models, what a run keeps, and what to change when it goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dragonkit.course.exercise import Wrong, called, exercise, number
from dragonkit.data import data_path
from dragonkit.energy import similarity
from dragonkit.errors import InputError

MEASURED = ("speed-sd15-512.json", "speed-sd15-768.json", "speed-sdxl-1024.json")
"""What ``python -m dragonkit bench speed`` wrote on a GPU, in ``data/bench``."""

SYMPTOMS: dict[str, dict[str, Any]] = {
    "A": dict(w_contrast=0.0, w_inpaint=0.0),
    "B": dict(lock=False, preserve=False, attention_mode="off"),
    "C": dict(energy=16.0, clip=0.0),
    "D": dict(energy=0.1, start="keep"),
}
"""What is wrong with the guidance of each spoilt edit, on top of the preset ``fast``."""

REMEDIES = {"A": "clear the old place", "B": "hold the rest", "C": "push less", "D": "push more"}
"""What helps each of them."""

_NAMES = {
    "official": "the official loop's shape",
    "eager": "ours, nothing recorded",
    "ours": "ours",
    "low": "ours, memory='low'",
}


@exercise
def check_epsilon(answer: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """Write ε from a v-prediction: from v and z_t (1, C, h, w) and a = ᾱ_t, a number."""
    draw = torch.Generator().manual_seed(0)
    for a in (0.9, 0.2):
        x0, eps = (torch.randn(1, 4, 3, 3, generator=draw, dtype=torch.float64) for _ in range(2))
        z, v = a**0.5 * x0 + (1 - a) ** 0.5 * eps, a**0.5 * eps - (1 - a) ** 0.5 * x0
        found = called(answer, v, z, a)
        if not isinstance(found, Tensor) or found.shape != v.shape:
            raise Wrong("ε has the shape of v and z: one number for each of theirs")
        known = {
            "that is the clean latent x0 = √ᾱ z - √(1-ᾱ) v; now solve for ε": x0,
            "that is v as it is, and v is no noise": v,
            "the factors are roots: √ᾱ and √(1-ᾱ)": a * v + (1 - a) * z,
            "the two factors are exchanged": (1 - a) ** 0.5 * v + a**0.5 * z,
            "the sign between the two": a**0.5 * v - (1 - a) ** 0.5 * z,
        }
        for hint, mistaken in known.items():
            if torch.allclose(found.double(), mistaken, atol=1e-5):
                raise Wrong(hint)
        if not torch.allclose(found.double(), eps, atol=1e-5):
            raise Wrong("from z = √ᾱ x0 + √(1-ᾱ) ε and v = √ᾱ ε - √(1-ᾱ) x0 eliminate x0: √ᾱ v + √(1-ᾱ) z = ...?")
    return "at every noise level, without a division"


@exercise
def check_time_ids(answer: Callable[..., Sequence[float]]) -> str:
    """Write the six numbers that SDXL is told: from size, corner and target, each a pair, the vertical one first."""
    for size, corner, target in (((600, 900), (10, 20), (512, 768)), ((1024, 1536), (0, 0), (1024, 1536))):
        found = called(answer, size, corner, target)
        try:
            numbers = [float(x) for x in (found.flatten().tolist() if isinstance(found, Tensor) else found)]
        except (TypeError, ValueError):
            raise Wrong(f"give six numbers in a row; this is {found!r}") from None
        if len(numbers) != 6:
            raise Wrong(f"there are six numbers, two for each pair; yours are {len(numbers)}")
        if numbers == [*size, *corner, *target]:
            continue
        if numbers == [*size[::-1], *corner[::-1], *target[::-1]]:
            raise Wrong("height comes before width, and top before left")
        if numbers == [*target, *corner, *size]:
            raise Wrong("the size to begin with comes first, the size to be made last")
        raise Wrong(f"size {size}, corner {corner}, target {target}: in this order, not {numbers}")
    return "height first; an edit tells the picture's own size twice, and no cropping"


@exercise
def check_layers(answer: Sequence[int], one: Mapping[int, Tensor], other: Mapping[int, Tensor]) -> str:
    """Name the two decoder layers of SDXL whose features are as layers 2 and 3 of Stable Diffusion 1.5."""
    try:
        first, second = (int(k) for k in answer)
    except (TypeError, ValueError):
        raise Wrong(f"name two layers, for instance (2, 3); this is {answer!r}") from None
    for mine, theirs in ((2, first), (3, second)):
        if theirs not in other:
            raise Wrong(f"SDXL has decoder layers {', '.join(map(str, other))}, and no {theirs}")
        (c, share), (c_mine, share_mine) = _kind(other, theirs), _kind(one, mine)
        if share != share_mine:
            raise Wrong(f"layer {mine} has {share_mine:g} of the finest resolution, SDXL's layer {theirs} {share:g}")
        if c != c_mine:
            raise Wrong(f"the resolution is right, but {c} channels are not {c_mine}: which layer comes before?")
    return "as many channels, and as fine: the first two of three do what the middle two of four did"


def _kind(features: Mapping[int, Tensor], layer: int) -> tuple[int, float]:
    """A layer's channels, and how fine it is: its width over the widest layer's."""
    return features[layer].shape[1], features[layer].shape[-1] / max(f.shape[-1] for f in features.values())


@exercise
def check_half(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Write S of Eq. 4 for features (1, C, h, w) in float16: right to five digits, with a gradient for the first."""
    draw = torch.Generator().manual_seed(0)
    for scale in (1.0, 40.0):
        gen, gud = ((scale * torch.randn(1, 640, 8, 8, generator=draw)).half() for _ in range(2))
        gen.requires_grad_()
        found = called(answer, gen, gud)
        if isinstance(found, Tensor) and found.dtype == torch.float16:
            raise Wrong("S itself is in float16, which has three digits, and a gradient through it fewer: widen first")
        value = number(found, tensor=True)
        right = similarity(gen.detach().float(), gud.float()).item()
        if abs(value - (2 * right - 1)) < 1e-5:
            raise Wrong("that is the mean cosine, from -1 to 1; S is the same from 0 to 1")
        if abs(value - right) > 1e-5:
            raise Wrong(f"S should be {right:.6f} and is {value:.6f}: widen the features before anything is summed")
        (grad,) = torch.autograd.grad(found, gen, allow_unused=True) if found.requires_grad else (None,)
        if grad is None or not grad.abs().max() > 0:
            raise Wrong("no gradient comes back to the features: widen them with .float(), which has one")
    return "the features are half precision, the sums are not"


@exercise
def check_tokens(answer: Callable[[int, int, int, int], float]) -> str:
    """Write the bytes of Stable Diffusion 1.5's guidance tokens: height, width in pixels, steps, bytes a value."""
    for height, width, steps, size in ((512, 512, 45, 2), (768, 768, 45, 2), (512, 768, 20, 4)):
        found = number(called(answer, height, width, steps, size))
        cells = height * width // 64
        values = 3 * (cells // 16 * 1280 + cells // 4 * 640 + cells * 320)
        right = values * steps * size
        known = {
            "that is one module for each width: there are three": right / 3,
            "keys and values would take as much; tokens are kept once": right * 2,
            "the grids are those of the latent, which is 8 times coarser than the picture": right * 64,
            "every step keeps its own": right / steps,
            f"each value takes {size} bytes": right / size,
        }
        for hint, mistaken in known.items():
            if abs(found - mistaken) < 1e-6 * right:
                raise Wrong(hint)
        if abs(found - right) > 1e-6 * right:
            raise Wrong(
                f"{width} x {height}, {steps} steps of {size} bytes: {right / 1e6:.1f} MB, not {found / 1e6:.1f}: "
                "three modules each at a quarter, a half and all of the latent's width, 1280, 640 and 320 channels"
            )
    return "for any size: twice the side is four times the bytes"


@exercise
def check_remedies(answer: Mapping[str, str]) -> str:
    """Give each picture its remedy: a dict from "A", "B", "C", "D" to one of the four."""
    if not isinstance(answer, Mapping) or set(answer) != set(REMEDIES):
        raise Wrong(f"give a dict with the keys {', '.join(REMEDIES)}, each with a remedy")
    hints = {
        "A": "look at where it stood before: who tells the model that nothing shall be there?",
        "B": "look at what should have stayed as it was",
        "C": "look at the colours: no photograph has them",
        "D": "compare with the picture before: what has changed?",
    }
    for letter, remedy in answer.items():
        if remedy not in REMEDIES.values():
            raise Wrong(f"{remedy!r} is none of {', '.join(map(repr, REMEDIES.values()))}")
        if remedy != REMEDIES[letter]:
            raise Wrong(f"not {remedy!r} for {letter}: {hints[letter]}")
    return "you can tell from the picture which number to change"


def measured(folder: str | Path | None = None) -> dict[str, dict[str, Any]]:
    """The measurements of seconds and memory on a GPU.

    Args:
        folder: where they are; default ``data/bench``.

    Returns:
        What ``python -m dragonkit bench speed`` reported, by file name, in the order of ``MEASURED``.

    Raises:
        InputError: one of them is missing or cannot be read.
    """
    place = Path(folder) if folder is not None else data_path() / "bench"
    found = {}
    for name in MEASURED:
        try:
            found[name] = json.loads((place / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{name} is not there: `python -m dragonkit bench speed` makes it on a GPU") from None
        except ValueError as error:
            raise InputError(f"{name} cannot be read as JSON: fetch it again") from error
    return found


def speed_table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Measurements as text: for each report what was run and where, and a line for each way of running it.

    "GB" is the peak of what torch had allocated, "held" of what it had reserved for that, in 10^9 bytes, and "use" the
    share of what a large matrix product reaches.
    """
    blocks = []
    for report in reports.values():
        run, rows = report["run"], report["variants"]
        height, width = run["size"]
        lines = [
            f"{run['model']}, {width} x {height}, {run['dtype']}: {run['kind']}, {run['preset']}, {run['steps']} steps",
            f"on {report['made_with']['hardware']}",
            f"{'':26}{'seconds':>9}{'faster':>9}{'evaluations':>13}{'GB':>7}{'held':>7}{'use':>7}",
        ]
        for name, row in rows.items():
            faster = f"{rows['official']['seconds'] / row['seconds']:.1f}x" if "official" in rows else ""
            peak, use = row["peak_gb"], row["share_of_peak"]["measured"]
            lines.append(
                f"{_NAMES.get(name, name):26}{row['seconds']:>9.2f}{faster:>9}{row['nfe']:>13g}"
                f"{peak['allocated']:>7.1f}{peak['reserved']:>7.1f}{use:>7.0%}"
            )
        lines.append(f"{'the first call of ours':26}{rows['ours']['first_call_seconds']:>+9.2f}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
