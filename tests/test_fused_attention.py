"""The way back through attention to words is PyTorch's, to the queries alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import nn

from dragonkit.fused import fused
from dragonkit.fused.attention import Attend
from dragonkit.fused.attention_kernels import Queried, suit
from dragonkit.fused.blocks import fuse

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Triton's interpreter cuts bfloat16 off instead of rounding it.
DTYPES = [torch.float16, *([torch.bfloat16] if DEVICE.type == "cuda" else [])]


def random(*shape, seed=0, scale=1.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(DEVICE)


def heads(x, count):
    """As attention sets them apart: (B, N, H D) to (B, H, N, D), of the same memory."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


# Images, heads, queries, keys, numbers a head.
SHAPES = [(1, 2, 70, 77, 40), (2, 3, 5, 9, 160), (1, 1, 64, 128, 64), (3, 2, 33, 2, 8), (1, 4, 1, 77, 33)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_slopes_are_those_of_float64(shape, dtype):
    b, h, n, m, d = shape
    q = heads(random(b, n, h * d, seed=1, scale=2).to(dtype), h).requires_grad_()
    both = random(b, m, 2 * h * d, seed=2).to(dtype)  # keys and values of one product
    k, v = (heads(x, h) for x in both.chunk(2, dim=-1))
    dy = heads(random(b, n, h * d, seed=3).to(dtype), h)
    assert suit(q, k, v)
    y = Queried.apply(q, k, v)
    (dq,) = torch.autograd.grad(y, q, dy)
    exact = q.detach().double().requires_grad_()
    right = F.scaled_dot_product_attention(exact, k.double(), v.double())
    (slope,) = torch.autograd.grad(right, exact, dy.double())
    assert y.dtype == dq.dtype == dtype and dq.shape == q.shape
    most = 3 * torch.finfo(dtype).eps
    assert (y - right).norm() <= most * right.norm()
    assert (dq - slope).norm() <= most * slope.norm()


def test_slopes_that_lie_anyhow_are_read_as_they_lie():
    q, k, v = (heads(random(2, 12, 16, seed=s).half(), 2) for s in (1, 2, 3))
    q.requires_grad_()
    y = Queried.apply(q, k, v)
    first = torch.autograd.grad(y, q, torch.ones_like(y), retain_graph=True)[0]
    broadcast = torch.autograd.grad(y, q, torch.ones((), device=DEVICE).half().expand_as(y))[0]
    assert torch.equal(first, broadcast)


def test_where_more_is_differentiated_or_keys_are_many_it_is_pytorchs():
    q, k, v = (heads(random(1, n, 16).half(), 2) for n in (5, 7, 7))
    assert not suit(q, k, v)  # nothing is
    q.requires_grad_()
    assert suit(q, k, v)
    assert not suit(q, k.detach().requires_grad_(), v) and not suit(q, k, v.detach().requires_grad_())
    assert not suit(q.float(), k.float(), v.float())
    assert not suit(q, heads(random(1, 129, 16).half(), 2), heads(random(1, 129, 16).half(), 2))
    with torch.no_grad():
        assert not suit(q, k, v)


@pytest.mark.parametrize("trained", [False, True], ids=["words stay", "words are differentiated"])
def test_attention_to_words_is_diffusers(trained):
    torch.manual_seed(0)
    plain = Attention(16, cross_attention_dim=12, heads=2, dim_head=8).eval().requires_grad_(False).to(DEVICE).half()
    ours = copy.deepcopy(plain)
    fuse(nn.ModuleList([ours]))
    assert type(ours) is Attend
    found = []
    for module, kernels in ((plain, "cpu"), (ours, "cuda")):
        x, words = random(2, 9, 16, seed=1).half().requires_grad_(), random(2, 7, 12, seed=2).half()
        leaves = [x, words.requires_grad_()] if trained else [x]
        with fused(kernels):
            y = module(x, words)
        assert any(type(step).__name__ == "QueriedBackward" for step in ancestry(y)) == (
            kernels == "cuda" and not trained
        )
        found.append([y.detach(), *torch.autograd.grad(y, leaves, random(2, 9, 16, seed=3).half())])
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= 2e-3 * b.norm()


def ancestry(y):
    """All steps of autograd that led to y."""
    found, left = set(), [y.grad_fn]
    while left:
        step = left.pop()
        if step is not None and step not in found:
            found.add(step)
            left += [before for before, _ in step.next_functions]
    return found
