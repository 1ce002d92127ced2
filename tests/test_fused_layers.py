"""Sums and norms of attention blocks are those that PyTorch and diffusers compute, value and slope."""

import copy

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from torch import nn

from dragonkit.fused import fused
from dragonkit.fused.blocks import fuse
from dragonkit.fused.layer_kernels import AddedNorm
from dragonkit.fused.transformer import Block
from tests.tiny import fresh_model

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def random(*shape, seed=0, scale=1.0, offset=0.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale + offset).to(DEVICE)


SHAPES = [(2, 9, 40), (1, 13, 64), (3, 2, 12), (1, 1, 2500), (7, 320)]


@pytest.mark.parametrize("adds", [True, False], ids=["sum", "alone"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_norms_and_their_slopes_are_those_of_float64(shape, adds):
    x, dsum, dy = random(*shape, scale=3, offset=4), random(*shape, seed=1), random(*shape, seed=2)
    added = random(*shape, seed=3) if adds else None
    weight, bias = random(shape[-1], seed=4), random(shape[-1], seed=5)
    leaves = [t.clone().requires_grad_() for t in (x, *([added] if adds else []))]
    ours = AddedNorm.apply(leaves[0], leaves[1] if adds else None, weight, bias, 1e-5)
    slopes = torch.autograd.grad(ours, leaves, (dsum, dy))
    total = (x + added if adds else x).double().requires_grad_()  # rounded to float32, as it is stored
    right = F.layer_norm(total, shape[-1:], weight.double(), bias.double(), 1e-5)
    (slope,) = torch.autograd.grad([total + 0, right], total, (dsum.double(), dy.double()))
    assert torch.equal(ours[0], total.float())
    assert (ours[1] - right).norm() <= 1e-5 * right.norm()
    for found in slopes:
        assert (found - slope).norm() <= 1e-5 * slope.norm()


# Triton's interpreter cuts bfloat16 off instead of rounding it.
@pytest.mark.parametrize("dtype", [torch.float16, *([torch.bfloat16] if DEVICE.type == "cuda" else [])])
def test_half_precision_is_rounded_once_each(dtype):
    x, added = random(5, 48, scale=2).to(dtype), random(5, 48, seed=1).to(dtype)
    weight, bias = random(48, seed=2).to(dtype), random(48, seed=3).to(dtype)
    total, y = AddedNorm.apply(x, added, weight, bias, 1e-5)
    assert torch.equal(total, (x.double() + added.double()).to(dtype))
    exact = F.layer_norm(total.double(), (48,), weight.double(), bias.double(), 1e-5)
    assert (y.double() - exact).norm() <= 1.02 * (exact.to(dtype).double() - exact).norm()


KINDS = {
    "with words": dict(cross_attention_dim=12),
    "without": dict(),
    "of other words": dict(cross_attention_dim=12, only_cross_attention=True),
    "twice to itself": dict(double_self_attention=True),
}


def pair(**options):
    torch.manual_seed(0)
    plain = BasicTransformerBlock(16, 2, 8, **options).eval().requires_grad_(False).to(DEVICE)
    ours = copy.deepcopy(plain)
    fuse(nn.Sequential(ours))
    assert type(ours) is Block and list(ours.state_dict()) == list(plain.state_dict())
    return plain, ours


def run(block, words, kernels=True):
    x, dy = random(2, 9, 16, seed=1).requires_grad_(), random(2, 9, 16, seed=2)
    with fused("cuda" if kernels else "cpu"):
        y = block(x, encoder_hidden_states=words)
    return y.detach(), torch.autograd.grad(y, x, dy)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_gives_what_it_gave_and_so_does_its_slope(kind, monkeypatch):
    plain, ours = pair(**KINDS[kind])
    calls, apply = [], AddedNorm.apply
    monkeypatch.setattr(AddedNorm, "apply", lambda *args: calls.append(args[1] is None) or apply(*args))
    words = random(2, 5, 12, seed=3) if "cross_attention_dim" in KINDS[kind] else None
    expected = run(plain, words)
    for kernels in (True, False):
        for found, right in zip(run(ours, words, kernels), expected, strict=True):
            torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)
    assert calls == [True, False] + [False] * (ours.attn2 is not None)


def test_who_listens_is_heard():
    _, ours = pair(cross_attention_dim=12)
    words, heard = random(2, 5, 12, seed=3), []
    expected = run(ours, words)
    ours.attn1.register_forward_pre_hook(lambda m, args, kwargs: heard.append(args[0].shape), with_kwargs=True)
    ours.norm2.register_forward_hook(lambda *_: heard.append("norm"))
    for found, right in zip(run(ours, words), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)
    assert heard == [(2, 9, 16), "norm"]


def test_diffusers_finds_the_blocks_that_it_is_to_compile():
    unet = fresh_model().unet
    fuse(unet)
    blocks = [module for module in unet.modules() if type(module) is Block]
    unet.compile_repeated_blocks()  # which compiles when they are first called
    assert blocks and all(module._compiled_call_impl is not None for module in blocks)


def unaffine(block):
    block.norm2 = nn.LayerNorm(16, elementwise_affine=False).to(DEVICE)


def chunked(block):
    block.set_chunk_feed_forward(3, 1)


def trained(block):
    block.norm3.weight.requires_grad_(True)


@pytest.mark.parametrize("change", [unaffine, chunked, trained])
def test_what_is_unusual_is_left_to_diffusers(change, monkeypatch):
    monkeypatch.setattr(AddedNorm, "apply", None)
    plain, ours = pair(cross_attention_dim=12)
    words = random(2, 5, 12, seed=3)
    for block in (plain, ours):
        change(block)
    for found, right in zip(run(ours, words), run(plain, words), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)
