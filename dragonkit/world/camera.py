"""The camera: where it stands, which rays its pixels look along, and where a point of the world appears."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .shapes import Vec

CAMERA = (0.0, 2.45, 10.0)  # where the camera stands
PITCH = math.radians(9.0)  # how far it looks down
HALF_FIELD = math.tan(math.radians(14.0))  # half the picture's height at distance 1


def camera_rays(size: int, offsets: Sequence[tuple[float, float]], device: str | torch.device) -> Vec:
    """Directions (x, y, z), each (H·W·len(offsets),), through every pixel at the given offsets from its centre."""
    v, u = torch.meshgrid(torch.arange(size, device=device), torch.arange(size, device=device), indexing="ij")
    right = torch.stack([(u + 0.5 + dx) / size * 2 - 1 for dx, _ in offsets], -1).flatten() * HALF_FIELD
    up = torch.stack([1 - (v + 0.5 + dy) / size * 2 for _, dy in offsets], -1).flatten() * HALF_FIELD
    y, z = up * math.cos(PITCH) - math.sin(PITCH), -math.cos(PITCH) - up * math.sin(PITCH)
    length = torch.sqrt(right**2 + y**2 + z**2)
    return right / length, y / length, z / length


def project(x: Tensor, y: Tensor, z: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """World points -> pixels (x, y) of a size × size picture, origin at the top-left pixel's centre."""
    x, y, z = x - CAMERA[0], y - CAMERA[1], z - CAMERA[2]
    depth = -math.sin(PITCH) * y - math.cos(PITCH) * z
    up = math.cos(PITCH) * y - math.sin(PITCH) * z
    return (
        (x / depth / HALF_FIELD + 1) / 2 * size - 0.5,
        (1 - up / depth / HALF_FIELD) / 2 * size - 0.5,
    )
