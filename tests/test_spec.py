"""A spec says exactly one edit, and every mistake in it is named in one line."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonkit.errors import InputError
from dragonkit.files import write_image
from dragonkit.guidance import Guidance
from dragonkit.spec import Spec, load_task, read_spec, save_case
from dragonkit.world import counterfactual
from tests.tiny import box, picture

SPEC: dict[str, Any] = {
    "version": 1,
    "model": "mini",
    "image": "before.png",
    "prompt": "a red ball on grass at day",
    "edit": {"kind": "move", "mask": "mask.png", "by": [40, -8.5], "scale": 1.25, "angle": 10},
    "guidance": {"preset": "iclr", "steps": 20, "layers": [2, 3], "energy": 1},
    "truth": {"image": "after.png", "mask": "target.png"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_image(picture(64, 96), tmp_path / "before.png")
    write_image(picture(64, 96, seed=1), tmp_path / "after.png")
    write_image(box(64, 96, 20, 10, 40, 30), tmp_path / "mask.png")
    write_image(box(64, 96, 20, 50, 40, 70), tmp_path / "target.png")
    return tmp_path


def write(folder: Path, spec: Any) -> Path:
    path = folder / "edit.json"
    path.write_text(spec if isinstance(spec, str) else json.dumps(spec), encoding="utf-8")
    return path


def changed(where: str, value: Any) -> dict[str, Any]:
    """SPEC with one field changed; the field's path is written with dots."""
    spec = json.loads(json.dumps(SPEC))
    *parents, last = where.split(".")
    part = spec
    for name in parents:
        part = part[name]
    part[last] = value
    return spec


def test_everything_it_says_is_loaded(folder: Path) -> None:
    task = load_task(write(folder, SPEC))
    assert (task.model, task.prompt) == ("mini", "a red ball on grass at day")
    assert task.image.size == (96, 64)
    assert (task.edit.by, task.edit.scale, task.edit.angle) == ((40.0, -8.5), 1.25, 10.0)
    assert torch.equal(task.edit.mask, box(64, 96, 20, 10, 40, 30))
    assert task.guidance == Guidance.preset("iclr", kind="move").replace(steps=20, energy=1.0)
    assert task.truth is not None and torch.equal(task.truth.mask, box(64, 96, 20, 50, 40, 70))


def test_only_image_and_edit_are_needed(folder: Path) -> None:
    least = {"version": 1, "image": "before.png", "edit": {"kind": "move", "mask": "mask.png", "by": [4, 0]}}
    task = load_task(write(folder, least))
    assert (task.model, task.prompt, task.truth) == ("mini", "", None)
    assert task.guidance == Guidance.preset("mini", kind="move")


def test_another_models_own_preset_is_the_default(folder: Path) -> None:
    spec = {**changed("model", "sd15"), "guidance": {"steps": 7}}
    assert load_task(write(folder, spec)).guidance == Guidance.preset("iclr", kind="move").replace(steps=7)


def test_a_models_folder_is_found_from_the_spec(folder: Path) -> None:
    assert load_task(write(folder, changed("model", "./weights"))).model == str(folder / "weights")


def test_a_valid_spec_round_trips() -> None:
    spec = Spec.model_validate_json(json.dumps(SPEC))
    assert Spec.model_validate_json(spec.model_dump_json()) == spec


