"""Feature maps on their way to the browser: unit vectors in half precision, their lengths, and colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dragonkit.correspondence import FeatureMap, colours
from dragonkit.regions import Frame

LIMIT = 12_000_000
"""Numbers of one timestep that are sent as they are, all layers of both pictures together: 24 MB in half precision."""


@dataclass(frozen=True, eq=False)
class Packed:
    """The maps of one layer, ready to be sent.

    Args:
        maps: of one or two pictures; what the browser computes is exact for these.
        colours: for each map uint8 (h, w, 3), from :func:`cell_colours`.
        channels: of the maps before they were reduced.
        kept: share of the energy kept, 1 if they were not.
    """

    maps: list[FeatureMap]
    colours: list[Tensor]
    channels: int
    kept: float

    @property
    def headers(self) -> list[dict[str, object]]:
        """What each map's buffers are to be read with."""
        return [
            {
                "layer": m.layer,
                "shape": list(m.shape),
                "padded": [m.frame.padded[1], m.frame.padded[0]],
                "channels": m.values.shape[0],
                "of": self.channels,
                "kept": self.kept,
            }
            for m in self.maps
        ]

    @property
    def buffers(self) -> list[bytes]:
        """Three a map: float16 (h · w, C) of unit vectors, float32 (h · w,) of their lengths, colours."""
        found = []
        for m, colour in zip(self.maps, self.colours, strict=True):
            values = m.values.float().flatten(1).cpu()
            unit = F.normalize(values, dim=0).T.contiguous().half()
            found += [_bytes(unit), _bytes(values.norm(dim=0)), _bytes(colour)]
        return found


def pack(layers: Sequence[Sequence[FeatureMap]], components: int | None = None) -> list[Packed]:
    """Prepare the maps of one timestep.

    Args:
        layers: for each layer its maps, of one or two pictures.
        components: most numbers a vector; None sends all if they stay within ``LIMIT``, else as many as do.

    Returns:
        One for each layer.
    """
    if components is None:
        everything = [m for maps in layers for m in maps]
        cells = sum(m.shape[0] * m.shape[1] for m in everything)
        fits = sum(m.values.numel() for m in everything) <= LIMIT
        components = max(m.values.shape[0] for m in everything) if fits else max(3, LIMIT // cells)
    packed = []
    for maps in layers:
        few, kept = reduced(maps, components)
        packed.append(Packed(few, cell_colours(maps), maps[0].values.shape[0], kept))
    return packed


def reduced(maps: Sequence[FeatureMap], count: int) -> tuple[list[FeatureMap], float]:
    """Maps of one layer in fewer dimensions, so that cosines change least.

    The axes are the leading eigenvectors of the second moment of all unit vectors: of all projections to ``count``
    dimensions theirs is nearest to the table of all cosines (Eckart and Young, 1936). Nothing is subtracted first, for
    a cosine is taken about zero.

    Args:
        maps: of one layer.
        count: dimensions to keep.

    Returns:
        The maps with at most ``count`` channels, and the mean squared length that unit vectors keep, in [0, 1]; the
        same maps and 1 if they have no more.
    """
    channels = maps[0].values.shape[0]
    if channels <= count:
        return list(maps), 1.0
    units = torch.cat([F.normalize(m.values.float().flatten(1), dim=0) for m in maps], dim=1).double()
    moment, axes = torch.linalg.eigh(units @ units.T)
    axes = axes[:, -count:].T.float()
    kept = float(moment[-count:].sum() / moment.sum().clamp(min=torch.finfo(torch.float64).tiny))
    return [replace(m, values=torch.einsum("kc,chw->khw", axes, m.values.float())) for m in maps], min(kept, 1.0)


def cell_colours(maps: Sequence[FeatureMap]) -> list[Tensor]:
    """The first three principal components as colours, a colour a cell: uint8 (h, w, 3) for each map.

    See :func:`dragonkit.correspondence.colours`, which is given pictures of one pixel a cell. A layer of fewer than
    three channels has no such colours, and is grey.
    """
    if maps[0].values.shape[0] < 3:
        return [torch.full((*m.shape, 3), 128, dtype=torch.uint8) for m in maps]
    cells = [replace(m, frame=Frame(*m.shape, factor=1, multiple=1, device=m.frame.device)) for m in maps]
    return [(c.permute(1, 2, 0).cpu() * 255).round().to(torch.uint8).contiguous() for c in colours(cells)]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()
