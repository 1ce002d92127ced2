"""Exercises of notebook 08: attention, and whose tokens it looks at (Eq. 11)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dragonkit.course.exercise import Wrong, called, exercise
from dragonkit.inversion import Path
from dragonkit.models import Model
from dragonkit.regions import Frame
from dragonkit.taps import attentions, rewire
from dragonkit.trace import Look

Bytes = Callable[[Sequence[tuple[int, int]], int, int], tuple[int, int]]


@exercise
def check_attention(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """Write attention for one head: from Q (N, d), K (M, d) and V (M, d) to (N, d)."""
    for seed, (n, m, d) in enumerate(((5, 5, 4), (3, 7, 16))):
        draw = torch.Generator().manual_seed(seed)
        q, k, v = (2 * torch.randn(count, d, generator=draw) for count in (n, m, m))
        found = called(answer, q, k, v)
        if not isinstance(found, Tensor) or found.shape != q.shape:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise Wrong(f"{n} queries of {d} channels get as many answers, ({n}, {d}); yours are {shape}")
        logits = torch.einsum("nc,mc->nm", q, k)
        known = {
            "each row of weights has to add up to 1: take the softmax over the keys": logits.div(d**0.5).softmax(0) @ v,
            "the products are not scaled: divide them by the square root of d": logits.softmax(-1) @ v,
            f"the products are divided by d = {d}: it is the square root of d": logits.div(d).softmax(-1) @ v,
            "that is an average of the keys: the weights belong to the values, V": logits.div(d**0.5).softmax(-1) @ k,
        }
        for hint, mistaken in known.items():
            if torch.allclose(found, mistaken, atol=1e-4):
                raise Wrong(hint)
        expected = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        if not torch.allclose(found, expected, atol=1e-4):
            raise Wrong("the numbers are not softmax(Q Kᵀ / √d) V: who asks, who is compared, and what is averaged?")
    return "every query gets a weighted mean of the values"


@exercise
def check_cross(answer: Callable[..., Tensor]) -> str:
    """Write Eq. 11 for one head: from own tokens (N, C), the guidance branch's (M, C), and W_Q, W_K, W_V (C, d)."""
    draw = torch.Generator().manual_seed(3)
    own, gud = torch.randn(6, 8, generator=draw), torch.randn(9, 8, generator=draw)
    w_q, w_k, w_v = (torch.randn(8, 4, generator=draw) for _ in range(3))

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q, k, v = queries @ w_q, keys @ w_k, values @ w_v
        return torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]

    found = called(answer, own, gud, w_q, w_k, w_v)
    if not isinstance(found, Tensor) or found.shape != (6, 4):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise Wrong(f"6 tokens ask, so there are 6 answers of 4 channels, (6, 4); yours are {shape}: who asks?")
    known = {
        "that is ordinary self-attention: keys and values come from the guidance branch": attend(own, own, own),
        "the generation asks, so Q comes from its own tokens": attend(gud[:6], gud, gud),
        "the keys are right, the values still come from the generation branch": attend(own, gud[:6], own),
    }
    for hint, mistaken in known.items():
        if torch.allclose(found, mistaken, atol=1e-4):
            raise Wrong(hint)
    if not torch.allclose(found, attend(own, gud, gud), atol=1e-4):
        raise Wrong("the numbers are not Eq. 11: Q = own W_Q, K = gud W_K, V = gud W_V, then attention as before")
    return "own questions, the original's answers"


@exercise
def check_context(answer: Callable[[Tensor, Tensor], Tensor], model: Model, path: Path, step: int) -> str:
    """Write the tokens to attend to so that a module sees both branches: from own and gud, (1, N, C) each."""
    gud, t = path.tokens_at(model, step), path.schedule.timesteps[step]
    name = next(iter(attentions(model.unet)))
    own = torch.randn(gud[name].shape, generator=torch.Generator().manual_seed(4)).to(gud[name])
    found = called(answer, own, gud[name])
    count = own.shape[1]
    if not isinstance(found, Tensor) or found.ndim != 3 or found.shape[2] != own.shape[2]:
        raise Wrong("return tokens like those given, (1, how many, C): channels stay, their number may change")
    if found.shape[1] != 2 * count:
        raise Wrong(f"{count} own tokens and {count} of the original make {2 * count}; yours are {found.shape[1]}")
    z = torch.randn(path.z_T.shape, generator=torch.Generator().manual_seed(5)).to(path.z_T)

    def noise(context: Callable[[str, Tensor], Tensor]) -> Tensor:
        with torch.no_grad(), rewire(model.unet, context):
            return model.predict(z, t, path.cond)

    # The order of keys does not matter to attention, so either order is right: the denoiser says the same.
    both = noise(lambda name, own: torch.cat([gud[name], own], dim=1))
    if not torch.allclose(noise(lambda name, own: called(answer, own, gud[name])), both, atol=1e-3):
        raise Wrong("with your tokens the denoiser says something else than with both sets: is each there once?")
    return "the denoiser looks at both pictures, and the softmax decides"


@exercise
def check_gaze(answer: tuple[float, float], look: Look, frame: Frame) -> str:
    """Predict the pixel (x, y) of the original round which the cells of the target look most."""
    try:
        x, y = (float(v) for v in answer)
    except (TypeError, ValueError):
        raise Wrong(f"{answer!r} is no place: give (x, y) in pixels") from None
    if not (0 <= x < frame.width and 0 <= y < frame.height):
        raise Wrong(f"({x:g}, {y:g}) is off the picture, which is {frame.width} x {frame.height}")
    at = frame.centres((look.source.shape[0], look.source.shape[1]))
    reach = 24  # pixels: three cells of the latent
    near = [((at - at.new_tensor(p)).norm(dim=-1) <= reach) for p in ((x, y), *at.reshape(-1, 2).tolist())]
    found, *others = (look.source[here].sum().item() for here in near)
    best = max(others)
    if found < 0.6 * best:
        raise Wrong(
            f"within {reach} px of ({x:g}, {y:g}) there is {found:.0%} of the attention, and elsewhere a place with "
            f"{best:.0%}: what does the target shall look like, and where is that in the original?"
        )
    return f"much of it is there, within {reach} px"


@exercise
def check_memory(answer: Bytes, tokens: Mapping[str, Tensor]) -> str:
    """Write how many bytes a run keeps, (as tokens, as K and V), from shapes [(N, C), ...], steps, bytes a number."""
    shapes = [(int(x.shape[1]), int(x.shape[2])) for x in tokens.values()]
    for given, steps, size in ((shapes, 1, 4), (shapes, 22, 4), ([(64, 8), (16, 32)], 10, 2)):
        found = called(answer, given, steps, size)
        try:
            as_tokens, as_both = (float(v) for v in found)
        except (TypeError, ValueError):
            raise Wrong("return two numbers: bytes as tokens, bytes as K and V") from None
        kept = steps * size * sum(n * c for n, c in given)
        if as_tokens != kept:
            raise Wrong(f"{given} over {steps} steps at {size} bytes: tokens take {kept}, yours {as_tokens:.0f}")
        if as_both != 2 * kept:
            raise Wrong("K and V have the tokens' shape here, and there are two of them, at every module and step")
    return "tokens take half, and nothing is lost: K and V are made from them when they are needed"
