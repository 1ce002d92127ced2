"""Exercises of notebook 06: regional means, what they cannot tell apart, and how to measure a colour (Eq. 10)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from dragonkit.course.exercise import Wrong, called, exercise, number
from dragonkit.energy import mean_similarity

CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "shuffle": lambda f: f[:, torch.randperm(f.shape[1], generator=torch.Generator().manual_seed(1))],
    "mirror": lambda f: f.flip(1),
    "double": lambda f: 2 * f,
    "halve": lambda f: f[:, : f.shape[1] // 2],
    "smooth": lambda f: f.mean(1, keepdim=True).expand_as(f),
    "swap channels": lambda f: f.flip(0),
}
"""What may be done to the reference object's feature vectors (C, N)."""


@exercise
def check_appearance(answer: Callable[..., Tensor]) -> str:
    """Write S_app of Eq. 10 from (f_gen, f_app, m_gen, m_app): features (C, h, w), with a bool mask (h, w) each."""
    f_gen, f_app = _features(1, (7, 9)).requires_grad_(), (3 * _features(2, (5, 6))).requires_grad_()
    m_gen, m_app = (_features(3, (7, 9)) > 0.3)[0], (_features(4, (5, 6)) > -0.2)[0]
    found = called(answer, f_gen, f_app, m_gen, m_app)
    value = number(found, tensor=True)
    a = sum(f_gen.detach()[:, y, x] for y, x in m_gen.nonzero().tolist())
    b = sum(f_app.detach()[:, y, x] for y, x in m_app.nonzero().tolist())
    assert isinstance(a, Tensor) and isinstance(b, Tensor)
    cosine = float(a @ b / (a.norm() * b.norm()))
    if abs(value - cosine) < 1e-4:
        raise Wrong("that is the cosine; map it from [-1, 1] to [0, 1]")
    if abs(value - (cosine + 1) / 2) > 1e-4:
        raise Wrong(
            f"two random regions have S_app = {(cosine + 1) / 2:.3f}, yours says {value:.3f}: one mean vector "
            "for each region, each with its own mask, then a single cosine over the channels"
        )
    for_gen, for_app = (
        torch.autograd.grad(found, (f_gen, f_app), allow_unused=True) if found.requires_grad else (None, None)
    )
    if for_app is not None and for_app.any():
        raise Wrong("a gradient reaches the reference's features: detach them")
    if for_gen is None or not for_gen.any():
        raise Wrong("no gradient reaches the generation features, which shall change")
    return "two masks of any size, two means, one cosine"


@exercise
def check_blind(answer: Iterable[str]) -> str:
    """Predict: which changes of the reference object's feature vectors does Eq. 10 not notice?"""
    if isinstance(answer, str) or not isinstance(answer, Iterable):
        raise Wrong(f"give a set of names, out of {', '.join(CHANGES)}")
    named = set(answer)
    if unknown := named - set(CHANGES):
        raise Wrong(f"{', '.join(map(str, unknown))} is no change of the list: {', '.join(CHANGES)}")
    gen, app = (_features(seed, (6, 6)).flatten(1) for seed in (5, 6))
    before = _s_app(gen, app)
    unseen = {name for name, change in CHANGES.items() if abs(_s_app(gen, change(app)) - before) < 1e-5}
    if extra := named - unseen:
        raise Wrong(f"{sorted(extra)[0]!r} changes S_app: it gives the mean vector another direction")
    if missed := unseen - named:
        raise Wrong(f"{len(missed)} more go unnoticed: what leaves the direction of the mean vector as it is?")
    return "all that counts is the direction of the mean: order, pattern and length are lost"


@exercise
def check_directions(answer: int) -> str:
    """Predict: in how many different directions does the gradient of S_app push the 100 cells of m_gen?"""
    if isinstance(answer, bool) or not isinstance(answer, (int, float)):
        raise Wrong("give a whole number")
    gen, app = _features(7, (10, 10)).requires_grad_(), _features(8, (4, 4))
    (grad,) = torch.autograd.grad(mean_similarity(gen[None], app[None]), gen)
    columns = grad.flatten(1)
    expected = len(torch.unique((columns / columns.norm(dim=0)).round(decimals=4), dim=1).T)
    if answer != expected:
        raise Wrong(
            f"{answer} is not right: S_app depends on the cells through their mean alone, so what is its derivative "
            "with respect to one cell, and with respect to another?"
        )
    return "every cell is pushed the same way, so the push itself cannot draw a dot here and none there"


@exercise
def check_two_shifts(answer: Any, colour: tuple[float, float, float] = (0.9, 0.9, 0.1)) -> str:
    """Find two changes (r, g, b) of a yellow with the same PSNR, one at least 3 times as visible (CIEDE2000)."""
    from dragonkit.evaluate.scores import ciede2000, psnr

    try:
        shifts = torch.tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong("give two changes, for instance ((0.1, 0, 0), (0, 0, -0.1))") from None
    if shifts.shape != (2, 3):
        raise Wrong("give two changes of three numbers each")
    base = torch.tensor(colour, dtype=torch.float64)
    changed = base + shifts
    if not ((changed >= 0) & (changed <= 1)).all():
        raise Wrong(f"a changed colour leaves [0, 1]: start from {colour}")
    if shifts.norm(dim=1).min() < 0.01:
        raise Wrong("a change is all but nothing: take changes of 0.01 or more")
    whole = torch.ones(1, 1, dtype=torch.bool)
    flat, others = base[:, None, None], [c[:, None, None] for c in changed]
    decibels, seen = [psnr(o, flat) for o in others], [ciede2000(o, flat, whole) for o in others]
    if abs(decibels[0] - decibels[1]) > 0.1:
        raise Wrong(
            f"the PSNR differs, {decibels[0]:.1f} and {decibels[1]:.1f} dB: PSNR sees the length of (r, g, b), so make "
            "both equally long"
        )
    if max(seen) < 3 * min(seen):
        raise Wrong(
            f"CIEDE2000 gives {seen[0]:.1f} and {seen[1]:.1f}, less than 3 times: to which channel of a yellow is the "
            "eye least sensitive?"
        )
    return f"{decibels[0]:.0f} dB both, and CIEDE2000 {min(seen):.1f} and {max(seen):.1f}"


@exercise
def check_easiest(answer: tuple[str, str], measured: Mapping[str, float]) -> str:
    """Predict: of "plain", "striped", "dotted", "checkered", which wanted look comes out best, and which worst?"""
    if not isinstance(answer, (tuple, list)) or len(answer) != 2 or not set(answer) <= set(measured):
        raise Wrong(f"give two of {', '.join(measured)}: the best and the worst")
    best, worst = min(measured, key=measured.__getitem__), max(measured, key=measured.__getitem__)
    if answer[0] != best:
        raise Wrong(
            f"{answer[0]} has {measured[answer[0]]:.0f}, and that is not the least: which look has nothing to misplace?"
        )
    if answer[1] != worst:
        raise Wrong(f"{answer[1]} has {measured[answer[1]]:.0f}, not the most: where does a shifted pattern spoil all?")
    return f"{best} comes out best and {worst} worst"


def _s_app(gen: Tensor, app: Tensor) -> float:
    """The library's S_app of two sets of vectors (C, N)."""
    return float(mean_similarity(gen[:, None], app[:, None]))


def _features(seed: int, size: tuple[int, int]) -> Tensor:
    """Features of eight channels that lean one way, as real ones do, (8, h, w)."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(8, *size, generator=draw) + torch.randn(8, 1, 1, generator=draw)
