"""What is tried on the exercises of notebook 02."""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F

import dragonkit as dk
from tests.course.answers import Answers


def unit(x):
    return F.normalize(x, dim=0)


def answers() -> dict[str, Answers]:
    """By the name of the exercise."""
    report = json.loads(dk.data_path("bench", "correspondence.json").read_text(encoding="utf-8"))
    return {
        "check_similarities": Answers(
            right=[
                lambda a, b: (unit(a).T @ unit(b) + 1) / 2,
                lambda a, b: (F.cosine_similarity(a[:, :, None], b[:, None], dim=0) + 1) / 2,
            ],
            wrong=[
                lambda a, b: (a.T @ b + 1) / 2,
                lambda a, b: unit(a).T @ unit(b),
                lambda a, b: (F.normalize(a, dim=1).T @ F.normalize(b, dim=1) + 1) / 2,
                lambda a, b: (unit(b).T @ unit(a) + 1) / 2,
                lambda a, b: 0.5,
            ],
        ),
        "check_vertex": Answers(
            right=[lambda left, mid, right: (left - right) / (2 * (left - 2 * mid + right))],
            wrong=[
                lambda left, mid, right: (right - left) / (2 * (left - 2 * mid + right)),
                lambda left, mid, right: (left - right) / (left - 2 * mid + right),
                lambda left, mid, right: (right - left) / (left + mid + right),
                lambda left, mid, right: 0.0,
            ],
        ),
        "check_mutual": Answers(
            right=[
                lambda s: s.argmax(0)[s.argmax(1)] == torch.arange(len(s)),
                lambda s: ((s == s.amax(0, keepdim=True)) & (s == s.amax(1, keepdim=True))).any(1),
            ],
            wrong=[
                lambda s: s.argmax(1)[s.argmax(1).clamp(max=len(s) - 1)] == torch.arange(len(s)),
                lambda s: torch.ones(len(s), dtype=torch.bool),
                lambda s: s.amax(1) > s.mean(),
                lambda s: s.argmax(1)[s.argmax(0)] == torch.arange(s.shape[1]),
            ],
        ),
        "check_pck": Answers(
            right=[lambda found, truth, extent, alpha: ((found - truth).norm(dim=1) <= alpha * extent).double().mean()],
            wrong=[
                lambda found, truth, extent, alpha: ((found - truth).norm(dim=1) <= alpha * extent).sum(),
                lambda found, truth, extent, alpha: ((found - truth).norm(dim=1) < alpha * extent).double().mean(),
                lambda found, truth, extent, alpha: ((found - truth).abs() <= alpha * extent).all(1).double().mean(),
                lambda found, truth, extent, alpha: ((found - truth).norm(dim=1) <= alpha * 256).double().mean(),
                lambda found, truth, extent, alpha: (found - truth).norm(dim=1).mean() / extent,
            ],
        ),
        "check_best": Answers(
            right=[(2, 341), (2, 300), [2, 1]],
            wrong=[(3, 341), (2, 721), (4, 1), (1, 300), (5, 300), 2, "ab"],
            context={"report": report},
        ),
    }
