"""Notebook 08."""

import torch

import dragonkit as dk
from dragonkit.regions import Frame
from dragonkit.taps import record
from dragonkit.trace import Look
from tests.course.answers import Answers


def attention(q, k, v):
    return (q @ k.T / q.shape[1] ** 0.5).softmax(-1) @ v


def counted(shapes, steps, size):
    tokens = steps * size * sum(n * c for n, c in shapes)
    return tokens, 2 * tokens


def answers():
    model = dk.load("mini")
    noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    path = dk.ddim_invert(model, noise, model.embed(""), dk.Schedule(model, 2))
    with torch.no_grad(), record(model.unet) as tokens:
        model.predict(noise, 500, path.cond)
    weights = torch.zeros(2, 32, 32)
    weights[1, 10:13, 20:23] = 0.1  # about pixel (171.5, 91.5)
    weights[1, 30, 2] = 0.1
    return {
        "check_attention": Answers(
            right=[attention, lambda q, k, v: (q / q.shape[1] ** 0.5 @ k.T).softmax(1) @ v],
            wrong=[
                lambda q, k, v: (q @ k.T).softmax(-1) @ v,
                lambda q, k, v: (q @ k.T / q.shape[1]).softmax(-1) @ v,
                lambda q, k, v: (q @ k.T / q.shape[1] ** 0.5).softmax(0) @ v,
                lambda q, k, v: attention(q, k, k),
                lambda q, k, v: (q @ k.T / q.shape[1] ** 0.5) @ v,
                lambda q, k, v: (q @ k.T).softmax(-1),
            ],
        ),
        "check_cross": Answers(
            right=[lambda own, gud, w_q, w_k, w_v: attention(own @ w_q, gud @ w_k, gud @ w_v)],
            wrong=[
                lambda own, gud, w_q, w_k, w_v: attention(own @ w_q, own @ w_k, own @ w_v),
                lambda own, gud, w_q, w_k, w_v: attention(gud @ w_q, own @ w_k, own @ w_v),
                lambda own, gud, w_q, w_k, w_v: attention(gud[:6] @ w_q, gud @ w_k, gud @ w_v),
                lambda own, gud, w_q, w_k, w_v: attention(own @ w_q, gud[:6] @ w_k, own @ w_v),
                lambda own, gud, w_q, w_k, w_v: attention(own @ w_q, gud @ w_v, gud @ w_k),
            ],
        ),
        "check_context": Answers(
            right=[lambda own, gud: torch.cat([own, gud], dim=1), lambda own, gud: torch.cat([gud, own], dim=1)],
            wrong=[
                lambda own, gud: gud,
                lambda own, gud: torch.cat([own, gud], dim=2),
                lambda own, gud: torch.cat([gud, gud], dim=1),
                lambda own, gud: torch.cat([own, own], dim=1),
                lambda own, gud: (own + gud) / 2,
            ],
            context={"model": model, "path": path, "step": 1},
        ),
        "check_gaze": Answers(
            right=[(171, 91), (165.0, 99.0)],
            wrong=[(20, 240), (0, 0), (91, 171), (300, 90), "there"],
            context={"look": Look(weights.flatten(), ((32, 32), (32, 32))), "frame": Frame(256, 256)},
        ),
        "check_memory": Answers(
            right=[counted],
            wrong=[
                lambda shapes, steps, size: (counted(shapes, steps, size)[0],) * 2,
                lambda shapes, steps, size: counted(shapes, 1, size),
                lambda shapes, steps, size: (steps * size * sum(n * n for n, _ in shapes), 0),
                lambda shapes, steps, size: counted(shapes, steps, size)[0],
            ],
            context={"tokens": tokens},
        ),
    }
