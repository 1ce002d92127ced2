"""What all widgets share: pictures and bytes on their way to the browser, and a face where there is no browser."""

from __future__ import annotations

import base64
import io
from abc import ABC, ABCMeta, abstractmethod
from typing import Any

import anywidget
import traitlets
from PIL import Image

from dragonkit.film import to_pil
from dragonkit.regions import as_image


def binary(**options: Any) -> traitlets.Bytes:
    """A trait of bytes that goes both ways: what the browser sends arrives as a memoryview, which is no bytes."""
    return traitlets.Bytes(**options).tag(sync=True, from_json=lambda value, widget: bytes(value or b""))


def picture(image: Any) -> Image.Image:
    """An image as a PIL picture of mode RGB.

    Args:
        image: whatever :func:`dragonkit.regions.as_image` takes.

    Raises:
        InputError: it is no usable image.
    """
    return image if isinstance(image, Image.Image) and image.mode == "RGB" else to_pil(as_image(image))


def png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


class Meta(type(anywidget.AnyWidget), ABCMeta):  # type: ignore[misc]  # a base that is computed
    """Of classes that have both traits and abstract methods."""


class Face(ABC):
    """Shows a still picture of a widget wherever no front end draws it: on GitHub, in nbconvert, in an e-mail."""

    @abstractmethod
    def face(self) -> Image.Image:
        """What the widget shows now, drawn in Python."""

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = super()._repr_mimebundle_(**kwargs)  # type: ignore[misc]
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        face = {"text/plain": repr(self), "image/png": base64.b64encode(png(self.face())).decode()}
        return {**data, **face}, {**metadata, "image/png": {"alt": f"the widget {self!r} as a still picture"}}


class Base(Face, anywidget.AnyWidget, metaclass=Meta):
    """A widget with a script of its own."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
