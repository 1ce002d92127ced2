"""CUDA graphs: the denoiser's passes, recorded once for each shape and then replayed.

At batch 1 a GPU computes faster than Python can ask it to: most of a pass is waiting for the next launch. A graph holds
all launches of a pass, with the addresses that they read and write. So what changes from step to step, the latent, the
timestep, the embedding and the tokens to look at, is copied to where the graph reads, and what is to be kept is copied
from where it writes.

Autograd meets a recorded pass as one function (:class:`_Tapped`), whose backward is a graph, too. Regional gradients go
back twice from one pass: two such graphs, replayed beside each other, since neither fills the GPU; so does the tapped
pass beside the one for the noise. Energies are any Python, and differ from edit to edit: those of the kit's own edits
are recorded anew for each (:meth:`Graphs.repeated`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from dragonkit.fused import fused
from dragonkit.passes import Looking, Pass, Slopes, taking
from dragonkit.taps import Count, tap
from dragonkit.text import Cond, arguments

if TYPE_CHECKING:
    from dragonkit.models import Model

Named = dict[Any, Tensor]
Replay = Callable[[], None]

Tap = tuple[dict[int, Tensor], Callable[[Sequence[Slopes]], list[Tensor]]]
"""Features by layer, and what pulls energies' slopes of them back to z."""

LANES = 2
"""Ways back from one pass that are replayed at once."""


class Recorder(Protocol):
    """Records work on a device, to be done again at the same addresses."""

    def warm(self, work: Callable[[], Any]) -> None:
        """Do the work as often as libraries need to choose and to allocate what they use for it."""

    def record(self, work: Callable[[], list[Tensor]], lane: int = 0) -> tuple[list[Tensor], Replay]:
        """Record it; returns where its results are once it is replayed, and what replays it."""

    def beside(self, replays: Sequence[Replay]) -> None:
        """Replay what was recorded for lanes 0, 1, ... at once."""

    def begin(self, replay: Replay) -> Replay:
        """Begin to replay what was recorded for lane 1 beside what comes next; returns what waits for its end."""


class CUDA:
    """CUDA graphs of one device. Those of one lane share a pool of memory: they run one after the other.

    Args:
        device: the model's, which need not be the current one: streams and kernels belong to the current device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pools = [torch.cuda.graph_pool_handle() for _ in range(LANES)]
        self.streams = [torch.cuda.Stream(device) for _ in range(1, LANES)]
        # The same each time: what a pool has given to a stream it gives again to that stream only.
        self.aside = torch.cuda.Stream(device)

    def warm(self, work: Callable[[], Any]) -> None:
        """Twice, on a stream of its own, as PyTorch asks; the memory that this took is given back."""
        with self._on(self.aside):
            for _ in range(2):
                work()
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()

    def record(self, work: Callable[[], list[Tensor]], lane: int = 0) -> tuple[list[Tensor], Replay]:
        """As :class:`Recorder` says. Not by ``torch.cuda.graph``, which waits and empties the cache each time."""
        graph = torch.cuda.CUDAGraph()
        with self._on(self.aside):
            graph.capture_begin(pool=self.pools[lane])
            try:
                results = work()
            finally:
                graph.capture_end()
        return results, partial(self._replay, graph)

    def _replay(self, graph: torch.cuda.CUDAGraph) -> None:
        with torch.cuda.device(self.device):
            graph.replay()

    def beside(self, replays: Sequence[Replay]) -> None:
        """As :class:`Recorder` says."""
        first, *others = replays
        ends = [self.begin(replay, lane) for lane, replay in enumerate(others, 1)]
        first()
        for end in ends:
            end()

    def begin(self, replay: Replay, lane: int = 1) -> Replay:
        """As :class:`Recorder` says: on a stream of the lane's own."""
        stream = self.streams[lane - 1]
        with self._after(stream):
            replay()
        return lambda: torch.cuda.current_stream(self.device).wait_stream(stream)

    @contextmanager
    def _after(self, stream: torch.cuda.Stream) -> Iterator[None]:
        """On another stream, after what has been asked of the current one so far."""
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.device(self.device), torch.cuda.stream(stream):
            yield

    @contextmanager
    def _on(self, stream: torch.cuda.Stream) -> Iterator[None]:
        """The same, and the current one goes on after it."""
        with self._after(stream):
            yield
        torch.cuda.current_stream(self.device).wait_stream(stream)


@dataclass(eq=False)
class _Recorded:
    """A recorded pass.

    Args:
        inputs: where it reads, by name.
        outputs: where it writes, by name.
        replay: does it again.
        turn: how often it was.
    """

    inputs: Named
    outputs: Named
    replay: Replay
    turn: int = 0

    def take(self, inputs: Named) -> None:
        """Copy what is given to where it reads."""
        for name, x in inputs.items():
            if x is not self.inputs[name]:
                self.inputs[name].copy_(x)
        self.turn += 1

    def __call__(self, inputs: Named) -> Named:
        """Replay it on inputs; the results are overwritten by the next pass."""
        self.take(inputs)
        self.replay()
        return self.outputs


