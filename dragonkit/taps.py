"""Feature taps and attention rewiring, by plain PyTorch hooks.

In diffusers a self-attention module ``attn1`` is called without a context and projects its keys and values from its
own input, or from whatever context it is given. So a hook before it can *save* that input (the tokens), and in another
branch *hand it over* as the context: queries from generation, keys and values from guidance (Eq. 11), through the same
projections and the same attention kernel, whatever they are. Keeping tokens takes half the memory of keeping both
keys and values.

Every hook lives inside a ``with`` block and is removed when it ends, however it ends. What ``torch.compile`` has made
of a module does not notice hooks that come later, so meanwhile such a module is called as it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from dragonkit.errors import InputError
from dragonkit.text import Cond, arguments

Tokens = dict[str, Tensor]
"""Self-attention inputs (B, N, C) by the name of the attention module."""


class Ragged(NamedTuple):
    """Tokens of a batch whose members attend to different numbers of them.

    Args:
        tokens: (B, M, C), padded to the longest.
        bias: (B, 1, M), added to the attention's logits: 0, or -inf where there is only padding.
    """

    tokens: Tensor
    bias: Tensor


Context = Callable[[str, Tensor], Tensor | Ragged | None]
"""(module name, own tokens) -> tokens to take keys and values from, or None to leave the module alone."""

Mixing = Callable[[Tensor, Tensor, tuple[Tensor, ...]], Tensor | Ragged]
"""(own, guidance, reference tokens) -> the tokens attended to; it selects and joins along dimension 1."""


class _Enough(Exception):
    """Raised in a hook to end a forward pass whose rest nobody needs."""


@contextmanager
def features(unet: Any, layers: Iterable[int], *, stop: bool = False) -> Iterator[dict[int, Tensor]]:
    """Collect the outputs of decoder layers during the forward passes inside the block.

    Args:
        unet: the denoiser.
        layers: numbers from 1: layer k is the output of ``up_blocks[k - 1]``.
        stop: end the pass after the last of them, by an exception that :func:`tap` catches.

    Yields:
        A dict, filled and overwritten by every pass: layer -> (B, C, h, w).

    Raises:
        InputError: a layer that the model does not have; the message names those it has.
    """
    layers = sorted(set(layers))
    blocks = list(unet.up_blocks)
    unknown = [k for k in layers if k not in range(1, len(blocks) + 1)]
    if unknown or not layers:
        names = ", ".join(f"{i + 1} (up_blocks[{i}])" for i in range(len(blocks)))
        raise InputError(f"layers {unknown or layers} cannot be tapped: choose from {names}")
    found: dict[int, Tensor] = {}

    def save(layer: int) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[layer] = output
            if stop and layer == layers[-1]:
                raise _Enough

        return hook

    with heard(unet, [blocks[layer - 1] for layer in layers]), ExitStack() as stack:
        for layer in layers:
            stack.callback(blocks[layer - 1].register_forward_hook(save(layer)).remove)
        yield found


def tap(unet: Any, layers: Iterable[int], z: Tensor, t: int, cond: Cond) -> dict[int, Tensor]:
    """Features of decoder layers at (z, t), computing nothing after the last of them.

    Differentiable in z. Layer k is the output of ``up_blocks[k - 1]``; the paper uses 2 and 3 of Stable Diffusion's
    four, which have a half and all of the latent's resolution. Stable Diffusion XL has three layers, of a half, all and
    all of it (64, 128 and 128 cells a side at 1024 px): there 1 and 2 correspond to these.

    Args:
        unet: the denoiser.
        layers: any of 1 to 4, in any order.
        z: (B, C, h, w), at timestep t.
        t: training timestep.
        cond: what conditions the U-Net, of z's batch.

    Returns:
        layer -> (B, C_k, h_k, w_k), in the model's dtype.

    Raises:
        InputError: a layer that the model does not have.
    """
    # As written, throughout: a way back that is compiled can be gone once, and regional gradients go it twice.
    with heard(unet, unet.modules()), features(unet, layers, stop=True) as found:
        try:
            unet(z.to(next(unet.parameters()).dtype), t, **arguments(cond), return_dict=False)
        except _Enough:
            pass
    return dict(sorted(found.items()))


def attentions(unet: Any) -> dict[str, nn.Module]:
    """The decoder's self-attention modules by name.

    Raises:
        InputError: there is none, so attention cannot be recorded or rewired.
    """
    named = {name: m for name, m in unet.named_modules() if name.startswith("up_blocks")}
    found = {
        name: m
        for name, m in named.items()
        if name.endswith("attn1") and not getattr(named[name.removesuffix(".attn1")], "only_cross_attention", False)
    }
    if not found:
        raise InputError("the model has no decoder self-attention (up_blocks…attn1): set attention_mode to 'off'")
    return found


@contextmanager
def heard(unet: Any, modules: Iterable[nn.Module]) -> Iterator[None]:
    """Call modules of a denoiser, and those that they are in, as they are written: so their hooks are called.

    All other blocks stay as ``torch.compile`` has them.

    Raises:
        InputError: the denoiser is wrapped by ``torch.compile`` as a whole.
    """
    if "_orig_mod" in unet._modules:
        raise InputError(
            "the denoiser is wrapped by torch.compile, so features cannot be read in it: compile its blocks instead, "
            "unet.compile_repeated_blocks()"
        )
    compiled = [module for module in unet.modules() if module._compiled_call_impl is not None]
    hooked = set(modules) if compiled else set()
    kept = [(module, module._compiled_call_impl) for module in compiled if not hooked.isdisjoint(module.modules())]
    try:
        for module, _ in kept:
            module._compiled_call_impl = None
        yield
    finally:
        for module, call in kept:
            module._compiled_call_impl = call


@contextmanager
def _before(unet: Any, hook: Callable[..., Any]) -> Iterator[None]:
    """Run ``hook(name, args, kwargs)`` before each decoder self-attention, while the block lasts."""
    modules = attentions(unet)
    with unfused(unet), heard(unet, modules.values()), ExitStack() as stack:
        for name, module in modules.items():

            def call(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> Any:
                return hook(name, args, kwargs)

            stack.callback(module.register_forward_pre_hook(call, with_kwargs=True).remove)
        yield


@contextmanager
def record(unet: Any) -> Iterator[Tokens]:
    """Save every decoder self-attention's input during the forward passes inside the block.

    Yields:
        A dict, filled and overwritten by every pass: module name -> (B, N, C).
    """
    tokens: Tokens = {}

    def save(name: str, args: Any, kwargs: Any) -> None:
        tokens[name] = (args[0] if args else kwargs["hidden_states"]).detach()

    with _before(unet, save):
        yield tokens


@contextmanager
def rewire(unet: Any, context: Context) -> Iterator[None]:
    """Let every decoder self-attention take its keys and values from other tokens (Eq. 11).

    Args:
        unet: the denoiser.
        context: called with the module's name and its own tokens (B, N, C); returns the tokens (1 or B, M, C) to
            attend to, :func:`repeated` to the batch here, or None for ordinary self-attention.
    """

    def swap(name: str, args: Any, kwargs: Any) -> Any:
        own = args[0] if args else kwargs["hidden_states"]
        theirs = context(name, own)
        if theirs is None:
            return None
        tokens, bias = theirs if isinstance(theirs, Ragged) else (theirs, None)
        tokens = repeated(tokens.to(own.dtype), len(own))
        masked = {} if bias is None else {"attention_mask": repeated(bias.to(own.dtype), len(own))}
        return args, {**kwargs, "encoder_hidden_states": tokens, **masked}

    with _before(unet, swap):
        yield


def repeated(x: Tensor, count: int) -> Tensor:
    """(B, N, C) for a batch of ``count`` that holds those B several times, as guidance's two halves do."""
    return x.expand(count, -1, -1) if len(x) == 1 else x.repeat(count // len(x), 1, 1)


@contextmanager
def unfused(unet: Any) -> Iterator[None]:
    """Undo fused Q, K, V projections for the block: a fused module cannot take keys from elsewhere."""
    fused = dict(unet.attn_processors)
    if not any("Fused" in type(p).__name__ for p in fused.values()):
        yield
        return
    from diffusers.models.attention_processor import AttnProcessor2_0

    # Not unfuse_qkv_projections(): it empties its memory of the processors, and a second call fails.
    plain = getattr(unet, "original_attn_processors", None)
    unet.set_attn_processor(dict(plain) if plain else AttnProcessor2_0())
    try:
        yield
    finally:
        unet.set_attn_processor(fused)


@dataclass
class Count:
    """Denoiser evaluations so far (NFE); a batched pair counts once, as in the papers."""

    evaluations: int = 0

    def __call__(self, module: nn.Module, args: Any) -> None:
        """One more: it is a hook before the U-Net."""
        self.evaluations += 1


@contextmanager
def counted(unet: Any) -> Iterator[Count]:
    """Count the U-Net's forward passes inside the block, complete or stopped early."""
    count = Count()
    with heard(unet, [unet]), ExitStack() as stack:
        stack.callback(unet.register_forward_pre_hook(count).remove)
        yield count
