"""The picture of a notebook's first cell: ``python tests/notebooks/thumbnail.py NOTEBOOK CELL`` stores a cell's output.

It goes to images/ beside the notebook, under the notebook's name, at most 720 pixels wide.
"""

import base64
import io
import sys
from pathlib import Path

import nbformat
from PIL import Image

from dragonkit.course.show import paletted


def thumbnail(path: Path, number: int) -> Path:
    """Store the picture that cell ``number`` shows (cells counted from 0, of every type)."""
    cell = nbformat.read(path, as_version=4).cells[number]
    found = [output.data["image/png"] for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    image = Image.open(io.BytesIO(base64.b64decode(found[-1]))).convert("RGB")
    image.thumbnail((720, 720), Image.Resampling.LANCZOS)
    target = path.parent / "images" / f"{path.stem}.png"
    paletted(image).save(target, optimize=True)
    return target


if __name__ == "__main__":
    print(thumbnail(Path(sys.argv[1]), int(sys.argv[2])))
