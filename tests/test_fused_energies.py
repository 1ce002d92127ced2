"""Energies by fused kernels are those that PyTorch computes, value and slope."""

import pytest
import torch
import torch.nn.functional as F

from dragonkit.edits import Appearance, Drag, Move, Paste, Several
from dragonkit.edits.base import Branches
from dragonkit.energy import mean_similarity, similarity, slopes, total
from dragonkit.fused import cosines as chosen
from dragonkit.fused import fused
from dragonkit.fused.cosines import cosines
from dragonkit.fused.finer import Finer
from dragonkit.fused.gram_kernels import GramCosines
from dragonkit.fused.resize_kernels import Resized
from dragonkit.gradient import _on_grid, _Slopes
from dragonkit.guidance import Guidance
from dragonkit.many.abreast import Abreast
from dragonkit.regions import Frame, pick
from tests.tiny import box, picture

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def features(channels, h, w, seed=0):
    x = torch.randn(1, channels, h, w, generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    return x.to(memory_format=torch.channels_last)


def cells(count, most, seed):
    return torch.randint(0, most, (count,), generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def between(count, h, w, seed):
    """Positions on a grid and up to a cell off it."""
    xy = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))
    return (xy * torch.tensor([w + 1.0, h + 1.0]) - 1).to(DEVICE)


PLACES = {
    "cells, some twice": (cells(40, 30, 0), cells(40, 56, 1)),
    "between both": (between(23, 9, 11, 0), between(23, 7, 8, 1)),
    "cells and between": (cells(23, 99, 0), between(23, 7, 8, 1)),
    "all and cells": (None, cells(99, 56, 1)),
}


@pytest.mark.parametrize("places", PLACES)
def test_cosines_and_their_slopes_are_those_of_float64(places):
    at, there = PLACES[places]
    gen, gud = features(150, 9, 11), features(150, 7, 8, seed=1)
    exact = gen.double().requires_grad_()
    right = F.cosine_similarity(pick(exact, at), pick(gud.double(), there), dim=0)
    gen.requires_grad_()
    found = cosines(gen, gud, at, there)
    dy = torch.linspace(-1, 2, len(right), dtype=torch.float64, device=DEVICE)
    (slope,), (expected,) = torch.autograd.grad(found, gen, dy.float()), torch.autograd.grad(right, exact, dy)
    torch.testing.assert_close(found.double(), right, rtol=0, atol=2e-7)
    assert (slope - expected).norm() <= 1e-6 * expected.norm()
    assert slope.is_contiguous(memory_format=torch.channels_last)


