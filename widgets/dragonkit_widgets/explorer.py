"""Where else in a picture, or in another one, the denoiser sees what it sees at a point."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import traitlets
from torch import Tensor

from dragonkit.checks import check_whole
from dragonkit.correspondence import describe, match, similarity_map
from dragonkit.errors import InputError
from dragonkit_widgets.assets import module, styles
from dragonkit_widgets.base import Base, binary, picture, png
from dragonkit_widgets.explorer_face import face
from dragonkit_widgets.extraction import Extraction, Maps
from dragonkit_widgets.packing import pack
from dragonkit_widgets.worker import explained

if TYPE_CHECKING:
    from PIL import Image

    from dragonkit.models import Model
    from dragonkit.world import Counterfactual
    from dragonkit.world.instances import Instances

Point = tuple[float, float]
VIEWS = ["similarity", "components"]


class CorrespondenceExplorer(Base):
    """Point at a picture, and see what every layer finds like it: there, and in a second picture.

    Features are extracted when a timestep is first looked at, off the notebook's thread, and sent to the browser once;
    similarities (Eq. 4) and best matches are computed there, as :func:`dragonkit.correspondence.similarity_map` and
    :func:`dragonkit.correspondence.match` do. ``point``, ``layers``, ``layer``, ``timestep``, ``view`` and ``opacity``
    can be read and set; ``match``, ``error`` and ``similarity()`` are computed here, from the same features.

    Args:
        model: from :func:`dragonkit.load`.
        image_a: the picture to point at; what :func:`dragonkit.regions.as_image` takes.
        image_b: the picture to find the point in; None looks at ``image_a`` alone.
        layers: decoder layers, any of 1 to 4; all are shown at first.
        timesteps: training timesteps from 0 (clean) to 999; 261 is shown first, or the one nearest to it.
        prompt: what the first picture shows.
        prompt_b: what the second shows; None takes ``prompt``.
        components: most dimensions in which vectors are sent; None sends whole vectors, unless these are many (see
            :mod:`dragonkit_widgets.packing`). Where fewer are sent the widget says "approximate".
        truth: float (2, H, W), where (x, y) each pixel of ``image_a`` is in ``image_b``; nan where that is not known.
        size: longest side of a picture on the screen, CSS pixels.
        draws: draws of noise whose features are averaged; the two pictures get different ones.
        seed: of the first draw.

    Raises:
        InputError: anything given cannot be used; nothing has been computed.
    """

    _esm = module("common", "features", "shelf", "panel", "explorer")
    _css = styles("common", "explorer")

    point = traitlets.Any(None, allow_none=True).tag(sync=True)
    layers = traitlets.Any().tag(sync=True)
    layer = traitlets.Int().tag(sync=True)
    timestep = traitlets.Int().tag(sync=True)
    view = traitlets.Unicode("similarity").tag(sync=True)
    opacity = traitlets.Float(0.6).tag(sync=True)
    _layers: traitlets.List[int] = traitlets.List().tag(sync=True)
    _timesteps: traitlets.List[int] = traitlets.List().tag(sync=True)
    _size = traitlets.Int().tag(sync=True)
    _image_a = binary()
    _image_b = binary()
    _truth = binary()

    def __init__(
        self,
        model: Model,
        image_a: Any,
        image_b: Any = None,
        *,
        layers: Iterable[int] = (1, 2, 3, 4),
        timesteps: Iterable[int] = (1, 101, 261, 481),
        prompt: str = "",
        prompt_b: str | None = None,
        components: int | None = None,
        truth: Tensor | None = None,
        size: int = 360,
        draws: int = 1,
        seed: int = 0,
    ) -> None:
        images = (image_a,) if image_b is None else (image_a, image_b)
        prompts = (prompt, prompt if prompt_b is None else prompt_b)[: len(images)]
        check_whole("size", size, 100, 2000)
        if components is not None:
            check_whole("components", components, 3)
        self.pictures: tuple[Image.Image, ...] = tuple(picture(image) for image in images)
        self._flow = None if truth is None else _checked_truth(truth, self.pictures)
        self._extraction = Extraction(model, images, prompts, layers, timesteps, draws, seed)
        self._components, self._thread = components, ThreadPoolExecutor(1)
        known = self._extraction
        super().__init__(
            _layers=known.layers,
            _timesteps=known.timesteps,
            _size=size,
            _image_a=png(self.pictures[0]),
            _image_b=png(self.pictures[1]) if len(images) > 1 else b"",
            _truth=b"" if self._flow is None else self._flow.numpy().tobytes(),
            layers=known.layers,
            layer=min(known.layers, key=lambda k: (abs(k - 3), k)),
            timestep=min(known.timesteps, key=lambda t: abs(t - 261)),
        )
        self.on_msg(self._asked)

    @classmethod
    def of(cls, model: Model, case: Counterfactual, **options: Any) -> CorrespondenceExplorer:
        """An edit of the bundled world, before and after: where each point of the object went is known exactly.

        Args:
            model: from :func:`dragonkit.load`.
            case: from :func:`dragonkit.world.counterfactual`.
            options: of the class, for instance ``layers``; those that the case does not settle.
        """
        from dragonkit.world import caption

        prompts = {"prompt": case.prompt, "prompt_b": caption(case.scene_after)}
        return cls(model, case.before.image, case.after.image, **{**prompts, "truth": case.flow, **options})

    @classmethod
    def of_instances(cls, model: Model, two: Instances, **options: Any) -> CorrespondenceExplorer:
        """Two different objects of one shape: which point of one is which of the other is known exactly.

        Args:
            model: from :func:`dragonkit.load`.
            two: from :func:`dragonkit.world.instances.instances`.
            options: of the class.
        """
        given = {"prompt": two.prompts[0], "prompt_b": two.prompts[1], "truth": two.flow}
        return cls(model, two.renders[0].image, two.renders[1].image, **{**given, **options})

    def features(self, t: int | None = None) -> Maps:
        """Features of the pictures at one of the timesteps, extracted at the first call: layer -> map, for each.

        Args:
            t: None takes the one that is shown.

        Raises:
            InputError: it is none of ``timesteps``.
        """
        t = self.timestep if t is None else t
        if t not in self._timesteps:
            raise InputError(f"timestep is {t!r}: choose from {', '.join(map(str, self._timesteps))}")
        return self._extraction.at(t)

    def similarity(self, point: Point | None = None) -> Tensor:
        """S of Eq. 4 between a point and every place of the second picture (of the only one), at the chosen layer.

        Args:
            point: (x, y) in the first picture's pixels; None takes the pinned one.

        Returns:
            Float32 (h, w) in [0, 1], on the layer's grid.

        Raises:
            InputError: no point is pinned, or it is off the picture.
        """
        if point is None and self.point is None:
            raise InputError("no point is pinned: click one in the picture, or give one")
        maps = [found[self.layer] for found in self.features()]
        return similarity_map(describe(maps[0], self.point if point is None else point), maps[-1])

    @property
    def match(self) -> tuple[float, float, float] | None:
        """The pinned point's best match: x, y in the second picture's pixels, and S; None without a point or picture.

        It is computed from whole vectors, be they sent reduced or not.
        """
        if self.point is None or len(self.pictures) < 2:
            return None
        source, target = (found[self.layer] for found in self.features())
        best = match(source, target, [self.point])
        x, y = best.found[0].tolist()
        return x, y, float(best.score[0])

    @property
    def truth(self) -> Point | None:
        """Where the pinned point (its nearest pixel) really is in the second picture; None if that is not known."""
        if self.point is None or self._flow is None:
            return None
        column, row = (min(int(v + 0.5), n - 1) for v, n in zip(self.point, self.pictures[0].size, strict=True))
        x, y = (self._flow[:, row, column].double() + torch.tensor(self.point) - torch.tensor([column, row])).tolist()
        return (x, y) if np.isfinite(x) else None

    @property
    def error(self) -> float | None:
        """How far the best match is from the truth, in pixels; None if either is not there."""
        found, truth = self.match, self.truth
        return None if found is None or truth is None else float(np.hypot(found[0] - truth[0], found[1] - truth[1]))

    def face(self) -> Image.Image:
        """The pictures with the point, and its similarity map and best match if features are there already."""
        maps = []
        if self.point is not None and self.timestep in self._extraction:
            found = [one[self.layer] for one in self.features()]
            query = describe(found[0], self.point)
            maps = [(similarity_map(query, one), one.frame) for one in found]
        marks = (self.point, self.match if maps else None, self.truth)
        return face(self.pictures, maps, marks, self.opacity, self._size)

    def close(self) -> None:
        """Take the widget away, and its features out of memory."""
        if hasattr(self, "_thread"):  # a widget that was refused is closed too
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._extraction.clear()
        super().close()

    def __repr__(self) -> str:
        point = "None" if self.point is None else "({:.1f}, {:.1f})".format(*self.point)
        return f"CorrespondenceExplorer(point={point}, layer={self.layer}, timestep={self.timestep})"

    @traitlets.validate("point")
    def _point(self, proposal: Any) -> Point | None:
        if proposal["value"] is None:
            return None
        return _checked_point(proposal["value"], self.pictures[0].size)

    @traitlets.validate("layers")
    def _shown(self, proposal: Any) -> list[int]:
        value = proposal["value"]
        if not isinstance(value, (list, tuple, set)) or not set(value) <= set(self._layers):
            raise InputError(f"layers are {value!r}: choose from {self._layers}")
        return sorted(set(value))

    @traitlets.validate("layer", "timestep", "view", "opacity")
    def _one(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if name == "opacity":
            if not 0 <= value <= 1:
                raise InputError(f"opacity is {value!r}: give a number from 0 to 1")
            return value
        choices: dict[str, list[Any]] = {"layer": self._layers, "timestep": self._timesteps, "view": VIEWS}
        known = choices[name]
        if value not in known:
            raise InputError(f"{name} is {value!r}: choose from {', '.join(map(str, known))}")
        return value

    def _asked(self, _: Any, content: Any, buffers: Any) -> None:
        """The browser wants the features of a timestep; it is told when they are there."""
        for t in self._timesteps:
            if content == {"ask": t}:
                self._thread.submit(self._answer, t)

    def _answer(self, t: int) -> None:
        try:
            found = self.features(t)
            packed = pack([[one[layer] for one in found] for layer in self._layers], self._components)
        except Exception as error:  # whatever it is, the widget says it: nobody would see a thread's traceback
            self.send({"t": t, "error": explained(error)})
            return
        headers = [header for layer in packed for header in layer.headers]
        self.send({"t": t, "maps": headers}, [buffer for layer in packed for buffer in layer.buffers])


def _checked_point(value: Any, size: tuple[int, int]) -> Point:
    try:
        x, y = (float(v) for v in value)
    except (TypeError, ValueError):
        raise InputError(f"point is {value!r}: give (x, y) in pixels, or None") from None
    if not (-0.5 <= x <= size[0] - 0.5 and -0.5 <= y <= size[1] - 0.5):
        raise InputError(f"point ({x:g}, {y:g}) is off the {size[0]}x{size[1]} image: move it in")
    return x, y


def _checked_truth(truth: Any, pictures: tuple[Image.Image, ...]) -> Tensor:
    width, height = pictures[0].size
    if len(pictures) < 2:
        raise InputError("truth is given without image_b: it says where points of image_a are there")
    flow = torch.as_tensor(truth).detach().cpu().float()
    if flow.shape != (2, height, width):
        raise InputError(
            f"truth is {tuple(flow.shape)}: give (2, {height}, {width}), a place for each pixel of image_a"
        )
    return flow.contiguous()
