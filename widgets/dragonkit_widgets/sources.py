"""Where the studio's pictures come from: bundled and sampled scenes, files, and the model itself."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from dragonkit.data import data_path
from dragonkit.errors import InputError
from dragonkit.files import IMAGE_FORMATS, read_image
from dragonkit.film import to_pil
from dragonkit.inversion import Keep
from dragonkit.regions import SMALLEST, as_image
from dragonkit.schedule import Schedule
from dragonkit.world import Scene, caption, counterfactual, render, sample_scene

if TYPE_CHECKING:
    from dragonkit.editor import Bar
    from dragonkit.generation import Generated
    from dragonkit.guidance import Guidance
    from dragonkit.models import Model
    from dragonkit.world import Counterfactual

LARGEST = 512
"""Longest side of a picture to edit, in pixels; larger ones are scaled down."""
MOST_PIXELS = 100_000_000
"""Of a file; more are not even decoded."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture to edit or to draw on.

    Args:
        image: mode RGB, no side over ``LARGEST``.
        prompt: what it shows.
        note: what the user should know of it, in one line.
        case: if it came from the world as the start of an edit, that edit and its exact answer.
        made: if the model generated it, the picture with its path.
    """

    image: Image.Image
    prompt: str = ""
    note: str = ""
    case: Counterfactual | None = None
    made: Generated | None = None


def given(image: Any, prompt: str = "") -> Picture:
    """Anything that :func:`dragonkit.regions.as_image` takes, scaled down if it is large.

    Raises:
        InputError: it is no usable image.
    """
    picture = image if isinstance(image, Image.Image) and image.mode == "RGB" else to_pil(as_image(image))
    return fitted(picture, prompt)


def fitted(image: Image.Image, prompt: str = "", size: tuple[int, int] | None = None) -> Picture:
    """An image of mode RGB, scaled down to ``LARGEST`` if it is larger.

    Args:
        image: the image.
        prompt: what it shows.
        size: (width, height) that it once had, for the note.

    Raises:
        InputError: a side is shorter than :data:`dragonkit.regions.SMALLEST` pixels, then.
    """
    width, height = size or image.size
    factor = min(1.0, LARGEST / max(image.size))
    now = tuple(max(1, round(side * factor)) for side in image.size)
    if min(now) < SMALLEST:
        raise InputError(f"the image is {width}x{height}: give one of {SMALLEST} pixels a side or more, less elongated")
    small = image.resize((now[0], now[1]), Image.Resampling.LANCZOS, reducing_gap=3.0) if now != image.size else image
    scaled = f"scaled down from {width}x{height} to {now[0]}x{now[1]}" if now != (width, height) else ""
    return Picture(small, prompt, scaled)


def opened(data: bytes, name: str, size: tuple[int, int] | None = None) -> Picture:
    """The bytes of an image file, upright whatever its EXIF orientation, transparency laid over white.

    Args:
        data: the file's content.
        name: what to call it in an error.
        size: (width, height) before something on the way scaled it down.

    Raises:
        InputError: it is no image, broken, or too small or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked here
            with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as file:
                if file.width * file.height > MOST_PIXELS:
                    raise InputError(f"{name} is {file.width}x{file.height} pixels: scale it down")
                size = size or file.size
                file.draft("RGB", (2 * LARGEST, 2 * LARGEST))  # a large JPEG need not be decoded in full
                image = ImageOps.exif_transpose(file)
                image.load()
    except InputError:
        raise
    except Exception:  # a decoder given broken data may raise anything
        raise InputError(f"{name} is not a readable image: give a {', '.join(IMAGE_FORMATS)} file") from None
    if image.mode != "RGB":
        layers = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    turned = (image.width > image.height) != (size[0] > size[1])
    return fitted(image, size=(size[1], size[0]) if turned else size)


def examples() -> list[str]:
    """Names of the bundled scenes."""
    return sorted(path.stem for path in data_path("scenes").glob("*.png"))


def example(name: str) -> Picture:
    """A bundled scene by its name."""
    scene = Scene.from_json(data_path("scenes", f"{name}.json").read_text(encoding="utf-8"))
    return Picture(read_image(data_path("scenes", f"{name}.png")), caption(scene))


def sampled(seed: int) -> Picture:
    """A random scene."""
    scene = sample_scene(seed)
    return Picture(to_pil(render(scene).image), caption(scene))


def answered(kind: str, seed: int) -> Picture:
    """A scene with an edit whose exact answer is known; its points and masks are the case's own."""
    case = counterfactual(kind, seed, "train")
    return Picture(to_pil(case.before.image), case.prompt, "the exact answer is known", case)


def generated(model: Model, prompt: str, seed: int, w: Guidance, bar: Bar) -> Picture:
    """An image of a prompt, made so that an edit as ``w`` describes it needs no inversion.

    Args:
        model: what makes it.
        prompt: what to show.
        seed: of its noise.
        w: gives the steps and the classifier-free guidance scale.
        bar: as ``progress`` of :func:`dragonkit.edit`.
    """
    keep = Keep.wanted(w, Schedule(model, w.steps))
    shown = bar("generating", w.steps)
    made = model.generate(prompt, seed, steps=w.steps, cfg=w.cfg, keep=keep, progress=shown)
    note = f"generated with seed {seed}: edits of {w.steps} steps at cfg {w.cfg:g} need no inversion"
    return Picture(made.image, prompt, note, made=made)
