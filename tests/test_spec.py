"""A spec says exactly some edits, gives them back exactly, and every mistake in it is named in one line."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dragonkit.editor import edit as run
from dragonkit.edits import Appearance, Drag, Edit, Move, Paste, Reconstruct, Resize, Several
from dragonkit.errors import InputError
from dragonkit.files import write_image
from dragonkit.guidance import Guidance
from dragonkit.many import read_jobs
from dragonkit.models import load
from dragonkit.spec import GuidanceSpec, Truth, load_task, parse, read_spec, save_case, save_spec
from dragonkit.world import KINDS, counterfactual
from tests.families import FAMILIES, family_pipeline
from tests.tiny import box, picture, tiny_model

MOVE: dict[str, Any] = {"kind": "move", "mask": "mask.png", "by": [40, -8.5], "scale": 1.25, "angle": 10}
SPEC: dict[str, Any] = {
    "version": 2,
    "model": "mini",
    "image": "before.png",
    "prompt": "a red ball on grass at day",
    "edits": [MOVE],
    "guidance": {"preset": "iclr", "steps": 20, "layers": [2, 3], "energy": 1, "seed": 7},
    "truth": {"image": "after.png", "mask": "target.png", "source": "mask.png"},
}
OLD: dict[str, Any] = {
    **{name: value for name, value in SPEC.items() if name != "edits"},
    "version": 1,
    "edit": MOVE,
    "truth": {"image": "after.png", "mask": "target.png"},
}
KIND_SPECS: dict[str, dict[str, Any]] = {
    "move": MOVE,
    "resize": {"kind": "resize", "mask": "mask.png", "scale": 1.5},
    "appearance": {
        "kind": "appearance",
        "mask": "mask.png",
        "reference": "after.png",
        "reference_mask": "target.png",
        "reference_prompt": "a blue ball",
    },
    "drag": {"kind": "drag", "points": [[20, 30, 40.5, 30], [12, 22, 30, 22]], "mask": "mask.png"},
    "paste": {
        "kind": "paste",
        "reference": "after.png",
        "reference_mask": "target.png",
        "at": [30, 30.5],
        "scale": 0.75,
    },
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


def changed(where: str, value: Any, base: dict[str, Any] = SPEC) -> dict[str, Any]:
    """A spec with one field changed; the field's path is written with dots."""
    spec = json.loads(json.dumps(base))
    *parents, last = where.split(".")
    part: Any = spec
    for name in parents:
        part = part[int(name) if isinstance(part, list) else name]
    part[last] = value
    return spec


def rounded(image: Tensor) -> Tensor:
    """An image as 8 bits a channel hold it."""
    return (image * 255).round() / 255


def same(a: Any, b: Any) -> bool:
    """Whether two edits are of one class and equal in every field; images are compared as they are used."""
    if type(a) is not type(b) or len(a.references) != len(b.references):
        return False
    fields = [name for name in vars(a) if name not in ("reference", "reference_mask", "_reference")]
    refs = zip(a.references, b.references, strict=True)
    return all(
        torch.equal(vars(a)[n], vars(b)[n]) if isinstance(vars(a)[n], Tensor) else vars(a)[n] == vars(b)[n]
        for n in fields
    ) and all(
        torch.equal(rounded(x.image), y.image) and torch.equal(x.mask, y.mask) and x.prompt == y.prompt for x, y in refs
    )


def test_everything_it_says_is_loaded(folder: Path) -> None:
    task = load_task(write(folder, SPEC))
    assert (task.model, task.prompt) == ("mini", "a red ball on grass at day")
    assert task.picture.size == (96, 64)
    mask = box(64, 96, 20, 10, 40, 30)
    assert same(task.edit, Move(mask, by=(40.0, -8.5), scale=1.25, angle=10.0))
    assert task.guidance == Guidance.preset("iclr", kind="move").replace(steps=20, energy=1.0, seed=7)
    assert task.truth is not None and torch.equal(task.truth.mask, box(64, 96, 20, 50, 40, 70))
    assert task.truth.source is not None and torch.equal(task.truth.source, mask)


