"""Samples, and the benchmarks' layouts on disk: what is written is read back; what is wrong is named."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dragonkit.errors import InputError
from dragonkit.evaluate.dragbench import (
    DragSample,
    read_sample,
    read_samples,
    sample_folders,
    sample_of,
    write_dragbench,
    write_sample,
)
from dragonkit.regions import Frame
from dragonkit.world import counterfactual
from tests.tiny import box, picture

LAYOUT = {"pkl": "dragbench", "json": "dragbench", "drag100": "drag100"}
SPLIT = {"split": "train", "size": 128}


def eight_bit(image: torch.Tensor) -> torch.Tensor:
    return (image * 255).round() / 255


def sample(**changes: Any) -> DragSample:
    given = {
        "image": eight_bit(picture(64, 96)),
        "points": [(10, 20, 40, 30), (0, 0, 95, 63)],
        "mask": box(64, 96, 10, 5, 50, 60),
        "prompt": "ein Käfer",
        "category": "animals",
        "name": "sample_7",
    }
    return DragSample(**(given | changes))


@st.composite
def samples(draw: st.DrawFn) -> DragSample:
    height, width = draw(st.integers(64, 90)), draw(st.integers(64, 90))
    point = st.tuples(*(st.integers(0, n - 1) for n in (width, height, width, height)))
    seed = draw(st.integers(0, 99))
    noise = torch.rand(height, width, generator=torch.Generator().manual_seed(seed))
    return sample(
        image=eight_bit(picture(height, width, seed)),
        points=draw(st.lists(point, min_size=1, max_size=5)),
        mask=noise < draw(st.sampled_from([0.0, 0.001, 0.5, 1.0])),
        prompt=draw(st.text(st.characters(codec="utf-8"), max_size=20)),
    )


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmark")


@given(samples(), st.sampled_from(sorted(LAYOUT)))
def test_what_is_written_is_read_back(scratch: Path, wrote: DragSample, variant: str) -> None:
    root = scratch / variant
    shutil.rmtree(root, ignore_errors=True)
    write_sample(wrote, root, variant)
    (read,) = read_samples(root, LAYOUT[variant])
    assert read.points == wrote.points and torch.equal(read.mask, wrote.mask) and read.name == wrote.name
    if variant == "drag100":  # a JPEG, without prompt or category
        assert (read.image - wrote.image).abs().mean() < 0.01
        assert (read.prompt, read.category) == ("", "sample")
    else:
        assert torch.equal(read.image, wrote.image)
        assert (read.prompt, read.category, read.digest) == (wrote.prompt, wrote.category, wrote.digest)


def test_the_pickle_is_as_dragbench_has_it(tmp_path: Path) -> None:
    folder = write_sample(sample(), tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == ["meta_data.pkl", "original_image.png", "user_drag.png"]
    content = pickle.loads((folder / "meta_data.pkl").read_bytes())
    assert content["points"] == [[10, 20], [40, 30], [0, 0], [95, 63]] and content["prompt"] == "ein Käfer"
    assert content["mask"].dtype == np.uint8 and content["mask"].shape == (64, 96)
    assert np.array_equal(content["mask"], sample().mask.numpy())


def test_the_drawing_shows_mask_and_points(tmp_path: Path) -> None:
    folder = write_sample(sample(image=torch.full((3, 64, 96), 0.5)), tmp_path)
    drawn = np.asarray(Image.open(folder / "user_drag.png")).astype(int)
    assert tuple(drawn[20, 10]) == (255, 0, 0) and tuple(drawn[30, 40]) == (0, 0, 255)
    assert drawn[45, 30, 0] > drawn[60, 80, 0]


@pytest.mark.parametrize("kind", ["drag", "rotate", "move", "resize"])
def test_cases_of_the_bundled_world_become_samples(tmp_path: Path, kind: str) -> None:
    case = counterfactual(kind, 10**9, **SPLIT)
    (folder,) = write_dragbench([case], tmp_path)
    assert folder == tmp_path / kind / f"{kind}_1000000000"
    (read,) = read_samples(tmp_path)
    assert torch.equal(read.image, eight_bit(case.before.image)) and read.prompt == case.prompt
    assert (read.mask & (case.mask | case.target)).sum() == (case.mask | case.target).sum()
    true = torch.tensor(case.points())
    assert (torch.tensor(read.points) - true).abs().max() <= 0.5
    for x0, y0, x1, y1 in torch.tensor(read.points).int().tolist():
        assert case.mask[y0, x0] and read.mask[y1, x1]
    read.as_edit().regions(Frame(128, 128))


def test_a_case_in_which_nothing_moves_is_refused() -> None:
    with pytest.raises(InputError, match="'appearance' moves no points"):
        sample_of(counterfactual("appearance", 10**9, **SPLIT))


def test_an_unknown_variant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown variant 'zip'"):
        write_sample(sample(), tmp_path, "zip")
    assert not list(tmp_path.iterdir())


# Samples.


def test_the_edit_is_a_drag_within_the_mask() -> None:
    edit = sample().as_edit()
    assert edit.points == sample().points and torch.equal(edit.mask, sample().mask)


def test_where_no_mask_was_drawn_the_edit_has_none() -> None:
    assert sample(mask=torch.zeros(64, 96, dtype=torch.bool)).as_edit().mask is None


@given(samples(), st.sampled_from([(64, 64), (128, 192), (192, 64), (70, 75)]))
def test_a_resized_sample_shows_the_same(given: DragSample, size: tuple[int, int]) -> None:
    small = given.resized(*size)
    assert small.size == size == tuple(small.mask.shape)
    assert bool(small.mask.any()) == bool(given.mask.any())
    scale = torch.tensor([size[1] / given.size[1], size[0] / given.size[0]]).repeat(2)
    expected = (torch.tensor(given.points) + 0.5) * scale - 0.5
    assert torch.allclose(torch.tensor(small.points), expected.float(), atol=1e-4)
    assert small.resized(*given.size).size == given.size


def test_a_point_keeps_its_place_when_resized() -> None:
    image = torch.zeros(3, 64, 64)
    image[:, 20, 41] = 1
    large = sample(image=image, points=[(41, 20, 0, 0)], mask=box(64, 64, 20, 41, 21, 42)).resized(192, 128)
    place = large.image[0].argmax()
    x, y = large.points[0][:2]
    assert abs(place % 128 - x) <= 1 and abs(place // 128 - y) <= 1.5
    assert large.mask.nonzero().tolist() == [[y, x] for y in (60, 61, 62) for x in (82, 83)]


def test_the_same_size_is_the_same_sample() -> None:
    given = sample()
    assert given.resized(64, 96) is given


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "a beetle"},
        {"points": [(10, 20, 40, 31)]},
        {"mask": box(64, 96, 10, 5, 50, 61)},
        {"image": picture(64, 96, seed=3)},
    ],
)
def test_the_digest_tells_samples_apart(changes: dict[str, Any]) -> None:
    assert sample().digest == sample().digest != sample(**changes).digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": [(10, 20, 96, 30)]}, r"point \(96, 30\) is off the 96x64 image"),
        ({"points": [(10, -1, 40, 30)]}, r"point \(10, -1\) is off"),
        ({"points": [(10, float("nan"), 40, 30)]}, r"point \(10, nan\) is off"),
        ({"points": [(10, 20, 40)]}, "is not a pair of points"),
        ({"points": []}, "there are no points"),
        ({"mask": box(96, 64, 1, 1, 9, 9)}, r"mask is \(96, 64\), the image 96x64"),
        ({"mask": torch.ones(64, 96)}, "mask is"),
        ({"image": torch.zeros(3, 32, 96)}, "enlarge it to 64 pixels"),
    ],
)
def test_a_wrong_sample_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        sample(**changes)
    assert str(error.value).startswith("animals/sample_7: ")


# Layouts.


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three samples in two categories, written out of order, with the litter of unpacking."""
    place = tmp_path / "DragBench"
    for category, name in (("land_scape", "b"), ("animals", "z"), ("animals", "a")):
        write_sample(sample(category=category, name=name), place)
    (place / "__MACOSX" / "animals" / "a").mkdir(parents=True)
    (place / "__MACOSX" / "animals" / "a" / "meta_data.pkl").write_bytes(b"?")
    (place / ".DS_Store").write_bytes(b"?")
    (place / "animals" / ".DS_Store").write_bytes(b"?")
    (place / "empty").mkdir()
    return place


