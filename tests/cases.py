"""Random wishes, each drawn from one number: an image, edits and guidance, sound or not."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from dragonkit.edits import Appearance, Drag, Edit, Move, Paste, Resize, Rotate
from dragonkit.guidance import KINDS, PRESETS, Guidance
from dragonkit.models import Model
from dragonkit.spec import EDITS
from tests.tiny import SCHEDULER, picture, tiny_parts

WORDS = ("", "a ball", "élan ☃ 雪", "word " * 50, "\n\t", "🐉")


def tiniest_model() -> Model:
    """A model for thousands of runs: three levels, four channels, attention in one decoder layer only."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(4, 4, 4),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        mid_block_type=None,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=2,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(2, 2, 2, 2),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        mid_block_add_attention=False,
        scaling_factor=0.5,
    )
    return Model("tiniest", schedule_config=SCHEDULER, **tiny_parts() | {"unet": unet, "vae": vae})


@dataclass
class Case:
    """What someone might ask for.

    Args:
        seed: what all of it is drawn from, bit by bit as it is asked for; ask in the same order for the same.

    One in seven is wild: any of its numbers may be anything. The others' numbers are such as people give, though what
    they ask for may still be impossible: an object moved off the image, points off it, an empty mask.
    """

    seed: int

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.noise = np.random.default_rng(self.seed)
        self.wild = self.rng.random() < 0.15
        self.height, self.width = self.size()

    def often(self, share: float) -> bool:
        """True in about that share of all cases."""
        return self.rng.random() < share

    def size(self) -> tuple[int, int]:
        """Mostly small, at times up to 512; one in a hundred may be too small."""
        most = self.rng.choices((96, 200, 512), (90, 8, 2))[0]
        least = 8 if self.often(0.01) else 64
        return self.rng.randint(least, most), self.rng.randint(least, most)

    def number(self, least: float, most: float) -> float:
        """From least to most, both ends and whole numbers among them; if the case is wild, at times anything."""
        if self.wild and self.often(0.05):
            return self.rng.choice((0.0, 5e-324, -1e-30, 1e30, -1e30, 1e36, 1e38, 1e39, 1e300, math.inf, math.nan))
        inner = self.rng.uniform(least, most)
        return self.rng.choice((least, most, inner, min(max(float(round(inner)), least), most)))

    def image(self, height: int, width: int) -> Tensor:
        """Smooth, noisy, or all of one colour: float32 (3, height, width)."""
        kind = self.rng.choices(("smooth", "noise", "black", "white"), (8, 1, 1, 1))[0]
        if kind == "smooth":
            return picture(height, width, self.seed)
        if kind == "noise":
            return torch.from_numpy(self.noise.random((3, height, width), dtype=np.float32))
        return torch.full((3, height, width), float(kind == "white"))

    def mask(self, height: int, width: int) -> Tensor:
        """Bool (height, width), of any kind; now and then empty or of another size."""
        rng, y, x = self.rng, self.rng.randrange(height), self.rng.randrange(width)
        mask = torch.zeros(height, width, dtype=torch.bool)
        kind = rng.choices(
            ("blob", "box", "pixel", "full", "frame", "edge", "scatter", "stripes", "empty", "larger"),
            (20, 20, 8, 4, 4, 6, 4, 2, 0.3, 0.3),
        )[0]
        if kind == "blob":
            rows, columns = torch.arange(height)[:, None] - y, torch.arange(width)[None] - x
            mask = rows**2 + rng.uniform(0.2, 5) * columns**2 <= rng.uniform(1, max(height, width) / 2) ** 2
        elif kind == "box":
            mask[y : y + rng.randint(1, height), x : x + rng.randint(1, width)] = True
        elif kind == "pixel":
            mask[y, x] = True
        elif kind == "full":
            mask[:] = True
        elif kind == "frame":
            mask[[0, -1]] = True
            mask[:, [0, -1]] = True
        elif kind == "edge":
            mask[rng.choice((0, -1))] = True
        elif kind == "scatter":
            mask = torch.from_numpy(self.noise.random((height, width)) < 0.05)
        elif kind == "stripes":
            mask[::2] = True
        elif kind == "larger":
            mask = torch.ones(height + 1, width, dtype=torch.bool)
        return mask

    def place(self) -> tuple[float, float]:
        """A point (x, y) of the image, its very edges and corners among them."""
        return self.number(-0.5, self.width - 0.5), self.number(-0.5, self.height - 0.5)

    def points(self) -> list[tuple[float, ...]]:
        """One drag, or many; some go nowhere."""
        starts = [self.place() for _ in range(self.rng.choices((1, 2, 5, 40), (8, 4, 2, 1))[0])]
        return [start + (start if self.often(0.15) else self.place()) for start in starts]

    def edit(self, kind: type[Edit] | None = None) -> Edit:
        """An edit of some kind, or of this one.

        Raises:
            InputError: the edit cannot be.
        """
        h, w, kind = self.height, self.width, kind or self.rng.choice(tuple(EDITS))
        if kind is Move:
            by, scale = (self.number(-w / 2, w / 2), self.number(-h / 2, h / 2)), self.number(0.2, 3)
            return Move(self.mask(h, w), by, scale if self.often(0.5) else 1.0, self.number(-400, 400))
        if kind is Resize:
            return Resize(self.mask(h, w), self.number(0.1, 5))
        if kind in (Drag, Rotate):
            return kind(self.points(), self.mask(h, w) if self.often(0.5) else None)
        there = self.rng.choice(((h, w), self.size()))
        reference, theirs, words = self.image(*there), self.mask(*there), self.rng.choice(WORDS)
        if kind is Appearance:
            return Appearance(self.mask(h, w), reference, theirs, words)
        assert kind is Paste, "a new kind: draw it here too"
        return Paste(reference, theirs, self.place(), self.number(0.2, 4), words)

    def edits(self) -> list[Edit]:
        """One edit, or several at once."""
        return [self.edit() for _ in range(self.rng.choices((1, 2, 4), (10, 3, 1))[0])]

    def window(self) -> tuple[float, float]:
        """Part of the run, all of it, or none of it."""
        start, end = sorted((self.number(0, 1), self.number(0, 1)))
        return start, end

    def guidance(self) -> Guidance:
        """A preset as it is but for few steps, or with some or all of its fields changed.

        Raises:
            InputError: a field is refused.
        """
        rng, draw = self.rng, self.number
        layers = rng.sample((1, 2, 3), rng.randint(1, 3)) + [4] * self.often(0.02)  # there is no fourth
        fresh: dict[str, Any] = {
            **{name: draw(0, 8) for name in ("energy", "w_edit", "w_content", "w_contrast", "w_inpaint", "beta")},
            **{name: draw(0, 1) for name in ("dense", "sde_inside", "sde_outside")},
            **{name: self.window() for name in ("guided", "attention", "lock_window", "travel", "sde")},
            **{name: self.often(0.5) for name in ("regional", "lock", "preserve", "one_pass")},
            "cfg": draw(0, 12),
            "factor": draw(0, 0.2),
            "alpha": draw(0.1, 2),
            "clip": draw(0, 2),
            "layers": layers,
            "layer_weights": [draw(-1, 2) for _ in layers],
            "attention_mode": rng.choice(("replace", "concat", "mix", "off")),
            "start": rng.choice(("copy", "keep")),
            "through": rng.choice(("x0", "eps")),
            "reference": rng.choice(("cached", "live")),
            "lock_margin": rng.randint(0, 12),
            "repeats": rng.randint(1, 3),
            "seed": rng.randrange(2**63),
        }
        assert {*fresh, "steps"} == {f.name for f in fields(Guidance)}, "a new field: draw it here too"
        changes = {name: fresh[name] for name in rng.sample(sorted(fresh), rng.choice((0, 0, 3, 10, len(fresh))))}
        if "layer_weights" in changes:
            changes["layers"] = layers
        preset = Guidance.preset(rng.choice(sorted(PRESETS)), rng.choice(KINDS))
        return preset.replace(steps=rng.choice((1, 1, 2, 2, 3, 4)), **changes)

    def damaged(self, text: str) -> str:
        """A spec file in which something else stands than was written."""
        spec = json.loads(text)
        inner = self.rng.choice([spec, spec["edits"][0], spec.get("guidance", spec)])
        inner[self.rng.choice([*inner, "unknown"])] = self.rng.choice(
            [None, -1, 0, 1.5, True, "", "before.png", "edit.json", [], {}, [1, 2], 10**400, "\x00", "../" * 9]
        )
        return json.dumps(spec)
