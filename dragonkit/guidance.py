"""How an edit is guided: one frozen object with every number named, and the published settings of it.

Windows are fractions of the run, so a preset means the same for 20 steps as for 50.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dragonkit.checks import check_seed
from dragonkit.errors import InputError

LARGEST = 2.0**128 - 2.0**104
"""The largest number in float32, in which energies are computed."""

KINDS = ("move", "resize", "rotate", "appearance", "drag", "paste")
"""Kinds of edit that presets distinguish; resize is guided as move is, and rotate, by points, as drag is."""


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Every number of a run.

    The guided noise is ε + η ∂L/∂z_t with η = 1000 · ``energy`` · ``factor``: published energy scales count in
    thousands. The defaults are the ``iclr`` preset for moving.

    Args:
        steps: DDIM steps, at least 1.
        cfg: classifier-free guidance scale; 1 evaluates no unconditional half.
        energy: energy scale in thousands; 0 switches guidance off and evaluates nothing for it.
        factor: gradient factor.
        w_edit: weight of w_e / (α + β S_edit), Eq. 5. Any weight of 0 removes its term.
        w_content: weight of w_p / (α + β S_share), Eq. 5.
        w_contrast: weight of w_c S, Eq. 7.
        w_inpaint: weight of w_i / (α + β S_glob), Eq. 8.
        alpha: α of Eq. 5, more than 0.
        beta: β of Eq. 5, at least 0.
        clip: largest length of η ∂L/∂z_t in one latent cell, over its channels; ε has 2 there, for 4 channels of unit
            variance. 0 sets no limit, as published. Where the energy is steep one step can throw the latent off,
            above all the first, whose x0 is 1/√ᾱ_T (about 15) times as sensitive as z.
        layers: decoder layers whose features are compared, of 1 to 4; layer k is ``up_blocks[k - 1]``.
        layer_weights: one a layer.
        guided: window (start, end) in which the gradient is added.
        dense: fraction of the run until which every step of that window is guided; after it the even ones are.
        attention: window in which decoder self-attention looks at the guidance branch (Eq. 11).
        attention_mode: "replace" own tokens by the guidance branch's, "concat" both, "mix" as the edit's ``context``
            says (guidance tokens outside a mask and the reference's within), or "off".
        start: "copy" what the edit copies into z_T, or "keep" z_T as it is.
        regional: the edit term's gradient acts inside the target only, the other terms' outside; else everywhere.
        through: guidance enters "x0" only, as in the official code, or "eps" everywhere, as in Eq. 6.
        reference: guidance features "cached" during inversion, or evaluated "live" at each guided step.
        one_pass: take the generation features from the very pass that predicts the noise, whose attention looks at the
            guidance branch, as the paper draws it; else from a plain pass of their own, as the official code does. One
            evaluation a guided step less; under classifier-free guidance as many, but none of them a pair. Where
            attention is not rewired the two are the same.
        lock: return the latent to the inversion path outside the edited region at each step (blended diffusion).
        lock_margin: latent cells by which the edited region is widened for that.
        lock_window: window in which it is done; an early one settles the background and leaves shadows free after it.
        travel: window whose even steps are visited ``repeats`` times: after each visit the latent goes back up by one
            DDIM inversion step (time travel).
        repeats: visits of those steps, at least 1.
        sde: window of stochastic steps (regional SDE): DDIM's η is ``sde_inside`` in the edited region and
            ``sde_outside`` elsewhere, both in [0, 1].
        seed: of that noise.
        preserve: give the result the source's own pixels where the edit changed nothing, see
            :func:`dragonkit.preserve.preserve`; for edits that know where the object was and shall be.

    Raises:
        InputError: a value is of the wrong type or outside its range.
    """

    steps: int = 50
    cfg: float = 4.0
    energy: float = 0.5
    factor: float = 8e-2
    w_edit: float = 4.0
    w_content: float = 6.0
    w_contrast: float = 0.2
    w_inpaint: float = 0.8
    alpha: float = 1.0
    beta: float = 4.0
    clip: float = 0.0
    layers: tuple[int, ...] = (2, 3)
    layer_weights: tuple[float, ...] = (0.5, 0.5)
    guided: tuple[float, float] = (0.0, 0.6)
    dense: float = 1.0
    attention: tuple[float, float] = (0.1, 1.0)
    attention_mode: Literal["replace", "concat", "mix", "off"] = "replace"
    start: Literal["copy", "keep"] = "copy"
    regional: bool = True
    through: Literal["x0", "eps"] = "x0"
    reference: Literal["cached", "live"] = "cached"
    one_pass: bool = False
    lock: bool = False
    lock_margin: int = 1
    lock_window: tuple[float, float] = (0.0, 1.0)
    travel: tuple[float, float] = (0.0, 0.0)
    repeats: int = 1
    sde: tuple[float, float] = (0.0, 0.0)
    sde_inside: float = 0.0
    sde_outside: float = 0.0
    seed: int = 0
    preserve: bool = False

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), kind))
        _require(self.steps >= 1, f"steps is {self.steps}: give 1 or more")
        _require(self.alpha > 0, f"alpha is {self.alpha}: give a number above 0, or the energy has a pole")
        _require(self.lock_margin >= 0, f"lock_margin is {self.lock_margin}: give 0 or more")
        for name in ("cfg", "energy", "factor", "w_edit", "w_content", "w_contrast", "w_inpaint", "beta", "clip"):
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}: give 0 or more")
        for name in ("guided", "attention", "lock_window", "travel", "sde"):
            start, end = getattr(self, name)
            _require(
                0 <= start <= end <= 1, f"{name} is {start, end}: give fractions of the run, 0 <= start <= end <= 1"
            )
        for name in ("dense", "sde_inside", "sde_outside"):
            _require(0 <= getattr(self, name) <= 1, f"{name} is {getattr(self, name)}: give a number from 0 to 1")
        _require(self.repeats >= 1, f"repeats is {self.repeats}: give 1 or more")
        check_seed(self.seed)
        distinct = len(set(self.layers)) == len(self.layers) > 0
        _require(distinct and min(self.layers, default=0) >= 1, f"layers is {self.layers}: name layers once, from 1")
        same = len(self.layers) == len(self.layer_weights)
        _require(
            same, f"layer_weights has {len(self.layer_weights)} numbers: give one for each of layers {self.layers}"
        )

    @property
    def eta(self) -> float:
        """η, the step along ∂L/∂z_t: 1000 · energy · factor."""
        return 1000 * self.energy * self.factor

    def replace(self, **changes: Any) -> Guidance:
        """A copy with some fields changed.

        ``layers`` given without ``layer_weights`` shares the total weight equally.

        Raises:
            InputError: there is no such field, or its value is refused.
        """
        names = [f.name for f in dataclasses.fields(self)]
        for name in changes:
            _require(name in names, f"guidance has no field {name!r}: its fields are {', '.join(names)}")
        layers = changes.get("layers")
        if isinstance(layers, (tuple, list)) and layers and "layer_weights" not in changes:
            changes["layer_weights"] = (sum(self.layer_weights) / len(layers),) * len(layers)
        return dataclasses.replace(self, **changes)

    @classmethod
    def preset(cls, name: str, kind: str = "move") -> Guidance:
        """A published setting for a kind of edit.

        Args:
            name: "paper" (arXiv v1), "iclr" (the official code's default), "diffeditor" (its follow-up: time travel
                and regional SDE), "sdxl" ("iclr" on Stable Diffusion XL's layers), "mini" (tuned for the bundled model)
                or "fast" (that in fewer evaluations).
            kind: one of ``KINDS``.

        Raises:
            InputError: the name or the kind is unknown.
        """
        _require(name in PRESETS, f"preset {name!r} is not known: choose from {', '.join(PRESETS)}")
        _require(kind in KINDS, f"kind {kind!r} is not known: choose from {', '.join(KINDS)}")
        base, changes = {"resize": "move", "rotate": "drag"}.get(kind, kind), PRESETS[name]
        return cls(**WEIGHTS[base] | changes["all"] | changes.get(base, {}) | changes.get(kind, {}))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _checked(name: str, value: Any, kind: Any) -> Any:
    """The value as its annotation wants it: whole numbers widened to float, lists made tuples, nothing else."""
    if get_origin(kind) is Literal:
        _require(value in get_args(kind), f"{name} is {value!r}: choose from {', '.join(map(repr, get_args(kind)))}")
        return value
    if get_origin(kind) is tuple:
        each = get_args(kind)
        _require(isinstance(value, (tuple, list)), f"{name} is {value!r}: give a list of numbers")
        _require(each[-1] is ... or len(value) == len(each), f"{name} is {value!r}: give {len(each)} numbers")
        return tuple(_checked(name, v, each[0]) for v in value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        _require(abs(value) <= LARGEST, f"{name} is {value}: give a finite number, at most {LARGEST:.2g}")
        return float(value)
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    _require(right, f"{name} is {value!r}: give a value of type {kind.__name__}")
    return value


# The official demo's defaults for Stable Diffusion 1.5. What it calls w_inpaint when dragging is a contrast term.
WEIGHTS: dict[str, dict[str, Any]] = {
    "move": dict(cfg=4, energy=0.5, w_edit=4, w_content=6, w_contrast=0.2, w_inpaint=0.8, factor=8e-2),
    "appearance": dict(cfg=5, energy=2, w_edit=3.5, w_content=5, w_contrast=0, w_inpaint=0, factor=4e-2),
    "drag": dict(cfg=4, energy=2, w_edit=4, w_content=6, w_contrast=0.2, w_inpaint=0, factor=4e-2),
    "paste": dict(cfg=4, energy=1.5, w_edit=4, w_content=6, w_contrast=0, w_inpaint=0, factor=4e-2),
}

_ICLR: dict[str, Any] = dict(
    steps=50,
    alpha=1.0,
    beta=4.0,
    clip=0.0,
    layers=(2, 3),
    layer_weights=(0.5, 0.5),
    guided=(0.0, 0.6),
    dense=1.0,
    attention=(0.1, 1.0),
    attention_mode="replace",
    start="copy",
    regional=True,
    through="x0",
    reference="cached",
    one_pass=False,
    lock=False,
    lock_margin=1,
    lock_window=(0.0, 1.0),
    travel=(0.0, 0.0),
    repeats=1,
    sde=(0.0, 0.0),
    sde_inside=0.0,
    sde_outside=0.0,
    seed=0,
    preserve=False,
)
_PAPER = _ICLR | dict(guided=(0.0, 1.0), attention=(0.0, 1.0), start="keep", regional=False, through="eps")
_MIXED = dict(attention=(0.0, 0.72), attention_mode="mix")  # steps 0 to 35 of 50

_KEPT = _MIXED | dict(start="keep")
_DIFFEDITOR = _ICLR | dict(dense=0.2, travel=(0.44, 0.58), repeats=3, sde=(0.22, 0.4), sde_inside=0.4)

# The finer layer alone: the coarser one, compared as well, holds the bundled model's outlines back.
_FINE = dict(layers=(3,), layer_weights=(1.0,), regional=False, w_edit=8.0)
_HELD = dict(lock=True, lock_margin=0, lock_window=(0.0, 1.0))

# For each preset what holds for all kinds, then what a kind changes.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {"all": _PAPER, "drag": dict(w_contrast=0)},
    "iclr": {"all": _ICLR, "drag": dict(attention_mode="concat"), "appearance": _KEPT, "paste": _MIXED},
    "diffeditor": {"all": _DIFFEDITOR, "drag": dict(attention_mode="concat"), "appearance": _KEPT, "paste": _MIXED},
    "mini": {
        "all": _ICLR | dict(steps=24, cfg=1.0, clip=0.25, preserve=True),
        "move": _FINE | dict(energy=4.0, lock=True, lock_margin=2, lock_window=(0.0, 0.5)),
        "resize": dict(
            steps=28, one_pass=True, energy=16.0, w_edit=24.0, clip=0.5, guided=(0.0, 0.8), lock_window=(0.0, 0.7)
        ),
        "drag": _FINE
        | _HELD
        | dict(one_pass=True, attention_mode="concat", energy=8.0, w_content=24.0, w_contrast=0.1, lock_margin=1),
        "rotate": dict(steps=28, energy=16.0, w_content=6.0, clip=0.5, guided=(0.0, 0.9), lock_margin=0),
        "appearance": _HELD | dict(steps=20, attention=(0.0, 1.0), attention_mode="mix", guided=(0.0, 0.3)),
        "paste": _MIXED,
    },
}

# "iclr" for Stable Diffusion XL, whose decoder lacks the coarsest of Stable Diffusion's four layers: the layers of a
# half and of all of the latent's resolution, the paper's 2 and 3, are its first two.
PRESETS["sdxl"] = PRESETS["iclr"] | {"all": _ICLR | dict(layers=(1, 2))}

# "mini" in fewer steps, of one pass each; where steps are long, each has to push harder.
_FAST: dict[str, Any] = dict(steps=14, one_pass=True)
PRESETS["fast"] = {name: changes | _FAST for name, changes in PRESETS["mini"].items()}
PRESETS["fast"]["move"] |= dict(energy=8.0)
