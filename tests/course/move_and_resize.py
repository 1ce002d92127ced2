"""Notebook 05."""

import torch

from tests.course.answers import Answers

COS = torch.cosine_similarity


def contrast(gen, gud, w):
    return w * (COS(gen, gud.detach(), dim=0).mean() + 1) / 2


def inpaint(gen, gud, w, a, b):
    return w / (a + b * (COS(gen.mean(1), gud.detach().mean(1), dim=0) + 1) / 2)


def answers():
    return {
        "check_vacated": Answers(
            right=[lambda gen, gud: gud & ~gen, lambda gen, gud: (gud | gen) ^ gen],
            wrong=[
                lambda gen, gud: gen & ~gud,
                lambda gen, gud: gud ^ gen,
                lambda gen, gud: gud,
                lambda gen, gud: gud & gen,
                lambda gen, gud: torch.zeros_like(gud),
                lambda gen, gud: gud - gen,
                lambda gen, gud: (gud & ~gen).float(),
            ],
        ),
        "check_who_looks": Answers(
            right=[{"contrast", "inpaint"}, ["inpaint", "contrast"]],
            wrong=[
                set(),
                {"contrast"},
                {"contrast", "inpaint", "content"},
                {"edit", "content"},
                "inpaint",
                {"fill"},
                2,
            ],
        ),
        "check_contrast": Answers(
            right=[contrast],
            wrong=[
                lambda gen, gud, w: -contrast(gen, gud, w),
                lambda gen, gud, w: w * COS(gen, gud.detach(), dim=0).mean(),
                lambda gen, gud, w: w * (COS(gen, gud, dim=0).mean() + 1) / 2,
                lambda gen, gud, w: contrast(gen.detach(), gud, w),
                lambda gen, gud, w: w / (1 + 4 * contrast(gen, gud, 1)),
                lambda gen, gud, w: w * (COS(gen, gud.detach(), dim=1).mean() + 1) / 2,
                lambda gen, gud, w: w * (COS(gen.mean(1), gud.detach().mean(1), dim=0) + 1) / 2,
                lambda gen, gud, w: 0.5,
            ],
        ),
        "check_inpaint_loss": Answers(
            right=[
                inpaint,
                # another area below the sum changes nothing: a cosine does not see lengths
                lambda gen, gud, w, a, b: w / (a + b * (COS(gen.sum(1), gud.detach().sum(1) / 7, dim=0) + 1) / 2),
            ],
            wrong=[
                lambda gen, gud, w, a, b: w * (COS(gen.mean(1), gud.detach().mean(1), dim=0) + 1) / 2,
                lambda gen, gud, w, a, b: -inpaint(gen, gud, w, a, b),
                lambda gen, gud, w, a, b: w / (a + b * COS(gen.mean(1), gud.detach().mean(1), dim=0)),
                lambda gen, gud, w, a, b: w / (a + b * (COS(gen.mean(1), gud.mean(1), dim=0) + 1) / 2),
                lambda gen, gud, w, a, b: inpaint(gen.detach(), gud, w, a, b),
                lambda gen, gud, w, a, b: inpaint(gen, gud[:, :6], w, a, b),
                lambda gen, gud, w, a, b: (
                    w / (a + b * (COS(gen[:, :, None], gud[:, None].detach(), dim=0).mean() + 1) / 2)
                ),
            ],
        ),
        "check_came_from": Answers(
            right=[lambda p, centre, by, scale: centre + (p - centre - by) / scale],
            wrong=[
                lambda p, centre, by, scale: centre + (p - centre - by) * scale,
                lambda p, centre, by, scale: (p - by) / scale,
                lambda p, centre, by, scale: centre + (p - centre) / scale - by,
                lambda p, centre, by, scale: centre + (p - centre + by) / scale,
                lambda p, centre, by, scale: centre + (p - centre) / scale,
                lambda p, centre, by, scale: centre,
            ],
        ),
        "check_perspective": Answers(right=["too large"], wrong=["too small", "neither", 1.2], context={"found": 1.2}),
    }
