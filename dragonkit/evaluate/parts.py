"""A folder that keeps the finished scenes of a long bench, so that it can be interrupted and gone on with.

It knows the settings and the model's weights that its scenes were made with; of changes in the code it knows nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from dragonkit.errors import InputError
from dragonkit.files import check_folder, read_image, whole_file

if TYPE_CHECKING:
    from dragonkit.evaluate.scored import Job
    from dragonkit.models import Model


class Parts:
    """Finished scenes: for each a JSON file with its scores, and a PNG with its pictures side by side.

    Args:
        folder: made when the first scene is kept.
        model: the model that edits.

    Raises:
        InputError: the folder cannot be one.
    """

    def __init__(self, folder: Path, model: Model) -> None:
        check_folder(folder)
        self.folder, self.weights = folder, fingerprint(model)

    def has(self, job: Job) -> bool:
        """Whether the scene is there.

        Raises:
            InputError: it is, but made with other settings, or its file is broken.
        """
        path = self._path(job)
        if not path.is_file():
            return False
        if self._read(path)["job"] != self._stamp(job):
            raise InputError(f"{path} was made with other settings: give an empty folder")
        return path.with_suffix(".png").is_file()

    def get(self, job: Job) -> tuple[dict[str, Any], np.ndarray]:
        """The scene's row and pictures (3, H, W, 3)."""
        path = self._path(job)
        pictures = np.asarray(read_image(path.with_suffix(".png")))
        return _numbers(self._read(path)["row"]), np.stack(np.split(pictures, 3, axis=1))

    def put(self, job: Job, row: dict[str, Any], pictures: np.ndarray) -> None:
        """Keep a scene."""
        path = self._path(job)
        with whole_file(path.with_suffix(".png")) as draft:
            Image.fromarray(np.concatenate(list(pictures), axis=1)).save(draft, format="PNG")
        with whole_file(path) as draft:
            draft.write_text(json.dumps({"job": self._stamp(job), "row": _numbers(row)}), encoding="utf-8")

    def _path(self, job: Job) -> Path:
        return self.folder / f"{job.kind}-{job.seed}.json"

    def _stamp(self, job: Job) -> dict[str, Any]:
        return json.loads(json.dumps({"weights": self.weights, **asdict(job)}))

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            assert isinstance(data["job"], dict) and isinstance(data["row"], dict)
        except (ValueError, KeyError, TypeError, AssertionError):
            raise InputError(f"{path} is no kept scene: remove it, or give another folder") from None
        return data


def fingerprint(model: Model) -> str:
    """A short text that differs between models whose weights do."""
    digest = hashlib.sha256()
    for part, net in model.parts.items():
        for name, weight in net.state_dict().items():
            digest.update(
                f"{part}/{name}".encode() + weight.cpu().contiguous().flatten().view(torch.uint8).numpy().data
            )
    return digest.hexdigest()[:16]


def _numbers(data: Any) -> Any:
    """The same data with None for nan, which JSON does not have; or back again."""
    if isinstance(data, dict):
        return {key: _numbers(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_numbers(value) for value in data]
    if data is None:
        return math.nan
    return None if isinstance(data, float) and math.isnan(data) else data
