"""The gradient of an edit's energy, step by step of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dragonkit.edits.base import Branches, Edit, Regions
from dragonkit.energy import Term, joined, parts_of, slopes_of, total
from dragonkit.guidance import Guidance
from dragonkit.inversion import Path
from dragonkit.regions import Frame

if TYPE_CHECKING:
    from dragonkit.models import Model
    from dragonkit.passes import Watched


class Gradient:
    """An energy's terms and ∂L/∂z_t at each step.

    Args:
        model: the denoiser.
        path: the guidance branch, with the references' paths.
        edit: whose energy.
        m: its regions.
        w: weights, layers and windows.
    """

    def __init__(self, model: Model, path: Path, edit: Edit, m: Regions, w: Guidance) -> None:
        self.model, self.path, self.edit, self.m, self.w = model, path, edit, m, w
        self._layers = sorted(w.layers)
        self._grids = [frame_of(model, branch).grid for branch in (path, path, *path.references)]
        self._terms: list[Term] = []
        self._masks: list[Tensor | None] = []
        repeats = model.graphs is not None and edit.recordable
        self._compute = model.graphs.repeated(self._slopes) if repeats and model.graphs else self._slopes

    def __call__(self, at: Watched, i: int) -> tuple[list[Term], Tensor | None]:
        """The terms at step i and ∂L/∂z, float32 (B, C, h, w); None if there are no terms.

        Args:
            at: the generation branch's features there.
            i: index of the step.
        """
        live = self.w.reference == "live"
        branches = [p.features_at(self.model, i, self.w.layers, live=live) for p in (self.path, *self.path.references)]
        found = self._compute([x[layer] for x in (at.features, *branches) for layer in self._layers])
        terms = [replace(term, value=x) for term, x in zip(self._terms, found, strict=False)]
        if not terms:
            return [], None
        slopes, each = found[len(terms) :], len(self._layers)
        pulled = at.pull([slopes[k : k + each] for k in range(0, len(slopes), each)])
        return terms, joined(pulled, self._masks)

    @torch.enable_grad()
    def _slopes(self, features: list[Tensor]) -> list[Tensor]:
        """The terms' values, then ∂L/∂F_gen of every part; from each branch's features of each layer in turn.

        Nothing but tensors go in and come out, so that it can be recorded; what else there is to know of the terms,
        their names and where they act, is the same at every step.
        """
        count, w = len(self._layers), self.w
        gen = [x.detach().requires_grad_() for x in features[:count]]
        rows = [gen, *(features[k : k + count] for k in range(count, len(features), count))]

        def branches(layer: int) -> Branches:
            k = self._layers.index(layer)
            own, gud, *refs = (_on_grid(row[k], grid) for row, grid in zip(rows, self._grids, strict=True))
            return Branches(own, gud, tuple(refs), layer)

        by_layer = zip(w.layer_weights, w.layers, strict=True)
        terms = total((weight, self.edit.terms(branches(layer), self.m, w)) for weight, layer in by_layer if weight)
        parts = parts_of(terms, self.m.target if w.regional else None)
        self._terms = [replace(term, value=term.value.detach()) for term in terms]
        self._masks = [mask for _, mask in parts]
        return [*(term.value for term in self._terms), *(x for slopes in slopes_of(parts, gen) for x in slopes)]


def _on_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    return F.interpolate(x.float(), grid, mode="bilinear")


def frame_of(model: Model, path: Path) -> Frame:
    """The frame of an inverted image."""
    h, w = path.z_T.shape[-2:]
    height, width = path.size or (h * model.factor, w * model.factor)
    return Frame(height, width, model.factor, model.multiple, model.device)
