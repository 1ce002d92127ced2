"""What is compiled ahead is all that a pass will call, and calling it ahead does no harm."""

import inspect
import itertools

import pytest
import torch

from dragonkit.edits import Drag, Move
from dragonkit.fused import (
    attention_kernels,
    block_kernels,
    convolution_kernels,
    cosine_kernels,
    fused,
    gram_kernels,
    layer_kernels,
    norm_kernels,
    resize_kernels,
)
from dragonkit.fused.ahead import compile_ahead, wanted
from dragonkit.fused.blocks import fuse
from dragonkit.gradient import _Slopes
from dragonkit.guidance import Guidance
from dragonkit.passes import separate
from dragonkit.regions import Frame
from tests.tiny import box, fresh_model

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KERNELS = {
    norm_kernels: ("_forward_sums", "_forward", "_backward_sums", "_backward"),
    layer_kernels: ("_normalised", "_back"),
    block_kernels: ("_gated", "_gated_back", "_added"),
    cosine_kernels: ("_products", "_back"),
    gram_kernels: ("_grams", "_from_grams", "_shares", "_stencil"),
    resize_kernels: ("_resized_back",),
    attention_kernels: ("_queried_back",),
    convolution_kernels: ("_columns", "_summed"),
}


class Spy:
    """A kernel that notes with which constants it is launched."""

    def __init__(self, name, kernel, launched):
        self.name, self.kernel, self.launched = name, kernel, launched
        self.signature = inspect.signature(kernel.fn)

    def __getitem__(self, grid):
        def launch(*args, **kwargs):
            bound = self.signature.bind(*args, **{k: v for k, v in kwargs.items() if k != "num_warps"}).arguments
            constants = [v for k, v in bound.items() if "constexpr" in str(self.signature.parameters[k].annotation)]
            kinds = [x.dtype for x in bound.values() if isinstance(x, torch.Tensor)]
            self.launched.add((self.name, *map(str, constants), *kinds))
            self.kernel[grid](*args, **kwargs)

        return launch


@pytest.fixture
def launched(monkeypatch):
    found = set()
    for module, names in KERNELS.items():
        for name in names:
            said = f"{module.__name__}.{name}"
            monkeypatch.setattr(module, name, Spy(said, getattr(module, name), found))
    return found


def fused_model(dtype=torch.float32):
    model = fresh_model()
    for part in (model.unet, model.vae):
        fuse(part.to(DEVICE, dtype, memory_format=torch.channels_last))
    model.text_encoder.to(DEVICE)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_an_edit_calls_has_been_called_ahead(launched, dtype):
    model = fused_model(dtype)
    for work in dict(wanted(model.unet, model.vae)).values():
        with torch.no_grad():
            work()
    ahead = set(launched)
    launched.clear()
    with fused("cuda"):
        model.vae.decode(model.vae.encode(torch.rand(1, 3, 64, 96, device=DEVICE, dtype=dtype)).latent_dist.mean)
        cond = {name: x.to(dtype) for name, x in model.embed("a ball").items()}
        frame, w, mask = Frame(64, 96), Guidance.preset("iclr"), box(64, 96, 8, 8, 32, 40)
        for task in (Move(mask, by=(24, 16)), Drag([(20.0, 20.0, 40.0, 30.0)], mask)):
            at = separate(model, torch.randn(1, 4, 8, 12, device=DEVICE, dtype=dtype), 500, cond, (2, 3))
            m = task.regions(frame).to(DEVICE)
            work = _Slopes(task, m, w, [frame.grid] * 2)
            found = work([*at.features.values(), *(x.detach() for x in at.tapped.values())])
            at.pull([found[-2:]])
    halves = 3 if dtype == torch.float32 else 0  # kernels that are for half precision alone
    kernels = len(list(itertools.chain(*KERNELS.values()))) - halves
    assert len(launched) > 15 and len({said for said, *_ in launched}) == kernels
    assert launched <= ahead


def test_kinds_of_layers_are_compiled_once_each(launched):
    model = fused_model()
    works = list(wanted(model.unet, model.vae))
    assert len(dict(works)) < len(works)
    compile_ahead(torch.device("cpu"), model.unet, model.vae)
    assert not launched
