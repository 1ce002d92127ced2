"""CUDA graphs: the denoiser's passes, recorded once for each shape and then replayed.

At batch 1 a GPU computes faster than Python can ask it to: most of a pass is waiting for the next launch. A graph holds
all launches of a pass, with the addresses that they read and write. So what changes from step to step, the latent, the
timestep, the embedding and the tokens to look at, is copied to where the graph reads, and what is to be kept is copied
from where it writes.

Energies are not recorded: they are any Python, differ from edit to edit, and take few launches. Autograd meets a
recorded pass as one function (:class:`_Tapped`), whose backward is a graph, too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from dragonkit.passes import Looking, Pass, taking
from dragonkit.taps import Count, tap
from dragonkit.text import Cond, arguments

if TYPE_CHECKING:
    from dragonkit.models import Model

Named = dict[Any, Tensor]
Replay = Callable[[], None]


class Recorder(Protocol):
    """Records work on a device, to be done again at the same addresses."""

    def warm(self, work: Callable[[], Any]) -> None:
        """Do the work as often as libraries need to choose and to allocate what they use for it."""

    def record(self, work: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Replay]:
        """Record it; returns where its results are once it is replayed, and what replays it."""


class CUDA:
    """CUDA graphs, all of one pool of memory: they run one after the other."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def warm(self, work: Callable[[], Any]) -> None:
        """Twice, on a stream of its own, as PyTorch asks."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(aside)

    def record(self, work: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Replay]:
        """As :class:`Recorder` says."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            results = work()
        return results, graph.replay


@dataclass(frozen=True, eq=False)
class _Recorded:
    """A recorded pass.

    Args:
        inputs: where it reads, by name.
        outputs: where it writes, by name.
        replay: does it again.
        grads: by name of an output: where the backward pass reads.
        back: does the backward pass.
        dz: where that writes.
        held: what must live as long as the graphs: their memory would be given to the next one.
    """

    inputs: Named
    outputs: Named
    replay: Replay
    grads: Named
    back: Replay | None = None
    dz: Tensor | None = None
    held: Any = None

    def __call__(self, inputs: Named) -> Named:
        """Replay it on inputs; the results are overwritten by the next pass."""
        for name, x in inputs.items():
            if x is not self.inputs[name]:
                self.inputs[name].copy_(x)
        self.replay()
        return self.outputs


