"""What is tried on the exercises of notebook 10."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from dragonkit.energy import Term, attract, similarity
from tests.course.answers import Answers


def cosine(a, b):
    return F.cosine_similarity(a, b, dim=0)


def right_terms(f, m, w):
    if w.w_edit and m.gen is not None and m.gud is not None:
        yield Term("fill", attract(similarity(f.gen, f.gud, m.gen, m.gud), w.w_edit, w.alpha, w.beta), "edit")


def bold_terms(f, m, w):
    yield Term("fill", attract(similarity(f.gen, f.gud, m.gen, m.gud), w.w_edit, w.alpha, w.beta))


def weighty_terms(f, m, w):
    if w.w_edit:
        yield from bold_terms(f, m, w)


def stubborn_terms(f, m, w):
    if w.w_edit and m.gen is not None and m.gud is not None:
        yield Term("fill", attract(similarity(f.gen, f.gud, m.gen, m.gud), w.w_edit))


def other_terms(f, m, w):
    yield Term("edit", similarity(f.gen, f.gud, m.gen, m.gud))


def answers() -> dict[str, Answers]:
    """By the name of the exercise."""
    psnr = {
        "all": {"a": 40.0, "b": 30.0},
        "no fill": {"a": 39.0, "b": 10.0},
        "no contrast": {"a": 41.0, "b": 31.0},
        "no inpaint": {"a": 40.0, "b": 30.0},
    }
    return {
        "check_difference": Answers(
            right=[lambda f, z, d, h: (f(z + h * d) - f(z - h * d)) / (2 * h)],
            wrong=[
                lambda f, z, d, h: (f(z + h * d) - f(z)) / h,
                lambda f, z, d, h: (f(z + h * d) - f(z - h * d)) / h,
                lambda f, z, d, h: (f(z - h * d) - f(z + h * d)) / (2 * h),
                lambda f, z, d, h: (f(z + h) - f(z - h)) / (2 * h),
            ],
        ),
        "check_fill": Answers(
            right=[
                lambda gen, gud: (cosine(gen, gud.detach()).mean() + 1) / 2,
                lambda gen, gud: ((F.normalize(gen, dim=0) * F.normalize(gud.detach(), dim=0)).sum(0) / 2 + 0.5).mean(),
            ],
            wrong=[
                lambda gen, gud: (cosine(gen, gud).mean() + 1) / 2,
                lambda gen, gud: (cosine(gen.detach(), gud).mean() + 1) / 2,
                lambda gen, gud: (cosine(gen.mean(1), gud.detach().mean(1)) + 1) / 2,
                lambda gen, gud: cosine(gen, gud.detach()).mean(),
                lambda gen, gud: ((cosine(gen, gud).mean() + 1) / 2).item(),
                lambda gen, gud: (cosine(gen, gud.detach()) + 1) / 2,
            ],
        ),
        "check_scale_free": Answers(
            right=[
                lambda a, b: (1 - cosine(a, b.detach())).mean(),
                lambda a, b: (F.normalize(a, dim=0) - F.normalize(b, dim=0).detach()).square().sum(0).mean(),
                lambda a, b: attract((cosine(a, b).mean() + 1) / 2, 4.0),
            ],
            wrong=[
                lambda a, b: (a - b).square().mean(),
                lambda a, b: (1 - cosine(a, b)).sum(),
                lambda a, b: cosine(a, b).mean(),
                lambda a, b: 1 - cosine(a.mean(1), b.mean(1)),
                lambda a, b: (a / a.norm() - b / b.norm()).abs().mean(),
                lambda a, b: torch.tensor(1.0),
            ],
        ),
        "check_terms": Answers(
            right=[right_terms, lambda f, m, w: list(right_terms(f, m, w))],
            wrong=[bold_terms, weighty_terms, stubborn_terms, other_terms, lambda f, m, w: 0.5],
        ),
        "check_needed": Answers(right=["fill"], wrong=["contrast", "inpaint", "edit", 3], context={"psnr": psnr}),
    }