BAD = {
    "not JSON": ('{"version": 1,', "not JSON .*: check quotes, commas and brackets"),
    "no object": ("[]", "the spec is "),
    "unknown field": (changed("promt", "x"), "unknown field 'promt': did you mean 'prompt'"),
    "unknown field of the edit": (changed("edit.bye", 1), "unknown field 'edit.bye': did you mean 'by'"),
    "unknown field, nothing near": (changed("truth.zzz", 1), "unknown field 'truth.zzz': known are image, mask"),
    "unknown guidance": (changed("guidance.stepz", 1), "no field 'stepz'"),
    "missing field": ({k: v for k, v in SPEC.items() if k != "image"}, "the field 'image' is missing: add it"),
    "newer version": (changed("version", 2), "version is 2"),
    "version as text": (changed("version", "1"), "version is '1'"),
    "prompt not text": (changed("prompt", 5), "prompt is 5: it should be a valid string"),
    "unknown kind": (changed("edit.kind", "explode"), "edit.kind is 'explode': it should be 'move'"),
    "text for a number": (changed("edit.by", ["4", 0]), "edit.by.0 is '4': it should be a valid number"),
    "true for a number": (changed("edit.scale", True), "edit.scale is True: it should be a valid number"),
    "one number of two": (changed("edit.by", [4]), "edit.by"),
    "infinite": (json.dumps(changed("edit.by", [float("inf"), 0])), "edit.by.0 is inf"),
    "enormous": (json.dumps(changed("edit.scale", 10**400)), "edit.scale is"),
    "scale 0": (changed("edit.scale", 0), "scale is 0"),
    "absolute path": (changed("image", "/somewhere/before.png"), "image is .*: write the path relative to the spec"),
    "steps 0": (changed("guidance.steps", 0), "steps is 0: give 1 or more"),
    "steps a fraction": (changed("guidance.steps", 2.5), "steps is 2.5"),
    "unknown preset": (changed("guidance.preset", "best"), "preset 'best' is not known: choose from"),
    "preset not text": (changed("guidance.preset", ["iclr"]), "guidance.preset is"),
    "guidance not an object": (changed("guidance", [1]), r"guidance is \[1\]"),
    "layers no list": (changed("guidance.layers", 3), "layers is 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_named_in_one_line(folder: Path, name: str) -> None:
    spec, message = BAD[name]
    with pytest.raises(InputError, match=message) as caught:
        load_task(write(folder, spec))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_pictures_must_fit_together(folder: Path) -> None:
    write_image(picture(64, 64), folder / "after.png")
    with pytest.raises(InputError, match=r"after\.png is 64x64, the image 96x64"):
        load_task(write(folder, SPEC))


def test_a_spec_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_spec(path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(InputError, match="not JSON"):
        read_spec(tmp_path / "binary.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    field=st.sampled_from([*SPEC, "edit.kind", "edit.by", "edit.scale", "guidance.preset", "truth.image"]),
    value=json_values,
)
def test_any_value_anywhere_is_read_or_refused_in_one_line(field: str, value: Any) -> None:
    try:
        spec = Spec.model_validate_json(json.dumps(changed(field, value)))
    except ValueError:
        with tempfile.TemporaryDirectory() as place, pytest.raises(InputError) as caught:
            read_spec(write(Path(place), changed(field, value)))
        assert "\n" not in str(caught.value)
    else:
        assert Spec.model_validate_json(spec.model_dump_json()) == spec


def test_a_number_in_guidance_that_is_not_finite_is_refused() -> None:
    for value in (float("inf"), [float("nan")], {"": float("-inf")}):
        with pytest.raises(ValueError, match="not finite"):
            Spec.model_validate_json(json.dumps(changed("guidance", {"energy": value})))


def test_a_case_of_the_world_becomes_a_spec(tmp_path: Path) -> None:
    case = counterfactual("move", 3, size=128)
    task = load_task(save_case(case, tmp_path / "case"))
    assert task.prompt == case.prompt
    assert torch.equal(task.edit.mask, case.mask)
    assert task.edit.by == case.edit.by
    assert task.truth is not None and torch.equal(task.truth.mask, case.target)
    assert (task.truth.image - case.after.image).abs().max() <= 0.5 / 255 + 1e-6
    assert sorted(p.name for p in (tmp_path / "case").iterdir()) == [
        "after.png", "before.png", "edit.json", "mask.png", "target.png",
    ]  # fmt: skip


def test_a_case_without_a_spec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'drag' cannot be written as a spec yet"):
        save_case(counterfactual("drag", 3, size=128), tmp_path / "case")
    assert not (tmp_path / "case").exists()
