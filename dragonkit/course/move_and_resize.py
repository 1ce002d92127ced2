"""Exercises of notebook 05: what is vacated, what fills it, where a resized object comes from (Eq. 7 to 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from dragonkit.course.exercise import Wrong, called, exercise, number

NAMES = ("edit", "content", "contrast", "inpaint")


@exercise
def check_vacated(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Write m_inpaint from (m_gen, m_gud), two bool masks: the places that the object leaves free."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(3):
        m_gen, m_gud = (torch.rand(7, 9, generator=draw) < 0.4 for _ in range(2))
        found = called(answer, m_gen, m_gud)
        if not isinstance(found, Tensor) or found.dtype != torch.bool or found.shape != m_gen.shape:
            raise Wrong("return a bool mask of the shape of m_gud; ~ is not, & is and, | is or")
        if (found & m_gen).any():
            raise Wrong("your mask holds places where the object shall be: those are filled already")
        if (found & ~m_gud).any():
            raise Wrong("your mask holds places where the object never was: nothing is vacated there")
        if not torch.equal(found | m_gen, m_gud | m_gen):
            raise Wrong("places that the object leaves are missing: all of m_gud that is not in m_gen")
    return "what was the object's and is not any more"


@exercise
def check_who_looks(answer: Iterable[str]) -> str:
    """Predict: which of the terms "edit", "content", "contrast", "inpaint" read generation features in m_inpaint?"""
    if isinstance(answer, str) or not isinstance(answer, Iterable):
        raise Wrong('give a set of names, for instance {"edit", "content"}')
    named = set(answer)
    if not named <= set(NAMES):
        raise Wrong(f"{named - set(NAMES)} is no term: choose from {', '.join(NAMES)}")
    looking = _terms_that_look_at_the_hole()
    if missed := looking - named:
        raise Wrong(
            f"{len(missed)} term(s) of yours are missing: go through Eq. 5, 7 and 8 and ask for each F_gen's region"
        )
    if extra := named - looking:
        raise Wrong(f"{', '.join(sorted(extra))} has no gradient there: which region of F_gen does it pick out?")
    return "without those two, nothing in the energy says what is to be in the hole"


@exercise
def check_contrast(answer: Callable[..., Tensor]) -> str:
    """Write L_c of Eq. 7 from (f_gen, f_gud, w_c): features (C, N) of the N places of m_inpaint, in both branches."""
    gen, gud = _vectors(1).requires_grad_(), _vectors(2).requires_grad_()
    found = called(answer, gen, gud, 0.5)
    value = number(found, tensor=True)
    same = number(called(answer, gud.detach(), gud.detach(), 0.5), tensor=True)
    if abs(same - 0.5) > 1e-4:
        raise Wrong(
            f"where the object is still there, unchanged, S = 1 and L_c is the whole of w_c; with w_c = 0.5 yours is "
            f"{same:.3g}"
        )
    if number(called(answer, -gud.detach(), gud.detach(), 0.5), tensor=True) > 1e-4:
        raise Wrong("where the features are opposite S = 0, and so is L_c: map the cosine from [-1, 1] to [0, 1]")
    pairs = zip(gen.detach().T, gud.detach().T, strict=True)
    cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in pairs]
    expected = 0.5 * sum((c + 1) / 2 for c in cosines) / len(cosines)
    if abs(value - expected) > 1e-4:
        raise Wrong(f"for random features Eq. 7 gives {expected:.4f}, yours {value:.4f}: a cosine for each place")
    for_gen, for_gud = _gradients(found, gen, gud)
    if for_gud.any():
        raise Wrong("a gradient reaches the guidance features: detach them, or the original is changed instead")
    if not for_gen.any():
        raise Wrong("no gradient reaches the generation features, which shall change")
    return "full where the object still stands, and it falls as the old content goes"


@exercise
def check_inpaint_loss(answer: Callable[..., Tensor]) -> str:
    """Write L_i of Eq. 8 from (f_gen, f_gud, w_i, alpha, beta): f_gen (C, N) in m_inpaint, f_gud (C, M) off m_gud."""
    gen, gud = _vectors(3, 6).requires_grad_(), (_vectors(4, 11) * torch.linspace(0.2, 4, 11)).requires_grad_()
    given = 0.8, 1.0, 4.0
    found = called(answer, gen, gud, *given)
    a, b = gen.detach().sum(1), gud.detach().sum(1)  # sums point where means do
    s = (float(a @ b / (a.norm() * b.norm())) + 1) / 2
    expected = given[0] / (given[1] + given[2] * s)
    value = number(found, tensor=True)
    nearer = number(called(answer, gen.detach() + 10 * b[:, None], gud.detach(), *given), tensor=True)
    if nearer > value:
        raise Wrong("your energy rises as the hole gets like its surroundings: S stands below the fraction line")
    if abs(value - expected) > 1e-4:
        raise Wrong(
            f"for random features Eq. 8 gives {expected:.4f}, yours {value:.4f}: first the mean vector of "
            "each region, over places, then one cosine between the two, mapped to [0, 1]"
        )
    for_gen, for_gud = _gradients(found, gen, gud)
    if for_gud.any():
        raise Wrong("a gradient reaches the guidance features: detach them, or the surroundings adapt to the hole")
    if not for_gen.any():
        raise Wrong("no gradient reaches the generation features, which shall change")
    return "the hole is to be, on average, like what surrounds the object"


@exercise
def check_came_from(answer: Callable[..., Tensor]) -> str:
    """Write where content comes from, given (p, centre, by, scale): p (N, 2) places after the edit, all in pixels."""
    draw = torch.Generator().manual_seed(6)
    for scale, moved in ((1.0, True), (2.0, False), (0.7, True)):
        centre, by = (torch.rand(2, generator=draw) * 100 for _ in range(2))
        by = by if moved else torch.zeros(2)
        was = torch.rand(5, 2, generator=draw) * 100
        arrived = torch.stack([centre + scale * (point - centre) for point in was]) + by  # forwards, as a user says it
        found = called(answer, arrived, centre, by, scale)
        if not isinstance(found, Tensor) or found.shape != was.shape:
            raise Wrong("return a tensor (N, 2), a place in the source for each place p")
        if not torch.allclose(found, was, atol=1e-2):
            if scale == 1:
                raise Wrong("already for a plain move it is off: what arrives at p was at p - by")
            hint = "what is near the centre after growing was nearer to it before" if scale > 1 else "shrinking undone"
            raise Wrong(
                f"for scale {scale:g} about {'the centre' if not moved else 'the centre and a move'} it is off: undo "
                f"the move, then the scaling about the centre ({hint})"
            )
    return "every target cell knows where its features are to be read"


@exercise
def check_perspective(answer: str, found: float) -> str:
    """Predict: moved up the picture without growing or shrinking, is the object "too large" or "too small"?"""
    if answer not in ("too large", "too small"):
        raise Wrong(f'{answer!r} is neither "too large" nor "too small"')
    measured = "too large" if found > 1 else "too small"
    if answer != measured:
        raise Wrong(
            f"it is {abs(found - 1):.0%} {measured}: in this world what stands higher in the picture is farther away"
        )
    return f"it is {measured}, for what is farther away looks smaller, and a move in the plane knows no distance"


def _terms_that_look_at_the_hole() -> set[str]:
    """The library's own terms on random features: those whose gradient reaches the vacated cells."""
    from dragonkit.edits import Branches, Move
    from dragonkit.guidance import Guidance
    from dragonkit.regions import Frame

    mask = torch.zeros(128, 128, dtype=torch.bool)
    mask[40:80, 24:64] = True
    frame, draw = Frame(128, 128), torch.Generator().manual_seed(7)
    gen, gud = (torch.randn(1, 8, *frame.grid, generator=draw) for _ in range(2))
    gen.requires_grad_()
    move = Move(mask, by=(24, 0))
    m = move.regions(frame)
    assert m.inpaint is not None
    looking = set()
    for term in move.terms(Branches(gen, gud, (), 3), m, Guidance()):
        (grad,) = torch.autograd.grad(term.value, gen, retain_graph=True)
        if grad.flatten(2)[..., m.inpaint].any():
            looking.add(term.name)
    return looking


def _vectors(seed: int, count: int = 6) -> Tensor:
    """Feature vectors of eight channels, (8, count)."""
    return torch.randn(8, count, generator=torch.Generator().manual_seed(seed))


def _gradients(found: Tensor, gen: Tensor, gud: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of an energy with respect to both branches' features, zero where there is none."""
    if not found.requires_grad:
        return torch.zeros_like(gen), torch.zeros_like(gud)
    both = torch.autograd.grad(found, (gen, gud), allow_unused=True)
    for_gen, for_gud = (torch.zeros_like(f) if g is None else g for f, g in zip((gen, gud), both, strict=True))
    return for_gen, for_gud
