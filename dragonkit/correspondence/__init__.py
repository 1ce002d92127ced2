"""Correspondence: what the denoiser's features know about which place is which.

A place in one picture is matched to the place in another whose feature vector points the same way: this is what guides
every edit (Eq. 4), and here it can be looked at and measured. One idea a file::

    extract     a picture, or a step of its inversion -> FeatureMap, at any decoder layer and timestep
    place       a point or a region -> cells of a grid and their shares
    likeness    a point or a region -> how alike every place is (Eq. 4)
    matching    points -> their best matches, to fractions of a cell, and whether these agree both ways
    components  feature maps -> principal components, as colours
    gaze        a point of the edited picture -> where its attention looks (Eq. 11)
"""

from dragonkit.correspondence.components import Components, colours, principal_components
from dragonkit.correspondence.extract import FeatureMap, check_layers, extract, extract_path, on_image
from dragonkit.correspondence.gaze import gaze
from dragonkit.correspondence.likeness import describe, similarity_map
from dragonkit.correspondence.matching import Matches, match, mutual_matches
from dragonkit.trace.observe import attention_weights

__all__ = [
    "Components",
    "FeatureMap",
    "Matches",
    "attention_weights",
    "check_layers",
    "colours",
    "describe",
    "extract",
    "extract_path",
    "gaze",
    "match",
    "mutual_matches",
    "on_image",
    "principal_components",
    "similarity_map",
]
