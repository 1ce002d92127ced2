"""Notebook 06."""

import torch

from tests.course.answers import Answers

COS = torch.cosine_similarity


def s_app(f_gen, f_app, m_gen, m_app):
    return (COS(f_gen[:, m_gen].mean(1), f_app[:, m_app].mean(1).detach(), dim=0) + 1) / 2


def answers():
    return {
        "check_appearance": Answers(
            right=[
                s_app,
                lambda g, a, mg, ma: (COS((g * mg).sum((1, 2)), (a * ma).sum((1, 2)).detach(), dim=0) + 1) / 2,
            ],
            wrong=[
                lambda g, a, mg, ma: COS(g[:, mg].mean(1), a[:, ma].mean(1).detach(), dim=0),
                lambda g, a, mg, ma: (COS(g[:, mg].mean(1), a[:, ma].mean(1), dim=0) + 1) / 2,
                lambda g, a, mg, ma: s_app(g.detach(), a, mg, ma),
                lambda g, a, mg, ma: (COS(g.mean((1, 2)), a.mean((1, 2)).detach(), dim=0) + 1) / 2,
                lambda g, a, mg, ma: s_app(g, a, ~mg, ~ma),
                lambda g, a, mg, ma: (COS(g[:, mg][..., None], a[:, ma][:, None].detach(), dim=0).mean() + 1) / 2,
                lambda g, a, mg, ma: (COS(g[:, mg], a[:, mg].detach(), dim=0).mean() + 1) / 2,
                lambda g, a, mg, ma: 0.5,
            ],
        ),
        "check_blind": Answers(
            right=[{"shuffle", "mirror", "double", "smooth"}, ["smooth", "double", "shuffle", "mirror"]],
            wrong=[
                {"shuffle", "mirror"},
                {"shuffle", "mirror", "double", "smooth", "halve"},
                {"shuffle", "mirror", "double", "smooth", "swap channels"},
                set(),
                {"turn"},
                "shuffle",
            ],
        ),
        "check_directions": Answers(right=[1, 1.0], wrong=[100, 2, 0, True, "one"]),
        "check_two_shifts": Answers(
            right=[((0, 0.1, 0), (0, 0, 0.1)), [[0, -0.05, 0], [0, 0, 0.05]]],
            wrong=[
                ((0.1, 0, 0), (0, 0.1, 0)),
                ((0, 0.1, 0), (0, 0, 0.02)),
                ((0, 0.2, 0), (0, 0, 0.2)),
                ((0, 0, 0), (0, 0, 0)),
                (0, 0.1, 0),
                "green",
            ],
        ),
        "check_easiest": Answers(
            right=[("plain", "checkered"), ["plain", "checkered"]],
            wrong=[("plain", "dotted"), ("dotted", "checkered"), ("checkered", "plain"), "plain", ("best", "worst")],
            context={"measured": {"plain": 4.0, "striped": 9.0, "dotted": 13.0, "checkered": 30.0}},
        ),
    }
