"""Less of a GPU's memory: where the guidance branch is kept, which networks are there, and what to do when it is full.

An edit holds the denoiser's weights, the activations of one differentiated pass, the guidance branch's tokens and
features of every step, and the autoencoder's activations while it encodes or decodes. :func:`economy` moves the third
to the host, the other two networks' weights as well, and cuts the last into tiles. On a CPU nothing is moved.
"""

from __future__ import annotations

import functools
import gc
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, ParamSpec, TypeVar, get_args

import torch
from torch import Tensor, nn

from dragonkit.errors import InputError, OutOfMemoryError
from dragonkit.inversion.path import Store
from dragonkit.models import Model

Memory = Literal["full", "low"]
"""How much of the device's memory an edit may take."""

Named = dict[Any, Tensor]
"""One step's tensors by name."""

P = ParamSpec("P")
T = TypeVar("T")


def check_memory(memory: Any) -> None:
    """Raise an InputError unless ``memory`` is one of the words that :data:`Memory` knows."""
    if memory not in get_args(Memory):
        raise InputError(f"memory is {memory!r}: choose from {', '.join(map(repr, get_args(Memory)))}")


@contextmanager
def economy(model: Model, memory: Memory) -> Iterator[Store]:
    """Arrange for an edit to take as much memory as is said, while the block lasts.

    With "low", the guidance branch's tokens and features wait in pinned host memory, each step's fetched while the
    step before is computed; text encoder and autoencoder leave the GPU while the denoiser computes; passes are not
    recorded as CUDA graphs, which hold memory between them, and so take the time that launching them takes; and the
    autoencoder works in tiles where an image is larger than those of training, which changes pixels near the seams a
    little. All else is the same bit for bit, and on a CPU, where nothing is moved, so is everything up to that size.

    Args:
        model: what edits.
        memory: "full" or "low".

    Yields:
        What makes the places where an inversion keeps its tokens and features, for ``Keep.store``.

    Raises:
        InputError: ``memory`` is neither.
    """
    check_memory(memory)
    if memory == "full":
        yield dict
        return
    with unrecorded(model), tiled(model), offloaded(model):
        yield functools.partial(HostStore, device=model.device)


class HostStore(MutableMapping[int, Named]):
    """Tensors by step, kept in the host's pinned memory and brought back a step ahead of time.

    Steps are read in rising order: reading one starts to copy the next, on a stream of its own, so that it is there
    when it is asked for. On a CPU the tensors are kept as they are.

    Args:
        found: what to begin with.
        device: where tensors are read.
    """

    def __init__(self, found: Mapping[int, Named] | None = None, *, device: torch.device) -> None:
        self.device = device
        self._lane = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._host: dict[int, Named] = {}
        self._ahead: dict[int, tuple[Named, Any]] = {}
        self.update(found or {})

    def __setitem__(self, i: int, tensors: Named) -> None:
        self._ahead.pop(i, None)
        if self._lane is None:
            self._host[i] = tensors
            return
        self._lane.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._lane):
            self._host[i] = {name: _pinned(x) for name, x in tensors.items()}
        for x in tensors.values():
            if x.is_cuda:
                x.record_stream(self._lane)  # not to be written over before it is copied

    def __getitem__(self, i: int) -> Named:
        if i not in self._host:
            raise KeyError(i)
        tensors, arrived = self._ahead.get(i) or self._fetched(i)
        following = min((k for k in self._host if k > i), default=None)
        self._ahead = {k: v for k, v in self._ahead.items() if k == following} | {i: (tensors, arrived)}
        if following is not None and following not in self._ahead:
            self._ahead[following] = self._fetched(following)
        if arrived is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(arrived)
            for x in tensors.values():
                x.record_stream(current)
        return tensors

    def __delitem__(self, i: int) -> None:
        del self._host[i]
        self._ahead.pop(i, None)

    def __contains__(self, i: object) -> bool:
        return i in self._host  # without fetching it

    def __iter__(self) -> Iterator[int]:
        return iter(self._host)

    def __len__(self) -> int:
        return len(self._host)

    @property
    def ahead(self) -> frozenset[int]:
        """The steps whose tensors are on the device now, or on their way there."""
        return frozenset(self._ahead)

    def _fetched(self, i: int) -> tuple[Named, Any]:
        """The tensors of a step on the device, and the event after which they are there."""
        if self._lane is None:
            return self._host[i], None
        with torch.cuda.stream(self._lane):
            tensors = {name: x.to(self.device, non_blocking=True) for name, x in self._host[i].items()}
            return tensors, self._lane.record_event()


