"""Answers to the exercises of notebook 01."""

from __future__ import annotations

from tests.course.answers import Answers


def noising(z0, eps, alpha):
    return alpha**0.5 * z0 + (1 - alpha) ** 0.5 * eps


def clean(z, eps, alpha):
    return (z - (1 - alpha) ** 0.5 * eps) / alpha**0.5


def step(z, eps, here, there):
    return noising(clean(z, eps, here), eps, there)


def climb(first=True, timestep=lambda i: i, levels=lambda i: (i + 1, i)):
    """An inversion, right or, with other timesteps, levels or a first noise that is taken anew, not quite."""

    def inversion(predict, z0, schedule):
        z, last = z0, len(schedule) - 1
        eps = predict(z, schedule.timesteps[timestep(last)])
        for i in reversed(range(len(schedule))):
            here, there = levels(i)
            z = step(z, eps, schedule.alpha(here), schedule.alpha(there))
            if i < last or not first:
                eps = predict(z, schedule.timesteps[timestep(i)])
        return z

    return inversion


def down(predict, z0, schedule):
    z = z0
    for i, t in enumerate(schedule.timesteps):
        z = step(z, predict(z, t), schedule.alpha(i), schedule.alpha(i + 1))
    return z


def once(predict, z0, schedule):
    return step(z0, predict(z0, schedule.timesteps[-1]), schedule.alpha(len(schedule)), schedule.alpha(0))


MEASURED = {"10 steps": 2.5, "solved": 0.01, "guided": 3.0}


def answers() -> dict[str, Answers]:
    return {
        "check_noising": Answers(
            right=[noising],
            wrong=[
                lambda z0, eps, a: a * z0 + (1 - a) * eps,
                lambda z0, eps, a: (1 - a) ** 0.5 * z0 + a**0.5 * eps,
                lambda z0, eps, a: a**0.5 * z0 - (1 - a) ** 0.5 * eps,
                lambda z0, eps, a: a**0.5 * z0 + (1 - a**0.5) * eps,
                lambda z0, eps, a: a.item(),
            ],
        ),
        "check_clean": Answers(
            right=[clean],
            wrong=[
                lambda z, eps, a: z - (1 - a) ** 0.5 * eps,
                lambda z, eps, a: (z + (1 - a) ** 0.5 * eps) / a**0.5,
                lambda z, eps, a: (z - (1 - a) * eps) / a,
                lambda z, eps, a: z - eps,
                lambda z, eps, a: z / 0,
            ],
        ),
        "check_step": Answers(
            right=[step],
            wrong=[
                lambda z, eps, here, there: clean(z, eps, here),
                lambda z, eps, here, there: noising(z, eps, there),
                lambda z, eps, here, there: step(z, eps, there, here),
                lambda z, eps, here, there: noising(clean(z, eps, here), eps, here),
            ],
        ),
        "check_inversion": Answers(
            right=[climb()],
            wrong=[
                down,
                once,
                climb(first=False, timestep=lambda i: max(i - 1, 0)),
                climb(timestep=lambda i: 9 - i),
                climb(levels=lambda i: (i, i + 1)),
                lambda predict, z0, schedule: z0,
            ],
        ),
        "check_guess": Answers(
            right=[lambda now, before: 2 * now - before, lambda now, before: now + (now - before)],
            wrong=[
                lambda now, before: now,
                lambda now, before: 2 * before - now,
                lambda now, before: (now + before) / 2,
                lambda now, before: now - before,
            ],
        ),
        "check_prediction": Answers(
            right=[{"10 steps": "more", "solved": "less", "guided": "more"}],
            wrong=[
                {"10 steps": "less", "solved": "less", "guided": "more"},
                {"10 steps": "more", "solved": "less", "guided": "less"},
                {"10 steps": "more", "solved": "same", "guided": "more"},
                {"10 steps": "more"},
                "more",
            ],
            context={"ratios": MEASURED},
        ),
    }
