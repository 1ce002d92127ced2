"""Recorded work: where it reads and writes, and how a gradient comes back through it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dragonkit.passes import Slopes
from dragonkit.recorder import FEATURES, WAYS, Recorder, Replay

Named = dict[Any, Tensor]
"""Tensors by name."""


def copy(there: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    """Copy tensors where they are wanted, all of one dtype by as few kernels as there can be."""
    pairs: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
    for to, x in zip(there, given, strict=True):
        pairs.setdefault(to.dtype, []).append((to, x))
    for some in pairs.values():
        torch._foreach_copy_([to for to, _ in some], [x for _, x in some])


def copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """A copy of each."""
    given = list(tensors)
    kept = [torch.empty_like(x) for x in given]
    copy(kept, given)
    return kept


@dataclass(eq=False)
class Clock:
    """Tells passes that share a lane's memory from each other: of those only the last one's numbers are all there.

    Args:
        turn: how many there were.
    """

    turn: int = 0


@dataclass(eq=False)
class Recorded:
    """A recorded pass.

    Args:
        inputs: where it reads, by name.
        outputs: where it writes, by name.
        replay: does it again.
        clock: counts its replays, and those of whatever spoils what it left.
    """

    inputs: Named
    outputs: Named
    replay: Replay
    clock: Clock = field(default_factory=Clock)

    def take(self, inputs: Named) -> None:
        """Copy what is given to where it reads."""
        given = [(self.inputs[name], x) for name, x in inputs.items() if x is not self.inputs[name]]
        copy([there for there, _ in given], [x for _, x in given])
        self.clock.turn += 1

    def __call__(self, inputs: Named) -> Named:
        """Replay it on inputs; the results are overwritten by the next pass."""
        self.take(inputs)
        self.replay()
        return self.outputs


@dataclass(frozen=True, eq=False)
class Lane:
    """A recorded way back: it reads ∂L/∂F at ``slopes`` and writes ∂L/∂z at ``dz``."""

    slopes: list[Tensor]
    back: Replay
    dz: Tensor


@dataclass(eq=False)
class Differentiable(Recorded):
    """A recorded pass with ways back.

    Args:
        widen: records one more way back.
        recorder: what replays several at once.
        lanes: those that there are.
    """

    widen: Callable[[int], Lane] = field(kw_only=True)
    recorder: Recorder = field(kw_only=True)
    lanes: list[Lane] = field(default_factory=list)

    def pull(self, energies: Sequence[Slopes], turn: int) -> list[Tensor]:
        """∂L/∂z of each energy, from what that ``turn`` left: see :meth:`dragonkit.passes.Watched.pull`."""
        if turn != self.clock.turn:
            raise RuntimeError("another pass came since: take all gradients of a pass before the next one")
        pulled = []
        for k in range(0, len(energies), WAYS):
            abreast = energies[k : k + WAYS]
            while len(self.lanes) < len(abreast):
                self.lanes.append(self.widen(len(self.lanes)))
            lanes = self.lanes[: len(abreast)]
            for lane, slopes in zip(lanes, abreast, strict=True):
                copy(lane.slopes, slopes)
            self.recorder.beside([lane.back for lane in lanes])
            pulled += [lane.dz.clone() for lane in lanes]
        return pulled


class Repeated:
    """Work on tensors of the same shapes, see :meth:`dragonkit.graphs.Graphs.repeated`.

    Args:
        work: what is to be done.
        recorder: what records.
        kind: of the work.
        done: kinds, and the shapes they were given, for which no kernel needs to be compiled any more.
    """

    def __init__(
        self,
        work: Callable[[list[Tensor]], list[Tensor]],
        recorder: Recorder,
        kind: Hashable,
        done: set[Hashable],
    ) -> None:
        self.work, self.recorder, self.kind, self.done = work, recorder, kind, done
        self.recorded: Recorded | None = None
        self.refused = False

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        """The work's results for inputs; they are the caller's to keep."""
        self.record(inputs)
        if self.recorded is None:
            return self.work(inputs)
        return copies(self.recorded(dict(enumerate(x.detach() for x in inputs))).values())

    def record(self, inputs: list[Tensor]) -> None:
        """Record it for tensors of the shapes of these, unless that has been tried."""
        if self.recorded is not None or self.refused:
            return
        at: Named = {k: x.detach().clone() for k, x in enumerate(inputs)}
        kind = self.kind, tuple((x.shape, x.dtype, x.stride()) for x in inputs)

        def work() -> list[Tensor]:
            return self.work(list(at.values()))

        try:
            if kind not in self.done:
                self.recorder.warm(work)
                self.done.add(kind)
            results, replay = self.recorder.record(work, FEATURES)
        except RuntimeError:  # of CUDA, which allows some things only while nothing is recorded
            self.refused = True
        else:
            self.recorded = Recorded(at, dict(enumerate(results)), replay)


class Tapped(torch.autograd.Function):
    """Features of a latent by a recorded pass, and back by its recorded gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, recorded: Differentiable) -> tuple[Tensor, ...]:
        """What the last replay left, for ``z``, which it was given."""
        ctx.recorded, ctx.turn, ctx.dtype = recorded, recorded.clock.turn, z.dtype
        return tuple(copies(recorded.outputs.values()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """∂L/∂z; an error if another pass came since."""
        (dz,) = ctx.recorded.pull([grads], ctx.turn)
        return dz.to(ctx.dtype), None