@pytest.mark.parametrize("kind", KIND_SPECS)
def test_every_kind_of_edit_is_loaded(folder: Path, kind: str) -> None:
    task = load_task(write(folder, {**SPEC, "edits": [KIND_SPECS[kind]]}))
    mask, target, other = box(64, 96, 20, 10, 40, 30), box(64, 96, 20, 50, 40, 70), picture(64, 96, seed=1)
    expected: dict[str, Edit] = {
        "move": Move(mask, (40, -8.5), 1.25, 10),
        "resize": Resize(mask, 1.5),
        "appearance": Appearance(mask, other, target, "a blue ball"),
        "drag": Drag([(20, 30, 40.5, 30), (12, 22, 30, 22)], mask),
        "paste": Paste(other, target, (30, 30.5), 0.75),
    }
    assert same(expected[kind], task.edit) and task.edit.kind == kind
    assert task.guidance == Guidance.preset("iclr", kind=kind).replace(steps=20, energy=1.0, seed=7)


def test_several_edits_are_one_several(folder: Path) -> None:
    task = load_task(write(folder, {**SPEC, "edits": [KIND_SPECS["move"], KIND_SPECS["paste"]]}))
    assert isinstance(task.edit, Several) and [type(e) for e in task.edit.edits] == [Move, Paste]
    assert task.guidance.attention_mode == Guidance.preset("iclr", kind=task.edit.kind).attention_mode


def test_only_image_and_edits_are_needed(folder: Path) -> None:
    least = {"version": 2, "image": "before.png", "edits": [{"kind": "move", "mask": "mask.png", "by": [4, 0]}]}
    task = load_task(write(folder, least))
    assert (task.model, task.prompt, task.truth) == ("mini", "", None)
    assert task.guidance == Guidance.preset("mini", kind="move")


def test_another_models_own_preset_is_the_default(folder: Path) -> None:
    spec = {**changed("model", "sd15"), "guidance": {"steps": 7}}
    assert load_task(write(folder, spec)).guidance == Guidance.preset("iclr", kind="move").replace(steps=7)


def test_a_models_folder_is_found_from_the_spec(folder: Path) -> None:
    assert load_task(write(folder, changed("model", "./weights"))).model == str(folder / "weights")


def test_a_valid_spec_round_trips() -> None:
    spec = parse(json.dumps({**SPEC, "edits": list(KIND_SPECS.values())}))
    assert parse(spec.model_dump_json()) == spec


# Versions.


def test_version_1_is_read_as_version_2(folder: Path) -> None:
    old, new = parse(json.dumps(OLD)), parse(json.dumps({**SPEC, "truth": OLD["truth"]}))
    assert old == new and old.version == 2
    assert old.model_dump(exclude_unset=True) == new.model_dump(exclude_unset=True)
    assert same(load_task(write(folder, OLD)).edit, load_task(write(folder, SPEC)).edit)


def test_version_1_said_less() -> None:
    for spec, message in (
        (changed("edit", KIND_SPECS["resize"], OLD), "edit.kind is 'resize'"),
        (changed("edit.bye", 1, OLD), "unknown field 'edit.bye': did you mean 'by'"),
        (changed("edits", [MOVE], OLD), "unknown field 'edits': did you mean 'edit'"),
        (changed("truth.source", "mask.png", OLD), "unknown field 'truth.source'"),
        (changed("image", {"generate": {"prompt": "", "seed": 1}}, OLD), "image is"),
    ):
        with pytest.raises(InputError, match=message):
            parse(json.dumps(spec))


def test_a_version_too_new_is_said_to_be() -> None:
    with pytest.raises(InputError, match="version is 3, and this dragonkit reads 1 to 2: update dragonkit"):
        parse(json.dumps({"version": 3, "whatever": 1}))


