"""Kernels compiled ahead and side by side: each takes a fraction of a second, and a first edit wants fifty of them.

Triton compiles a kernel where it is first called. So each function is called here, with next to nothing to do, for
every kind of layer that a network has, in as many threads as there are processors: compiling leaves Python free. What
is compiled is kept on the disk by Triton, and found there the next time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from dragonkit.fused.attention import Attend
from dragonkit.fused.blocks import Gate, Norm, Resnet
from dragonkit.fused.switch import AVAILABLE
from dragonkit.fused.transformer import Block

Work = tuple[Hashable, Callable[[], Any]]
"""What is compiled, to be compared, and what compiles it."""


def compile_ahead(device: torch.device, denoiser: nn.Module, autoencoder: nn.Module) -> None:
    """Compile what fused blocks and energies will call on a GPU; nothing where there is no Triton.

    Args:
        device: where the networks are.
        denoiser: through which gradients go back.
        autoencoder: through which none do.
    """
    if not AVAILABLE or device.type != "cuda":
        return
    works = dict(wanted(denoiser, autoencoder))

    def call(work: Callable[[], Any]) -> None:
        # What fails here fails again where it is needed, and there it can be said to whom and why.
        with suppress(Exception), torch.cuda.device(device), torch.no_grad():
            work()

    first, *others = works.values()
    call(first)  # alone: it also builds what Triton launches kernels with
    with ThreadPoolExecutor(min(len(works), os.cpu_count() or 1)) as threads:
        list(threads.map(call, others))
    torch.cuda.synchronize(device)


def wanted(denoiser: nn.Module, autoencoder: nn.Module) -> Iterator[Work]:
    """All of it; where the networks are alike, the denoiser's is the last."""
    first = next(denoiser.parameters())
    yield from _energies(first.device, first.dtype)
    yield from _blocks(autoencoder, back=False)
    yield from _blocks(denoiser, back=True)


def _blocks(network: nn.Module, *, back: bool) -> Iterator[Work]:
    from dragonkit.fused.attention_kernels import Queried
    from dragonkit.fused.block_kernels import Added, Gated
    from dragonkit.fused.convolution_kernels import Product, suits
    from dragonkit.fused.layer_kernels import AddedNorm
    from dragonkit.fused.norm_kernels import Normalised

    first = next(network.parameters())
    empty = partial(torch.zeros, device=first.device, dtype=first.dtype)

    def cells(channels: int) -> Tensor:
        return empty(1, channels, 8, 8).to(memory_format=torch.channels_last)

    for module in network.modules():
        if type(module) is Norm:
            c, groups = module.num_channels, module.num_groups
            kind: Hashable = (Normalised, first.dtype, c, groups)
            given: tuple[Any, ...] = (cells(c), None, module.weight, module.bias, groups, module.eps, module.silu)
            yield kind, partial(_called, Normalised, *given, back=back)
        elif type(module) is Resnet:
            x = cells(module.out_channels)
            other = None if module.conv_shortcut is None else module.conv_shortcut.bias
            kind = Added, first.dtype, x.shape[1] % 16 == 0, other is None
            yield kind, partial(_called, Added, x, x, module.conv2.bias, other, back=False)
            for conv in (module.conv1, module.conv2):
                x = cells(conv.in_channels)
                if suits(conv, x):
                    kind = Product, first.dtype, x.shape[1] % 16 == 0
                    yield kind, partial(_called, Product, x, conv.weight, back=back)
        elif type(module) is Block and module.norm_type == "layer_norm":
            for norm, adds in ((module.norm1, False), (module.norm3, True)):
                rows = empty(8, norm.normalized_shape[0])
                kind = AddedNorm, first.dtype, rows.shape[1], adds
                given = rows, rows if adds else None, norm.weight, norm.bias, norm.eps
                yield kind, partial(_called, AddedNorm, *given, back=back and adds)
        elif back and type(module) is Attend and module.is_cross_attention:
            heads, d = module.heads, module.inner_dim // module.heads
            q = empty(1, 8, heads, d).transpose(1, 2)
            yield (Queried, first.dtype, d), partial(_called, Queried, q, q, q, back=True)
        elif type(module) is Gate:
            rows = empty(8, module.proj.out_features)
            yield (Gated, first.dtype, rows.shape[1] % 32 == 0), partial(_called, Gated, rows, back=back)


def _energies(device: torch.device, dtype: torch.dtype) -> Iterator[Work]:
    from dragonkit.fused.cosine_kernels import Cosines
    from dragonkit.fused.finer import Finer
    from dragonkit.fused.gram_kernels import GramCosines

    maps = torch.zeros(1, 64, 8, 8, device=device).to(memory_format=torch.channels_last)
    other, grid = maps.to(dtype), (16, 16)
    at, between = torch.zeros(8, dtype=torch.int64, device=device), torch.zeros(8, 2, device=device)
    for k, places in enumerate(((at, at), (at, between), (between, between))):
        yield (Cosines, k), partial(_called, Cosines, maps, other, *places, grid, grid, back=True)
    yield Finer.shared, partial(Finer(other, grid).shared, torch.zeros(256, device=device))
    yield GramCosines, partial(_called, GramCosines, maps, other, at, grid, back=True)


def _called(function: Any, *inputs: Any, back: bool) -> None:
    """There and back without autograd, whose one thread for a GPU would do it one after the other."""
    kept = SimpleNamespace()
    kept.save_for_backward = lambda *tensors: setattr(kept, "saved_tensors", tensors)
    y = function.forward(kept, *inputs)
    slopes: Iterable[Tensor] = map(torch.zeros_like, y if isinstance(y, tuple) else (y,))
    if back:
        function.backward(kept, *slopes)
