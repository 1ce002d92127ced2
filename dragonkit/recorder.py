"""What records work on a device and replays it: CUDA graphs, several at once where nothing stands in the way."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch import Tensor

Replay = Callable[[], None]

NOISE, FEATURES = 0, 1
"""Lanes: what is recorded for one may be replayed beside what is recorded for another.

The first has the passes that predict noise. The second has the tapped pass, the energies and the first way back, which
follow each other; further ways back have a lane each after it.
"""

WAYS = 2
"""Ways back from one pass that are replayed at once."""


class Recorder(Protocol):
    """Records work on a device, to be done again at the same addresses."""

    def warm(self, work: Callable[[], Any]) -> None:
        """Do the work as often as libraries need to choose and to allocate what they use for it."""

    def record(self, work: Callable[[], list[Tensor]], lane: int = NOISE) -> tuple[list[Tensor], Replay]:
        """Record it; returns where its results are once it is replayed, and what replays it."""

    def tidy(self) -> None:
        """Give back memory that is not in use."""

    def beside(self, replays: Sequence[Replay]) -> None:
        """Replay ways back, recorded for lanes that follow each other, at once."""

    def begin(self, replay: Replay) -> Replay:
        """Begin to replay a pass for the noise beside what comes next; returns what waits for its end."""


class CUDA:
    """CUDA graphs of one device. Those of one lane share a pool of memory: they run one after the other.

    A pool that no graph is left in is given up with its memory: PyTorch fails where one is taken again.

    Args:
        device: the model's, which need not be the current one: streams and kernels belong to the current device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pools: list[Any] = [None] * (FEATURES + WAYS)
        self.recorded: list[WeakSet[torch.cuda.CUDAGraph]] = [WeakSet() for _ in self.pools]
        self.streams = [torch.cuda.Stream(device) for _ in range(WAYS)]
        # The same each time: what a pool has given to a stream it gives again to that stream only.
        self.aside = torch.cuda.Stream(device)

    def warm(self, work: Callable[[], Any]) -> None:
        """Twice, on a stream of its own, as PyTorch asks; the memory that this took is given back."""
        with self._on(self.aside):
            for _ in range(2):
                work()
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()

    def record(self, work: Callable[[], list[Tensor]], lane: int = NOISE) -> tuple[list[Tensor], Replay]:
        """As :class:`Recorder` says. Not by ``torch.cuda.graph``, which waits and empties the cache each time."""
        if not self.recorded[lane]:
            self.pools[lane] = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        self.recorded[lane].add(graph)
        with self._on(self.aside), uncollected():
            _forget_workspaces()
            graph.capture_begin(pool=self.pools[lane], capture_error_mode="thread_local")  # others' threads may go on
            try:
                results = work()
            finally:
                graph.capture_end()
                _forget_workspaces()
        return results, partial(self._replay, graph)

    def tidy(self) -> None:
        """As :class:`Recorder` says: PyTorch keeps it for what it may be asked for."""
        torch.cuda.empty_cache()

    def _replay(self, graph: torch.cuda.CUDAGraph) -> None:
        with torch.cuda.device(self.device):
            graph.replay()

    def beside(self, replays: Sequence[Replay]) -> None:
        """As :class:`Recorder` says."""
        first, *others = replays
        ends = [self._begin(replay, stream) for replay, stream in zip(others, self.streams[1:], strict=False)]
        first()
        for end in ends:
            end()

    def begin(self, replay: Replay) -> Replay:
        """As :class:`Recorder` says: on a stream of its own."""
        return self._begin(replay, self.streams[0])

    def _begin(self, replay: Replay, stream: torch.cuda.Stream) -> Replay:
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


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage inside the block: another graph may be in it, and freeing that would spoil a recording."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _forget_workspaces() -> None:
    """Let cuBLAS take its next workspaces anew: while recording from the lane's pool, and not from it afterwards.

    It keeps one for each stream. Without this two lanes, recorded on one stream, would use the same one at once; and
    PyTorch frees it when any graph of that stream goes (its issue 193402), though others write to it at each replay.
    What this asks for is private to PyTorch, whose own recordings ask for the same.
    """
    if forget := getattr(torch._C, "_cuda_clearCublasWorkspaces", None):
        forget()
