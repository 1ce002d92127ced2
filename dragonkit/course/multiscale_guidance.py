"""Exercises of notebook 04: grids, energies over several layers, and what a layer brings back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dragonkit.course.exercise import Wrong, called, exercise

LAYERS = (1, 2, 3, 4)


@exercise
def check_cells(answer: Sequence[float], features: Mapping[int, Any], image: Tensor) -> str:
    """Say how many image pixels wide one cell of each layer is: four numbers, for layers 1 to 4."""
    widths = [float(x) for x in answer]
    if len(widths) != len(LAYERS):
        raise Wrong(f"these are {len(widths)} numbers: give one for each of the four layers")
    for layer, width in zip(LAYERS, widths, strict=True):
        cells = features[layer].values.shape[-1]
        if abs(width - cells) < 1e-6 and cells**2 != image.shape[-1]:
            raise Wrong(
                f"layer {layer} has {cells} cells in a row; how many pixels of the picture does one of them span?"
            )
        if abs(width * cells - image.shape[-1]) > 1e-6:
            raise Wrong(
                f"{cells} cells of {width:g} px make {cells * width:g} px, but the picture has {image.shape[-1]}"
            )
    return "what a layer cannot resolve it cannot put in its place"


@exercise
def check_energy(answer: Callable[..., Any]) -> str:
    """Write the energy of what stays, summed over layers: f(f_gen, f_gud, weights, w_p, alpha, beta)."""
    draw = torch.Generator().manual_seed(4)
    shapes = {2: (6, 4, 5), 3: (4, 8, 10)}
    for _ in range(3):
        gen, gud = ({k: torch.randn(s, generator=draw) for k, s in shapes.items()} for _ in range(2))
        shares, (w_p, alpha, beta) = torch.rand(2, generator=draw) + 0.2, (torch.rand(3, generator=draw) + 0.5).tolist()
        weights = dict(zip(shapes, shares.tolist(), strict=True))
        s = {k: _similarity(gen[k], gud[k]) for k in shapes}
        expected = sum(weights[k] * w_p / (alpha + beta * s[k]) for k in shapes)
        found = float(called(answer, gen, gud, weights, w_p, alpha, beta))
        mixed = w_p / (alpha + beta * sum(weights[k] * s[k] for k in shapes))
        if abs(found - expected) > 1e-4 and abs(found - mixed) < 1e-4:
            raise Wrong("you add up the similarities: each layer has its own fraction, and these are added")
        if abs(found - expected) > 1e-4:
            raise Wrong(f"for two layers with S = {s[2]:.3f} and {s[3]:.3f} it is {expected:.4f}, not {found:.4f}")
        one = float(called(answer, gen, gud, {3: 1.0}, w_p, alpha, beta))
        if abs(one - w_p / (alpha + beta * s[3])) > 1e-4:
            raise Wrong("with {3: 1.0} as weights only layer 3 is compared: go through the layers of weights")
    return "every layer pulls by its own similarity"


@exercise
def check_layers(answer: tuple[int, int], pictures: Mapping[str, Tensor], source: Tensor) -> str:
    """Name two layers: the one that alone brings the source back best, and the one that alone changes least."""
    most, least = (int(layer) for layer in answer)
    near = {k: float((pictures[str(k)] - source).square().mean()) for k in LAYERS}
    moved = {k: float((pictures[str(k)] - pictures["none"]).square().mean()) for k in LAYERS}
    for layer in (most, least):
        if layer not in LAYERS:
            raise Wrong(f"there is no layer {layer}: choose from 1, 2, 3 and 4")
    if most != min(near, key=near.__getitem__):
        raise Wrong(f"layer {most} alone is not the nearest to the source: compare sky, ground, and the things' places")
    if least != min(moved, key=moved.__getitem__):
        raise Wrong(f"the picture of layer {least} is not the one most like that without guidance: look at both again")
    return f"layer {most} leads back, layer {least} hardly leads at all"


@exercise
def check_cost(answer: Sequence[Sequence[tuple[int, ...]]]) -> str:
    """Order (1,), (2,), (3,), (4,) and (2, 3) by the work of a guided step, in groups of equal cost."""
    choices = {(1,), (2,), (3,), (4,), (2, 3)}
    groups = [[tuple(int(k) for k in layers) for layers in group] for group in answer]
    listed = [layers for group in groups for layers in group]
    if len(listed) != len(choices) or set(listed) != choices:
        raise Wrong(f"place each of {sorted(choices)} once, in a list of groups")
    depths = [{max(layers) for layers in group} for group in groups]
    if any(len(depth) > 1 for depth in depths):
        raise Wrong("a group mixes choices that end at different layers: the pass runs as far as the last one compared")
    ends = [depth.pop() for depth in depths]
    if len(set(ends)) < len(ends):
        raise Wrong("two of your groups end at the same layer, so they cost the same")
    if ends != sorted(ends):
        raise Wrong("a later layer comes after all earlier ones, and on a finer grid: it cannot be cheaper")
    return "the last layer compared decides"


def _similarity(gen: Tensor, gud: Tensor) -> float:
    """S of Eq. 4 of whole maps (C, h, w), without the library's own."""
    a, b = gen.flatten(1).double(), gud.flatten(1).double()
    return float(((a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))).mean() / 2 + 0.5)
