"""The gradient of an edit's energy, step by step of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dragonkit.edits.base import Branches, Edit, Regions
from dragonkit.energy import Term, acting, joined, slopes, total
from dragonkit.fused import fused
from dragonkit.fused.finer import Finer
from dragonkit.fused.switch import is_on
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
        self.model, self.path, self.w = model, path, w
        self._slopes = _Slopes(edit, m, w, [frame_of(model, branch).grid for branch in (path, path, *path.references)])
        graphs = model.graphs if edit.recordable else None
        switched = tuple(name for name, value in vars(w).items() if value)  # a seed or a weight changes no kernel
        self._recorded = None if graphs is None else graphs.repeated(self._slopes, (edit.kinds, m.shape, switched))

    def prepare(self, i: int) -> None:
        """Record what will be computed from step i on, if that is done at all: a GPU may still be at the inversion."""
        graphs = self.model.graphs
        if self._recorded is None or graphs is None or not graphs.usable() or self.w.reference == "live":
            return
        layers, paths = self._slopes.layers, [self.path, *self.path.references]
        kept = [p.features[i] for p in paths if set(layers) <= p.features.get(i, {}).keys()]
        if len(kept) == len(paths):
            graphs.prepare(layers, self.path.z_T, self.path.schedule.timesteps[i], self.path.cond)
            branches = [{layer: x.float() for layer, x in kept[0].items()}, *kept]
            with fused(self.model.device.type):
                self._recorded.record([x[layer] for x in branches for layer in layers])

    def __call__(self, at: Watched, i: int) -> tuple[list[Term], Tensor | None]:
        """The terms at step i and ∂L/∂z, float32 (B, C, h, w); None if there are no terms.

        Args:
            at: the generation branch's features there.
            i: index of the step.
        """
        live = self.w.reference == "live"
        branches = [p.features_at(self.model, i, self.w.layers, live=live) for p in (self.path, *self.path.references)]
        layers = self._slopes.layers
        with fused(self.model.device.type):
            compute = self._slopes if self._recorded is None else self._recorded
            found = compute([x[layer] for x in (at.features, *branches) for layer in layers])
        terms = [replace(term, value=x) for term, x in zip(self._slopes.terms, found, strict=False)]
        if not terms:
            return [], None
        pulled = at.pull([found[k : k + len(layers)] for k in range(len(terms), len(found), len(layers))])
        return terms, joined(pulled, self._slopes.masks)


class _Slopes:
    """What of the gradient may be recorded: a function of tensors alone.

    Attributes:
        layers: whose features are compared, rising.
        terms: those of the last evaluation.
        masks: where each part of them acts.
    """

    def __init__(self, edit: Edit, m: Regions, w: Guidance, grids: list[tuple[int, int]]) -> None:
        self.edit, self.m, self.w, self.grids = edit, m, w, grids
        self.layers = sorted(w.layers)
        self.parts = acting(m.target if w.regional else None)
        self.late = _kits_own(edit)
        self.terms: list[Term] = []
        self.masks: list[Tensor | None] = []

    @torch.enable_grad()
    def __call__(self, features: list[Tensor]) -> list[Tensor]:
        """The terms' values, then ∂L/∂F_gen of every part, layer by layer.

        Args:
            features: of the generation branch, the guidance branch and the references, one after the other, each of
                every layer.
        """
        count, w = len(self.layers), self.w
        gen = [x.detach().requires_grad_() for x in features[:count]]
        rows = [gen, *(features[k : k + count] for k in range(count, len(features), count))]
        weights = dict(zip(w.layers, w.layer_weights, strict=True))
        terms: dict[int, list[Term]] = {}
        found: dict[int, dict[int, Tensor]] = {}  # by part, then by layer
        for k, layer in enumerate(self.layers):  # layer by layer, whose energies only add: less is held at once
            if not weights[layer]:
                continue
            maps = [_on_grid(row[k], grid, late=self.late) for row, grid in zip(rows, self.grids, strict=True)]
            own, gud, *refs = maps
            here = total([(weights[layer], self.edit.terms(Branches(own, gud, tuple(refs), layer), self.m, w))])
            for j, (regions, _) in enumerate(self.parts):
                some = [term for term in here if term.region in regions]
                if some:
                    found.setdefault(j, {})[k] = slopes(some, [gen[k]])[0]
            terms[layer] = [replace(term, value=term.value.detach()) for term in here]
        self.terms = total((1.0, terms[layer]) for layer in w.layers if layer in terms)
        self.masks = [self.parts[j][1] for j in found]
        each = [part[k] if k in part else torch.zeros_like(x) for part in found.values() for k, x in enumerate(gen)]
        return [*(term.value for term in self.terms), *each]


def _on_grid(x: Tensor, grid: tuple[int, int], *, late: bool = False) -> Any:
    """A map on the energy's grid; if ``late``, and it can be, resized where somebody looks at it."""
    if is_on() and x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return Finer(x, grid) if late else Finer(x, grid).whole()
    return F.interpolate(x.float(), grid, mode="bilinear")


def _kits_own(edit: Edit) -> bool:
    """Whether all terms are the kit's, which look at maps by :mod:`dragonkit.energy` alone; others may do anything."""
    return all(kind.terms.__module__.startswith("dragonkit.") for kind in edit.kinds)


def frame_of(model: Model, path: Path) -> Frame:
    """The frame of an inverted image, on the host."""
    h, w = path.z_T.shape[-2:]
    height, width = path.size or (h * model.factor, w * model.factor)
    return Frame(height, width, model.factor, model.multiple)
