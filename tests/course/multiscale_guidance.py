"""Notebook 04."""

from types import SimpleNamespace

import torch

from tests.course.answers import Answers

COS = torch.cosine_similarity


def s(gen, gud):
    return (COS(gen, gud, dim=0).mean() + 1) / 2


def energy(gen, gud, weights, w_p, a, b):
    return sum(lam * w_p / (a + b * s(gen[k], gud[k])) for k, lam in weights.items())


def answers():
    image = torch.zeros(3, 96, 96)
    features = {
        k: SimpleNamespace(values=torch.zeros(2, n, n)) for k, n in zip((1, 2, 3, 4), (3, 6, 12, 12), strict=True)
    }
    draw = torch.Generator().manual_seed(0)
    source, other = torch.rand(2, 3, 8, 8, generator=draw)
    pictures = {"none": other, "1": (source + 2 * other) / 3, "2": 1 - source, "3": 0.9 * source, "4": 0.99 * other}
    return {
        "check_cells": Answers(
            right=[[32, 16, 8, 8], (32.0, 16, 8, 8)],
            wrong=[[3, 6, 12, 12], [8, 8, 16, 32], [32, 16, 8], [32, 16, 8, 4]],
            context={"features": features, "image": image},
        ),
        "check_energy": Answers(
            right=[energy, lambda *args: float(energy(*args))],
            wrong=[
                lambda gen, gud, w, w_p, a, b: w_p / (a + b * sum(w[k] * s(gen[k], gud[k]) for k in w)),
                lambda gen, gud, w, w_p, a, b: sum(w_p / (a + b * s(gen[k], gud[k])) for k in w),
                lambda gen, gud, w, w_p, a, b: sum(w[k] * w_p / (a + b * COS(gen[k], gud[k], dim=0).mean()) for k in w),
                lambda gen, gud, w, w_p, a, b: sum(w.get(k, 0.5) * w_p / (a + b * s(gen[k], gud[k])) for k in gen),
                lambda gen, gud, w, w_p, a, b: -energy(gen, gud, w, w_p, a, b),
            ],
        ),
        "check_layers": Answers(
            right=[(3, 4), [3, 4]],
            wrong=[(2, 4), (3, 1), (4, 3), (5, 4)],
            context={"pictures": pictures, "source": source},
        ),
        "check_cost": Answers(
            right=[[[(1,)], [(2,)], [(3,), (2, 3)], [(4,)]], [[(1,)], [(2,)], [(2, 3), (3,)], [(4,)]]],
            wrong=[
                [[(4,)], [(3,), (2, 3)], [(2,)], [(1,)]],
                [[(1,)], [(2,)], [(3,)], [(2, 3)], [(4,)]],
                [[(1,)], [(2,), (2, 3)], [(3,)], [(4,)]],
                [[(1,)], [(2,)], [(3,)], [(4,)]],
            ],
        ),
    }
