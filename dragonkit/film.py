"""Pictures of tensors, and films of pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dragonkit.errors import InputError
from dragonkit.files import check_file, whole_file

PathLike = str | os.PathLike[str]


def to_pil(image: Tensor) -> Image.Image:
    """An image (3, H, W) in [0, 1] as a PIL image, rounded to 8 bits."""
    array = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return Image.fromarray(array.numpy())


def write_gif(frames: Sequence[Image.Image], path: PathLike, fps: float = 10) -> Path:
    """Write pictures as an endless GIF, whole or not at all.

    A GIF has 256 colours a frame and counts time in hundredths of a second; equal frames in a row become one that is
    shown for longer.

    Args:
        frames: at least one, RGB, all of one size, which is the film's.
        path: ends in .gif.
        fps: frames a second, above 0 and at most 50.

    Raises:
        InputError: a value is not usable, or the file cannot be written there.
    """
    path = _checked(path, ".gif", fps, 50)
    with whole_file(path) as draft:
        shown = round(100 / fps) * 10  # milliseconds
        first, *others = [frame.quantize(256, kmeans=1) for frame in frames]  # kmeans: a quarter less error
        first.save(draft, format="GIF", save_all=True, append_images=others, duration=shown, loop=0)
    return path


def write_mp4(frames: Sequence[Image.Image], path: PathLike, fps: float = 10) -> Path:
    """Write pictures as an H.264 film that browsers play, whole or not at all.

    Args:
        frames: at least one, RGB, all of one size. The film has that size, never scaled; an odd side, which the format
            does not have, repeats its last row or column.
        path: ends in .mp4.
        fps: frames a second, above 0 and at most 240.

    Raises:
        InputError: a value is not usable, or the file cannot be written there.
    """
    path = _checked(path, ".mp4", fps, 240)
    import av

    width, height = frames[0].size
    with whole_file(path) as draft, av.open(str(draft), "w", format="mp4") as film:
        stream = film.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "14"})
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        for frame in frames:
            pixels = np.pad(np.asarray(frame), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        film.mux(stream.encode())
    return path


def _checked(path: PathLike, suffix: str, fps: float, most: float) -> Path:
    number = isinstance(fps, (int, float)) and not isinstance(fps, bool) and math.isfinite(fps)
    if not number or not 0 < fps <= most:
        raise InputError(f"fps is {fps!r}: give frames a second, above 0 and at most {most}")
    check_file(Path(path), suffix)
    return Path(path)