BAD = {
    "not JSON": ('{"version": 1,', "not JSON .*: check quotes, commas and brackets"),
    "no object": ("[]", "the file is "),
    "unknown field": (changed("promt", "x"), "unknown field 'promt': did you mean 'prompt'"),
    "unknown field of the edit": (changed("edits.0.bye", 1), "unknown field 'edits.0.bye': did you mean 'by'"),
    "unknown field, nothing near": (
        changed("truth.zzz", 1),
        "unknown field 'truth.zzz': known are image, mask, source",
    ),
    "unknown guidance": (changed("guidance.stepz", 1), "no field 'stepz'"),
    "missing field": ({k: v for k, v in SPEC.items() if k != "image"}, "the field 'image' is missing: add it"),
    "version 0": (changed("version", 0), "version is 0, .*: give a number from 1 to 2"),
    "version as text": (changed("version", "1"), "version is '1'"),
    "prompt not text": (changed("prompt", 5), "prompt is 5: it should be a valid string"),
    "no kind": (changed("edits", [{"mask": "mask.png"}]), "the field 'edits.0.kind' is missing: add it"),
    "no edits": (changed("edits", []), "edits is "),
    "an edit too many": (changed("edits", [MOVE, {**KIND_SPECS["drag"], "scale": 2}]), "unknown field 'edits.1.scale'"),
    "unknown field of paste": (
        changed("edits", [{**KIND_SPECS["paste"], "reference_mas": 1}]),
        "'edits.0.reference_mas': did you mean 'reference_mask'",
    ),
    "three numbers of four": (changed("edits", [{"kind": "drag", "points": [[1, 2, 3]]}]), "edits.0.points.0"),
    "no points": (changed("edits", [{"kind": "drag", "points": []}]), r"points is \(\): give at least one"),
    "image a number": (changed("image", 5), "image is 5"),
    "unknown field of generate": (
        changed("image", {"generate": {"prompt": "", "seed": 1, "sed": 1}}),
        "unknown field 'image.generate.sed': did you mean 'seed'",
    ),
    "size of generate": (
        changed("image", {"generate": {"prompt": "", "seed": 1, "size": [64, 2049]}}),
        "image.generate.size.1 is 2049",
    ),
    "seed missing": (changed("image", {"generate": {"prompt": ""}}), "the field 'image.generate.seed' is missing"),
    "seed of guidance": (changed("guidance.seed", -1), "seed is -1"),
    "unknown kind": (
        changed("edits.0.kind", "explode"),
        "edits.0.kind is 'explode': choose from 'move', 'resize', 'app",
    ),
    "text for a number": (changed("edits.0.by", ["4", 0]), "edits.0.by.0 is '4': it should be a valid number"),
    "true for a number": (changed("edits.0.scale", True), "edits.0.scale is True: it should be a valid number"),
    "one number of two": (changed("edits.0.by", [4]), "edits.0.by"),
    "infinite": (json.dumps(changed("edits.0.by", [float("inf"), 0])), "edits.0.by.0 is inf"),
    "enormous": (json.dumps(changed("edits.0.scale", 10**400)), "edits.0.scale is"),
    "scale 0": (changed("edits.0.scale", 0), "scale is 0"),
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


@settings(max_examples=300)
@given(
    field=st.sampled_from(
        [*SPEC, "edits.0", "edits.0.kind", "edits.0.by", "edits.0.scale", "guidance.preset", "truth.image"]
    ),
    value=json_values,
)
def test_any_value_anywhere_is_read_or_refused_in_one_line(field: str, value: Any) -> None:
    *parent, last = field.split(".")
    spec = changed(field, value) if last != "0" else {**SPEC, "edits": [value]}
    try:
        read = parse(json.dumps(spec))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert parse(read.model_dump_json()) == read


def test_a_number_in_guidance_that_is_not_finite_is_refused() -> None:
    for value in (float("inf"), [float("nan")], {"": float("-inf")}):
        with pytest.raises(InputError, match="not finite"):
            parse(json.dumps(changed("guidance", {"energy": value})))


# Saving.


numbers = st.floats(-100, 100)
ranges = st.floats(0.25, 4)


@st.composite
def masks(draw: st.DrawFn, height: int, width: int) -> Tensor:
    """Noise with at least one pixel set."""
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random((height, width))
    mask = torch.from_numpy(noise < draw(st.floats(0, 1)))
    mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = True
    return mask


@st.composite
def edits(draw: st.DrawFn, height: int, width: int) -> Edit:
    """Any edit of an image of that size, though it need not make sense."""
    mask = draw(masks(height, width))
    high, wide = draw(st.integers(64, 80)), draw(st.integers(64, 80))
    other, theirs = picture(high, wide, seed=draw(st.integers(0, 9))), draw(masks(high, wide))
    words, kind = draw(st.text(max_size=20)), draw(st.sampled_from(list(KIND_SPECS)))
    if kind == "move":
        return Move(mask, (draw(numbers), draw(numbers)), draw(ranges), draw(numbers))
    if kind == "resize":
        return Resize(mask, draw(ranges))
    if kind == "appearance":
        return Appearance(mask, other, theirs, words)
    if kind == "paste":
        return Paste(other, theirs, (draw(numbers), draw(numbers)), draw(ranges), words)
    points = draw(st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=4))
    return Drag(points, mask if draw(st.booleans()) else None)


