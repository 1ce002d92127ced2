"""GuidancePlayer: an edit as a film, with its gradients, its attention and its energies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import traitlets
from PIL import Image

from dragonkit.checks import check_number, check_whole
from dragonkit.errors import InputError
from dragonkit.trace import Trace
from dragonkit_widgets.assets import module, styles
from dragonkit_widgets.base import Base, picture
from dragonkit_widgets.reel import blocks, encoded, gazes
from dragonkit_widgets.still import glow, still


class GuidancePlayer(Base):
    """Plays what a run left behind, or what a run is leaving behind.

    Args:
        trace: what ``edit(..., trace=True)`` kept, or :meth:`dragonkit.trace.Trace.load` read.
        source: the image that was edited.
        answer: the exact answer, where there is one.
        references: the edit's reference images, in its order.
        size: the longer side of a picture on the page, in CSS pixels, from 64.
        fps: steps a second at speed 1, above 0.

    Attributes:
        step: index of the step shown, in the order of the run; settable.
        playing: whether it plays; settable.
        speed: how many times ``fps``; settable.
        loop: whether it starts again at the end.
        pin: the pixel [x, y] that is marked in every picture, or []; settable. If it is edited, and its attention was
            recorded, the page shows where its own cell looks.
        following: whether the newest step is shown as it comes; a person who scrubs ends that.

    Raises:
        InputError: anything given cannot be used.
    """

    _esm = module("common", "heat", "reel", "curves", "deck", "words", "pane", "player")
    _css = styles("common", "player")

    film = traitlets.Int(0).tag(sync=True, to_json=lambda film, player: {"film": film, "blocks": list(player._blocks)})
    step = traitlets.Int(0).tag(sync=True)
    playing = traitlets.Bool(False).tag(sync=True)
    speed = traitlets.Float(1.0).tag(sync=True)
    loop = traitlets.Bool(False).tag(sync=True)
    pin = traitlets.List(traitlets.Int()).tag(sync=True)
    live = traitlets.Bool(False).tag(sync=True)
    following = traitlets.Bool(True).tag(sync=True)
    fps = traitlets.Float(10.0).tag(sync=True)
    size = traitlets.Int(360).tag(sync=True)
    error = traitlets.Unicode().tag(sync=True)
    extent = traitlets.List(traitlets.Int()).tag(sync=True)
    stills = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        trace: Trace | None = None,
        source: Any = None,
        answer: Any = None,
        *,
        references: Sequence[Any] = (),
        size: int = 360,
        fps: float = 10,
    ) -> None:
        check_whole("size", size, 64)
        check_number("fps", fps, positive=True)
        self._blocks: list[bytes] = []
        self._frames: dict[int, Image.Image] = {}
        self.trace: Trace | None = None
        self.source: Image.Image | None = None
        self.answer: Image.Image | None = None
        super().__init__(size=size, fps=float(fps))
        self.on_msg(lambda _, content, buffers: self._asked(content))
        self.show(trace, source, answer, references=references)

    def show(
        self,
        trace: Trace | None,
        source: Any = None,
        answer: Any = None,
        *,
        references: Sequence[Any] = (),
        decode_every: int = 1,
    ) -> None:
        """Show this run and these pictures, and nothing of what was shown before.

        Of a run that is shown or was watched already, the last step alone is decoded, if it has no picture yet.

        Args:
            trace: as in the class, or None.
            source: as in the class.
            answer: as in the class.
            references: as in the class.
            decode_every: decode each such step's picture, and the last one's; decoding may take a while.

        Raises:
            InputError: anything given cannot be used; what was shown remains.
        """
        if trace is not None and not isinstance(trace, Trace):
            raise InputError(f"trace is a {type(trace).__name__}: give result.trace, or Trace.load(folder)")
        check_whole("decode_every", decode_every, 1)
        given = {"source": source, "answer": answer} | {f"reference {k + 1}": x for k, x in enumerate(references)}
        pictures = {name: picture(image) for name, image in given.items() if image is not None}
        watched = trace is not None and trace is self.trace
        frames = _decoded(trace, len(trace) if watched else decode_every) if trace else {}
        frames = self._frames | frames if watched else frames
        sizes = {"trace": next(iter(frames.values())).size} if frames else {}
        sizes |= {name: pictures[name].size for name in ("source", "answer") if name in pictures}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{name} {w}x{h}" for name, (w, h) in sizes.items())
            raise InputError(f"sizes differ ({told}): give pictures of the edited image's size")
        made = list(blocks(trace, range(len(trace)), 2 * self.size, frames)) if trace else []
        self.trace, self.source, self.answer = trace, pictures.get("source"), pictures.get("answer")
        with self.hold_sync():
            self._begin(made, frames)
            self.live = False
            self.extent = list(next(iter(sizes.values()), ()))
            self.stills = {name: _still(image, 2 * self.size) for name, image in pictures.items()}

    def watch(self, decode_every: int = 1) -> Callable[[Trace], None]:
        """What to give as ``on_step`` to :func:`dragonkit.edit`: the newest step is shown as it comes.

        It may be called from any thread, and never ends the edit: what goes wrong is shown as text. Pictures need
        ``trace=True``; without, the energies alone are shown. The first step replaces the run that was shown.

        Args:
            decode_every: decode each such step's picture; the decoder's time is added to the edit's.

        Raises:
            InputError: ``decode_every`` is not a whole number from 1.
        """
        check_whole("decode_every", decode_every, 1)

        def on_step(trace: Trace) -> None:
            try:
                self._append(trace, decode_every)
            except Exception as error:  # the edit matters more than its preview
                self.error = f"no preview of step {len(trace)}: {error}"

        return on_step

    def clear(self) -> None:
        """Show no run and no pictures."""
        self.show(None)

    def face(self) -> Image.Image:
        """Source, the predicted image at the step shown, the answer, where the edit looks, and the energies."""
        before = [k for k in self._frames if k <= self.step]
        newest = self._frames[max(before)] if before else None
        shown = {"source": self.source, f"step {self.step}": newest, "answer": self.answer} | self._looked_at()
        energies = self.trace.energies if self.trace is not None else {}
        return still({name: image for name, image in shown.items() if image is not None}, energies, self.step)

    def _looked_at(self) -> dict[str, Image.Image]:
        """By title, the source under the marked pixel's attention, or else the target's; nothing if there is none."""
        looks = self.trace.attention[self.step] if self.trace is not None and len(self.trace) else {}
        if self.source is None or not looks:
            return {}
        pin = self._inside(self.pin) if self.pin else None
        single = [look.of(pin, self.source.size) for look in looks.values()] if pin else []
        own = [look for look in single if look is not None]
        whose = f"where ({pin[0]}, {pin[1]}) looks" if pin and own else "where the target looks"
        return {whose: glow(self.source, own or list(looks.values()))}

    def _inside(self, pin: Sequence[int]) -> tuple[int, int]:
        """A pixel, moved into the picture."""
        x, y = (min(max(v, 0), n - 1) for v, n in zip(pin, self.extent, strict=True))
        return x, y

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take what the browser says; it may speak of a run that has just been replaced, or of one that has gone on."""
        if "step" in sync_data:
            last = max(len(self._blocks) - 1, 0)
            newest = self.live and sync_data.get("following", self.following)
            sync_data = sync_data | {"step": last if newest else max(0, min(sync_data["step"], last))}
        super().set_state(sync_data)

    def _begin(self, made: list[bytes], frames: dict[int, Image.Image]) -> None:
        """Another run, so far of these steps; its last is shown."""
        self._blocks, self._frames = made, frames
        self.playing, self.following, self.pin, self.error = False, True, [], ""
        self.step = max(len(made) - 1, 0)
        self.film += 1

    def _append(self, trace: Trace, decode_every: int) -> None:
        k = len(trace) - 1
        if trace is not self.trace or k != len(self._blocks):
            self.trace = trace
            self._begin(list(blocks(trace, range(k), 2 * self.size, {})), {})
            self.live = True
        decoded = {k: trace.frames(len(trace))[-1]} if trace.x0 and k % decode_every == 0 else {}
        self._frames |= decoded
        (block,) = blocks(trace, [k], 2 * self.size, decoded)
        if decoded and not self.extent:
            self.extent = list(decoded[k].size)
        self._blocks.append(block)
        self.send({"kind": "blocks", "film": self.film, "first": k}, [block])
        if self.following:
            self.step = k

    def _asked(self, content: Any) -> None:
        """Answer a page: one that has opened or missed steps, and says what it has; or one where a pixel is marked."""
        match content:
            case {"kind": "have"}:
                count = content.get("count") if content.get("film") == self.film else 0
                self._answer("blocks", count if _is_count(count) else 0, lambda steps: self._blocks[steps.start :])
            case {"kind": "look", "film": self.film, "pin": [int(x), int(y)], "first": first}:
                if (trace := self.trace) is not None and self.extent and _is_count(first):
                    pin, size = self._inside([x, y]), (self.extent[0], self.extent[1])
                    self._answer("looks", first, lambda steps: list(gazes(trace, steps, pin, size)), pin=[x, y])

    def _answer(self, kind: str, first: int, made: Callable[[range], list[bytes]], **more: Any) -> None:
        """Send blocks of the steps from the first on, if there are any."""
        steps = range(first, len(self._blocks))
        if steps:
            self.send({"kind": kind, "film": self.film, "first": first} | more, made(steps))

    @traitlets.validate("step")
    def _check_step(self, proposal: Any) -> int:
        last = max(len(self._blocks) - 1, 0)
        check_whole("step", proposal["value"], 0, last)
        return proposal["value"]

    @traitlets.validate("pin")
    def _check_pin(self, proposal: Any) -> list[int]:
        if len(proposal["value"]) not in (0, 2):
            raise InputError(f"pin is {proposal['value']}: give a pixel as [x, y], or []")
        return proposal["value"]

    @traitlets.validate("speed", "fps")
    def _check_speed(self, proposal: Any) -> float:
        check_number(proposal["trait"].name, proposal["value"], positive=True)
        return proposal["value"]

    def __repr__(self) -> str:
        return f"GuidancePlayer({len(self._blocks)} steps)"


def _decoded(trace: Trace, every: int) -> dict[int, Image.Image]:
    """The predicted image of each ``every``-th step and of the last, by step; none if nothing was kept of them."""
    try:
        return dict(zip(range(len(trace))[::-1][::every][::-1], trace.frames(every), strict=True))
    except InputError:
        return {}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _still(image: Image.Image, most: int) -> dict[str, Any]:
    """A picture for the page."""
    data, kind = encoded(image, most)
    return {"data": data, "type": kind, "width": image.width, "height": image.height}
