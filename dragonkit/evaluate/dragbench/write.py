"""Drag samples to disk, in the benchmarks' own layouts: to try the whole pipe offline, and to see the format."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from dragonkit.errors import InputError
from dragonkit.evaluate.dragbench.sample import DragSample, sample_of
from dragonkit.files import whole_folder, write_image
from dragonkit.trace import to_pil

if TYPE_CHECKING:
    from dragonkit.world import Counterfactual

VARIANTS = ("pkl", "json", "drag100")
"""DragBench with meta_data.pkl, DragBench with drag_instruction.json and mask.png, Drag100."""


def write_dragbench(cases: Iterable[Counterfactual], root: str | Path, variant: str = "pkl") -> list[Path]:
    """Write cases of the bundled world as a drag benchmark.

    ```python
    write_dragbench((counterfactual("drag", seed) for seed in range(4)), "out/dragbench")
    ```

    Args:
        cases: what `dragonkit.world.counterfactual` returned, of kinds that move points.
        root: the benchmark's folder; samples of the same names are replaced.
        variant: one of ``VARIANTS``.

    Returns:
        The samples' folders.

    Raises:
        InputError: an unknown variant, or a case in which nothing moves.
    """
    return [write_sample(sample_of(case), root, variant) for case in cases]


def write_sample(sample: DragSample, root: str | Path, variant: str = "pkl") -> Path:
    """Write one sample below a benchmark's folder.

    Args:
        sample: what to write; its points are rounded to whole pixels.
        root: the benchmark's folder.
        variant: one of ``VARIANTS``; Drag100 has neither categories nor prompts, and its image is a JPEG.

    Returns:
        The sample's folder.

    Raises:
        InputError: there is no such variant.
    """
    if variant not in VARIANTS:
        raise InputError(f"unknown variant {variant!r}: choose from {', '.join(VARIANTS)}")
    flat = [[round(x), round(y)] for x0, y0, x1, y1 in sample.points for x, y in ((x0, y0), (x1, y1))]
    out = Path(root) / sample.name if variant == "drag100" else Path(root) / sample.category / sample.name
    with whole_folder(out) as folder:
        if variant == "drag100":
            to_pil(sample.image).save(folder / "original.jpg", quality=95, subsampling=0)
            drawn(sample).save(folder / "image_with_points.jpg", quality=95)
            Image.fromarray(sample.mask.numpy().astype(np.uint8) * 255).save(folder / "mask.png")
            (folder / "points.json").write_text(json.dumps({"points": flat}), encoding="utf-8")
            return out
        write_image(sample.image, folder / "original_image.png")
        drawn(sample).save(folder / "user_drag.png")
        if variant == "json":
            Image.fromarray(sample.mask.numpy().astype(np.uint8) * 255).save(folder / "mask.png")
            said = {"prompt": sample.prompt, "points": flat}
            (folder / "drag_instruction.json").write_text(json.dumps(said, indent=4), encoding="utf-8")
        else:
            content = {"prompt": sample.prompt, "points": flat, "mask": sample.mask.numpy().astype(np.uint8)}
            (folder / "meta_data.pkl").write_bytes(pickle.dumps(content, protocol=4))
    return out


def drawn(sample: DragSample) -> Image.Image:
    """The annotation on the image: what must stay darkened, handles red, targets blue, arrows white."""
    may_change = sample.mask if sample.mask.any() else ~sample.mask
    picture = to_pil(sample.image * (0.7 + 0.3 * may_change))
    pen, r = ImageDraw.Draw(picture), max(2, round(min(sample.size) / 100))
    for x0, y0, x1, y1 in sample.points:
        pen.line((x0, y0, x1, y1), fill="white", width=max(1, r // 2))
        pen.ellipse((x0 - r, y0 - r, x0 + r, y0 + r), fill="red", outline="white")
        pen.ellipse((x1 - r, y1 - r, x1 + r, y1 + r), fill="blue", outline="white")
    return picture
