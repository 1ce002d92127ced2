"""Scores against the exact answer.

The bundled world can render what an edit should have made, so an edited image is compared with the one right answer,
region by region, instead of being judged by eye. ``scores`` measures one image, ``baselines`` makes the images that an
edit has to beat, ``bench`` runs many scenes into one JSON file, ``report`` and ``figure`` show one edit.
"""

from dragonkit.evaluate.baselines import paste
from dragonkit.evaluate.figure import gallery, overview
from dragonkit.evaluate.scores import Regions, placement_error, placement_shift, psnr, region_psnr

__all__ = ["Regions", "gallery", "overview", "paste", "placement_error", "placement_shift", "psnr", "region_psnr"]
