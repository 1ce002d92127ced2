"""Operations are counted as they are defined, forward and back."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dragonkit.evaluate.flops import Flops
from tests.tiny import tiny_model


def test_a_product_takes_two_operations_an_entry_and_its_way_back_as_many_for_each_factor() -> None:
    a, b = torch.randn(5, 7, requires_grad=True), torch.randn(7, 3)
    with Flops() as count:
        product = a @ b
    assert count.total == 2 * 5 * 7 * 3
    with Flops() as count:
        torch.autograd.grad(product.sum(), a)
    assert count.total == 2 * 5 * 7 * 3
    with Flops() as count:
        a.detach() + 1
    assert count.total == 0


def test_fused_attention_counts_as_the_products_that_it_fuses() -> None:
    q, k, v = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (11, 5, 5))
    forward = 2 * 2 * 3 * 11 * 5 * (8 + 8)
    totals = []
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        with sdpa_kernel(backend):
            with Flops() as count:
                out = F.scaled_dot_product_attention(q, k, v)
            assert count.total == forward
            with Flops() as count:
                torch.autograd.grad(out.sum(), (q, k, v))
            totals.append(count.total)
    assert totals == [forward * 5 // 2, forward * 2]  # the fused one computes QK\u1d40 once more


def test_pytorchs_own_counter_agrees_where_it_can_count() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(4 * 16, 5))
    x = torch.randn(2, 3, 8, 8)
    with FlopCounterMode(display=False) as theirs:
        net(x).sum().backward()
    with Flops() as ours:
        net(x).sum().backward()
    assert ours.total == theirs.get_total_flops() > 0


def test_a_pass_counts_the_same_each_time_and_two_count_twice() -> None:
    model = tiny_model()
    z, cond = torch.randn(1, 4, 8, 8), model.embed("a ball")
    totals = []
    for times in (1, 1, 2):
        with torch.no_grad(), Flops() as count:
            for _ in range(times):
                model.predict(z, 500, cond)
        totals.append(count.total)
    assert totals[0] == totals[1] > 0 and totals[2] == 2 * totals[0]
