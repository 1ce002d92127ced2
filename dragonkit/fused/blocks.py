"""The blocks of diffusers' U-Nets and autoencoders, computed with fewer passes over memory where that can be done."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from dragonkit.fused.attention import Attend, stackable
from dragonkit.fused.plain import plain
from dragonkit.fused.shared import Shared, Shifts
from dragonkit.fused.stacked import stack
from dragonkit.fused.switch import is_on
from dragonkit.fused.transformer import Block


def lies_well(x: Tensor, *layers: nn.Module | None) -> bool:
    """Whether a feature map lies as the kernels take it, channels last, and ``layers`` need not be called."""
    return is_on() and x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and plain(*layers)


class Norm(nn.GroupNorm):
    """``nn.GroupNorm``, followed by SiLU if ``silu`` is set, of x + shift[:, :, None, None] if there is a shift."""

    silu = False

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """(B, C, h, w), and a shift (B, C) or none, to (B, C, h, w); without a shift other shapes, too."""
        if lies_well(x) and not self.weight.requires_grad:
            from dragonkit.fused.norm_kernels import Normalised

            shift = None if shift is None else shift.expand(len(x), -1)
            return Normalised.apply(x, shift, self.weight, self.bias, self.num_groups, self.eps, self.silu)
        y = super().forward(x if shift is None else x + shift[:, :, None, None])
        return F.silu(y) if self.silu else y


class Activated(nn.Module):
    """SiLU for a residual block whose norms bring their own: feature maps pass, the timestep's embedding does not."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; of (B, C, h, w) it is the identity."""
        return x if x.ndim == 4 else F.silu(x)


class Resnet(ResnetBlock2D):
    """A residual block: the first convolution's bias joins the timestep's embedding, the others' the sum at the end."""

    shifts: Shifts | None = None
    """With it all residual blocks of a network project the timestep's embedding."""

    def forward(self, input_tensor: Tensor, temb: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
        """As diffusers' own."""
        if not lies_well(input_tensor, self.conv1, self.conv2, self.conv_shortcut, self.time_emb_proj):
            return super().forward(input_tensor, temb, *args, **kwargs)
        from dragonkit.fused.block_kernels import Added

        x, other = input_tensor, None
        h = self.norm2(_unbiased(self.conv1, self.norm1(x)), self._shift(temb))
        if self.conv_shortcut is not None:
            x, other = _unbiased(self.conv_shortcut, x), self.conv_shortcut.bias
        return Added.apply(x, _unbiased(self.conv2, h), self.conv2.bias, other)

    def _shift(self, temb: Tensor | None) -> Tensor:
        """What is added to the channels between the convolutions, (1 or B, C)."""
        if self.time_emb_proj is None or temb is None:
            return self.conv1.bias[None]
        made = self.shifts(temb, self.time_emb_proj.weight) if self.shifts else None
        return made[0] if made else self.conv1.bias[None] + self.time_emb_proj(F.silu(temb))


class Transformer(Transformer2DModel):
    """A stack of attention blocks between two projections, which are matrix products without moving anything."""

    def _operate_on_continuous_inputs(self, hidden_states: Tensor) -> tuple[Tensor, int]:
        if not lies_well(hidden_states, self.proj_in):
            return super()._operate_on_continuous_inputs(hidden_states)
        rows = self.norm(hidden_states).permute(0, 2, 3, 1).flatten(1, 2)
        rows = F.linear(rows, self.proj_in.weight.flatten(1), self.proj_in.bias)
        return rows, rows.shape[-1]

    def _get_output_for_continuous_inputs(
        self, hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int
    ) -> Tensor:
        if not lies_well(residual, self.proj_out):
            return super()._get_output_for_continuous_inputs(
                hidden_states, residual, batch_size, height, width, inner_dim
            )
        rows = F.linear(hidden_states, self.proj_out.weight.flatten(1), self.proj_out.bias)
        return rows.unflatten(1, (height, width)).permute(0, 3, 1, 2) + residual


class Gate(GEGLU):
    """The gated linear unit of an attention block's feed-forward network."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As diffusers' own."""
        if not is_on():
            return super().forward(hidden_states, *args, **kwargs)
        from dragonkit.fused.block_kernels import Gated

        return Gated.apply(self.proj(hidden_states))


class Convolved(torch.autograd.Function):
    """A convolution whose weights stay as they are: its input, which PyTorch would keep, is not needed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: list[int], padding: list[int]) -> Tensor:
        """``x`` is (B, C, h, w)."""
        ctx.save_for_backward(weight)
        ctx.shape, ctx.stride, ctx.padding = x.shape, stride, padding
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:
        """∂L/∂x, from the weights alone."""
        (weight,) = ctx.saved_tensors
        x = torch.empty(ctx.shape, dtype=dy.dtype, device=dy.device, memory_format=torch.channels_last)
        rest = (None, ctx.stride, ctx.padding, [1, 1], False, [0, 0], 1, [True, False, False])
        return torch.ops.aten.convolution_backward(dy, x, weight, *rest)[0], None, None, None


def _unbiased(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution without its bias; one of 1x1 is a matrix product."""
    if conv.kernel_size == (1, 1):
        return F.linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1)).permute(0, 3, 1, 2)
    from dragonkit.fused.convolution_kernels import Product, suits

    if suits(conv, x):
        return Product.apply(x, conv.weight)
    return Convolved.apply(x, conv.weight, list(conv.stride), list(conv.padding))


