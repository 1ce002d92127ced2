"""Presets are the published tables; bad numbers are refused."""

import dataclasses

import pytest

from dragonkit.errors import InputError
from dragonkit.guidance import KINDS, PRESETS, Guidance

TABLE = {  # cfg, energy, w_edit, w_content, w_contrast, w_inpaint, factor
    "move": (4, 0.5, 4, 6, 0.2, 0.8, 8e-2),
    "resize": (4, 0.5, 4, 6, 0.2, 0.8, 8e-2),
    "rotate": (4, 2, 4, 6, 0.2, 0, 4e-2),  # by points, as drag is
    "appearance": (5, 2, 3.5, 5, 0, 0, 4e-2),
    "drag": (4, 2, 4, 6, 0.2, 0, 4e-2),
    "paste": (4, 1.5, 4, 6, 0, 0, 4e-2),
}
NAMES = ("cfg", "energy", "w_edit", "w_content", "w_contrast", "w_inpaint", "factor")


@pytest.mark.parametrize("kind", KINDS)
def test_iclr_is_the_official_table(kind):
    w = Guidance.preset("iclr", kind)
    assert tuple(getattr(w, name) for name in NAMES) == TABLE[kind]
    assert (w.steps, w.alpha, w.beta, w.layers, w.guided) == (50, 1, 4, (2, 3), (0, 0.6))
    start = "keep" if kind == "appearance" else "copy"
    assert (w.regional, w.through, w.start, w.lock, w.clip) == (True, "x0", start, False, 0)
    by_points, mixed = ((0.1, 1), "concat"), ((0, 0.72), "mix")
    others = {"drag": by_points, "rotate": by_points, "appearance": mixed, "paste": mixed}
    window, mode = others.get(kind, ((0.1, 1), "replace"))
    assert w.attention == window and w.attention_mode == mode


@pytest.mark.parametrize("kind", KINDS)
def test_diffeditor_is_iclr_with_time_travel_and_regional_sde(kind):
    w = Guidance.preset("diffeditor", kind)
    assert (w.dense, w.travel, w.repeats) == (0.2, (0.44, 0.58), 3)
    assert (w.sde, w.sde_inside, w.sde_outside) == ((0.22, 0.4), 0.4, 0)
    plain = w.replace(dense=1.0, travel=(0.0, 0.0), repeats=1, sde=(0.0, 0.0), sde_inside=0.0)
    assert plain == Guidance.preset("iclr", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_paper_guides_every_step_everywhere(kind):
    w = Guidance.preset("paper", kind)
    assert (w.start, w.attention, w.attention_mode) == ("keep", (0, 1), "replace")
    assert (w.regional, w.guided, w.through) == (False, (0, 1), "eps")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_frozen_and_named_in_full(name):
    w = Guidance.preset(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        w.steps = 3
    assert w == Guidance(**dataclasses.asdict(w)) and hash(w) == hash(Guidance.preset(name))


def test_defaults_are_iclr_for_moving():
    assert Guidance() == Guidance.preset("iclr", "move")


def test_replacing_fields():
    w = Guidance.preset("iclr").replace(steps=20, layers=[1, 2, 4, 3])
    assert w.steps == 20 and w.layers == (1, 2, 4, 3) and w.layer_weights == (0.25,) * 4
    assert Guidance().eta == pytest.approx(40) and Guidance().replace(energy=0).eta == 0
    assert isinstance(Guidance().replace(cfg=2).cfg, float)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 2.0),
        ("steps", True),
        ("cfg", float("nan")),
        ("cfg", "4"),
        ("energy", -1),
        ("energy", float("inf")),
        ("alpha", 0),
        ("beta", -1),
        ("w_edit", None),
        ("layers", ()),
        ("layers", (2, 2)),
        ("layers", (0, 1)),
        ("layers", (2.5, 3)),
        ("layers", 3),
        ("layer_weights", (1,)),
        ("guided", (0.6, 0.1)),
        ("guided", (0, 30)),
        ("guided", (0, 0.5, 1)),
        ("attention_mode", "sideways"),
        ("attention_mode", ["replace"]),
        ("start", True),
        ("regional", 1),
        ("through", "x_0"),
        ("reference", "dead"),
        ("lock_margin", -1),
    ],
)
def test_values_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(InputError, match=field) as error:
        Guidance().replace(**{field: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("call", [lambda: Guidance.preset("best"), lambda: Guidance.preset("iclr", "melt")])
def test_unknown_presets_and_kinds_are_refused_and_the_known_ones_listed(call):
    with pytest.raises(InputError, match="choose from (paper|move)"):
        call()


def test_unknown_fields_are_refused_and_the_known_ones_listed():
    with pytest.raises(InputError, match="no field 'stepz': its fields are steps, cfg"):
        Guidance().replace(stepz=4)
