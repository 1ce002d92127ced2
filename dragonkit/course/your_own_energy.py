"""Exercises of notebook 10: what an energy has to be, and how one finds out whether it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import GeneratorType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dragonkit.course.exercise import Wrong, called, exercise
from dragonkit.edits import Branches, Regions
from dragonkit.energy import attract, similarity
from dragonkit.guidance import Guidance


def scalar(found: Any, what: str) -> Tensor:
    """What a reader's function gave, as a 0-d float64 tensor, its gradient kept.

    Raises:
        Wrong: it is not one number.
    """
    result = found if isinstance(found, Tensor) else torch.as_tensor(found)
    if result.numel() != 1 or not result.isfinite().all():
        raise Wrong(f"{what} should be one finite number; this is {found!r}")
    return result.reshape(()).double()


def features(seed: int, places: int = 6) -> tuple[Tensor, Tensor]:
    """Two sets of random feature vectors (5, places), float64; the first wants a gradient."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(5, places, generator=generator, dtype=torch.float64) + 0.5 for _ in range(2))
    return a.requires_grad_(), b


@exercise
def check_difference(mine: Callable[..., Any]) -> str:
    """Write the derivative of a function at z along a direction, from a step h ahead and one behind."""
    generator = torch.Generator().manual_seed(4)
    z, direction, centre = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    for weight, h in ((1.0, 0.1), (5.0, 0.5)):

        def bowl(x: Tensor, weight: float = weight) -> Tensor:
            return weight * (x - centre).square().sum()

        right = 2 * weight * float(((z - centre) * direction).sum())
        ahead = (float(bowl(z + h * direction)) - float(bowl(z))) / h
        found = float(scalar(called(mine, bowl, z, direction, h), "a derivative"))
        if abs(found - right) <= 1e-6 * max(1.0, abs(right)):
            continue
        hints = {
            -right: "the sign: ahead minus behind",
            2 * right: "ahead and behind are 2 h apart",
            ahead: "that looks ahead only, which is off by as much as the function bends; look behind, too",
        }
        near = [hint for value, hint in hints.items() if abs(found - value) < 1e-6 * max(1.0, abs(right))]
        hint = near[0] if near else "(f(z + h d) - f(z - h d)) / 2 h"
        raise Wrong(f"for a bowl the derivative is {right:.3f}, not {found:.3f}: {hint}")
    return "on two bowls, where it is exact however large the step"


@exercise
def check_fill(mine: Callable[..., Any]) -> str:
    """Write S of Eq. 4, place by place, of features (C, N) and those (C, N) that they shall resemble."""
    for seed in (0, 1):
        gen, gud = features(seed)
        gud.requires_grad_()
        found = scalar(called(mine, gen, gud), "a similarity")
        right = float(F.cosine_similarity(gen, gud, dim=0).detach().mean() + 1) / 2
        means = float(F.cosine_similarity(gen.mean(1), gud.mean(1), dim=0).detach() + 1) / 2
        if abs(found.item() - means) < 1e-5:
            raise Wrong("that compares the two means, and does not notice when places are exchanged: cosines first")
        if abs(found.item() - right) > 1e-5:
            hint = "the mean over places of the cosine of both vectors, mapped to [0, 1]"
            raise Wrong(f"for random features it should be {right:.3f} and is {found.item():.3f}: {hint}")
        if not found.requires_grad:
            raise Wrong("no gradient reaches the generation's features: work with tensors, without .item()")
        towards, away = torch.autograd.grad(found, (gen, gud), allow_unused=True)
        if away is not None and away.abs().max() > 0:
            raise Wrong("a gradient flows into the guidance features: sg(...) of Eq. 4 is .detach()")
        if towards is None or not towards.abs().max() > 0:
            raise Wrong("no gradient reaches the generation's features: detach the other ones")
    return "the value, and the gradient flows into the generation's features alone"


