"""Shared inversions change nothing but the cost, and an ablation switches off its own part and no other."""

from functools import partial

import pytest
import torch

from dragonkit.editor import edit
from dragonkit.errors import InputError
from dragonkit.evaluate.ablations import ABLATIONS, PAPER, ablated, without_layer
from dragonkit.evaluate.runs import Once, covers, runner
from dragonkit.guidance import Guidance
from dragonkit.inversion import Keep, ddim_invert, null_text_invert
from dragonkit.schedule import Schedule
from dragonkit.world import counterfactual
from tests.tiny import tiny_model

FIELDS = {
    "edit": {"w_edit"},
    "content": {"w_content"},
    "contrast": {"w_contrast"},
    "inpaint": {"w_inpaint"},
    "attention": {"attention_mode"},
    "layer2": {"layers", "layer_weights"},
    "layer3": {"layers", "layer_weights"},
    "coarse": {"layers", "layer_weights"},
    "both": set(),  # as the default has them
    "start": {"start"},
    "lock": {"lock"},
    "preserve": {"preserve"},
}


@pytest.mark.parametrize("kind", ["move", "appearance"])
def test_shared_runs_are_separate_runs_bit_for_bit(kind: str) -> None:
    case = counterfactual(kind, 1, split="train", size=128)
    guidance = Guidance.preset("iclr", kind=kind).replace(steps=3, guided=(0.0, 1.0), attention=(0.0, 1.0))
    run = runner(tiny_model(), case)
    first = run(guidance)
    variants = {"energy0": guidance.replace(energy=0.0), **ablated(guidance, list(ABLATIONS))}
    for name, w in variants.items():
        shared = run(w)
        alone = edit(tiny_model(), case.before.image, case.edit, case.prompt, guidance=w, progress=False)
        assert torch.equal(shared.tensor, alone.tensor), name
        assert torch.equal(shared.latent, alone.latent), name
        assert shared.nfe == alone.nfe - (1 + len(case.edit.references)) * 3, name  # the inversions were shared
    assert torch.equal(run(guidance).tensor, first.tensor)


def test_inversions_are_shared_only_if_they_suffice() -> None:
    calls = []

    def invert(model, z0, cond, schedule, *, keep, progress, cfg):
        calls.append(keep)
        return ddim_invert(model, z0, cond, schedule, keep=keep, progress=progress)

    case = counterfactual("move", 1, split="train", size=128)
    once, model, w = Once(invert), tiny_model(), Guidance.preset("iclr").replace(steps=2, guided=(0.0, 0.5))

    def run(w: Guidance, prompt: str = case.prompt) -> None:
        edit(model, case.before.image, case.edit, prompt, guidance=w, invert=once, progress=False)

    for changed, count in (
        (w, 1),
        (w.replace(energy=0.0), 1),
        (w.replace(layers=(3,)), 1),
        (w.replace(guided=(0.0, 1.0)), 2),  # more features are wanted
        (w.replace(layers=(1,)), 3),
        (w.replace(steps=3), 4),
    ):
        run(changed)
        assert len(calls) == count
    run(w, "something else")
    assert len(calls) == 5


def test_a_path_for_one_guidance_scale_is_shared_at_that_scale_only() -> None:
    fitted = Once(partial(null_text_invert, iterations=0, refine=0))
    model, z0, schedule = tiny_model(), torch.ones(1, 4, 8, 8), Schedule(tiny_model(), 2)
    first, again, other, none = (
        fitted(model, z0, model.embed(""), schedule, keep=Keep(), progress=iter, cfg=cfg) for cfg in (4.0, 4, 5.0, None)
    )
    assert first.empty is again.empty and first.empty is not other.empty and len(fitted.known) == 3
    assert [p.cfg for p in (first, again, other, none)] == [4, 4, 5, None] and not none.empty


def test_covering() -> None:
    kept = Keep(layers=(2, 3), features=range(0, 3), tokens=range(1, 5))
    assert covers(kept, kept)
    assert covers(kept, Keep())
    assert covers(kept, Keep(layers=(1,), features=range(0), tokens=range(2, 4)))
    assert not covers(kept, Keep(layers=(1,), features=range(1)))
    assert not covers(kept, Keep(layers=(2,), features=range(4)))
    assert not covers(kept, Keep(tokens=range(0, 2)))


@pytest.mark.parametrize("name", list(ABLATIONS))
def test_an_ablation_changes_its_own_fields_only(name: str) -> None:
    guidance = Guidance(lock=True, preserve=True)
    changed = ABLATIONS[name](guidance)
    differing = {f for f in vars(guidance) if getattr(guidance, f) != getattr(changed, f)}
    assert differing == FIELDS[name]


def test_a_term_that_is_off_is_not_computed_and_the_others_are() -> None:
    case = counterfactual("move", 1, split="train", size=128)
    guidance = Guidance.preset("iclr").replace(steps=1, guided=(0.0, 1.0))
    run = runner(tiny_model(), case)
    full = run(guidance).trace.energies
    assert list(full) == ["edit", "content", "contrast", "inpaint"]
    for name in full:
        energies = run(ABLATIONS[name](guidance)).trace.energies
        assert energies == {other: values for other, values in full.items() if other != name}


def test_a_layer_that_is_off_leaves_the_others_weight() -> None:
    guidance = Guidance(layers=(1, 2, 3), layer_weights=(0.2, 0.3, 0.5))
    assert without_layer(guidance, 2) == guidance.replace(layers=(1, 3), layer_weights=(0.2, 0.5))
    assert without_layer(guidance, 4) == guidance
    assert without_layer(guidance.replace(layers=(2,)), 2).energy == 0


def test_parts_that_are_not_used_are_left_out() -> None:
    assert set(PAPER) <= set(ABLATIONS)
    assert list(ablated(Guidance.preset("iclr", "appearance"), PAPER)) == [
        "edit", "content", "attention", "layer2", "layer3", "coarse"
    ]  # fmt: skip
    with pytest.raises(InputError, match="colour"):
        ablated(Guidance(), ["colour"])