@st.composite
def guidances(draw: st.DrawFn) -> Guidance:
    """Any guidance."""
    layers = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4, unique=True))
    start, end = sorted([draw(st.floats(0, 1)), draw(st.floats(0, 1))])
    return Guidance.preset(draw(st.sampled_from(["paper", "iclr", "diffeditor", "mini"]))).replace(
        steps=draw(st.integers(1, 999)),
        energy=draw(st.floats(0, 100)),
        layers=layers,
        guided=(start, end),
        seed=draw(st.integers(0, 2**63 - 1)),
        lock=draw(st.booleans()),
        attention_mode=draw(st.sampled_from(["replace", "concat", "mix", "off"])),
    )


@settings(max_examples=60)
@given(data=st.data(), height=st.integers(64, 90), width=st.integers(64, 90), words=st.text(max_size=30))
def test_what_is_saved_is_read_back_exactly(data: st.DataObject, height: int, width: int, words: str) -> None:
    wanted = data.draw(st.lists(edits(height, width), min_size=1, max_size=3))
    guidance, image = data.draw(guidances()), picture(height, width, seed=3)
    truth = Truth(picture(height, width, seed=4), data.draw(masks(height, width)), data.draw(masks(height, width)))
    with tempfile.TemporaryDirectory() as place:
        path = save_spec(place, image, wanted, words, guidance, "sd15", truth)
        task = load_task(path)
        again = save_spec(Path(place, "again"), task.picture, task.edit, task.prompt, task.guidance, "sd15", task.truth)
        assert again.read_bytes() == path.read_bytes()
        assert {p.name: p.read_bytes() for p in again.parent.iterdir()} == {
            p.name: p.read_bytes() for p in path.parent.iterdir() if p.is_file()
        }
    assert len(task.edits) == len(wanted) and all(map(same, wanted, task.edits))
    assert (task.guidance, task.prompt, task.model) == (guidance, words, "sd15")
    assert torch.equal(torch.from_numpy(np.array(task.picture)).permute(2, 0, 1) / 255, rounded(image))
    assert task.truth is not None and torch.equal(task.truth.mask, truth.mask)
    assert torch.equal(task.truth.source, truth.source)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_of_the_world_becomes_a_spec(tmp_path: Path, kind: str) -> None:
    case = counterfactual(kind, 3, split="train", size=128)
    task = load_task(save_case(case, tmp_path / "case"))
    assert task.prompt == case.prompt and task.mask is not None
    assert same(case.edit, task.edit) and torch.equal(task.mask, case.mask)
    assert task.guidance == Guidance.preset("mini", kind=case.edit.kind)
    assert task.truth is not None and torch.equal(task.truth.mask, case.target)
    assert (task.truth.image - case.after.image).abs().max() <= 0.5 / 255 + 1e-6
    assert {"after.png", "before.png", "edit.json", "target.png"} < {p.name for p in (tmp_path / "case").iterdir()}


def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path: Path) -> None:
    image, mask = picture(64, 96), box(64, 96, 20, 10, 40, 30)
    for edits, message, more in (
        ([], r"edits is \[\]: give a list", {}),
        (5, "an edit is a int", {}),
        (Reconstruct(), "an edit of type Reconstruct cannot be written: write one of Move", {}),
        (Move(mask.T, by=(1, 1)), "mask is 64x96 but the image is 96x64", {}),
        (Move(mask, by=(1, 1)), "the truth's mask is 64x96", {"truth": Truth(image, mask.T)}),
        (
            Paste(picture(64, 2100), box(64, 2100, 3, 3, 9, 9), (9, 9)),
            "reference is 2100x64 pixels, more than 2048",
            {},
        ),
    ):
        with pytest.raises(InputError, match=message):
            save_spec(tmp_path / "case", image, edits, **more)
        assert not list(tmp_path.iterdir())


