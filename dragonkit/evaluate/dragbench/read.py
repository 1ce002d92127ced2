"""Drag benchmarks from disk, in the layouts in which they are handed round.

DragBench (Shi et al., DragDiffusion, CVPR 2024), 205 images in ten categories:

    <root>/<category>/<sample>/original_image.png
                               user_drag.png           the annotation drawn on the image, for people
                               meta_data.pkl           {"prompt", "points", "mask"}

``points`` is a flat list of [x, y], handle and target in turn, in pixels of the image; ``mask`` is uint8 (H, W), 1
where the image may change (float32 zeros if none was drawn). Some copies carry ``drag_instruction.json`` (prompt and
points) and ``mask.png`` instead; where both are there, these are read. Copies without categories (DragBench-SR of
RegionDrag: ``<root>/art_0``) are read too; the category is then the name without its number.

Drag100 (Zhang et al., GoodDrag, ICLR 2025):

    <root>/<sample>/original.jpg, mask.png, points.json, image_with_points.jpg

with ``{"points": [[x, y], ...]}`` in the same order, and no prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from dragonkit.errors import InputError
from dragonkit.evaluate.dragbench.sample import DragSample
from dragonkit.evaluate.dragbench.unpickle import load_pickle
from dragonkit.files import read_image

Layout = Literal["dragbench", "drag100"]
LAYOUTS: tuple[str, ...] = get_args(Layout)
LONGEST = 2**20  # bytes of a JSON file of points
_MARKS = {
    "dragbench": ("original_image.png", "meta_data.pkl", "drag_instruction.json"),
    "drag100": ("original.jpg", "points.json"),
}


class _Instruction(BaseModel):
    """What a JSON file says; other fields are left alone."""

    model_config = ConfigDict(allow_inf_nan=False)
    points: list[tuple[float, float]]
    prompt: str = ""


def read_samples(
    root: str | Path,
    layout: str = "dragbench",
    *,
    categories: Sequence[str] | None = None,
    limit: int | None = None,
) -> Iterator[DragSample]:
    """Read a benchmark, one sample after another, by category and name.

    Args:
        root: the benchmark's folder.
        layout: one of ``LAYOUTS``.
        categories: only these; all if None.
        limit: at most so many samples, the first ones.

    Yields:
        Samples, in the same order every time.

    Raises:
        InputError: there is no such layout, folder or category, no sample in it, or a sample is not usable.
    """
    for category, folder in sample_folders(root, layout, categories=categories, limit=limit):
        yield read_sample(folder, layout, category)


def sample_folders(
    root: str | Path,
    layout: str = "dragbench",
    *,
    categories: Sequence[str] | None = None,
    limit: int | None = None,
) -> list[tuple[str, Path]]:
    """Find the samples of a benchmark without opening them: (category, folder) of each, sorted.

    Arguments and errors as of `read_samples`.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}: give the number of samples, at least 1")
    if layout not in LAYOUTS:
        raise InputError(f"unknown layout {layout!r}: choose from {', '.join(LAYOUTS)}")
    root, found = Path(root), []
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give the folder that {layout} was unpacked into")
    for child in _folders(root):
        if _is_sample(child, layout):
            found.append((re.sub(r"_\d+$", "", child.name), child))
        elif layout == "dragbench":
            found += [(child.name, folder) for folder in _folders(child) if _is_sample(folder, layout)]
    if not found:
        where = "<category>/<sample>/original_image.png" if layout == "dragbench" else "<sample>/original.jpg"
        raise InputError(f"no samples in {root}: {layout} has {where}; is it another layout?")
    known = sorted({category for category, _ in found})
    for category in categories or ():
        if category not in known:
            raise InputError(f"no category {category!r} in {root}: choose from {', '.join(known)}")
    return sorted((category, folder) for category, folder in found if not categories or category in categories)[:limit]


def _folders(root: Path) -> list[Path]:
    """The folders in a folder, without hidden ones and __MACOSX."""
    return [p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))]


def _is_sample(folder: Path, layout: str) -> bool:
    return any((folder / name).is_file() for name in _MARKS[layout])


def read_sample(folder: str | Path, layout: str = "dragbench", category: str = "") -> DragSample:
    """Read one sample's folder.

    Raises:
        InputError: a file is missing, broken or refused, or its content does not fit; the message names the sample.
    """
    folder = Path(folder)
    if layout == "drag100":
        image, said = "original.jpg", _instruction(folder / "points.json")
        mask: Any = folder / "mask.png"
    elif (folder / "drag_instruction.json").is_file():  # no need to open the pickle
        image, said = "original_image.png", _instruction(folder / "drag_instruction.json")
        mask = folder / "mask.png"
    else:
        image, (said, mask) = "original_image.png", _pickled(folder / "meta_data.pkl")
    picture = read_image(folder / image)
    flat = said.points
    if len(flat) % 2:
        raise InputError(f"{folder}: {len(flat)} points: give handle and target in turn, so an even number")
    return DragSample(
        image=picture,
        points=[(*flat[i], *flat[i + 1]) for i in range(0, len(flat), 2)],
        mask=_mask_file(mask, picture.size) if isinstance(mask, Path) else _mask_array(mask, folder),
        prompt=said.prompt,
        category=category,
        name=folder.name,
    )


def _instruction(path: Path) -> _Instruction:
    try:
        if path.stat().st_size > LONGEST:
            raise InputError(f"{path} is larger than {LONGEST >> 20} MiB: that is no list of points")
        return _Instruction.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): is the benchmark complete?") from None
    except ValidationError as error:
        raise InputError(f"{path}: {_first(error)}") from None


def _pickled(path: Path) -> tuple[_Instruction, Any]:
    """Prompt and points, and the mask as it is, of a ``meta_data.pkl``."""
    content = load_pickle(path)
    if not isinstance(content, dict) or not {"points", "mask"} <= content.keys():
        raise InputError(f"{path}: it is no dict with 'points' and 'mask': is it DragBench's meta_data.pkl?")
    points = content["points"]
    if isinstance(points, np.ndarray):
        points = points.tolist()
    try:
        return _Instruction(points=points, prompt=content.get("prompt") or ""), content["mask"]
    except ValidationError as error:
        raise InputError(f"{path}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}; points are a list of [x, y]"


def _mask_array(mask: Any, folder: Path) -> Tensor:
    """Set where not 0: annotators' masks are 0 and 1, and some copies' 0 and 255."""
    if not isinstance(mask, np.ndarray) or mask.ndim != 2:
        shape = mask.shape if isinstance(mask, np.ndarray) else type(mask).__name__
        raise InputError(f"{folder}: the mask is {shape}: give an array (height, width)")
    return torch.from_numpy(mask != 0)


def _mask_file(path: Path, size: tuple[int, int]) -> Tensor:
    """A mask's PNG, grey or in colours of grey: white is 255, or 1 if nothing is brighter."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as picture:
            if picture.size != size:  # looked at before anything is decoded
                raise InputError(
                    f"{path} is {picture.width}x{picture.height}, the image {size[0]}x{size[1]}: redraw it"
                )
            grey = np.asarray(picture.convert("L"))
    except InputError:
        raise
    except Exception as error:  # a decoder given broken data may raise anything
        raise InputError(f"{path} is no readable mask ({type(error).__name__}): fetch it again") from None
    return torch.from_numpy(grey >= 128 if grey.max() > 1 else grey == 1)
