"""Energies fall where they should, and guidance goes down them."""

import pytest
import torch

from dragonkit.energy import Term, Watch, attract, gradient, mean_similarity, repel, similarity, total
from dragonkit.errors import NonFiniteError
from dragonkit.passes import Watched
from dragonkit.regions import flat
from dragonkit.schedule import Schedule
from tests.tiny import SCHEDULER, box, fresh_model


@pytest.fixture
def f():
    return torch.randn(1, 6, 8, 8, generator=torch.Generator().manual_seed(0))


def test_similarity_is_between_0_and_1_and_1_at_equality_only(f):
    other = torch.randn(1, 6, 8, 8, generator=torch.Generator().manual_seed(1))
    assert similarity(f, f) == pytest.approx(1) and similarity(f, 7 * f) == pytest.approx(1)
    assert similarity(f, -f) == pytest.approx(0, abs=1e-6) and 0.2 < similarity(f, other) < 0.8
    assert mean_similarity(f, f) == pytest.approx(1) and mean_similarity(f, -f) == pytest.approx(0, abs=1e-6)


def test_similarity_is_equation_4_written_out(f):
    other, mask = f.flip(3), box(8, 8, 1, 2, 5, 7)
    a, b = f[0][:, mask].T, other[0][:, mask].T
    cosine = [(x @ y / x.norm() / y.norm()).item() for x, y in zip(a, b, strict=True)]
    assert similarity(f, other, mask, flat(mask)).item() == pytest.approx(
        sum((c + 1) / 2 for c in cosine) / len(cosine)
    )


def test_regional_means_divide_by_their_own_areas(f):
    small, large = box(8, 8, 0, 0, 2, 2), box(8, 8, 2, 0, 8, 8)
    a = f[0][:, small].sum(1) / 4
    b = f[0][:, large].sum(1) / 48
    expected = ((a @ b) / a.norm() / b.norm() + 1) / 2
    torch.testing.assert_close(mean_similarity(f, f, small, large), expected)


@pytest.mark.parametrize("sim", [similarity, mean_similarity])
def test_the_gradient_stops_at_the_guidance_branch(f, sim):
    gen, gud = f.clone().requires_grad_(), f.flip(2).requires_grad_()
    grads = torch.autograd.grad(sim(gen, gud), (gen, gud), allow_unused=True)
    assert grads[0].abs().sum() > 0 and grads[1] is None


def test_an_energy_is_least_at_equality(f):
    x = f.clone().requires_grad_()
    least = attract(similarity(x, f), 4.0)
    assert least.item() == pytest.approx(4 / 5)
    assert torch.autograd.grad(least, x)[0].abs().max() < 1e-6
    for scale in (0.01, 0.1, 1.0):
        assert attract(similarity(f + scale * f.flip(1), f), 4.0) > least
        assert repel(similarity(f + scale * f.flip(1), f), 4.0) < repel(similarity(f, f), 4.0)


def test_half_precision_features_give_float32_energies(f):
    assert similarity(f.half(), f.half()).dtype == torch.float32
    assert mean_similarity(f.bfloat16(), f.bfloat16()).dtype == torch.float32


def test_terms_of_one_name_are_summed_over_layers_with_weights():
    one, two = torch.tensor(2.0), torch.tensor(3.0)
    terms = total([(0.5, [Term("a", one, "edit"), Term("b", two)]), (0.25, [Term("a", two, "edit")])])
    assert [(t.name, t.value.item(), t.region) for t in terms] == [("a", 1.75, "edit"), ("b", 1.5, "content")]


def test_a_regional_gradient_is_each_part_in_its_region():
    z, target = torch.randn(1, 4, 8, 8, requires_grad=True), box(8, 8, 2, 2, 6, 6)
    at = Watched(z, {1: z})

    def terms():
        f = at.features[1]
        return [Term("a", f.square().sum(), "edit"), Term("b", (3 * f).sum()), Term("c", f.cos().sum())]

    inner, outer = 2 * z, 3 - z.sin()
    torch.testing.assert_close(gradient(terms(), at, target), torch.where(target, inner, outer))
    torch.testing.assert_close(gradient(terms(), at), inner + outer)
    torch.testing.assert_close(gradient(terms()[:1], at, target), inner * target)
    torch.testing.assert_close(gradient(terms()[1:], at, target), outer * ~target)


@pytest.mark.parametrize("through", ["x0", "eps"])
def test_one_guided_step_of_a_toy_denoiser_lowers_the_energy(through):
    """Features of the next latent come closer to the guidance features than without guidance: the sign is right."""
    schedule = Schedule(fresh_model(), 50)
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 4, generator=generator)
    z, gud = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 6, 8, 8, generator=generator)

    def energy(z):
        return attract(similarity(torch.einsum("fc,bchw->bfhw", mix, z).tanh(), gud), 4.0)

    eps = 0.3 * z  # any denoiser will do
    z = z.requires_grad_()
    at = Watched(z, {1: z})
    guided = eps.detach() + 20 * gradient([Term("edit", energy(at.features[1]), "edit")], at)
    for i in (0, 10, 25, 40):
        plain = schedule.step(z, eps, i)[0]
        moved = schedule.step(z, eps if through == "x0" else guided, i, towards=guided)[0]
        assert energy(moved) < energy(plain)


def test_what_is_not_finite_is_named_with_its_step():
    good, bad = torch.ones(()), torch.tensor(torch.inf)
    fine, broken = torch.zeros(1, 4, 2, 2), torch.full((1, 4, 2, 2), torch.nan)
    watch = Watch()
    watch.add(3, 921, [Term("edit", good), Term("content", good)], fine, fine)
    watch.add(3, 921, [], None, fine)
    with pytest.raises(NonFiniteError, match=r"step 4 \(t = 901\): energy term 'content' is not finite"):
        watch.add(4, 901, [Term("edit", good), Term("content", bad)], fine, broken)
    with pytest.raises(NonFiniteError, match=r"step 5 \(t = 881\): the gradient of 'edit' is not finite"):
        Watch().add(5, 881, [Term("edit", good)], broken, broken)
    with pytest.raises(NonFiniteError, match=r"step 6 \(t = 861\): the latent is not finite"):
        Watch().add(6, 861, [], None, broken)


def test_the_schedule_of_the_toy_is_stable_diffusions():
    assert Schedule(fresh_model(), 50).timesteps[0] == 981 and SCHEDULER["steps_offset"] == 1
