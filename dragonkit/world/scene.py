"""Scenes as plain data: what stands where, on which ground, under which sky."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, dataclass, fields
from typing import Any

from dragonkit.checks import check_whole
from dragonkit.errors import InputError

SHAPES = ("ball", "cube", "cylinder", "cone", "ring", "mushroom", "snowman", "tree", "duck", "mug")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.82, 0.10, 0.09),
    "orange": (0.96, 0.50, 0.07),
    "yellow": (0.96, 0.86, 0.16),
    "green": (0.13, 0.58, 0.20),
    "teal": (0.08, 0.66, 0.66),
    "blue": (0.12, 0.28, 0.84),
    "purple": (0.48, 0.16, 0.70),
    "pink": (0.96, 0.52, 0.70),
    "white": (0.94, 0.94, 0.92),
    "black": (0.09, 0.09, 0.11),
    "brown": (0.42, 0.25, 0.12),
}
PATTERNS = ("plain", "striped", "checkered", "dotted")
GROUNDS = ("grass", "wood", "tiles", "sand", "concrete")
SKIES = ("day", "sunset", "night", "dawn")
SPLITS = ("train", "test")
MAX_OBJECTS = 3
_MARKS = {"striped": "stripes", "checkered": "checks", "dotted": "dots"}


@dataclass(frozen=True)
class Object:
    """One object.

    Attributes:
        shape: one of ``SHAPES``.
        x: position on the ground, to the right, in world units (about 50 pixels of a 256-pixel image each).
        z: position on the ground, towards the camera, in world units.
        size: world units per shape unit; an object is about ``2 * size`` tall.
        yaw: turn round the upright axis, in radians.
        colour: main colour, one of ``COLOURS``.
        second: second colour, of the pattern and of parts such as a mug's handle.
        pattern: one of ``PATTERNS``.
        deform: amount of the shape's deformation, in [-1, 1].
    """

    shape: str
    x: float
    z: float
    size: float
    yaw: float
    colour: str
    second: str
    pattern: str = "plain"
    deform: float = 0.0

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.shape, SHAPES, "shape"),
            (self.colour, tuple(COLOURS), "colour"),
            (self.second, tuple(COLOURS), "second"),
            (self.pattern, PATTERNS, "pattern"),
        ):
            _check_member(what, value, known)
        for what in ("x", "z", "size", "yaw", "deform"):
            _check_number(what, getattr(self, what))
        if not 0.1 <= self.size <= 3:
            raise InputError(f"size {self.size} is out of range: give a number from 0.1 to 3 world units")
        if not -1 <= self.deform <= 1:
            raise InputError(f"deform {self.deform} is out of range: give a number from -1 to 1")


@dataclass(frozen=True)
class Scene:
    """Everything a picture needs.

    Attributes:
        objects: one to three objects.
        ground: one of ``GROUNDS``.
        sky: one of ``SKIES``.
        light: sideways slant of the sun, in [-1, 1]; 0 is straight behind the camera's shoulder.
        seed: the ground's texture.
    """

    objects: tuple[Object, ...]
    ground: str
    sky: str
    light: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.objects, tuple) or not all(isinstance(o, Object) for o in self.objects):
            raise InputError(f"objects must be a tuple of Object, not {self.objects!r}")
        if not 1 <= len(self.objects) <= MAX_OBJECTS:
            raise InputError(f"a scene has 1 to {MAX_OBJECTS} objects, not {len(self.objects)}")
        _check_member("ground", self.ground, GROUNDS)
        _check_member("sky", self.sky, SKIES)
        _check_number("light", self.light)
        if not -1 <= self.light <= 1:
            raise InputError(f"light {self.light} is out of range: give a number from -1 to 1")
        check_whole("seed", self.seed, 0, 2**31 - 1)

    def to_json(self) -> str:
        """The scene as a JSON text; ``from_json`` gives an equal scene back."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Scene:
        """Read what ``to_json`` wrote.

        Raises:
            InputError: not JSON, an unknown or missing field, a wrong type or a value out of range.
        """
        try:
            data = json.loads(text)
        except (TypeError, json.JSONDecodeError) as error:
            raise InputError(f"the scene is not JSON ({error}): save it with Scene.to_json()") from None
        objects = data.get("objects") if isinstance(data, dict) else None
        if not isinstance(objects, list):
            raise InputError("the scene has no list 'objects': save it with Scene.to_json()")
        return _build(cls, {**data, "objects": tuple(_build(Object, o) for o in objects)})


