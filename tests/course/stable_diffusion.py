"""Notebook 09."""

import torch

from dragonkit.course.stable_diffusion import REMEDIES
from tests.course.answers import Answers


def cosines(gen, gud):
    return (torch.cosine_similarity(gen, gud, dim=1).mean() + 1) / 2


def tokens(height, width, steps, size):
    cells = height // 8 * (width // 8)
    return 3 * (cells // 16 * 1280 + cells // 4 * 640 + cells * 320) * steps * size


def answers():
    sd = {
        layer: torch.zeros(1, c, n, n) for layer, (c, n) in enumerate(((1280, 16), (1280, 32), (640, 64), (320, 64)), 1)
    }
    xl = {layer: torch.zeros(1, c, n, n) for layer, (c, n) in enumerate(((1280, 64), (640, 128), (320, 128)), 1)}
    swapped = REMEDIES | {"A": REMEDIES["B"], "B": REMEDIES["A"]}
    return {
        "check_epsilon": Answers(
            right=[lambda v, z, a: a**0.5 * v + (1 - a) ** 0.5 * z],
            wrong=[
                lambda v, z, a: a**0.5 * z - (1 - a) ** 0.5 * v,
                lambda v, z, a: a * v + (1 - a) * z,
                lambda v, z, a: (1 - a) ** 0.5 * v + a**0.5 * z,
                lambda v, z, a: a**0.5 * v - (1 - a) ** 0.5 * z,
                lambda v, z, a: v,
                lambda v, z, a: z,
                lambda v, z, a: (z - a**0.5 * v) / (1 - a) ** 0.5,
                lambda v, z, a: v.mean(),
                lambda v, z, a: 1.0,
            ],
        ),
        "check_time_ids": Answers(
            right=[
                lambda size, corner, target: [*size, *corner, *target],
                lambda size, corner, target: (*map(float, size), *corner, *target),
                lambda size, corner, target: torch.tensor([[*size, *corner, *target]]),
            ],
            wrong=[
                lambda size, corner, target: [*size[::-1], *corner[::-1], *target[::-1]],
                lambda size, corner, target: [*target, *corner, *size],
                lambda size, corner, target: [*size, *target],
                lambda size, corner, target: [*size, 0, 0, *target],
                lambda size, corner, target: [*size, *corner, *size],
                lambda size, corner, target: [size, corner, target],
                lambda size, corner, target: 1024,
            ],
        ),
        "check_layers": Answers(
            right=[(1, 2), [1, 2]],
            wrong=[(2, 3), (1, 3), (2, 1), (1, 4), (1, 2, 3), "both", 1],
            context={"one": sd, "other": xl},
        ),
        "check_half": Answers(
            right=[
                lambda gen, gud: cosines(gen.float(), gud.float().detach()),
                lambda gen, gud: cosines(gen.double(), gud.double()),
            ],
            wrong=[
                cosines,
                lambda gen, gud: cosines(gen, gud).float(),
                lambda gen, gud: cosines(gen.float(), gud.float()).half(),
                lambda gen, gud: cosines(gen.detach().float(), gud.float()),
                lambda gen, gud: cosines(gen.float(), gud.float()).item(),
                lambda gen, gud: 2 * cosines(gen.float(), gud.float()) - 1,
            ],
        ),
        "check_tokens": Answers(
            right=[tokens, lambda *given: float(tokens(*given)), lambda *given: torch.tensor(tokens(*given))],
            wrong=[
                lambda *given: tokens(*given) / 3,
                lambda *given: tokens(*given) * 2,
                lambda *given: tokens(*given) * 64,
                lambda height, width, steps, size: tokens(height, width, 1, size),
                lambda height, width, steps, size: tokens(height, width, steps, 1),
                lambda height, width, steps, size: tokens(height, height, steps, size),
                lambda *given: 619_315_200,
            ],
        ),
        "check_remedies": Answers(
            right=[REMEDIES],
            wrong=[swapped, REMEDIES | {"D": "push less"}, REMEDIES | {"C": "pray"}, {"A": "push more"}, "push more"],
        ),
    }