def test_a_save_that_is_stopped_leaves_the_old_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask = picture(64, 96), box(64, 96, 20, 10, 40, 30)
    save_spec(tmp_path / "case", image, Move(mask, by=(8, 0)))
    before = {p.name: p.read_bytes() for p in (tmp_path / "case").iterdir()}

    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", stop)
    with pytest.raises(KeyboardInterrupt):
        save_spec(tmp_path / "case", picture(64, 96, seed=9), Drag([(20, 30, 40, 30)]))
    assert {p.name: p.read_bytes() for p in (tmp_path / "case").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["case"]


# Running.


@pytest.mark.parametrize("kind", KIND_SPECS)
def test_the_same_spec_gives_the_same_image_bit_for_bit(folder: Path, kind: str) -> None:
    sde = {"preset": "diffeditor", "steps": 4, "sde": [0, 1], "seed": 5}
    path = write(folder, {**SPEC, "edits": [KIND_SPECS[kind]], "guidance": sde})
    images = []
    for _ in range(2):
        task = load_task(path)
        result = run(tiny_model(), task.image, task.edit, task.prompt, guidance=task.guidance, progress=False)
        images.append(result.tensor)
    other = run(
        tiny_model(), task.image, task.edit, task.prompt, guidance=task.guidance.replace(seed=6), progress=False
    )
    assert torch.equal(*images) and not torch.equal(images[0], other.tensor)


def test_a_generated_image_is_generated_again(tmp_path: Path) -> None:
    model, mask = tiny_model(), box(128, 64, 20, 10, 60, 30)
    made = model.generate("a ball", 11, steps=3, cfg=2, size=(128, 64))
    path = save_spec(tmp_path, made, Move(mask, by=(20, 9)), model=model)
    spec = json.loads(path.read_text())
    assert spec["image"] == {"generate": {"prompt": "a ball", "seed": 11, "cfg": 2.0, "size": [128, 64]}}
    task = load_task(path)
    assert task.prompt == "a ball" and (task.guidance.steps, task.guidance.cfg) == (3, 2)
    with pytest.raises(InputError, match="not been generated yet"):
        _ = task.picture
    task = task.ready(model)
    assert torch.equal(task.image.tensor, made.tensor) and torch.equal(task.image.z_T, made.z_T)  # type: ignore[union-attr]
    wanted = run(model, made, Move(mask, by=(20, 9)), guidance=task.guidance, progress=False)
    assert torch.equal(run(model, task.image, task.edit, guidance=task.guidance, progress=False).tensor, wanted.tensor)
    with pytest.raises(InputError, match="generated in 3 steps and guidance has 50"):
        save_spec(tmp_path, made, Move(mask, by=(20, 9)), guidance=Guidance())
    said = GuidanceSpec.model_validate_json('{"preset": "paper"}')
    assert load_task(save_spec(tmp_path, made, Move(mask, by=(20, 9)), "a cube", said)).prompt == "a cube"


@pytest.mark.parametrize("family", FAMILIES)
def test_where_no_preset_is_named_it_is_the_one_that_suits_the_model(tmp_path: Path, family: str) -> None:
    family_pipeline(family).save_pretrained(tmp_path / "weights")
    model = load(tmp_path / "weights", device="cpu")
    path = save_spec(tmp_path, picture(64, 64), Drag([(8, 8, 24, 24)]), model="./weights")
    own = Guidance.preset("sdxl" if family == "sdxl" else "iclr", "drag")
    assert load_task(path).ready(model).guidance == own
    assert read_jobs(tmp_path)[0].ready(model).guidance == own
    for said, wanted in (({"steps": 3}, own.replace(steps=3)), ({"preset": "paper"}, Guidance.preset("paper", "drag"))):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"guidance": said}))
        assert load_task(path).ready(model).guidance == wanted


def test_a_truth_of_another_size_than_the_generated_image_is_seen_before_the_edit(tmp_path: Path) -> None:
    model = tiny_model()
    made = model.generate("a ball", 1, steps=3, size=(64, 64))
    path = save_spec(tmp_path, made, Move(box(64, 64, 8, 8, 24, 24), (9, 0)), model="tiny")
    write_image(picture(64, 128), tmp_path / "after.png")
    write_image(box(64, 128, 8, 8, 24, 24), tmp_path / "target.png")
    spec = json.loads(path.read_text()) | {"truth": {"image": "after.png", "mask": "target.png"}}
    path.write_text("\ufeff" + json.dumps(spec), encoding="utf-8")  # as some editors write it
    with pytest.raises(InputError, match="128x64, the image 64x64: give the truth in the image's size"):
        load_task(path).ready(model)
