"""Edits with exact answers: change the scene, render it again, and every pixel of the right result is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dragonkit.checks import check_whole
from dragonkit.errors import InputError

from .camera import CAMERA, project
from .render import Render, geometry, render, to_world
from .scene import COLOURS, SPLITS, Object, Scene, apart, caption, random_object, random_scene, stream

if TYPE_CHECKING:
    from dragonkit.edits import Edit

_TRIES = 400
_MARGIN = 4  # pixels of a 256-pixel picture that an edited object keeps from the frame
_VISIBLE = 0.92  # share of an edited object that its neighbours must leave uncovered, before and after


Pair = tuple[float, float, float, float]
"""(x0, y0, x1, y1), pixels: from there to there."""


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """An edit of a picture and its exact answer, H = W = size.

    Attributes:
        kind: one of ``KINDS``.
        seed: what it was drawn from.
        prompt: the caption of the scene before; for "appearance" none, for it would name the look that is to go, and
            the model does as it is told.
        scene: the scene before.
        scene_after: the scene after; ``index`` is the edited object in both.
        index: which object is edited.
        before: the picture to edit.
        after: the exact answer.
        mask: (H, W) bool, the object before.
        target: (H, W) bool, the object in the exact answer.
        flow: (2, H, W) float32, where (x, y) each pixel of ``mask`` is in the exact answer; nan where it is not seen.
        reference: for "appearance", the picture that shows the new appearance, else None.
        reference_mask: (H, W) bool, the object in it.
        reference_prompt: what it is inverted under; none, like the prompt.
    """

    kind: str
    seed: int
    prompt: str
    scene: Scene
    scene_after: Scene
    index: int
    before: Render
    after: Render
    mask: Tensor
    target: Tensor
    flow: Tensor
    reference: Render | None = None
    reference_mask: Tensor | None = None
    reference_prompt: str = ""

    @property
    def similarity(self) -> tuple[float, float, float]:
        """The move and scale (dx, dy, scale), in pixels about the mask's mean, that fit the true flow best."""
        start, end = self._matches()
        centre = _pixels(self.mask).mean(1)
        a, b = start - start.mean(1, keepdim=True), end - end.mean(1, keepdim=True)
        scale = float((a * b).sum() / (a * a).sum())
        dx, dy = (end.mean(1) + scale * (centre - start.mean(1)) - centre).tolist()
        return round(dx, 2), round(dy, 2), round(scale, 4)

    def points(self, count: int = 3) -> list[Pair]:
        """Up to ``count`` true point pairs (x0, y0, x1, y1) in pixels, far apart, those that move most first."""
        start, end = self._matches(inner=True)
        travel = (end - start).norm(dim=0)
        chosen = self._apart(start, count, travel, travel >= 0.35 * travel.max())
        return _pairs(start[:, chosen], end[:, chosen])

    def anchors(self, count: int = 3) -> list[Pair]:
        """Up to ``count`` more true point pairs, far from `points` and apart, those that move least first."""
        start, end = self._matches(inner=True)
        free = torch.ones_like(start[0], dtype=torch.bool)
        for x, y, *_ in self.points():
            free &= self._far(start, torch.tensor([[x], [y]]))
        chosen = self._apart(start, count, -(end - start).norm(dim=0), free)
        return _pairs(start[:, chosen], end[:, chosen])

    def _apart(self, start: Tensor, count: int, rank: Tensor, free: Tensor) -> list[int]:
        """Which of some places (2, N) to take: the highest ranks of those that are free, each far from the rest."""
        chosen = list[int]()
        while len(chosen) < count and free.any():
            chosen.append(int(torch.where(free, rank, -math.inf).argmax()))
            free = free & self._far(start, start[:, chosen[-1:]])
        return chosen

    def _far(self, xy: Tensor, point: Tensor) -> Tensor:
        return (xy - point).norm(dim=0) > 0.1 * self.mask.shape[0]

    @property
    def edit(self) -> Edit:
        """The edit that asks for ``after``, as a user would draw it who knows it.

        A Move for move and resize, an Appearance, a Rotate, and for drag a Drag, with points that hold what
        shall stay. What may change by points is marked with a margin, which a turn needs more of.
        """
        from dragonkit import edits

        if self.kind in ("move", "resize"):
            dx, dy, scale = self.similarity
            return edits.Move(self.mask, by=(dx, dy), scale=scale if self.kind == "resize" else 1.0)
        if self.kind == "appearance":
            assert self.reference is not None
            return edits.Appearance(
                self.mask, self.reference.image, self.reference_mask, reference_prompt=self.reference_prompt
            )
        size, either = self.mask.shape[0], self.mask | self.target
        if self.kind == "rotate":
            return edits.Rotate(self.points(), _grown(either, size // 32))
        return edits.Drag(self.points() + self.anchors(), _grown(either, size // 64))

    def _matches(self, inner: bool = False) -> tuple[Tensor, Tensor]:
        """Pixels (2, N) whose place after is known, and those places; ``inner`` leaves out the object's rim."""
        known = self.mask & torch.isfinite(self.flow[0])
        if inner:
            known = known & ~_grown(~self.mask, max(1, self.mask.shape[0] // 64))
        return _pixels(known), self.flow[:, known]


def _pairs(start: Tensor, end: Tensor) -> list[Pair]:
    return [(x0, y0, round(x1, 2), round(y1, 2)) for x0, y0, x1, y1 in torch.cat([start, end]).T.tolist()]


def _pixels(mask: Tensor) -> Tensor:
    """(x, y) of a mask's pixels, (2, N) float32."""
    y, x = torch.nonzero(mask, as_tuple=True)
    return torch.stack([x, y]).float()


def _grown(mask: Tensor, by: int) -> Tensor:
    return F.max_pool2d(mask[None, None].float(), 2 * by + 1, stride=1, padding=by)[0, 0] > 0


def true_flow(scene_after: Scene, index: int, before: Render, after: Render) -> Tensor:
    """Where each pixel of an object goes: (2, H, W), nan off the object and where the point is hidden after."""
    size = before.ids.shape[0]
    mask = before.mask(index)
    x, y, z = to_world(scene_after.objects[index], before.canonical[:, mask])
    u, v = project(x, y, z, size)
    column, row = u.round().long().clamp(0, size - 1), v.round().long().clamp(0, size - 1)
    distance = torch.sqrt((x - CAMERA[0]) ** 2 + (y - CAMERA[1]) ** 2 + (z - CAMERA[2]) ** 2)
    seen = (after.ids[row, column] == index) & ((after.depth[row, column] - distance).abs() < 0.08)
    seen &= (u >= -0.5) & (v >= -0.5) & (u <= size - 0.5) & (v <= size - 0.5)
    flow = torch.full((2, size, size), math.nan)
    flow[:, mask] = torch.where(seen, torch.stack([u, v]), math.nan)
    return flow


def in_view(scene: Scene, index: int, size: int = 64) -> bool:
    """Whether an object is clear of the frame and of its neighbours, judged on a small picture."""
    alone = geometry(replace(scene, objects=(scene.objects[index],)), size)[0] == 0
    seen = geometry(scene, size)[0] == index
    margin = math.ceil(_MARGIN * size / 256)
    inside = alone[margin:-margin, margin:-margin].sum() == alone.sum()
    return bool(inside) and int(seen.sum()) >= _VISIBLE * int(alone.sum()) > 0


def _room(scene: Scene, index: int) -> bool:
    o = scene.objects[index]
    return all(apart(o, other) for k, other in enumerate(scene.objects) if k != index)


def _moved(o: Object, rng: random.Random) -> Object | None:
    """The object carried round the camera, so that it keeps its distance and the side that it shows.

    That is what a drag in the picture asks for: apart from its shadow the object then moves as a picture of it would.
    """
    turn = rng.uniform(-0.4, 0.4)
    c, s = math.cos(turn), math.sin(turn)
    x, z = o.x - CAMERA[0], o.z - CAMERA[2]
    moved = replace(
        o,
        x=round(CAMERA[0] + c * x + s * z, 4),
        z=round(CAMERA[2] + c * z - s * x, 4),
        yaw=round(o.yaw + turn, 4),
    )
    return moved if 0.6 < abs(moved.x - o.x) < 2.2 else None


def _resized(o: Object, rng: random.Random) -> Object | None:
    size = round(o.size * (rng.uniform(0.68, 0.85) if rng.random() < 0.5 else rng.uniform(1.18, 1.4)), 4)
    return replace(o, size=size) if 0.55 <= size <= 1.2 else None


def _turned(o: Object, rng: random.Random) -> Object | None:
    if o.pattern in ("plain", "striped") and o.shape not in ("cube", "ring", "duck", "mug"):
        return None  # it would look the same
    return replace(o, yaw=round(o.yaw + rng.choice((-1, 1)) * rng.uniform(0.4, 0.9), 4))


def _deformed(o: Object, rng: random.Random) -> Object | None:
    deform = round(rng.uniform(-1, 1), 4)
    return replace(o, deform=deform) if abs(deform - o.deform) > 0.8 else None


def _repainted(o: Object, rng: random.Random) -> Object | None:
    colour, second = rng.sample(sorted(COLOURS), 2)
    pattern = rng.choice(("plain", "plain", "striped", "checkered", "dotted"))
    return replace(o, colour=colour, second=second, pattern=pattern) if colour != o.colour else None


_CHANGES: dict[str, Callable[[Object, random.Random], Object | None]] = {
    "move": _moved,
    "resize": _resized,
    "rotate": _turned,
    "appearance": _repainted,
    "drag": _deformed,
}
_LEAST_TRAVEL = {"rotate": 10.0, "drag": 8.0}  # pixels of 256 that the most mobile visible point must go
KINDS = tuple(_CHANGES)


def counterfactual(kind: str, seed: int, split: str = "test", size: int = 256) -> Counterfactual:
    """Draw an edit with its exact answer.

    Args:
        kind: "move", "resize", "rotate" (yaw), "appearance" or "drag" (deformation).
        seed: any whole number; each gives one edit.
        split: "train" or "test", disjoint random streams; nothing is tuned on "test".
        size: height and width in pixels.

    Raises:
        InputError: the kind or split is unknown, or seed or size is no usable number.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    check_whole("seed", seed, least=None)
    rng = stream("counterfactual", kind, split, seed)
    for _ in range(_TRIES):
        scene = random_scene(rng)
        index = rng.randrange(len(scene.objects))
        changed = _CHANGES[kind](scene.objects[index], rng)
        if changed is None:
            continue
        objects = (*scene.objects[:index], changed, *scene.objects[index + 1 :])
        scene_after = replace(scene, objects=objects)
        if not (_room(scene_after, index) and in_view(scene, index) and in_view(scene_after, index)):
            continue
        before, after = render(scene, size), render(scene_after, size)
        flow = true_flow(scene_after, index, before, after)
        result = Counterfactual(
            kind, seed, "" if kind == "appearance" else caption(scene), scene, scene_after, index,
            before, after, before.mask(index), after.mask(index), flow,
        )  # fmt: skip
        if kind in _LEAST_TRAVEL and _travel(result) < _LEAST_TRAVEL[kind] * size / 256:
            continue
        return _with_reference(result, rng, size) if kind == "appearance" else result
    raise InputError(f"no {kind} scene found for seed {seed}: take another seed")


def _travel(c: Counterfactual) -> float:
    start, end = c._matches(inner=True)
    return float((end - start).norm(dim=0).max()) if start.numel() else 0.0


def _with_reference(c: Counterfactual, rng: random.Random, size: int) -> Counterfactual:
    """Add a picture of another object of the same shape that wears the new appearance."""
    wanted = c.scene_after.objects[c.index]
    while True:
        o = random_object(rng, (0.85, 1.15))
        o = replace(o, shape=wanted.shape, colour=wanted.colour, second=wanted.second, pattern=wanted.pattern)
        scene = replace(random_scene(rng), objects=(o,))
        if in_view(scene, 0):
            picture = render(scene, size)
            return replace(c, reference=picture, reference_mask=picture.mask(0))
