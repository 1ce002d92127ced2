"""CUDA graphs: the denoiser's passes, recorded once for each shape and then replayed.

At batch 1 a GPU computes faster than Python can ask it to: most of a pass is waiting for the next launch. A graph holds
all launches of a pass, with the addresses that they read and write. So what changes from step to step, the latent, the
timestep, the embedding and the tokens to look at, is copied to where the graph reads, and what is to be kept is copied
from where it writes.

Autograd meets a recorded pass as one function (:class:`dragonkit.recorded.Tapped`), whose backward is a graph, too.
Regional gradients go back twice from one pass: two such graphs, replayed beside each other, since neither fills the
GPU; and all that an energy takes, from the tapped pass to the gradient, is replayed beside the pass for the noise.
Energies are any Python, and differ from edit to edit: those of the kit's own edits are recorded anew for each
(:meth:`Graphs.repeated`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dragonkit.fused import fused, one_pass
from dragonkit.passes import Looking, Pass, Slopes, pulled, taking
from dragonkit.recorded import Clock, Differentiable, Lane, Named, Recorded, Repeated, Tapped, copies
from dragonkit.recorder import CUDA, FEATURES, NOISE, Recorder
from dragonkit.settings import settings
from dragonkit.taps import Count, tap
from dragonkit.text import Cond, arguments

if TYPE_CHECKING:
    from dragonkit.models import Model

Tap = tuple[dict[int, Tensor], Callable[[Sequence[Slopes]], list[Tensor]]]
"""Features by layer, and what pulls energies' slopes of them back to z."""


