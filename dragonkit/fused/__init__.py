"""Fewer passes over memory: norms, activations, biases and gates of a U-Net's blocks as single Triton kernels.

So are the cosines that energies are made of; and projections of one input are one matrix product.

PyTorch's group normalisation has no kernel for tensors whose channels lie together, as a GPU's convolutions want them:
each of a U-Net's 61 norms copies its input to the other layout and the next convolution copies it back. Together with
activations, biases, residual sums and gates, each a pass over memory of its own, that is a third of the time of a
recorded pass (:mod:`dragonkit.graphs`). Triton comes with PyTorch for NVIDIA GPUs on Linux; without it, and in passes
that are not recorded, blocks compute as diffusers has them.
"""

from dragonkit.fused.shared import one_pass as one_pass
from dragonkit.fused.switch import AVAILABLE as AVAILABLE
from dragonkit.fused.switch import fused as fused