def test_samples_come_in_order(root: Path) -> None:
    expected = ["animals/a", "animals/z", "land_scape/b"]
    assert [s.label for s in read_samples(root)] == expected == [s.label for s in read_samples(str(root))]


def test_categories_and_a_limit_choose(root: Path) -> None:
    assert [s.label for s in read_samples(root, limit=2)] == ["animals/a", "animals/z"]
    assert [s.label for s in read_samples(root, categories=["land_scape"])] == ["land_scape/b"]
    assert [s.label for s in read_samples(root, categories=["land_scape", "animals"], limit=1)] == ["animals/a"]


def test_a_copy_without_categories_is_read(tmp_path: Path) -> None:
    write_sample(sample(category="", name="art_12"), tmp_path)
    (read,) = read_samples(tmp_path)
    assert (read.category, read.name) == ("art", "art_12")


def test_json_and_mask_are_read_rather_than_a_pickle(root: Path) -> None:
    folder = root / "animals" / "a"
    write_sample(sample(name="a", prompt="from JSON"), root, "json")
    (folder / "meta_data.pkl").write_bytes(b"cos\nsystem\n.")
    assert read_sample(folder).prompt == "from JSON"


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "0 and 1"])
def test_masks_are_read_however_they_were_saved(tmp_path: Path, mode: str) -> None:
    folder = write_sample(sample(), tmp_path, "json")
    white = Image.fromarray(sample().mask.numpy().astype(np.uint8) * (1 if mode == "0 and 1" else 255))
    (white if mode == "0 and 1" else white.convert(mode)).save(folder / "mask.png")
    assert torch.equal(read_sample(folder).mask, sample().mask)


