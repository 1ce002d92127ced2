"""A trace on its way to the browser: each step is one block of bytes that says what it holds.

A block is the length of its header (uint32, little-endian), the header (JSON), and the parts that the header points to:
the picture as a PNG or JPEG file, the gradient and the attention maps as int16 with a scale. Blocks are sent once each,
whole traces as a list of them, and the newest alone while an edit runs. They hold the target's mean attention; a single
cell's is sent when a page asks for it, for all cells together would be some tens of megabytes.
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dragonkit.trace import Look, Trace

EXACT = 256 * 256  # pixels; a picture that has more goes as JPEG, a tenth of the bytes and a tenth of the time
LEVELS = 32767  # of int16


def blocks(trace: Trace, chosen: Iterable[int], most: int, pictures: dict[int, Image.Image]) -> Iterator[bytes]:
    """The steps of a trace as blocks of bytes.

    Args:
        trace: what was kept of a run.
        chosen: indices of steps, in the order of the run.
        most: a picture whose longer side is longer is scaled down to it.
        pictures: the predicted images of those steps that have one.
    """
    energies = trace.energies
    for k in chosen:
        parts = _Parts()
        terms = {name: _finite(values[k]) for name, values in energies.items()}
        head: dict[str, Any] = {"i": trace.steps[k], "visit": trace.visits[k], "t": trace.timesteps[k]}
        head["energies"] = {name: value for name, value in terms.items() if value is not None}
        if k in pictures:
            head["frame"] = parts.file(pictures[k], most)
        grad = trace.grads[k] if k < len(trace.grads) else None
        if grad is not None:
            head["norm"] = _finite(grad.float().norm().item())
            head["grad"] = parts.grid(grad[0]) | {"shape": list(grad.shape[1:])}
        looks = trace.attention[k]
        head["looks"] = parts.looks(looks)
        head["single"] = any(look.rows is not None for look in looks.values())
        yield parts.block(head)


def gazes(trace: Trace, chosen: Iterable[int], pin: tuple[int, int], size: tuple[int, int]) -> Iterator[bytes]:
    """Where one pixel's cell looks, a block a step; a layer in which it was not observed is left out.

    Args:
        trace: what was kept of a run.
        chosen: indices of steps, in the order of the run.
        pin: the pixel (x, y).
        size: (width, height) of the edited picture.
    """
    for k in chosen:
        found = {name: look.of(pin, size) for name, look in trace.attention[k].items()}
        parts = _Parts()
        yield parts.block({"looks": parts.looks({name: look for name, look in found.items() if look is not None})})


def encoded(image: Image.Image, most: int) -> tuple[bytes, str]:
    """A picture as a file and its media type: exact if it is small, else a JPEG of high quality.

    Args:
        image: of mode RGB.
        most: its longer side is made no longer than this.
    """
    if max(image.size) > most:
        image = image.copy()
        image.thumbnail((most, most), Image.Resampling.BOX)
    file = io.BytesIO()
    if image.width * image.height <= EXACT:
        image.save(file, format="PNG", compress_level=1)
        return file.getvalue(), "image/png"
    image.save(file, format="JPEG", quality=93, subsampling=0)
    return file.getvalue(), "image/jpeg"


class _Parts:
    """The bytes after the header, and where each part lies in them."""

    def __init__(self) -> None:
        self.data = bytearray()

    def put(self, data: bytes) -> dict[str, Any]:
        place = {"start": len(self.data), "length": len(data)}
        self.data += data
        return place

    def file(self, image: Image.Image, most: int) -> dict[str, Any]:
        data, kind = encoded(image, most)
        return self.put(data) | {"type": kind, "width": image.width, "height": image.height}

    def grid(self, x: Tensor) -> dict[str, Any]:
        """Numbers as int16: value = stored * scale, exact to half a scale, 1/65534 of the largest magnitude."""
        x = x.detach().double().cpu()
        scale = x.abs().max().item() / LEVELS
        scale = scale if math.isfinite(scale) and scale > 0 else 1.0
        whole = (x / scale).nan_to_num(0, 0, 0).round().to(torch.int16)
        return self.put(whole.contiguous().numpy().astype("<i2").tobytes()) | {"scale": scale}

    def looks(self, looks: Mapping[str, Look]) -> dict[str, Any]:
        return {name: self.grid(look.weights) | {"shapes": look.shapes} for name, look in looks.items()}

    def block(self, head: dict[str, Any]) -> bytes:
        text = json.dumps(head, allow_nan=False).encode()
        return struct.pack("<I", len(text)) + text + bytes(self.data)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
