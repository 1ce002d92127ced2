"""Notebook 03."""

import torch

from tests.course.answers import Answers

COS = torch.cosine_similarity


def guided_step(z, eps, grad, eta, a, a_next):
    eps = eps + eta * grad
    x0 = (z - (1 - a) ** 0.5 * eps) / a**0.5
    return a_next**0.5 * x0 + (1 - a_next) ** 0.5 * eps


def through_x0(z, eps, grad, eta, a, a_next):
    x0 = (z - (1 - a) ** 0.5 * (eps + eta * grad)) / a**0.5
    return a_next**0.5 * x0 + (1 - a_next) ** 0.5 * eps


def answers():
    return {
        "check_similarity": Answers(
            right=[
                lambda gen, gud: ((COS(gen, gud, dim=0) + 1) / 2).mean(),
                lambda gen, gud: ((COS(gen, gud, dim=0).mean() + 1) / 2).item(),
            ],
            wrong=[
                lambda gen, gud: COS(gen, gud, dim=0).mean(),
                lambda gen, gud: (COS(gen, gud, dim=1).mean() + 1) / 2,
                lambda gen, gud: (COS(gen.flatten(), gud.flatten(), dim=0) + 1) / 2,
                lambda gen, gud: (COS(gen.mean(1), gud.mean(1), dim=0) + 1) / 2,
                lambda gen, gud: (COS(gen, gud, dim=0) + 1) / 2,
                "S",
            ],
        ),
        "check_pull": Answers(right=[25, 25.0], wrong=[5, 4, 1 / 25, 16, "many"]),
        "check_energy": Answers(
            right=[lambda s_e, s_p, w_e, w_p, a, b: w_e / (a + b * s_e) + w_p / (a + b * s_p)],
            wrong=[
                lambda s_e, s_p, w_e, w_p, a, b: w_e * s_e + w_p * s_p,
                lambda s_e, s_p, w_e, w_p, a, b: (w_e + w_p) / (a + b * (s_e + s_p)),
                lambda s_e, s_p, w_e, w_p, a, b: w_p / (a + b * s_e) + w_e / (a + b * s_p),
                lambda s_e, s_p, w_e, w_p, a, b: w_e / (b + a * s_e) + w_p / (b + a * s_p),
                lambda s_e, s_p, w_e, w_p, a, b: -w_e * s_e - w_p * s_p,
            ],
        ),
        "check_guided_noise": Answers(
            right=[lambda eps, grad, eta: eps + eta * grad],
            wrong=[
                lambda eps, grad, eta: eps - eta * grad,
                lambda eps, grad, eta: eps + 0.1 * grad,
                lambda eps, grad, eta: eps,
                lambda eps, grad, eta: (eta * grad).sum(),
            ],
        ),
        "check_stop_gradient": Answers(
            right=[lambda gen, gud: (COS(gen, gud.detach(), dim=0).mean() + 1) / 2],
            wrong=[
                lambda gen, gud: (COS(gen, gud, dim=0).mean() + 1) / 2,
                lambda gen, gud: (COS(gen.detach(), gud, dim=0).mean() + 1) / 2,
                lambda gen, gud: (COS(gen, gud, dim=0).mean().detach() + 1) / 2,
                lambda gen, gud: COS(gen, gud.detach(), dim=0).mean(),
            ],
        ),
        "check_guided_step": Answers(
            right=[guided_step],
            wrong=[
                lambda z, eps, grad, eta, a, a_next: guided_step(z, eps, -grad, eta, a, a_next),
                lambda z, eps, grad, eta, a, a_next: guided_step(z, eps, grad, 0, a, a_next),
                lambda z, eps, grad, eta, a, a_next: guided_step(z, eps, grad, eta, a_next, a),
                lambda z, eps, grad, eta, a, a_next: z - eta * grad,
                lambda z, eps, grad, eta, a, a_next: guided_step(z, eps, grad, eta, a, a),
                through_x0,
            ],
        ),
    }