def test_float_masks_and_points_as_an_array_are_read(tmp_path: Path) -> None:
    folder = write_sample(sample(), tmp_path)
    points = np.array([[10, 20], [40, 30.5]])
    content = {"prompt": None, "points": points, "mask": np.zeros((64, 96), np.float32)}
    (folder / "meta_data.pkl").write_bytes(pickle.dumps(content))
    read = read_sample(folder)
    assert read.points == ((10, 20, 40, 30.5),) and read.prompt == "" and not read.mask.any()


def repickle(**changes: Any) -> Callable[[Path], None]:
    content = {"prompt": "a", "points": [[1, 2], [3, 4]], "mask": np.ones((64, 96), np.uint8)}
    left = {key: value for key, value in (content | changes).items() if value is not ...}
    return lambda folder: (folder / "meta_data.pkl").write_bytes(pickle.dumps(left)) and None


def replaced(name: str, data: bytes | None) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink() if data is None else (folder / name).write_bytes(data) and None


def grey(width: int, height: int) -> Callable[[Path], None]:
    return lambda folder: Image.new("L", (width, height)).save(folder / "mask.png")


@pytest.mark.parametrize(
    ("variant", "spoil", "message"),
    [
        ("pkl", replaced("meta_data.pkl", None), "meta_data.pkl cannot be read"),
        ("pkl", replaced("original_image.png", None), "original_image.png is not a file"),
        ("pkl", replaced("original_image.png", b"no image"), "original_image.png is not a readable image"),
        ("pkl", repickle(mask=...), "no dict with 'points' and 'mask'"),
        ("pkl", repickle(points=...), "no dict with 'points' and 'mask'"),
        ("pkl", repickle(mask=[[0, 1]]), "the mask is list"),
        ("pkl", repickle(mask=np.ones((64, 96, 3), np.uint8)), "the mask is \\(64, 96, 3\\)"),
        ("pkl", repickle(mask=np.ones((96, 64), np.uint8)), "mask is \\(96, 64\\), the image 96x64"),
        ("pkl", repickle(points=[[1, 2]]), "1 points: give handle and target in turn"),
        ("pkl", repickle(points=[[1, 2], [3]]), "points.1"),
        ("pkl", repickle(points=[[1, 2], [3, "x"]]), "points.1"),
        ("pkl", repickle(points=[[1, 2], [3, float("inf")]]), "points.1"),
        ("pkl", repickle(points="1234"), "meta_data.pkl: points"),
        ("pkl", repickle(points=[[1, 2], [300, 4]]), "point \\(300, 4\\) is off the 96x64 image"),
        ("pkl", repickle(prompt=3), "meta_data.pkl: prompt"),
        ("json", replaced("drag_instruction.json", b"{"), "drag_instruction.json"),
        ("json", replaced("drag_instruction.json", b'{"prompt": "a"}'), "points: Field required"),
        ("json", replaced("drag_instruction.json", b" " * (2**20 + 1)), "larger than 1 MiB"),
        ("json", replaced("mask.png", None), "mask.png is no readable mask"),
        ("json", replaced("mask.png", b"no image"), "mask.png is no readable mask"),
        ("json", grey(64, 96), "mask.png is 64x96, the image 96x64"),
        ("drag100", replaced("points.json", None), "points.json cannot be read"),
        ("drag100", replaced("points.json", b'{"points": [[1, 2], [3, 4, 5]]}'), "points.1"),
    ],
)
def test_a_spoiled_sample_is_named(tmp_path: Path, variant: str, spoil: Callable[[Path], None], message: str) -> None:
    folder = write_sample(sample(), tmp_path, variant)
    spoil(folder)
    with pytest.raises(InputError, match=message) as error:
        list(read_samples(tmp_path, LAYOUT[variant]))
    assert "sample_7" in str(error.value) and "\n" not in str(error.value)


def test_a_wrong_root_is_refused(root: Path) -> None:
    for call, message in (
        (lambda: sample_folders(root, "zip"), "unknown layout 'zip'"),
        (lambda: sample_folders(root / "none"), "is not a folder"),
        (lambda: sample_folders(root, "drag100"), "no samples in .*; is it another layout"),
        (lambda: sample_folders(root, limit=0), "limit is 0"),
        (
            lambda: sample_folders(root, categories=["animals", "cars"]),
            "no category 'cars' in .*: choose from animals, land_scape",
        ),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_finding_samples_opens_none(root: Path) -> None:
    (root / "animals" / "a" / "meta_data.pkl").write_bytes(b"cos\nsystem\n.")
    assert [folder.name for _, folder in sample_folders(root)] == ["a", "z", "b"]
    with pytest.raises(InputError, match="os.system"):
        list(read_samples(root))


def test_json_points_are_those_of_the_pickle(tmp_path: Path) -> None:
    folder = write_sample(sample(), tmp_path, "json")
    assert json.loads((folder / "drag_instruction.json").read_text()) == {
        "prompt": "ein Käfer",
        "points": [[10, 20], [40, 30], [0, 0], [95, 63]],
    }