@exercise
def check_scale_free(mine: Callable[..., Any]) -> str:
    """Write an energy of features (C, N), least where equal, that neither their scale nor their number changes."""
    for seed in (0, 1):
        gen, gud = features(seed)
        here = scalar(called(mine, gen, gud), "an energy")
        least = scalar(called(mine, gud, gud), "an energy")
        if not least.item() < here.item():
            raise Wrong(f"equal features have an energy of {least.item():.3f}, different ones {here.item():.3f}: less")
        if not scalar(called(mine, gud.flip(1), gud), "an energy").item() > least.item() + 1e-6:
            raise Wrong("the same places in reverse order have the same energy: compare place by place")
        for what, again, hint in (
            ("3 times longer", (3 * gen, 3 * gud), "divide every vector by its length"),
            ("3 times longer on one side", (3 * gen, gud), "divide every vector by its length"),
            ("with every place twice", (gen.repeat(1, 2), gud.repeat(1, 2)), "take a mean over places, not a sum"),
        ):
            other = scalar(called(mine, *again), "an energy")
            if abs((other - here).item()) > 1e-5 * max(1.0, abs(here.item())):
                raise Wrong(f"with features {what} it is {other.item():.3f} instead of {here.item():.3f}: {hint}")
        if not here.requires_grad:
            raise Wrong("no gradient reaches the first features: work with tensors, without .item()")
        down = gen.detach() - 1e-3 * torch.autograd.grad(here, gen)[0]
        if not scalar(called(mine, down, gud), "an energy").item() < here.item():
            raise Wrong("a small step against the gradient should lower it")
    return "least at equality, the same at any scale and size, and a step against its gradient lowers it"


@exercise
def check_terms(mine: Callable[..., Any]) -> str:
    """Write terms(f, m, w): one Term "fill" of weight w.w_edit; none if the weight is 0 or a region is empty."""
    generator = torch.Generator().manual_seed(5)
    gen, gud = (torch.randn(1, 4, 6, 6, generator=generator) for _ in range(2))
    gen.requires_grad_()
    f, w = Branches(gen, gud, (), 3), Guidance(w_edit=2.0, alpha=0.5, beta=3.0)
    here, there = torch.tensor([7, 8, 9]), torch.tensor([19, 20, 21])

    def terms(m: Regions, w: Guidance) -> list[Any]:
        found = called(mine, f, m, w)
        return list(found) if isinstance(found, (GeneratorType, list, tuple)) else [found]

    found = terms(Regions(gen=here, gud=there), w)
    if len(found) != 1 or getattr(found[0], "name", None) != "fill":
        raise Wrong(f"for an ordinary region it should yield one Term named 'fill'; it gave {found!r}")
    right = attract(similarity(gen, gud, here, there), w.w_edit, w.alpha, w.beta).item()
    if abs(scalar(found[0].value, "its value").item() - right) > 1e-5:
        hint = "w / (alpha + beta S), S between gen at m.gen and gud at m.gud, all numbers taken from w"
        raise Wrong(f"its value should be {right:.4f} and is {scalar(found[0].value, '').item():.4f}: {hint}")
    if terms(Regions(gen=here, gud=there), w.replace(w_edit=0.0)):
        raise Wrong("with w_edit = 0 it should yield nothing: what has no weight need not be computed")
    for m in (Regions(), Regions(gud=there), Regions(gen=here)):
        if terms(m, w):
            raise Wrong("an empty region is None, and has no term: None means all of the picture to `similarity`")
    return "one term, and none without a weight or a region"


@exercise
def check_needed(mine: str, psnr: Mapping[str, Mapping[str, float]]) -> str:
    """Predict which one of "fill", "contrast" and "inpaint" cannot be left out."""
    lost = {name: max(psnr["all"][s] - row[s] for s in row) for name, row in psnr.items() if name.startswith("no ")}
    if not isinstance(mine, str) or f"no {mine}" not in lost:
        names = ", ".join(repr(name.removeprefix("no ")) for name in lost)
        raise Wrong(f"choose one of {names}; this is {mine!r}")
    worst = max(lost, key=lambda name: lost[name])
    if f"no {mine}" != worst:
        raise Wrong(
            f"without {mine!r} no picture loses more than {max(lost[f'no {mine}'], 0):.0f} dB; another loses more"
        )
    return f"without {mine!r} one of the pictures loses more than {lost[worst] // 5 * 5:.0f} dB"
