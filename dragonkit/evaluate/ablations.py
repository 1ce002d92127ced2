"""What each part of the method is worth: the same edit with one part switched off."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dragonkit.errors import InputError
from dragonkit.guidance import Guidance


def without_layer(guidance: Guidance, layer: int) -> Guidance:
    """The guidance with one layer's summand of the energy left out; the other layers keep their weights."""
    pairs = [(k, w) for k, w in zip(guidance.layers, guidance.layer_weights, strict=True) if k != layer]
    if not pairs:  # its only layer
        return guidance.replace(energy=0.0)
    layers, weights = zip(*pairs, strict=True)
    return guidance.replace(layers=layers, layer_weights=weights)


ABLATIONS: dict[str, Callable[[Guidance], Guidance]] = {
    "edit": lambda w: w.replace(w_edit=0.0),
    "content": lambda w: w.replace(w_content=0.0),
    "contrast": lambda w: w.replace(w_contrast=0.0),
    "inpaint": lambda w: w.replace(w_inpaint=0.0),
    "attention": lambda w: w.replace(attention_mode="off"),
    "layer2": lambda w: without_layer(w, 2),
    "layer3": lambda w: without_layer(w, 3),
    "coarse": lambda w: w.replace(layers=(2,)),
    "both": lambda w: w.replace(layers=(2, 3)),
    "start": lambda w: w.replace(start="keep"),
    "lock": lambda w: w.replace(lock=False),
    "preserve": lambda w: w.replace(preserve=False),
}
"""Name -> the guidance without that part: L_edit, L_share, L_c, L_i (Eq. 5 to 8), cross-branch attention (Eq. 11), a
layer of the multi-scale energy; layer 2 alone and layers 2 and 3 instead of those that a preset has; and what presets
add: copied noise, the background lock, the source's own pixels."""

PAPER = ("edit", "content", "contrast", "inpaint", "attention", "layer2", "layer3", "coarse", "both")
"""The parts of the method itself."""


def check_ablations(names: Sequence[str]) -> None:
    """Refuse names that are not known.

    Raises:
        InputError: naming the first and listing those there are.
    """
    for name in names:
        if name not in ABLATIONS:
            raise InputError(f"unknown ablation {name!r}: choose from {', '.join(ABLATIONS)}")


def ablated(guidance: Guidance, names: Sequence[str]) -> dict[str, Guidance]:
    """The guidance with each named part off in turn; parts that it does not use are left out."""
    check_ablations(names)
    changed = {name: ABLATIONS[name](guidance) for name in names}
    return {name: w for name, w in changed.items() if w != guidance}
