"""What is tried on the exercises of notebook 00."""

from __future__ import annotations

import dragonkit as dk
from dragonkit.edits.move import centre
from dragonkit.evaluate import psnr
from dragonkit.spec import load_task
from tests.course.answers import Answers


def answers() -> dict[str, Answers]:
    """By the name of the exercise."""
    task, model = load_task(dk.data_path("edits", "demo", "edit.json")), dk.load("mini")
    (x, y), (dx, dy) = centre(task.mask), task.edit.by
    return {
        "check_to_the_middle": Answers(
            right=[(127.5 - x, 127.5 - y), [128 - x, 128 - y]],
            wrong=[(x - 127.5, y - 127.5), (127.5 - y, 127.5 - x), (127.5, 127.5), 20, (1, 2, 3), "ab"],
            context={"task": task},
        ),
        "check_psnr": Answers(
            right=[psnr, lambda image, answer: -10 * (image - answer).square().mean().log10()],
            wrong=[
                lambda image, answer: 10 * (image - answer).square().mean().log10(),
                lambda image, answer: -10 * (image - answer).abs().mean().log10(),
                lambda image, answer: -20 * (image - answer).square().mean().log10(),
                lambda image, answer: -10 * (image - answer).square().mean().log(),
                30.0,
            ],
        ),
        "check_half_way": Answers(
            right=[(dx / 2, dy / 2)],
            wrong=[(dx, dy), 5],
            context={"model": model, "task": task},
        ),
        "check_evaluations": Answers(
            right=[lambda steps, share: 2 * steps + round(share * steps)],
            wrong=[
                lambda steps, share: steps + share * steps,
                lambda steps, share: 2 * steps,
                lambda steps, share: 2 * steps + 2 * share * steps,
            ],
            context={"model": model, "task": task},
        ),
    }
