"""Fused blocks compute what diffusers' blocks compute; where there is no GPU, Triton's interpreter runs its kernels."""

import copy

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from peft import LoraConfig
from safetensors.torch import save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from dragonkit.fused import fused
from dragonkit.fused.attention import Attend
from dragonkit.fused.block_kernels import Added, Gated
from dragonkit.fused.blocks import Gate, Norm, Resnet, Transformer, fuse
from dragonkit.fused.convolution_kernels import Product, suits
from dragonkit.fused.norm_kernels import Normalised
from dragonkit.passes import separate
from tests.tiny import fresh_model

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def exact():
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def last(*shape, seed=0, scale=1.0, offset=0.0):
    x = (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale + offset).to(DEVICE)
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x


def slopes(function, inputs, dy):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*inputs)
    return y.detach(), torch.autograd.grad(y, inputs, dy.to(y.dtype))


SHAPES = [(1, 320, 16, 16, 32), (2, 64, 9, 7, 32), (3, 96, 13, 5, 8), (1, 128, 40, 30, 32), (2, 30, 5, 5, 3)]


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_norm_and_its_slope_are_those_of_float64(shape, silu):
    b, c, h, w, groups = shape
    x, dy = last(b, c, h, w, scale=3, offset=40), last(b, c, h, w, seed=1)
    weight, bias, shift = last(c, seed=2), last(c, seed=3), last(b, c, seed=4) if silu else None

    def plain(x):
        x = x if shift is None else x + shift.double()[:, :, None, None]
        y = F.group_norm(x, groups, weight.double(), bias.double(), 1e-5)
        return F.silu(y) if silu else y

    ours = slopes(lambda x: Normalised.apply(x, shift, weight, bias, groups, 1e-5, silu), [x], dy)
    theirs = slopes(plain, [x.double()], dy)
    for a, b in ((ours[0], theirs[0]), (ours[1][0], theirs[1][0])):
        assert (a - b).norm() / b.norm() < 2e-6 and a.is_contiguous(memory_format=torch.channels_last)


def test_half_precision_is_rounded_once():
    x, weight, bias = last(1, 64, 8, 8, scale=2).half(), last(64, seed=1).half(), last(64, seed=2).half()
    exact = F.silu(F.group_norm(x.double(), 32, weight.double(), bias.double(), 1e-5))
    found = Normalised.apply(x, None, weight, bias, 32, 1e-5, True)
    assert (found.double() - exact).norm() <= 1.01 * (exact.half().double() - exact).norm()


def test_gates_and_sums_and_their_slopes():
    h, dy = last(2, 37, 60), last(2, 37, 30, seed=1)
    (y, (dh,)), (z, (dg,)) = (
        slopes(f, [x], dy) for f, x in ((Gated.apply, h), (lambda h: h[..., :30] * F.gelu(h[..., 30:]), h.double()))
    )
    torch.testing.assert_close(y, z.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dh, dg.float(), rtol=1e-5, atol=1e-6)
    a, b, bias, dy = last(2, 12, 5, 3), last(2, 12, 5, 3, seed=1), last(12, seed=2), last(2, 12, 5, 3, seed=3)
    for other in (None, last(12, seed=4)):
        y, (da, db) = slopes(lambda a, b, other=other: Added.apply(a, b, bias, other), [a, b], dy)
        torch.testing.assert_close(y, a + b + (bias if other is None else bias + other)[:, None, None])
        assert torch.equal(da, dy) and torch.equal(db, dy)


MAPS = [(1, 40, 8, 8, 24), (2, 16, 3, 5, 8), (1, 8, 1, 1, 8), (3, 130, 2, 1, 16), (1, 8, 16, 16, 8)]