def fuse(network: Any) -> None:
    """Give a network's blocks the classes above; weights, their names and what the blocks compute stay as they are.

    Weights that project the same input move to be views of one tensor, see :mod:`dragonkit.fused.stacked`.
    """
    for module in network.modules():
        if type(module) is nn.GroupNorm and module.affine:
            module.__class__ = Norm
    for module in network.modules():
        if type(module) is ResnetBlock2D and _plain(module):
            module.__class__ = Resnet
            module.norm1.silu = module.norm2.silu = True
            module.nonlinearity = Activated()
        elif type(module) is Transformer2DModel and module.is_input_continuous:
            module.__class__ = Transformer
        elif type(module) is BasicTransformerBlock:
            module.__class__ = Block
        elif type(module) is GEGLU:
            module.__class__ = Gate
        elif stackable(module):
            module.__class__ = Attend
        if type(getattr(module, "conv_norm_out", None)) is Norm and type(module.conv_act) is nn.SiLU:
            module.conv_norm_out.silu = True
            module.conv_act = nn.Identity()
    _share(network)


def _share(network: Any) -> None:
    """Stack what projects the same input, in one module or in many of the network."""
    attention = [m for m in network.modules() if type(m) is Attend]
    cross = [m for m in attention if m.is_cross_attention]
    for module in attention:
        if not module.is_cross_attention:
            stack([part.weight for part in (module.to_q, module.to_k, module.to_v)])
    for width in {m.to_k.in_features for m in cross}:
        alike = [m for m in cross if m.to_k.in_features == width]
        words = Shared([part.weight for m in alike for part in (m.to_k, m.to_v)])
        stack(words.weights)
        for module in alike:
            module.words = words
    timed = [m for m in network.modules() if type(m) is Resnet and m.time_emb_proj is not None]
    for width in {m.time_emb_proj.in_features for m in timed}:
        same = [m for m in timed if m.time_emb_proj.in_features == width]
        biases = [(m.time_emb_proj.bias, m.conv1.bias) for m in same]
        shifts = Shifts([m.time_emb_proj.weight for m in same], biases)
        stack(shifts.weights)
        for module in same:
            module.shifts = shifts


def _plain(block: ResnetBlock2D) -> bool:
    """Whether a residual block is of the one kind that Stable Diffusion has."""
    convs = [block.conv1, block.conv2, *([block.conv_shortcut] if block.conv_shortcut is not None else [])]
    return (
        isinstance(block.norm1, Norm)
        and isinstance(block.norm2, Norm)
        and type(block.nonlinearity) is nn.SiLU
        and block.time_embedding_norm == "default"
        and block.upsample is None
        and block.downsample is None
        and not block.skip_time_act
        and block.output_scale_factor == 1
        and block.dropout.p == 0
        and all(type(conv) is nn.Conv2d and conv.bias is not None and conv.groups == 1 for conv in convs)
        and all(conv.dilation == (1, 1) and isinstance(conv.padding, tuple) for conv in convs)
    )