class Graphs:
    """The recorded passes of a model.

    Args:
        model: whose; it is not moved, and its weights are not replaced, while this is used.
        recorder: what records.
        most: recorded passes to keep; the one that was not used for longest is forgotten.
    """

    def __init__(self, model: Model, recorder: Recorder | None = None, most: int = 16) -> None:
        self.model, self.recorder, self.most = model, recorder or CUDA(), most
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()

    def usable(self) -> bool:
        """Whether nobody listens inside the denoiser: a hook of someone else's would not be called by a replay."""
        for module in self.model.unet.modules():
            if module._forward_hooks or any(not isinstance(h, Count) for h in module._forward_pre_hooks.values()):
                return False
        return True

    def clear(self) -> None:
        """Forget what was recorded."""
        self._recorded.clear()

    def __len__(self) -> int:
        return len(self._recorded)

    @torch.no_grad()
    def evaluate(
        self, z: Tensor, t: int, cond: Cond, *, tokens: bool, layers: tuple[int, ...], look: Looking | None
    ) -> Pass:
        """See :func:`dragonkit.passes.evaluate`."""
        inputs = self._inputs(z, t, cond)
        if look:
            inputs |= {("gud", name): x for name, x in look.gud.items()}
            inputs |= {("ref", k, name): x for k, ref in enumerate(look.refs) for name, x in ref.items()}
        # A chooser's own indices are part of what is recorded: for another one the pass is recorded again.
        key = "evaluate", tokens, layers, look and (look.mix, len(look.refs))

        def make(at: Named) -> _Recorded:
            return self._forward(at, tokens, layers, look and _looking(at, look))

        recorded = self._get(key, inputs, make)
        self._count()
        out = recorded(inputs)
        kept = {name: x.clone() for (kind, name), x in out.items() if kind == "tokens"}
        found = {layer: x.clone() for (kind, layer), x in out.items() if kind == "features"}
        return Pass(self.model.noise(out["eps", 0], z, t).clone(), kept, found)

    def tap(self, layers: Iterable[int], z: Tensor, t: int, cond: Cond) -> dict[int, Tensor]:
        """See :func:`dragonkit.taps.tap`."""
        layers = tuple(sorted(set(layers)))
        inputs = self._inputs(z, t, cond)
        with torch.no_grad():
            recorded = self._get(("tap", layers), inputs, lambda at: self._tapped(at, layers))
        self._count()
        return dict(zip(layers, _Tapped.apply(z, recorded, inputs), strict=True))

    def _inputs(self, z: Tensor, t: int, cond: Cond) -> Named:
        when = torch.full((1,), t, dtype=torch.int64, device=z.device)  # made there: a copy from here would wait
        return {"z": z.detach().to(self.model.dtype), "t": when, **{("cond", name): x for name, x in cond.items()}}

    def _get(self, key: Hashable, inputs: Named, make: Callable[[Named], _Recorded]) -> _Recorded:
        """What was recorded for inputs of these shapes, or is now."""
        weight = next(self.model.unet.parameters())
        key = key, weight.data_ptr(), tuple((name, x.shape, x.dtype, x.device) for name, x in inputs.items())
        if key in self._recorded:
            self._recorded.move_to_end(key)
        else:
            self._recorded[key] = make({name: x.clone() for name, x in inputs.items()})
            while len(self._recorded) > self.most:
                self._recorded.popitem(last=False)
        return self._recorded[key]

    def _forward(self, at: Named, tokens: bool, layers: tuple[int, ...], look: Looking | None) -> _Recorded:
        names: list[tuple[str, Any]] = []

        def work() -> list[Tensor]:
            with taking(self.model.unet, tokens=tokens, layers=layers, look=look) as (kept, found):
                eps = self.model.unet(at["z"], at["t"], **arguments(_cond(at)), return_dict=False)[0]
            names[:] = [("eps", 0), *(("tokens", n) for n in kept), *(("features", k) for k in found)]
            return [eps, *kept.values(), *found.values()]

        with uncounted(self.model.unet):
            self.recorder.warm(work)
            results, replay = self.recorder.record(work)
        return _Recorded(at, dict(zip(names, results, strict=True)), replay, {})

    def _tapped(self, at: Named, layers: tuple[int, ...]) -> _Recorded:
        z = at["z"].requires_grad_()
        box: list[Tensor] = []
        grads: list[Tensor] = []

        def forward() -> list[Tensor]:
            with torch.enable_grad():
                box[:] = tap(self.model.unet, layers, z, at["t"], _cond(at)).values()  # type: ignore[arg-type]
            return [x.detach() for x in box]

        def backward() -> list[Tensor]:
            return list(torch.autograd.grad(box, z, grads, retain_graph=True))  # regional gradients go back twice

        def both() -> None:
            forward()
            grads[:] = [torch.zeros_like(x) for x in box]
            backward()

        with uncounted(self.model.unet):
            self.recorder.warm(both)
            results, replay = self.recorder.record(forward)
            (dz,), back = self.recorder.record(backward)
        names = [("features", layer) for layer in layers]
        outputs, cotangents = dict(zip(names, results, strict=True)), dict(zip(names, grads, strict=True))
        return _Recorded(at, outputs, replay, cotangents, back, dz, held=box)

    def _count(self) -> None:
        """Tell who counts evaluations of one more."""
        for hook in self.model.unet._forward_pre_hooks.values():
            hook(self.model.unet, ())


class _Tapped(torch.autograd.Function):
    """Features of a latent by a recorded pass, and back by its recorded gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, recorded: _Recorded, inputs: Named) -> tuple[Tensor, ...]:
        ctx.recorded, ctx.dtype = recorded, z.dtype
        return tuple(x.clone() for x in recorded(inputs).values())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        recorded = ctx.recorded
        for there, grad in zip(recorded.grads.values(), grads, strict=True):
            there.copy_(grad)
        recorded.back()
        return recorded.dz.to(ctx.dtype, copy=True), None, None


def _cond(at: Named) -> Cond:
    return {name[1]: x for name, x in at.items() if isinstance(name, tuple) and name[0] == "cond"}


def _looking(at: Named, look: Looking) -> Looking:
    """The same choice, from the tokens at the recorded addresses."""
    refs = [{name: at["ref", k, name] for name in ref} for k, ref in enumerate(look.refs)]
    return Looking(look.mix, {name: at["gud", name] for name in look.gud}, tuple(refs))


@contextmanager
def uncounted(unet: Any) -> Iterator[None]:
    """Recording runs the denoiser, but evaluates nothing for anybody."""
    hooks = unet._forward_pre_hooks
    kept = dict(hooks)
    hooks.clear()
    try:
        yield
    finally:
        hooks.update(kept)