@pytest.mark.parametrize("shape", MAPS, ids=str)
def test_convolutions_of_small_maps_and_their_slopes_are_those_of_float64(shape):
    b, c, h, w, d = shape
    conv = nn.Conv2d(c, d, 3, padding=1, bias=False).requires_grad_(False)
    conv = conv.to(DEVICE, torch.float16, memory_format=torch.channels_last)
    x, dy = last(b, c, h, w).half(), last(b, d, h, w, seed=1).half()
    assert suits(conv, x)
    y, (dx,) = slopes(lambda x: Product.apply(x, conv.weight), [x], dy)
    right, (expected,) = slopes(lambda x: F.conv2d(x, conv.weight.double(), padding=1), [x.double()], dy.double())
    assert y.is_contiguous(memory_format=torch.channels_last) and dx.is_contiguous(memory_format=torch.channels_last)
    assert (y - right).norm() <= 1e-3 * right.norm() and (dx - expected).norm() <= 1e-3 * expected.norm()


def test_other_convolutions_are_left_to_pytorch():
    def fits(size=8, dtype=torch.float16, layout=torch.channels_last, kernel=3, **options):
        conv = nn.Conv2d(8, 8, kernel, **{"padding": 1, **options}).to(DEVICE, dtype, memory_format=layout)
        return suits(conv, last(1, 8, size, size).to(dtype))

    assert fits() and fits(16)
    assert not any((fits(17), fits(dtype=torch.float32), fits(layout=torch.contiguous_format), fits(kernel=5)))
    assert not any((fits(stride=2), fits(padding=0), fits(padding_mode="circular")))


def transformer(linear):
    return Transformer2DModel(2, 16, 32, norm_num_groups=8, cross_attention_dim=12, use_linear_projection=linear)


