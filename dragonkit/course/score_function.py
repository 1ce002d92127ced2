"""Exercises of notebook 03: similarity, energy, and the step that they guide (Eq. 3 to 6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dragonkit.course.exercise import Wrong, called, exercise, number

Similarity = Callable[[Tensor, Tensor], Tensor]


@exercise
def check_similarity(answer: Similarity) -> str:
    """Write S of Eq. 4 for two sets of corresponding feature vectors, (C, N) each: a number from 0 to 1."""
    f = _features(1)
    equal, opposite = number(called(answer, f, 3 * f)), number(called(answer, f, -f))
    if abs(equal - 1) > 1e-4:
        raise Wrong(f"vectors of the same directions are as alike as can be, S = 1; yours says {equal:.3g}")
    if abs(opposite) > 1e-4:
        raise Wrong(f"opposite vectors have a cosine of -1 and S = 0; yours says {opposite:.3g}: map [-1, 1] to [0, 1]")
    for seed in range(2, 5):
        gen, gud = _features(seed), _features(seed + 10) * torch.linspace(0.1, 9, 6)
        cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(gen.T, gud.T, strict=True)]
        expected, found = sum((c + 1) / 2 for c in cosines) / len(cosines), number(called(answer, gen, gud))
        if abs(found - expected) > 1e-4:
            raise Wrong(
                f"six pairs of vectors have S = {expected:.3f}, yours says {found:.3f}: take one cosine for each pair "
                "of columns, over the channels, and then their mean"
            )
    return "1 for equal directions, 0 for opposite ones, and every place counts the same"


@exercise
def check_pull(answer: float) -> str:
    """Predict: how many times stronger does 1 / (1 + 4 S) pull at S = 0 than at S = 1?"""
    s = torch.tensor([0.0, 1.0], requires_grad=True)
    (slopes,) = torch.autograd.grad((1 / (1 + 4 * s)).sum(), s)
    expected, found = float(slopes[0] / slopes[1]), number(answer)
    if abs(found - 5) < 0.5:
        raise Wrong("5 is the ratio of the energies; the pull is the energy's derivative with respect to S")
    if abs(found - expected) > 0.5:
        raise Wrong(f"{found:g} is not the ratio of the derivatives: d/dS of 1 / (α + β S) is -β / (α + β S)²")
    return "what is far from fulfilled pulls 25 times harder than what is all but there"


@exercise
def check_energy(answer: Callable[..., Any]) -> str:
    """Write L of Eq. 5 as a function of (s_edit, s_share, w_e, w_p, alpha, beta)."""
    draw = torch.Generator().manual_seed(5)
    for _ in range(4):
        s_edit, s_share, w_e, w_p, alpha, beta = (0.1 + 0.9 * torch.rand(6, generator=draw)).tolist()
        given = s_edit, s_share, 8 * w_e, 6 * w_p, 2 * alpha, 5 * beta
        found, expected = number(called(answer, *given)), _energy(*given)
        nearer = number(called(answer, s_edit + 0.05, *given[1:]))
        if not nearer < found:
            raise Wrong("your energy does not fall where the similarity rises: S stands below the fraction line")
        if abs(found - expected) > 1e-4 * expected:
            names = "S_edit {:.2f}, S_share {:.2f}, w_e {:.2f}, w_p {:.2f}, α {:.2f}, β {:.2f}".format(*given)
            raise Wrong(
                f"at {names} Eq. 5 gives {expected:.4f}, yours {found:.4f}: each similarity has its own fraction"
            )
    return "it falls as either similarity rises"


@exercise
def check_guided_noise(answer: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """Write the guided noise of Eq. 6 from (eps, grad, eta), grad being ∂L/∂z: mind the sign."""
    eps, wish, alpha = _features(6), _features(7), torch.tensor(0.3)
    z = _features(8).requires_grad_()

    def promised(noise: Tensor) -> Tensor:
        return (z - (1 - alpha) ** 0.5 * noise) / alpha**0.5  # the clean latent

    def energy(noise: Tensor) -> Tensor:
        return (promised(noise) - wish).square().sum() / 2

    (grad,), eta = torch.autograd.grad(energy(eps), z), 0.05
    found = called(answer, eps, grad, eta)
    if not isinstance(found, Tensor) or found.shape != eps.shape:
        raise Wrong("return a tensor of the shape of eps: the noise with which the sampler goes on")
    with torch.no_grad():
        before, after = energy(eps).item(), energy(found).item()
        if after > before:
            raise Wrong(
                f"with your noise the energy of a toy rises from {before:.1f} to {after:.1f}: what is called noise is "
                "taken *away* from z, so which sign lowers L?"
            )
        if not torch.allclose(found, eps + eta * grad, atol=1e-5):
            raise Wrong("the direction is right, the amount is not: the change of eps is eta times the gradient")
    return f"the energy of a toy falls from {before:.1f} to {after:.1f}"


@exercise
def check_stop_gradient(answer: Similarity) -> str:
    """Write S of Eq. 4 again, with sg: no gradient may reach the guidance features."""
    gen, gud = _features(9).requires_grad_(), _features(10).requires_grad_()
    found = called(answer, gen, gud)
    if abs(number(found) - (torch.cosine_similarity(gen, gud, dim=0).mean().item() + 1) / 2) > 1e-4:
        raise Wrong("the number is not S of Eq. 4 any more: sg changes gradients, and no values")
    if not isinstance(found, Tensor) or not found.requires_grad:
        raise Wrong("no gradient is left at all: stop it at the guidance features only")
    for_gen, for_gud = torch.autograd.grad(found, (gen, gud), allow_unused=True)
    if for_gen is None or not for_gen.any():
        raise Wrong("no gradient reaches the generation features, which it is to change: stop it at the other ones")
    if for_gud is not None and for_gud.any():
        raise Wrong("a gradient still reaches the guidance features: the original could be bent to fit the edit")
    rows = gen.detach().requires_grad_()
    (expected,) = torch.autograd.grad(torch.cosine_similarity(rows, gud.detach(), dim=0).mean() / 2, rows)
    if not torch.allclose(for_gen, expected, atol=1e-6):
        raise Wrong("the gradient of the generation features is not that of S: detach one argument and nothing else")
    return "the generation is pulled, the original stands still"


@exercise
def check_guided_step(answer: Callable[..., Tensor]) -> str:
    """Write one guided DDIM step: from (z, eps, grad, eta, a, a_next), ᾱ here and at the next level, to the next z."""
    clean, noise, grad = _features(11), _features(12), _features(13)
    for a, following, eta in ((0.2, 0.4, 0.0), (0.1, 0.2, 0.3), (0.6, 0.9, 2.0)):
        here, there = torch.tensor(a), torch.tensor(following)
        z = here**0.5 * clean + (1 - here) ** 0.5 * noise
        found = called(answer, z, noise, grad, eta, here, there)
        if not isinstance(found, Tensor) or found.shape != z.shape:
            raise Wrong("return the latent at the next level, of the shape of z")
        # z was made of a known clean latent and known noise, so the answer needs no formula for x0.
        unguided = there**0.5 * clean + (1 - there) ** 0.5 * noise
        shift = (1 - there) ** 0.5 - (there * (1 - here) / here) ** 0.5
        if not torch.allclose(found, unguided + shift * eta * grad, atol=1e-4):
            if not eta:
                raise Wrong("without guidance (eta = 0) it is not DDIM's step: √ᾱ' x0 + √(1 - ᾱ') ε, x0 from ᾱ of here")
            if torch.allclose(found, unguided, atol=1e-4):
                raise Wrong("the step is DDIM's, and the gradient does not enter it")
            if torch.allclose(found, unguided - shift * eta * grad, atol=1e-4):
                raise Wrong("the sign of the guidance is wrong: this step raises L")
            raise Wrong("with guidance it is off: the guided ε serves twice, for x0 and for the noise put back (Eq. 6)")
    return "one step of the whole method"


def _energy(s_edit: float, s_share: float, w_e: float, w_p: float, alpha: float, beta: float) -> float:
    return sum(w / (alpha + beta * s) for w, s in ((w_e, s_edit), (w_p, s_share)))


def _features(seed: int) -> Tensor:
    """Six feature vectors of eight channels, (8, 6)."""
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