def _build(cls: type, data: Any) -> Any:
    names = {f.name for f in fields(cls)}
    if not isinstance(data, dict):
        raise InputError(f"{cls.__name__} must be a JSON object, not {data!r}")
    if unknown := sorted(set(data) - names):
        raise InputError(f"{cls.__name__} has no field {unknown[0]!r}: the fields are {', '.join(sorted(names))}")
    try:
        return cls(**data)
    except TypeError as error:
        raise InputError(f"{cls.__name__} is incomplete: {error}") from None


def _check_member(what: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"unknown {what} {value!r}: choose one of {', '.join(known)}")


def _check_number(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{what} must be a finite number, not {value!r}")


def _article(word: str) -> str:
    return ("an " if word[0] in "aeiou" else "a ") + word


def caption(scene: Scene) -> str:
    """The scene's prompt, such as "a red ball with white stripes and a blue duck on grass at sunset"."""
    phrases = []
    for o in scene.objects:
        mark = f" with {o.second} {_MARKS[o.pattern]}" if o.pattern in _MARKS else ""
        phrases.append(f"{_article(o.colour)} {o.shape}{mark}")
    return f"{' and '.join(phrases)} on {scene.ground} at {scene.sky}"


def stream(*key: object) -> random.Random:
    """A random stream of its own for each key, the same on every machine."""
    return random.Random("/".join(map(str, key)))


def sample_scene(seed: int, split: str = "train") -> Scene:
    """A random scene.

    Args:
        seed: any whole number; each gives one scene.
        split: "train" or "test". The two draw from disjoint random streams; nothing is tuned on "test".

    Raises:
        InputError: the split is unknown or the seed is no whole number.
    """
    _check_member("split", split, SPLITS)
    check_whole("seed", seed, least=None)
    return random_scene(stream("scene", split, seed))


def random_object(rng: random.Random, sizes: tuple[float, float]) -> Object:
    """An object of random kind, size and place, inside the picture; neighbours are the caller's to check."""
    from .shapes import SHAPES as GEOMETRY

    shape = rng.choice(SHAPES)
    size = rng.uniform(*sizes)
    z = rng.uniform(-1.3, 0.9)
    reach = 2.35 - 0.2 * z - 0.85 * size * GEOMETRY[shape].footprint
    colour, second = rng.sample(sorted(COLOURS), 2)
    return Object(
        shape=shape,
        x=round(rng.uniform(-reach, reach), 4),
        z=round(z, 4),
        size=round(size, 4),
        yaw=round(rng.uniform(-math.pi, math.pi), 4),
        colour=colour,
        second=second,
        pattern=rng.choice(("plain", "plain", "striped", "checkered", "dotted")),
        deform=round(rng.uniform(-1, 1), 4),
    )


def apart(a: Object, b: Object) -> bool:
    """Whether two objects leave each other room on the ground and in the picture."""
    from .shapes import SHAPES as GEOMETRY

    reach = a.size * GEOMETRY[a.shape].footprint + b.size * GEOMETRY[b.shape].footprint
    return math.hypot(a.x - b.x, a.z - b.z) > reach and abs(a.x - b.x) > 0.6 * reach


def random_scene(rng: random.Random) -> Scene:
    """Draw one scene: mostly one or two large objects that do not hide one another much."""
    wanted = rng.choices((1, 2, 3), weights=(0.5, 0.42, 0.08))[0]
    sizes = {1: (0.82, 1.15), 2: (0.72, 1.0), 3: (0.62, 0.8)}[wanted]
    objects: list[Object] = []
    for _ in range(wanted):
        for _ in range(60):
            candidate = random_object(rng, sizes)
            if all(apart(candidate, other) for other in objects):
                objects.append(candidate)
                break
    return Scene(
        objects=tuple(objects),
        ground=rng.choice(GROUNDS),
        sky=rng.choice(SKIES),
        light=round(rng.uniform(-0.8, 0.8), 4),
        seed=rng.randrange(2**31),
    )