BLOCKS = {
    "residual": (lambda: ResnetBlock2D(in_channels=32, out_channels=64, temb_channels=16, groups=8), last(2, 16), 64),
    "of one width": (lambda: ResnetBlock2D(in_channels=32, temb_channels=16, groups=8), last(2, 16), 32),
    "an autoencoder's": (lambda: ResnetBlock2D(in_channels=32, temb_channels=None, groups=8, eps=1e-6), None, 32),
    "attention": (lambda: transformer(False), last(2, 7, 12), 32),
    "linear attention": (lambda: transformer(True), last(2, 7, 12), 32),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_fused_block_gives_what_it_gave_and_so_does_its_slope(name):
    make, other, channels = BLOCKS[name]
    torch.manual_seed(0)
    plain = make().eval().requires_grad_(False).to(DEVICE, memory_format=torch.channels_last)
    ours = copy.deepcopy(plain)
    fuse(ours)
    assert type(ours) in (Resnet, Transformer) and list(ours.state_dict()) == list(plain.state_dict())

    def run(block, kernels):
        with fused("cuda" if kernels else "cpu"):
            whole = {"return_dict": False} if isinstance(block, Transformer2DModel) else {}
            return slopes(lambda x: block(x, other, **whole)[0] if whole else block(x, other), [x], dy)

    x, dy = last(2, 32, 6, 4), last(2, channels, 6, 4, seed=9)
    expected = run(plain, False)
    for found in (run(ours, False), run(ours, True)):
        torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[1][0], expected[1][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [16, 12], ids=["rewired", "cross"])
def test_attention_projects_at_once_and_its_weights_stay_what_they_were(width, tmp_path):
    torch.manual_seed(0)
    plain = Attention(16, None if width == 16 else width, heads=2, dim_head=8).eval().requires_grad_(False).to(DEVICE)
    ours, products = copy.deepcopy(plain), []
    fuse(nn.Sequential(ours))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), ours.parameters(), strict=True))
    save_file(ours.state_dict(), tmp_path / "it.safetensors")  # which refuses tensors that share what they hold
    x, dy, other = last(2, 9, 16), last(2, 9, 16, seed=1), last(2, 5, width, seed=2)

    class Products(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            products.extend([args[1].shape[0]] if func is F.linear else [])
            return func(*args, **(kwargs or {}))

    for context, sizes in ((other, [16, 32, 16]), (None, [48, 16])):
        if context is None and width != 16:
            continue
        with fused("cuda"), Products():
            found = slopes(lambda x, context=context: ours(x, context), [x], dy)
        expected = slopes(lambda x, context=context: plain(x, context), [x], dy)
        torch.testing.assert_close(found[0], expected[0])
        torch.testing.assert_close(found[1][0], expected[1][0])
        assert products == sizes
        products.clear()
    ours.to_v.weight.data = ours.to_v.weight.data.clone()  # elsewhere: as after a move to another device and back
    ours.to_k.weight.data.mul_(2)
    plain.to_k.weight.data.mul_(2)
    with fused("cuda"):
        torch.testing.assert_close(ours(x, other), plain(x, other))


def test_attention_that_somebody_watches_or_replaces_is_left_to_diffusers():
    ours, heard = Attention(16, heads=2, dim_head=8).eval().requires_grad_(False).to(DEVICE), []
    x = last(2, 9, 16)
    fuse(nn.Sequential(ours))
    with fused("cuda"):
        handle = ours.to_q.register_forward_hook(lambda *_: heard.append(1))
        ours(x)
        handle.remove()
        ours.set_processor(lambda attn, hidden_states, **_: heard.append(2) or hidden_states)
        assert torch.equal(ours(x), x) and heard == [1, 2]
        ours.set_processor(AttnProcessor2_0())
        hidden = torch.zeros(2, 1, 9, device=DEVICE)
        hidden[..., 4:] = -torch.inf
        torch.testing.assert_close(ours(x, attention_mask=hidden), ours(x, x[:, :4]))


def test_a_hook_on_a_part_is_heard():
    block, heard = ResnetBlock2D(in_channels=32, temb_channels=16, groups=8).eval().requires_grad_(False), []
    fuse(block.to(DEVICE, memory_format=torch.channels_last))
    block.conv2.register_forward_hook(lambda *_: heard.append(1))
    with fused("cuda"):
        block(last(2, 32, 6, 4), last(2, 16))
    assert heard == [1]


def test_a_lora_in_the_place_of_a_layer_is_heard():
    plain, ours = (fresh_model().unet.to(DEVICE) for _ in range(2))
    fuse(ours.to(memory_format=torch.channels_last))
    layers = "conv1 conv2 conv_shortcut time_emb_proj proj_in proj_out to_q to_v ff.net.0.proj".split()
    z, words = last(1, 4, 8, 12), last(1, 5, plain.config.cross_attention_dim, seed=1)
    results = []
    for unet in (plain, ours):
        torch.manual_seed(0)
        before = unet(z, 500, words).sample
        unet.add_adapter(LoraConfig(r=2, target_modules=layers, init_lora_weights=False))
        unet.requires_grad_(False)
        with fused("cuda" if unet is ours else "cpu"):
            results.append(unet(z, 500, words).sample)
        assert (results[-1] - before).norm() > 0.1 * before.norm()
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


def test_norms_of_other_layouts_and_trained_ones_are_left_to_torch(monkeypatch):
    norm = Norm(8, 32, device=DEVICE)
    monkeypatch.setattr(Normalised, "apply", None)
    with fused("cuda"):
        for x in (last(2, 32, 6, 4).contiguous(), last(2, 32, 6, 4), last(2, 32, 9)):
            assert torch.equal(norm(x), F.group_norm(x, 8, norm.weight, norm.bias))


def test_a_network_gives_what_it_gave():
    plain, ours = fresh_model(), fresh_model()
    for part in (*plain.parts.values(), *ours.parts.values()):
        part.to(DEVICE)
    for part in (ours.unet, ours.vae):
        fuse(part)
    kinds = {type(m) for m in ours.unet.modules()}
    assert {Norm, Resnet, Transformer, Gate, Attend} <= kinds
    assert not kinds & {ResnetBlock2D, Transformer2DModel, GEGLU, Attention}
    cond = plain.embed("a ball")
    z, image = last(1, 4, 8, 12), last(1, 3, 64, 96).sigmoid()
    results = []
    for model, device in ((plain, "cpu"), (ours, "cpu"), (ours, "cuda")):
        with fused(device):
            at = separate(model, z, 500, cond, (2, 3))
            slope = at.pull([[0.1 * x for x in at.features.values()]])[0]
            latent, picture = (model.vae.encode(image).latent_dist.mean, model.vae.decode(z).sample)
            with torch.no_grad():
                results.append([model.predict(z, 500, cond), slope, latent, picture])
    for found in results[1:]:
        for a, b in zip(found, results[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