# Of a map, of the grid, and numbers a cell; the other map is of half as many cells where it lies elsewhere.
GRIDS = [
    ((4, 6), (16, 24), 20),
    ((5, 7), (10, 14), 70),
    ((8, 8), (20, 19), 150),
    ((9, 7), (4, 5), 8),
    ((1, 3), (6, 1), 16),
]
WHERE = {
    "most cells of both": lambda count, size: (cells(4 * count // 5, count, 0),) * 2,
    "all of both": lambda count, size: (None, None),
    "few cells of both": lambda count, size: (cells(3, count, 0),) * 2,
    "cells and other cells": lambda count, size: (cells(40, count, 0), cells(40, count, 1)),
    "cells and between": lambda count, size: (cells(40, count, 0), between(40, *size, 1)),
    "between both": lambda count, size: (between(40, *size, 0), between(40, *size, 1)),
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_cosines_on_a_finer_grid_are_those_of_maps_resized_in_float64(grid, where, monkeypatch):
    (h, w), size, channels = grid
    at, there = WHERE[where](size[0] * size[1], size)
    gen, gud = features(channels, h, w), features(channels, h, w, seed=1).half()
    exact = gen.double().requires_grad_()
    own, other = (F.interpolate(x, size, mode="bilinear") for x in (exact, gud.double()))
    right = F.cosine_similarity(pick(own, at), pick(other, there), dim=0)
    short, apply = [], GramCosines.apply
    monkeypatch.setattr(GramCosines, "apply", lambda *args: short.append(1) or apply(*args))
    gen.requires_grad_()
    found = cosines(Finer(gen, size), Finer(gud, size), at, there)
    assert len(short) == (where in ("most cells of both", "all of both") and len(right) > h * w)
    dy = torch.linspace(-1, 2, len(right), dtype=torch.float64, device=DEVICE)
    (slope,), (expected,) = torch.autograd.grad(found, gen, dy.float()), torch.autograd.grad(right, exact, dy)
    torch.testing.assert_close(found.double(), right, rtol=0, atol=1e-6)
    assert (slope - expected).norm() <= 3e-6 * expected.norm()
    assert slope.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_means_on_a_finer_grid_are_those_of_maps_resized_in_float64(grid):
    (h, w), size, channels = grid
    count = size[0] * size[1]
    gen, gud = features(channels, h, w).requires_grad_(), features(channels, 7, 8, seed=1).half()
    at, there = cells(count // 2, count, 0), cells(60, 99, 1)
    exact = gen.detach().double().requires_grad_()
    own, other = F.interpolate(exact, size, mode="bilinear"), F.interpolate(gud.double(), (9, 11), mode="bilinear")
    right = mean_similarity(own, other, at, there)
    with fused("cuda"):
        found = mean_similarity(Finer(gen, size), Finer(gud, (9, 11)), at, there)
    torch.testing.assert_close(found.double(), right.double(), rtol=0, atol=1e-6)
    (slope,), (expected,) = torch.autograd.grad(found, gen), torch.autograd.grad(right, exact)
    assert (slope - expected).norm() <= 3e-6 * expected.norm()


@pytest.mark.parametrize("size", [(3, 3), (6, 9)], ids=["its own grid", "a finer one"])
def test_a_vector_of_zeros_is_as_pytorch_has_it(size):
    gen, gud = features(8, 3, 3), features(8, 3, 3, seed=1)
    at = torch.arange(size[0] * size[1], device=DEVICE)
    gen[..., :2, :2] = 0
    gen.requires_grad_()
    for kernels in (True, False):
        a, b = (Finer(x, size) if size != (3, 3) else x for x in (gen, gud))
        with fused("cuda" if kernels else "cpu"):
            value = similarity(a, b, at, at)
        slope = torch.autograd.grad(value, gen)[0]
        if kernels:
            found = value, slope
    torch.testing.assert_close(found, (value, slope), rtol=1e-5, atol=1e-5)
    assert found[1].isfinite().all()


TASKS = (
    Move(box(64, 96, 8, 8, 32, 40), by=(24, 16), scale=1.2, angle=10),
    Drag([(20.0, 20.0, 40.3, 30.7)], box(64, 96, 8, 8, 32, 40)),
    Appearance(box(64, 96, 8, 8, 32, 40), picture(64, 64, 3), box(64, 64, 20, 20, 50, 50)),
)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
@pytest.mark.parametrize("late", [False, True], ids=["resized", "resized where looked at"])
def test_an_edits_terms_and_slopes_are_the_same(task, late, monkeypatch):
    frame, w = Frame(64, 96, device=DEVICE), Guidance.preset("iclr", task.kind).replace(w_contrast=0.3)
    m, grid = task.regions(frame), frame.grid
    gen, gud = features(20, 4, 6).requires_grad_(), features(20, 4, 6, seed=1)
    refs = tuple(features(20, 16, 16, seed=2) for _ in task.references)
    calls = []
    monkeypatch.setattr(chosen, "cosines", lambda *args: calls.append(1) or cosines(*args))

    def both(kernels):
        own, other = (Finer(x, grid) if late else F.interpolate(x, grid, mode="bilinear") for x in (gen, gud))
        theirs = tuple(Finer(ref, (16, 16)) for ref in refs) if late else refs
        with fused("cuda" if kernels else "cpu"):
            terms = total([(1.0, task.terms(Branches(own, other, theirs, 2), m, w))])
        return {term.name: term.value for term in terms}, *slopes(terms, [gen])

    (found, slope), called, late, (right, expected) = both(True), len(calls), False, both(False)
    assert found.keys() == right.keys() and called == len(calls) >= 1
    for name in right:
        torch.testing.assert_close(found[name], right[name], rtol=1e-5, atol=1e-6)
    assert (slope - expected).norm() <= 1e-5 * expected.norm()


def test_what_lies_otherwise_is_left_to_pytorch():
    gen, gud, mask = features(6, 5, 4), features(6, 5, 4, seed=1), torch.zeros(5, 4, dtype=torch.bool, device=DEVICE)
    mask[1:3, 2:] = True
    assert cosines(gen, gud, None, None) is not None
    assert cosines(Finer(gen.half(), (9, 9)), Finer(gud, (9, 9)), None, None) is not None
    assert cosines(gen, gud, mask, mask) is cosines(gen.half(), gud, None, None) is None
    assert cosines(Finer(gen, (9, 9)), gud, None, None) is None  # PyTorch says that there are not as many
    for a, b, at in ((gen, gud, mask), (gen.contiguous(), gud, None), (gen[0], gud[0], None), (gen.half(), gud, None)):
        with fused("cuda"):
            found = similarity(a, b, at, at), mean_similarity(a, b, at, at)
        torch.testing.assert_close(found, (similarity(a, b, at, at), mean_similarity(a, b, at, at)))
    finer, places = Finer(gen, (10, 8)), torch.zeros(10, 8, dtype=torch.bool, device=DEVICE)
    places[3:5, 1:] = True
    with fused("cuda"):
        found = similarity(finer, finer[:1].detach(), places, places), mean_similarity(finer, finer, places, places)
    torch.testing.assert_close(found, (torch.ones((), device=DEVICE), torch.ones((), device=DEVICE)))


SIZES = [
    ((4, 6), (16, 24)),
    ((5, 7), (10, 14)),
    ((8, 8), (20, 19)),
    ((9, 7), (4, 5)),
    ((1, 3), (6, 1)),
    ((6, 4), (6, 4)),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_resized_maps_and_their_slopes_are_those_of_float64(sizes, dtype):
    (h, w), size = sizes
    x = torch.cat([features(70, h, w), features(70, h, w, seed=1)]).to(dtype, memory_format=torch.channels_last)
    dy = torch.cat([features(70, *size, seed=2), features(70, *size, seed=3)])
    exact, x = x.double().requires_grad_(), x.requires_grad_()
    right, found = F.interpolate(exact, size, mode="bilinear"), Resized.apply(x, size)
    assert found.dtype == torch.float32 and found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-5)
    (slope,), (expected,) = torch.autograd.grad(found, x, dy), torch.autograd.grad(right, exact, dy.double())
    assert slope.dtype == dtype and slope.is_contiguous(memory_format=torch.channels_last)
    assert (slope - expected).norm() <= (2e-6 if dtype == torch.float32 else 1e-3) * expected.norm()


def test_an_edit_resizes_by_the_kernels_what_lies_so(monkeypatch):
    sizes, apply = [], Resized.apply
    monkeypatch.setattr(Resized, "apply", lambda x, size: sizes.append(size) or apply(x, size))
    for x, kernels in ((features(8, 3, 5), True), (features(8, 3, 5).contiguous(), False)):
        sizes.clear()
        with fused("cuda"):
            found = _on_grid(x, (6, 10))
        torch.testing.assert_close(found, F.interpolate(x, (6, 10), mode="bilinear"))
        assert sizes == ([(6, 10)] if kernels else [])


def test_only_the_kits_own_terms_are_given_maps_that_are_resized_where_looked_at():
    class Own(Move):
        def terms(self, f, m, w):
            yield from super().terms(f, m, w)

    mask, seen = box(64, 96, 8, 8, 32, 40), []
    frame, w = Frame(64, 96, device=DEVICE), Guidance.preset("iclr", "move").replace(layers=(2,), layer_weights=(1.0,))
    x = [features(20, 4, 6), features(20, 4, 6, seed=1).half()]
    for task in (
        Move(mask, by=(24, 16)),
        Own(mask, by=(24, 16)),
        Several([Move(mask, by=(9, 0)), Own(mask, by=(0, 9))]),
    ):
        work = _Slopes(task, task.regions(frame), w, [frame.grid] * 2)
        with fused("cuda"):
            found = work(x)
        with fused("cpu"):
            right = work(x)
        seen.append(work.late)
        for a, b in zip(found, right, strict=True):
            assert (a - b).norm() <= 1e-5 * b.norm()
    assert seen == [True, False, False]


def test_edits_of_a_batch_look_each_at_its_own_map():
    mask, frame = box(64, 96, 8, 8, 32, 40), Frame(64, 96, device=DEVICE)
    task = Abreast([Move(mask, by=(24, 16)), Paste(picture(64, 64, 3), box(64, 64, 8, 8, 32, 40), at=(40, 30))])
    w = Guidance.preset("iclr", "move").replace(layers=(2,), layer_weights=(1.0,), w_contrast=0.3)
    work = _Slopes(task, task.regions(frame), w, [frame.grid, frame.grid, Frame(64, 64).grid])
    x = [torch.cat([features(20, 4, 6, seed=s), features(20, 4, 6, seed=s + 1)]) for s in (0, 2)]
    x = [x[0], x[1].half().to(memory_format=torch.channels_last), features(20, 4, 4, seed=4).half()]
    with fused("cuda"):
        found, names = work(x), [term.name for term in work.terms]
    right = work(x)
    assert work.late and names == [term.name for term in work.terms] and len(found) == len(right) > len(names)
    for a, b in zip(found, right, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()
