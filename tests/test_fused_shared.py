"""What many layers make of one input is made by one product, and is what each would make."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import nn
from torch.overrides import TorchFunctionMode

from dragonkit.fused import fused, one_pass
from dragonkit.fused.attention import Attend
from dragonkit.fused.blocks import Resnet, fuse
from dragonkit.fused.norm_kernels import Normalised
from dragonkit.fused.shared import Shared, Shifts
from dragonkit.fused.stacked import joined, stack
from tests.families import UNETS
from tests.tiny import fresh_model

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def exact():
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


class Products(TorchFunctionMode):
    """Counts matrix products by how many rows their weights have."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.rows += [args[1].shape[0]] if func is F.linear else []
        return func(*args, **(kwargs or {}))


@pytest.fixture
def unets():
    """One as diffusers has it, one fused, with the same weights."""
    plain = fresh_model().unet.to(DEVICE, memory_format=torch.channels_last)
    ours = copy.deepcopy(plain)
    fuse(ours)
    return plain, ours


def inputs(unet, batch=2):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(batch, 4, 8, 12, generator=g).to(DEVICE).to(memory_format=torch.channels_last)
    return z, 500, torch.randn(batch, 7, unet.config.cross_attention_dim, generator=g).to(DEVICE)


def of_kind(unet, kind):
    return [m for m in unet.modules() if type(m) is kind]


@pytest.mark.parametrize("batch", [1, 2])
def test_a_pass_projects_words_and_timestep_once_and_gives_the_same(unets, batch):
    plain, ours = unets
    given, products = inputs(plain, batch), Products()
    cross = [m for m in of_kind(ours, Attend) if m.is_cross_attention]
    timed = of_kind(ours, Resnet)
    assert len(cross) > 2 and len(timed) > 2
    with fused("cuda"), one_pass(), products, torch.no_grad():
        found = ours(*given).sample
    torch.testing.assert_close(found, plain(*given).sample, rtol=1e-4, atol=1e-5)
    words, shifts = (sum(map(len, m.weights)) for m in (cross[0].words, timed[0].shifts))
    assert products.rows.count(words) == products.rows.count(shifts) == 1
    products.rows.clear()
    with fused("cuda"), products, torch.no_grad():  # which nobody says is one pass
        torch.testing.assert_close(ours(*given).sample, found, rtol=1e-4, atol=1e-5)
    assert words not in products.rows and shifts not in products.rows


def test_nothing_is_remembered_from_one_pass_to_the_next(unets):
    plain, ours = unets
    z, t, words = inputs(plain)
    for _ in range(2):
        with fused("cuda"), one_pass(), torch.no_grad():
            found = ours(z, t, words).sample
        torch.testing.assert_close(found, plain(z, t, words).sample, rtol=1e-4, atol=1e-5)
        words.neg_()  # the same tensor with other numbers, as a recorded pass has it
        of_kind(ours, Attend)[1].to_k.weight.data.mul_(2)
        of_kind(plain, type(plain.mid_block.attentions[0].transformer_blocks[0].attn2))[1].to_k.weight.data.mul_(2)


@pytest.mark.parametrize("change", ["moved", "exchanged", "trained"])
def test_weights_that_are_no_longer_together_are_each_layers_own(unets, change):
    plain, ours = unets
    one = next(m for m in of_kind(ours, Attend) if m.is_cross_attention)
    if change == "moved":
        one.to_v.weight.data = one.to_v.weight.data.clone()
    elif change == "exchanged":
        one.to_v.weight = nn.Parameter(one.to_v.weight.data.clone(), requires_grad=False)
    else:
        one.to_v.weight.requires_grad_(True)
    with fused("cuda"), one_pass(), torch.no_grad():
        torch.testing.assert_close(ours(*inputs(plain)).sample, plain(*inputs(plain)).sample, rtol=1e-4, atol=1e-5)


def test_a_copy_has_its_own():
    ours = fresh_model().unet.to(DEVICE)
    fuse(ours)
    other = copy.deepcopy(ours)
    words = [next(m.words for m in of_kind(unet, Attend) if m.is_cross_attention) for unet in (ours, other)]
    assert words[0] is not words[1]
    assert not {id(w) for w in words[0].weights} & {id(w) for w in words[1].weights}
    assert {id(p) for p in other.parameters()} >= {id(w) for w in words[1].weights}
    other.double()
    with fused("cuda"), one_pass(), torch.no_grad():
        found = other(*(x.double() if isinstance(x, torch.Tensor) else x for x in inputs(ours))).sample
    assert found.dtype == torch.float64 and found.isfinite().all()


def test_a_network_is_freed_at_once():
    unet = fresh_model().unet
    fuse(unet)
    gone = weakref.ref(next(m for m in of_kind(unet, Attend) if m.is_cross_attention))
    gc.collect()
    gc.disable()
    try:
        del unet
        assert gone() is None
    finally:
        gc.enable()


def test_the_two_encoders_family_shares_too():
    unet = UNet2DConditionModel(**UNETS["sdxl"]).eval().requires_grad_(False)
    fuse(unet)
    cross = [m for m in of_kind(unet, Attend) if m.is_cross_attention]
    assert len({id(m.words) for m in cross}) == 1 and joined(cross[0].words.weights) is not None


def test_products_are_each_layers_own():
    g = torch.Generator().manual_seed(0)
    layers = [nn.Linear(5, n).requires_grad_(False) for n in (3, 4, 2)]
    more = [nn.Parameter(torch.randn(n, generator=g)) for n in (3, 4, 2)]
    x, kept = torch.randn(2, 5, generator=g), [layer.weight.clone() for layer in layers]
    weights = [layer.weight for layer in layers]
    assert joined(weights) is None
    stack(weights)
    assert all(torch.equal(a, b) for a, b in zip(weights, kept, strict=True))
    assert torch.equal(joined(weights), torch.cat(kept))
    shared, shifts = Shared(weights), Shifts(weights, [(layer.bias, b) for layer, b in zip(layers, more, strict=True)])
    assert shared(x, weights[0]) is None
    with one_pass():
        first, last = shared(x, weights[0], weights[2])
        torch.testing.assert_close(first, x @ kept[0].T)
        torch.testing.assert_close(last, x @ kept[2].T)
        assert shared(x, weights[1])[0]._base is first._base and shared(x, more[0]) is None
        torch.testing.assert_close(shared(2 * x, weights[1])[0], 2 * x @ kept[1].T)
        (found,) = shifts(x, weights[1])
        torch.testing.assert_close(found, layers[1](F.silu(x)) + more[1])


@pytest.mark.parametrize("batch", [1, 3])
def test_shifts_that_lie_in_a_wider_tensor_are_read_there(batch):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 16, 5, 3, generator=g).to(DEVICE).to(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, 16, generator=g).to(DEVICE)
    wide = torch.randn(batch, 60, generator=g).to(DEVICE)
    for shift in (wide[:, 7:23], wide[:1, 7:23].expand(batch, -1), wide[:, :32:2], torch.zeros(1, 16, device=DEVICE)):
        shift = shift.expand(batch, -1)
        found = Normalised.apply(x, shift, weight, bias, 4, 1e-5, False)
        expected = F.group_norm(x + shift[:, :, None, None], 4, weight, bias, 1e-5)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