@dataclass(frozen=True, eq=False)
class _Lane:
    """A recorded way back: it reads ∂L/∂F at ``slopes`` and writes ∂L/∂z at ``dz``."""

    slopes: list[Tensor]
    back: Replay
    dz: Tensor


@dataclass(eq=False)
class _Differentiable(_Recorded):
    """A recorded pass with ways back.

    Args:
        widen: records one more way back.
        recorder: what replays several at once.
        lanes: those that there are.
    """

    widen: Callable[[int], _Lane] = field(kw_only=True)
    recorder: Recorder = field(kw_only=True)
    lanes: list[_Lane] = field(default_factory=list)

    def pull(self, energies: Sequence[Slopes], turn: int) -> list[Tensor]:
        """∂L/∂z of each energy, from what the ``turn``-th replay left: see :meth:`dragonkit.passes.Watched.pull`."""
        if turn != self.turn:
            raise RuntimeError("this pass was replayed since: take all gradients of a pass before the next one")
        pulled = []
        for k in range(0, len(energies), LANES):
            abreast = energies[k : k + LANES]
            while len(self.lanes) < len(abreast):
                self.lanes.append(self.widen(len(self.lanes)))
            lanes = self.lanes[: len(abreast)]
            for lane, slopes in zip(lanes, abreast, strict=True):
                for there, x in zip(lane.slopes, slopes, strict=True):
                    there.copy_(x)
            self.recorder.beside([lane.back for lane in lanes])
            pulled += [lane.dz.to(torch.float32, copy=True) for lane in lanes]
        return pulled


class _Repeated:
    """See :meth:`Graphs.repeated`."""

    def __init__(self, work: Callable[[list[Tensor]], list[Tensor]], recorder: Recorder) -> None:
        self.work, self.recorder = work, recorder
        self.calls = 0
        self.recorded: _Recorded | None = None

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        self.calls += 1
        named: Named = {k: x.detach() for k, x in enumerate(inputs)}
        if self.calls == 2:
            self.recorded = self._record({k: x.clone() for k, x in named.items()})
        if self.recorded is None:
            return self.work(inputs)
        return [x.clone() for x in self.recorded(named).values()]

    def _record(self, at: Named) -> _Recorded | None:
        try:
            results, replay = self.recorder.record(lambda: self.work(list(at.values())))
        except RuntimeError:  # of CUDA, which allows some things only while nothing is recorded
            return None
        return _Recorded(at, dict(enumerate(results)), replay)


