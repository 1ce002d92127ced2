"""How alike every place of a picture is to a point or a region (Eq. 4, place by place)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from dragonkit.correspondence.extract import FeatureMap
from dragonkit.correspondence.place import shares
from dragonkit.errors import InputError
from dragonkit.regions import pick


def describe(features: FeatureMap, at: Any) -> Tensor:
    """The feature vector of a place.

    Args:
        features: of the picture that the place is in.
        at: a point (x, y) in the picture's pixels, fractions allowed, between whose cells features are interpolated
            bilinearly; or a mask (H, W) of a region, whose feature vectors are averaged (as in Eq. 10).

    Returns:
        Float32 (C,).

    Raises:
        InputError: the point is off the picture, or the mask is not of its size or is empty.
    """
    index, share = shares(at, features.frame, features.shape)
    return pick(features.values, index) @ share


def similarity_map(query: Tensor, features: FeatureMap) -> Tensor:
    """S of Eq. 4 between one feature vector and every place: (cos + 1) / 2.

    Args:
        query: (C,), from :func:`describe`, of this picture or another, at the same layer and timestep.
        features: the places.

    Returns:
        Float32 (h, w) in [0, 1], on the grid of ``features``; :func:`~dragonkit.correspondence.on_image` enlarges it.

    Raises:
        InputError: the two have different numbers of channels.
    """
    channels = features.values.shape[0]
    if query.shape != (channels,):
        raise InputError(f"query is {tuple(query.shape)} but the features have {channels} channels: take one layer")
    return likeness(query[:, None], features)[0]


def likeness(queries: Tensor, features: FeatureMap) -> Tensor:
    """S of Eq. 4 between feature vectors (C, N) and every place: float32 (N, h, w) in [0, 1]."""
    unit = F.normalize(features.values.float().flatten(1), dim=0)
    cosine = F.normalize(queries.float(), dim=0).T @ unit
    return ((cosine + 1) / 2).clamp(0, 1).view(-1, *features.shape)
