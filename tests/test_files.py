"""Pictures that cannot be used are refused in one line; results appear whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dragonkit.errors import InputError
from dragonkit.files import (
    MAX_SIDE,
    check_file,
    check_folder,
    read_image,
    read_mask,
    whole_file,
    whole_folder,
    write_image,
)


def save(path: Path, mode: str, size: tuple[int, int] = (20, 10), colour: object = None, **options: object) -> Path:
    Image.new(mode, size, *([] if colour is None else [colour])).save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "1", "LA", "I;16"])
def test_images_of_another_mode_are_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(InputError, match=rf"a\.png is of mode {mode.replace(';', '.')}, not RGB: convert"):
        read_image(save(tmp_path / "a.png", mode))


def test_cmyk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mode CMYK"):
        read_image(save(tmp_path / "a.jpg", "CMYK"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_masks_of_another_mode_are_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(InputError, match=rf"m\.png has mode {mode}: convert"):
        read_mask(save(tmp_path / "m.png", mode))


def test_an_empty_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"m\.png is empty"):
        read_mask(save(tmp_path / "m.png", "1"))


def test_a_mask_that_is_no_png_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="file of type PNG"):
        read_mask(save(tmp_path / "m.jpg", "L", colour=255))


def test_large_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"more than {MAX_SIDE} on a side"):
        read_image(save(tmp_path / "a.png", "RGB", (MAX_SIDE + 1, 64)))


@pytest.mark.filterwarnings("error")
def test_enormous_images_are_refused_without_a_warning(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more than|exceeds"):
        read_image(save(tmp_path / "a.png", "1", (12000, 10000)))
    with pytest.raises(InputError, match="more than|exceeds"):
        read_image(save(tmp_path / "b.png", "1", (20000, 10000)))


@pytest.mark.parametrize("cut", [0, 5, 20, 60, 200])
def test_truncated_images_are_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="broken|not a readable image"):
        read_image(path)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(InputError, match="is not a file"):
            read_image(path)


def test_exif_orientation_is_followed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert read_image(save(tmp_path / "a.jpg", "RGB", (20, 10), exif=exif)).size == (10, 20)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (3, 12, 9), generator=torch.Generator().manual_seed(0))
    write_image(pixels / 255, tmp_path / "a.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png")), pixels.permute(1, 2, 0).numpy())
    mask = torch.rand((7, 5), generator=torch.Generator().manual_seed(1)) > 0.5
    write_image(mask, tmp_path / "m.png")
    assert torch.equal(read_mask(tmp_path / "m.png"), mask)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, error: type[BaseException], existing: bool) -> None:
    out = tmp_path / "a" / "b"
    if existing:
        out.mkdir(parents=True)
        (out / "one").write_text("old")
    with pytest.raises(error), whole_folder(out) as folder:
        (folder / "one").write_text("new")
        raise error
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert left == (["a", "a/b", "a/b/one"] if existing else [])
    assert not existing or (out / "one").read_text() == "old"


def test_success_moves_everything_and_keeps_strangers(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    for text in ("first", "second"):
        with whole_folder(out) as folder:
            (folder / "one").write_text(text)
        (out / "stranger").write_text("mine")
    assert {p.name: p.read_text() for p in out.iterdir()} == {"one": "second", "stranger": "mine"}
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    assert out.stat().st_mode & 0o777 == (tmp_path / "new").stat().st_mode & 0o777


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(ValueError), whole_file(path) as scratch:
        scratch.write_text("half")
        raise ValueError
    assert path.read_text() == "old"
    with whole_file(path) as scratch:
        scratch.write_text("new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_what_is_written_to_a_folder_that_is_there_never_leaves_it(tmp_path: Path) -> None:
    """Beside it may be another file system, or a folder that may not be written to."""
    out = tmp_path / "out"
    out.mkdir()
    with whole_file(out / "a.txt") as scratch:
        scratch.write_text("new")
        assert [p.name for p in tmp_path.iterdir()] == ["out"] and out in scratch.parents
    assert [p.name for p in out.iterdir()] == ["a.txt"]


def test_an_error_of_the_disk_says_where(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space.*a/b"), whole_folder(tmp_path / "a" / "b"):
        raise OSError(28, "No space left on device")


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        check_folder(tmp_path / "file" / "below")
    with pytest.raises(InputError, match=r"does not end in \.png"):
        check_file(tmp_path / "a.jpg", ".png")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(InputError, match="is a link to nothing"):
        check_folder(tmp_path / "link")
    with pytest.raises(InputError, match="cannot be a folder"):
        check_folder(tmp_path / ("x" * 300))
    with pytest.raises(InputError, match="cannot be a file"):
        check_file(tmp_path / ("x" * 300 + ".png"), ".png")
    with pytest.raises(InputError, match="is a folder"):
        (tmp_path / "b.png").mkdir()
        check_file(tmp_path / "b.png", ".png")