class Graphs:
    """The recorded passes of a model.

    Args:
        model: whose; it is not moved, and its weights are not replaced, while this is used.
        recorder: what records.
        most: recorded passes to keep; the one that was not used for longest is forgotten.
    """

    def __init__(self, model: Model, recorder: Recorder | None = None, most: int = 16) -> None:
        self.model, self.recorder, self.most = model, recorder or CUDA(model.device), most
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()
        self._weights: list[Tensor] = []
        self._listening: list[Any] = []
        self._places: list[int] = []
        self.look()

    def look(self) -> None:
        """Look where the denoiser's weights and hooks are: what was recorded with weights elsewhere is forgotten.

        :func:`dragonkit.edit` does so each time. In between, new values are noticed, and new hooks, but no new modules.
        """
        modules = list(self.model.unet.modules())
        self._weights = [p for module in modules for p in module._parameters.values() if p is not None]
        self._listening = [hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)]
        if self._moved():
            self.clear()

    def _moved(self) -> bool:
        before, self._places = self._places, [p.data_ptr() for p in self._weights]
        return before != self._places

    def usable(self) -> bool:
        """Whether nobody listens inside the denoiser: a hook of someone else's would not be called by a replay."""
        return all(isinstance(hook, Count) for hooks in self._listening if hooks for hook in hooks.values())

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

    def tap(self, layers: Iterable[int], z: Tensor, t: int, cond: Cond) -> Callable[[], Tap]:
        """See :func:`dragonkit.taps.tap`; begun now, and ended by calling the result, before any other tap.

        That gives the features, and what pulls slopes of them back to z, several energies' at once.
        """
        layers = tuple(sorted(set(layers)))
        inputs = self._inputs(z, t, cond)
        with torch.no_grad():
            recorded = self._get(("tap", layers), inputs, lambda at: self._tapped(at, layers))
            recorded.take(inputs)
        self._count()
        wait = self.recorder.begin(recorded.replay)

        def end() -> Tap:
            wait()
            with torch.enable_grad():
                found = dict(zip(layers, _Tapped.apply(z, recorded), strict=True))
            return found, partial(recorded.pull, turn=recorded.turn)

        return end

    def repeated(self, work: Callable[[list[Tensor]], list[Tensor]]) -> Callable[[list[Tensor]], list[Tensor]]:
        """Work on tensors of the same shapes again and again: done the first time, then recorded, then replayed.

        If it cannot be recorded, because it asks for a number, say, it is done every time.
        """
        return _Repeated(work, self.recorder)

    def _inputs(self, z: Tensor, t: int, cond: Cond) -> Named:
        when = torch.full((1,), t, dtype=torch.int64, device=z.device)  # made there: a copy from here would wait
        return {"z": z.detach().to(self.model.dtype), "t": when, **{("cond", name): x for name, x in cond.items()}}

    def _get(self, key: Hashable, inputs: Named, make: Callable[[Named], _Recorded]) -> Any:
        """What was recorded for inputs of these shapes, or is now."""
        if self._moved():
            self.clear()
        key = key, tuple((name, x.shape, x.dtype, x.device) for name, x in inputs.items())
        if key in self._recorded:
            self._recorded.move_to_end(key)
        else:
            self._recorded[key] = make({name: x.clone() for name, x in inputs.items()})
            while len(self._recorded) > self.most:
                self._recorded.popitem(last=False)
        return self._recorded[key]

    def _forward(self, at: Named, tokens: bool, layers: tuple[int, ...], look: Looking | None) -> _Recorded:
        names: list[tuple[str, Any]] = []
        unet = self.model.unet

        def work() -> list[Tensor]:
            with taking(unet, tokens=tokens, layers=layers, look=look) as (kept, found):
                eps = unet(at["z"], at["t"], **arguments(_cond(at)), return_dict=False)[0]
            names[:] = [("eps", 0), *(("tokens", n) for n in kept), *(("features", k) for k in found)]
            return [eps, *kept.values(), *found.values()]

        with uncounted(unet):
            self.recorder.warm(work)
            results, replay = self.recorder.record(work)
        return _Recorded(at, dict(zip(names, results, strict=True)), replay)

    def _tapped(self, at: Named, layers: tuple[int, ...]) -> _Differentiable:
        unet, recorder = self.model.unet, self.recorder
        z = at["z"].data.requires_grad_()  # the same numbers, whose changes from replay to replay autograd does not see
        box: list[Tensor] = []

        def forward() -> list[Tensor]:
            with torch.enable_grad():
                box[:] = tap(unet, layers, z, at["t"], _cond(at)).values()  # type: ignore[arg-type]
            return [x.detach() for x in box]

        def backward(slopes: list[Tensor]) -> list[Tensor]:
            return list(torch.autograd.grad(box, z, slopes, retain_graph=True))

        def both() -> None:
            backward([torch.zeros_like(x) for x in forward()])

        def lane(k: int) -> _Lane:  # it holds box, and so the numbers that the way back reads
            slopes = [torch.zeros_like(x) for x in box]
            with uncounted(unet):
                (dz,), back = recorder.record(partial(backward, slopes), k)
            return _Lane(slopes, back, dz)

        with uncounted(unet):
            recorder.warm(both)
            results, replay = recorder.record(forward, 1)  # to be replayed beside the pass for the noise
        outputs = {("features", layer): x for layer, x in zip(layers, results, strict=True)}
        return _Differentiable(at, outputs, replay, widen=lane, recorder=recorder)

    def _count(self) -> None:
        """Tell who counts evaluations of one more."""
        for hook in self.model.unet._forward_pre_hooks.values():
            hook(self.model.unet, ())


class _Tapped(torch.autograd.Function):
    """Features of a latent by a recorded pass, and back by its recorded gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, recorded: _Differentiable) -> tuple[Tensor, ...]:
        ctx.recorded, ctx.turn, ctx.dtype = recorded, recorded.turn, z.dtype
        return tuple(x.clone() for x in recorded.outputs.values())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (dz,) = ctx.recorded.pull([grads], ctx.turn)
        return dz.to(ctx.dtype), None


def _cond(at: Named) -> Cond:
    return {name[1]: x for name, x in at.items() if isinstance(name, tuple) and name[0] == "cond"}


def _looking(at: Named, look: Looking) -> Looking:
    """The same choice, from the tokens at the recorded addresses."""
    refs = [{name: at["ref", k, name] for name in ref} for k, ref in enumerate(look.refs)]
    return Looking(look.mix, {name: at["gud", name] for name in look.gud}, tuple(refs))


@contextmanager
def uncounted(unet: Any) -> Iterator[None]:
    """Recording runs the denoiser, with its blocks fused, but evaluates nothing for anybody."""
    hooks = unet._forward_pre_hooks
    kept = dict(hooks)
    hooks.clear()
    try:
        with fused(unet.device.type):
            yield
    finally:
        hooks.update(kept)
