"""What :func:`dragonkit.edit` returns."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from dragonkit.errors import InputError
from dragonkit.files import whole_file
from dragonkit.film import to_pil

if TYPE_CHECKING:
    from dragonkit.trace.trace import Trace


@dataclass(frozen=True, eq=False)
class Result:
    """An edited image and what it took.

    Args:
        tensor: float32 (3, H, W) in [0, 1], on the CPU.
        latent: (1, C, h, w), the edited latent.
        trace: energies by step, and more if the run was traced.
        nfe: denoiser evaluations, inversion included; a classifier-free pair counts once.
        seconds: wall clock, encoding and decoding included.
    """

    tensor: Tensor
    latent: Tensor
    trace: Trace
    nfe: int
    seconds: float

    @property
    def image(self) -> Image.Image:
        """The edited image, 8 bits a channel."""
        return to_pil(self.tensor)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the image whole or not at all; the suffix names the format.

        Raises:
            InputError: the suffix is not that of an image format.
        """
        path = Path(path)
        form = Image.registered_extensions().get(path.suffix.lower())
        if form is None or form not in Image.SAVE:
            raise InputError(f"{path.name!r} has no suffix of an image format: name it .png, .jpg or .webp")
        with whole_file(path) as draft:
            self.image.save(draft, format=form)
        return path

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        data = io.BytesIO()
        self.image.save(data, format="PNG")
        return {"image/png": data.getvalue(), "text/plain": repr(self)}, {"image/png": {"alt": "the edited picture"}}

    def __repr__(self) -> str:
        h, w = self.tensor.shape[1:]
        return f"Result({w}x{h}, {self.nfe} evaluations, {self.seconds:.1f} s)"
