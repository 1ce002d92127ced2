"""Inversion: from an image's latent to the noise that generates it, keeping what the guidance branch will need.

Inversion evaluates the denoiser at every level on the way up, and the guidance branch would evaluate it at the same
places on the way down. So the decoder's tokens and features are kept here, and the guidance branch costs nothing.

Three inverters, one file each. :func:`ddim_invert` guesses the noise at the next level; :func:`fixed_point_invert`
solves for it; :func:`null_text_invert` makes classifier-free guidance follow the path that DDIM inversion took.
``path`` holds what they leave behind, ``climb`` the loop that the first two share.
"""

from dragonkit.inversion.ddim import ddim_invert
from dragonkit.inversion.fixed_point import fixed_point_invert
from dragonkit.inversion.null_text import null_text_invert
from dragonkit.inversion.path import Inverter, Keep, Path, Progress

__all__ = ["Inverter", "Keep", "Path", "Progress", "ddim_invert", "fixed_point_invert", "null_text_invert"]