def _pinned(x: Tensor) -> Tensor:
    """A copy in pinned host memory, complete once the current stream has come to it."""
    return torch.empty_like(x, device="cpu", pin_memory=True).copy_(x, non_blocking=True)


@contextmanager
def unrecorded(model: Model) -> Iterator[None]:
    """Forget the passes that were recorded as CUDA graphs, and record none while the block lasts."""
    graphs = model.graphs
    if graphs is not None:
        graphs.clear()
    model.graphs = None
    try:
        yield
    finally:
        model.graphs = graphs


@contextmanager
def tiled(model: Model) -> Iterator[None]:
    """Let an autoencoder work image by image and in tiles, while the block lasts.

    A tile is as large as the denoiser's training pictures, or the autoencoder's where those were larger: the latter are
    often untold, and then 32 pixels in diffusers, of which no picture can be put together.
    """
    vae = model.vae
    names = ("use_tiling", "use_slicing", "tile_sample_min_size", "tile_latent_min_size")
    before = {name: getattr(vae, name) for name in names}
    side = max(*model.size, vae.tile_sample_min_size)
    vae.tile_sample_min_size, vae.tile_latent_min_size = side, side // model.factor
    vae.enable_tiling()
    vae.enable_slicing()
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)


@contextmanager
def offloaded(model: Model) -> Iterator[None]:
    """Keep text encoder and autoencoder on the host except while they compute; the denoiser stays where it is."""
    if model.device.type == "cpu":
        yield
        return
    from accelerate import cpu_offload_with_hook

    others = [part for part in model.parts.values() if part is not model.unet and not hasattr(part, "_hf_hook")]
    with ExitStack() as stack:
        hooks = []
        for part in others:
            stack.callback(part.to, next(part.parameters()).device)
            hooks.append(cpu_offload_with_hook(part, model.device)[1])
            stack.callback(hooks[-1].remove)

        def leave(module: nn.Module, args: Any) -> None:
            for hook in hooks:
                if next(hook.model.parameters()).device.type != "cpu":
                    hook.offload()

        stack.callback(model.unet.register_forward_pre_hook(leave).remove)
        yield


def frees(call: Callable[P, T]) -> Callable[P, T]:
    """Decorate what may run out of memory: it then gives back what it held, and says what would take less.

    Torch's own error would carry the whole run with it in its traceback, and a notebook keeps the last one: memory
    would stay as full as it was, and the next, smaller edit fail too.
    """
    lowest = "memory" not in inspect.signature(call).parameters

    @functools.wraps(call)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if isinstance(error, OutOfMemoryError) or not exhausted(error):
                raise
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        for held in args:
            if isinstance(held, Model) and held.graphs is not None:
                held.graphs.clear()
        # After the block, where the old error is gone with its frames, and the new one has no memory of it.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        lower = "memory='low', " if kwargs.get("memory", "low" if lowest else "full") != "low" else ""
        raise OutOfMemoryError(
            f"out of memory ({first}): give {lower}a smaller image, a smaller batch, or fewer layers in the guidance"
        )

    return wrapper


_FULL = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
"""How torch's allocator on a CPU, that of pinned host memory, and CUDA's libraries say that memory is full."""


def exhausted(error: BaseException) -> bool:
    """Whether an error says that memory is full, by its kind or in words only."""
    said = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in said for words in _FULL)