class Graphs:
    """The recorded passes of a model.

    Args:
        model: whose; it stays on its device while this is used.
        recorder: what records.
        most: recorded passes to keep; the one that was not used for longest is forgotten.
    """

    def __init__(self, model: Model, recorder: Recorder | None = None, most: int = 16) -> None:
        self.model, self.recorder, self.most = model, recorder or CUDA(model.device), most
        self.device = model.device
        self._recorded: OrderedDict[Hashable, Recorded] = OrderedDict()
        self._weights: list[Tensor] = []
        self._listening: list[Any] = []
        self._places: list[int] = []
        self._settings: Hashable = ()
        self._compiled = False
        self._unfinished: Callable[[], None] | None = None
        self._done: set[Hashable] = set()
        self._clock = Clock()
        self._ahead = self._grown = False
        self._look()

    def look(self) -> None:
        """Look where the denoiser's weights and hooks are, and what its modules are set to.

        The first time kernels are compiled, see :mod:`dragonkit.fused.ahead`.

        What was recorded with weights elsewhere or with other settings is forgotten. :func:`dragonkit.edit` looks each
        time; in between weights' new values and places are noticed, and new hooks, but no new modules or settings.
        """
        if not self._ahead:
            from dragonkit.fused.ahead import compile_ahead

            compile_ahead(self.device, self.model.unet, self.model.vae)
            self._ahead = True
        self._look()

    def _look(self) -> None:
        modules = list(self.model.unet.modules())
        self._weights = [p for module in modules for p in module._parameters.values() if p is not None]
        self._listening = [hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)]
        self._compiled = any(module._compiled_call_impl is not None for module in modules)
        before, self._settings = self._settings, settings(self.model.unet)
        if self._moved() or self._settings != before:
            self.clear()

    def _moved(self) -> bool:
        before, self._places = self._places, [p.data_ptr() for p in self._weights]
        return before != self._places

    def usable(self) -> bool:
        """Whether a replay is the same: nobody listens inside the denoiser, for no hook of theirs would be called.

        And nothing in it is by ``torch.compile``, which may compile anew, or record itself, at any call.
        """
        return not self._compiled and all(
            isinstance(hook, Count) for hooks in self._listening if hooks for hook in hooks.values()
        )

    def tidy(self) -> None:
        """Give back what recording has left, if anything was recorded since the last time.

        An inversion's tokens are kept in what is free after its passes were recorded, in pieces that serve no picture.
        """
        if self._grown:
            self.recorder.tidy()
        self._grown = False

    def clear(self) -> None:
        """Forget what was recorded."""
        self._recorded.clear()

    def __len__(self) -> int:
        return len(self._recorded)

    @torch.no_grad()
    def begin(
        self, z: Tensor, t: int, cond: Cond, *, tokens: bool, layers: tuple[int, ...], look: Looking | None
    ) -> Callable[[], Pass]:
        """See :func:`dragonkit.passes.begin`; what it returns may be called once, and is by the next pass at latest."""
        inputs = self._inputs(z, t, cond)
        if look:
            inputs |= {("gud", name): x for name, x in look.gud.items()}
            inputs |= {("ref", k, name): x for k, ref in enumerate(look.refs) for name, x in ref.items()}
        # A chooser's own indices are part of what is recorded: for another one the pass is recorded again.
        key = "evaluate", tokens, layers, look and (look.mix, len(look.refs))

        def make(at: Named) -> Recorded:
            return self._forward(at, tokens, layers, look and _looking(at, look))

        if self._unfinished:  # begun for somebody who was interrupted: the next one may not run beside it
            self._unfinished()
        recorded = self._get(key, inputs, make)
        recorded.take(inputs)
        self._count()
        wait = self._unfinished = self.recorder.begin(recorded.replay)

        @torch.no_grad()
        def end() -> Pass:
            wait()
            self._unfinished = None
            out = dict(zip(recorded.outputs, copies(recorded.outputs.values()), strict=True))
            kept = {name: x for (kind, name), x in out.items() if kind == "tokens"}
            found = {layer: x for (kind, layer), x in out.items() if kind == "features"}
            return Pass(self.model.noise(out["eps", 0], z, t), kept, found)

        return end

    @torch.no_grad()
    def prepare(self, layers: Iterable[int], z: Tensor, t: int, cond: Cond) -> None:
        """Record what :meth:`tap` will replay for tensors of these shapes, if it is not.

        To be done before an energy is recorded: both are of one lane, and what is recorded later may keep its results
        where what was recorded earlier works. The features must outlive the energy.
        """
        self._tap(tuple(sorted(set(layers))), self._inputs(z, t, cond))

    def _tap(self, layers: tuple[int, ...], inputs: Named) -> Differentiable:
        return self._get(("tap", layers), inputs, lambda at: self._tapped(at, layers))

    def tap(self, layers: Iterable[int], z: Tensor, t: int, cond: Cond) -> Tap:
        """See :func:`dragonkit.taps.tap`: the features, and what pulls slopes of them back to z, several at once."""
        layers = tuple(sorted(set(layers)))
        inputs = self._inputs(z, t, cond)
        with torch.no_grad():
            recorded = self._tap(layers, inputs)
            self._count()
            recorded(inputs)
        with torch.enable_grad():
            found = dict(zip(layers, Tapped.apply(z, recorded), strict=True))
        return found, partial(recorded.pull, turn=recorded.clock.turn)

    def repeated(self, work: Callable[[list[Tensor]], list[Tensor]], kind: Hashable) -> Repeated:
        """Work on tensors of the same shapes again and again: recorded, then replayed.

        If it cannot be recorded, because it asks for a number, say, it is done every time.

        Args:
            work: what is to be done.
            kind: what tells it from work for which other kernels are needed; the first of a kind is done before it is
                recorded, for that is when they are compiled.
        """
        return Repeated(work, self.recorder, kind, self._done)

    def _inputs(self, z: Tensor, t: int, cond: Cond) -> Named:
        when = torch.full((1,), t, dtype=torch.int64, device=z.device)  # made there: a copy from here would wait
        return {"z": z.detach().to(self.model.dtype), "t": when, **{("cond", name): x for name, x in cond.items()}}

    def _get(self, key: Hashable, inputs: Named, make: Callable[[Named], Recorded]) -> Any:
        """What was recorded for inputs of these shapes, or is now."""
        if self._moved():
            self.clear()
        key = key, tuple((name, x.shape, x.dtype, x.device) for name, x in inputs.items())
        if key in self._recorded:
            self._recorded.move_to_end(key)
        else:
            self._grown = True
            self._recorded[key] = make({name: x.clone() for name, x in inputs.items()})
            while len(self._recorded) > self.most:
                self._recorded.popitem(last=False)
        return self._recorded[key]

    def _forward(self, at: Named, tokens: bool, layers: tuple[int, ...], look: Looking | None) -> Recorded:
        names: list[tuple[str, Any]] = []
        unet = self.model.unet

        def work() -> list[Tensor]:
            with one_pass(), taking(unet, tokens=tokens, layers=layers, look=look) as (kept, found):
                eps = unet(at["z"], at["t"], **arguments(_cond(at)), return_dict=False)[0]
            names[:] = [("eps", 0), *(("tokens", n) for n in kept), *(("features", k) for k in found)]
            return [eps, *kept.values(), *found.values()]

        with uncounted(unet):
            self.recorder.warm(work)
            results, replay = self.recorder.record(work, NOISE)
        return Recorded(at, dict(zip(names, results, strict=True)), replay)

    def _tapped(self, at: Named, layers: tuple[int, ...]) -> Differentiable:
        unet, recorder = self.model.unet, self.recorder
        z = at["z"].data.requires_grad_()  # the same numbers, whose changes from replay to replay autograd does not see
        box: list[Tensor] = []

        def forward() -> list[Tensor]:
            with one_pass(), torch.enable_grad():
                box[:] = tap(unet, layers, z, at["t"], _cond(at)).values()  # type: ignore[arg-type]
            return [x.detach() for x in box]

        def backward(slopes: list[Tensor]) -> list[Tensor]:
            return [pulled(box, z, slopes, retain=True)]

        def both() -> None:
            backward([torch.zeros_like(x, dtype=torch.float32) for x in forward()])

        def lane(k: int) -> Lane:  # it holds box, and so the numbers that the way back reads
            slopes = [torch.zeros_like(x, dtype=torch.float32) for x in box]
            with uncounted(unet):
                (dz,), back = recorder.record(partial(backward, slopes), FEATURES + k)
            return Lane(slopes, back, dz)

        with uncounted(unet):
            recorder.warm(both)
            results, replay = recorder.record(forward, FEATURES)
        outputs = {("features", layer): x for layer, x in zip(layers, results, strict=True)}
        return Differentiable(at, outputs, replay, self._clock, widen=lane, recorder=recorder)

    def _count(self) -> None:
        """Tell who counts evaluations of one more."""
        for hook in self.model.unet._forward_pre_hooks.values():
            hook(self.model.unet, ())


def recording(model: Model) -> Graphs | None:
    """What records a model's passes where it is: what does already, or new where it has moved; None without a GPU."""
    if model.device.type != "cuda":
        return None
    return model.graphs if model.graphs is not None and model.graphs.device == model.device else Graphs(model)


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
