"""Images and masks from files, and results that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dragonkit.errors import InputError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

MAX_SIDE = 2048  # pixels; a longer side is a photograph that was meant to be scaled down first
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # named, so that Pillow starts no other program to read a file


def read_image(path: Path) -> Image.Image:
    """Read a picture, upright whatever its EXIF orientation.

    Args:
        path: an RGB image file, each side at most ``MAX_SIDE`` pixels.

    Raises:
        InputError: the file is missing, broken, too large or of another mode than RGB.
    """
    from PIL import ImageOps

    image = _open(path, IMAGE_FORMATS)
    if image.mode != "RGB":
        raise InputError(f"{path} is of mode {image.mode}, not RGB: convert it, e.g. Image.open(...).convert('RGB')")
    return ImageOps.exif_transpose(image)


def read_mask(path: Path) -> Tensor:
    """Read a mask: white marks the object, black the rest, the border lies at half grey.

    Args:
        path: a PNG of mode 1 or L.

    Returns:
        Boolean tensor (H, W).

    Raises:
        InputError: the file is missing, broken, too large, of another mode, or has no white in it.
    """
    from dragonkit.regions import as_mask

    return as_mask(_open(path, ("PNG",)), name=str(path))


def write_image(pixels: Tensor, path: Path) -> None:
    """Write an image (3, H, W) in [0, 1], or a mask (H, W) of booleans, as PNG."""
    from PIL import Image

    from dragonkit.trace import to_pil

    picture = to_pil(pixels) if pixels.ndim == 3 else Image.fromarray(pixels.cpu().numpy())
    picture.save(path, format="PNG")


def _open(path: Path, formats: tuple[str, ...]) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise InputError(f"{path} is not a file: give the path of an image, relative to the spec")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked here, before loading
            with Image.open(path, formats=formats) as image:
                if max(image.size) > MAX_SIDE:
                    raise InputError(
                        f"{path} is {image.width}x{image.height} pixels, more than {MAX_SIDE} on a side: scale it down"
                    )
                image.load()
                return image.copy()
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{path} is not a readable image: give a file of type {', '.join(formats)}") from None
    except Exception as error:  # a decoder given broken data may raise anything
        raise InputError(f"{path} is broken ({_first_line(error)}): save the image again") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_folder(out: Path) -> None:
    """Refuse, before any work, a folder that results could not be written to.

    Raises:
        InputError: a file or a broken link is in the way, the name is too long, or the folder or its nearest existing
            parent may not be written to.
    """
    path = out.absolute()
    try:
        there = next(p for p in (path, *path.parents) if p.exists() or p.is_symlink())
    except OSError as error:  # what is in a folder that may not be entered, or has too long a name, cannot be known
        raise InputError(f"{out} cannot be a folder ({error.strerror}): give another place") from None
    if not there.is_dir():
        what = "a file" if there.exists() else "a link to nothing"
        raise InputError(f"{there} is {what}, so {out} cannot be a folder: give another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{there} may not be written to: give another place")


def check_file(path: Path, suffix: str) -> None:
    """Refuse, before any work, a file that a result could not be written to.

    Raises:
        InputError: another suffix, a folder is in the way, or its folder may not be written to.
    """
    if path.suffix.lower() != suffix:
        raise InputError(f"{path} does not end in {suffix}: name a {suffix} file")
    check_folder(path.parent)
    try:
        folder = path.is_dir()
    except OSError as error:
        raise InputError(f"{path} cannot be a file ({error.strerror}): give another place") from None
    if folder:
        raise InputError(f"{path} is a folder: name a {suffix} file")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder; only if the block ends well do its files move into ``out``.

    Files of the same names are replaced, one atomic rename each; others in ``out`` are left alone. An exception or an
    interrupt leaves nothing behind.
    """
    check_folder(out)
    made = [p for p in (out, *out.parents) if not p.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    # Inside what is there already: beside it may be another file system, or a folder that is not ours to write to.
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out if out.exists() else out.parent))
    try:
        yield scratch
        scratch.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        if out.exists():
            for file in sorted(scratch.iterdir()):
                file.replace(out / file.name)
            scratch.rmdir()
        else:
            scratch.rename(out)
    except BaseException as error:
        shutil.rmtree(scratch, ignore_errors=True)
        for folder in made[1:]:
            with suppress(OSError):  # someone else has put a file there
                folder.rmdir()
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(out)  # a full disk is not said to be whose
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it takes the place of ``path`` only if the block ends well."""
    with whole_folder(path.parent) as folder:
        yield folder / path.name


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
