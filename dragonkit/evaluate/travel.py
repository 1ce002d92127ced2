"""How far dragged content still is from where it should be, measured with the renderer's truth.

Where is a handle's content in an edited image? It cannot be followed by its look at the start alone: it turns and
deforms on its way. But the renderer knows its looks all along the way. So the scene is rendered at a few *stages*
between source and exact answer, and at each the handle's true position and the picture round it are known. The result
is searched for every stage's picture of the handle; the best match says where the content is::

    stages         0 (source)   1/4   1/2   3/4   1 (exact answer)
    looks          A_0          ...               A_1
    result         ------------ searched near the way for each of them ------------
    remaining      |found - true end| / |true start - true end|

So 1 remains in the source, 0 in the exact answer, and 1/2 in a result half-way, whatever the object. Handles that
nobody could see move, on a plain body that turns for instance, are left out: see `Way.distinct`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dragonkit.errors import InputError
from dragonkit.evaluate.matching import Shifts
from dragonkit.evaluate.scores import same_size
from dragonkit.regions import positions
from dragonkit.world import Counterfactual, Object, Scene, render
from dragonkit.world.camera import project
from dragonkit.world.render import to_world

STAGES = (0.0, 0.25, 0.5, 0.75, 1.0)
RADIUS = 16  # the look of a handle is what lies in a disc of this radius; pixels of a picture 256 wide
MARGIN = 12  # it is searched this far round start and end, and half the way's length farther; likewise
DISTINCT = 0.03  # root mean squared error by which the true pictures must contradict the handle being elsewhere

Point = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Stage:
    """The picture at one stage of the way.

    Attributes:
        image: (3, H, W) in [0, 1].
        mask: (H, W) bool, the object.
        plate: (3, H, W) in [0, 1], the picture with what is behind the object in the object's place.
        points: (x, y) of each handle in pixels, None where it is hidden.
    """

    image: Tensor
    mask: Tensor
    plate: Tensor
    points: tuple[Point | None, ...]


@dataclass(frozen=True, eq=False)
class Way:
    """The way of an object's handles from the source to the exact answer.

    Attributes:
        stages: one for each of ``STAGES``.
        distinct: for each handle, whether one can see in the true pictures where it is: the source must contradict
            the handle being near its end, and the exact answer its being near its start ("near": within half the
            way's length), by an error E of `costs` of at least ``DISTINCT`` squared.
    """

    stages: tuple[Stage, ...]
    distinct: tuple[bool, ...] = field(init=False)

    def __post_init__(self) -> None:
        handles = range(len(self.stages[0].points))
        object.__setattr__(self, "distinct", tuple(self._is_distinct(k) for k in handles))

    @classmethod
    def of(cls, case: Counterfactual, plate: Tensor, handles: Sequence[Sequence[float]]) -> Way:
        """Render it.

        Args:
            case: the edit.
            plate: its scene without the object, (3, H, W), from `without_object`.
            handles: (x, y, ...) each, pixels of the object in the source.

        Raises:
            InputError: a handle is not on the object.
        """
        for x, y, *_ in handles:
            if not _on(case.mask, (x, y)):
                raise InputError(f"handle ({x:g}, {y:g}) is not on the object: place it there")
        canonical = torch.stack([case.before.canonical[:, round(y), round(x)] for x, y, *_ in handles], dim=1)
        size, found = case.mask.shape[0], []
        for part in STAGES:
            now = between(case.scene.objects[case.index], case.scene_after.objects[case.index], part)
            ready = {0.0: case.before, 1.0: case.after}.get(part)
            seen = ready or render(with_object(case.scene, case.index, now), size)
            mask = seen.mask(case.index)
            at = [(float(x), float(y)) for x, y in zip(*project(*to_world(now, canonical), size), strict=True)]
            points = tuple(p if _on(mask, p) else None for p in at)
            found.append(Stage(seen.image, mask, torch.where(mask, plate, seen.image), points))
        return cls(tuple(found))

    def remaining(self, result: Tensor) -> list[float]:
        """The share of each distinct handle's way that is still to go.

        Args:
            result: the edited image, (3, H, W) in [0, 1].

        Returns:
            For each ``|found - true end| / |true start - true end|``: 0 done, 1 not begun, more if it went astray.

        Raises:
            InputError: the result is of another size.
        """
        same_size(result, self.stages[0].image)
        return [
            math.dist(self.locate(result, k), end) / math.dist(start, end)
            for k, (start, end) in enumerate(self._ends())
            if self.distinct[k] and start is not None and end is not None
        ]

    def locate(self, result: Tensor, handle: int) -> Point:
        """Where a handle's content is in the result, (x, y) in pixels: the place of least E over all stages."""
        best = (math.inf, (math.nan, math.nan))
        for (x, y), shifts, cost in self.costs(result, handle):
            dx, dy, least = shifts.least(cost)
            best = min(best, (least, (x + dx, y + dy)))
        return best[1]

    def costs(self, result: Tensor, handle: int) -> Iterator[tuple[Point, Shifts, Tensor]]:
        """The error of every place at which the handle might be, for each stage at which it is seen.

        At a stage, let A be the picture, m the object's pixels in a disc round the handle, n the disc's other pixels
        and B the picture without the object. The error of "the handle looks as here and is d farther" is

            E(d) = (sum_{p in m} |R(p + d) - A(p)|^2 + sum_{p in n} |R(p + d) - B(p + d)|^2) / (|m| + |n|):

        the object's pixels are compared with their look, wherever they may be, and round them the true background is
        expected, which settles where the edge of a plain object lies.

        Yields:
            The handle's place (x, y) at the stage, the whole shifts d tried, E (len(dy), len(dx)).
        """
        unit = result.shape[-1] / 256
        ends = torch.tensor([p for p in self._ends()[handle] if p])
        margin = MARGIN * unit + 0.5 * float((ends[0] - ends[-1]).norm())
        low = (ends.amin(0) - margin).floor().int().tolist()
        high = (ends.amax(0) + margin).ceil().int().tolist()
        border = math.ceil(RADIUS * unit) + 1
        left, top = (max(c - border, 0) for c in low)
        box = (..., slice(top, high[1] + border + 1), slice(left, high[0] + border + 1))
        for stage in self.stages:
            point = stage.points[handle]
            if point is not None:
                x, y = point
                tried = Shifts(
                    *(range(a - round(c), b - round(c) + 1) for a, b, c in zip(low, high, point, strict=True))
                )
                r, a, b, m = (part[box] for part in (result, stage.image, stage.plate, stage.mask))
                yield point, tried, _errors(r, a, b, m, (x - left, y - top), RADIUS * unit, tried)

    def _ends(self) -> list[tuple[Point | None, Point | None]]:
        return list(zip(self.stages[0].points, self.stages[-1].points, strict=True))

    def _is_distinct(self, handle: int) -> bool:
        start, end = self._ends()[handle]
        if start is None or end is None:
            return False
        for image, wrong in ((self.stages[0].image, end), (self.stages[-1].image, start)):
            for (x, y), tried, cost in self.costs(image, handle):
                across, down = torch.tensor(tried.dx) + x - wrong[0], torch.tensor(tried.dy) + y - wrong[1]
                near = torch.hypot(across, down[:, None]) <= 0.5 * math.dist(start, end)
                if cost[near].numel() and cost[near].min() < DISTINCT**2:
                    return False
        return True


def between(start: Object, end: Object, part: float) -> Object:
    """The object a part of the way, 0 to 1, from one state to another: its numbers in proportion."""
    names = ("x", "z", "size", "yaw", "deform")
    return replace(start, **{n: (1 - part) * getattr(start, n) + part * getattr(end, n) for n in names})


def with_object(scene: Scene, index: int, changed: Object) -> Scene:
    """The scene with one object changed."""
    return replace(scene, objects=(*scene.objects[:index], changed, *scene.objects[index + 1 :]))


def without_object(scene: Scene, index: int, size: int) -> Tensor:
    """The picture (3, size, size) of the scene without one object: with it far out of sight, shadow and all."""
    return render(with_object(scene, index, replace(scene.objects[index], x=1000.0)), size).image


def _errors(
    result: Tensor, image: Tensor, plate: Tensor, mask: Tensor, point: Point, radius: float, tried: Shifts
) -> Tensor:
    """E(d) of `Way.costs`, (len(dy), len(dx)); inf where more than half of the disc is off the picture."""
    height, width = mask.shape
    disc = (positions((height, width)) - torch.tensor(point).double()).norm(dim=-1) <= radius
    m, n = (disc & mask).double(), (disc & ~mask).double()
    r, a, b = result.double(), image.double(), plate.double()
    inside = torch.ones_like(r[0])
    weights = torch.stack([m, *(-2 * m * a), m * a.square().sum(0), n, m + n])
    images = torch.stack([r.square().sum(0), *r, inside, (r - b).square().sum(0), inside])
    sums = tried.sums(tried.transform(weights), tried.transform(images))
    return torch.where(sums[-1] >= 0.5 * disc.sum(), sums[:-1].sum(0) / sums[-1].clamp(min=1), torch.inf)


def _on(mask: Tensor, point: Point) -> bool:
    x, y = (round(c) for c in point)
    return 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and bool(mask[y, x])
