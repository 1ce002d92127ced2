"""Models on the hub: the local cache first, and the network only for what the user named and the cache lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dragonkit.errors import InputError
from dragonkit.loading.suits import check_suits
from dragonkit.loading.weights import by_variant, chosen

_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")


def cached(repo: str, file: str) -> Path | None:
    """A file of a repository in the local cache, or None."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo, file)
    except HFValidationError as error:
        raise InputError(f"{repo!r} is no hub id: give one such as 'owner/name', or a folder that is there") from error
    return Path(found) if isinstance(found, str) else None


def fetch(repo: str, dtype: torch.dtype, check: Callable[[Path], object]) -> Path:
    """The folder of a diffusers model on the hub, from the local cache if all of it is there, else downloaded.

    What the model is is looked up before its weights are downloaded.

    Args:
        repo: "owner/name".
        dtype: what it will be loaded in: half precision prefers weights stored so.
        check: raises an InputError unless a folder is complete.

    Raises:
        InputError: there is no such model, it may not be read, no network, or an edit cannot use it.
    """
    index, state = cached(repo, "model_index.json"), "is not in the local cache"
    if index is not None:
        check_suits(index.parent, repo)
        try:
            check(index.parent)
            return index.parent
        except InputError as error:  # an incomplete copy: what it lacks is downloaded
            state = f"is in the local cache in part ({str(error).partition(': ')[0]})"
    with explained(repo, state):
        return _download(repo, dtype)


def fetch_one(repo: str, files: tuple[str, ...]) -> Path:
    """The folder that holds the first of some files that a repository has; the local cache first.

    Raises:
        InputError: as :func:`fetch`, or it has none of these files.
    """
    from huggingface_hub import HfApi, hf_hub_download

    for file in files:
        if path := cached(repo, file):
            return path.parent
    with explained(repo):
        there = HfApi().list_repo_files(repo)
        for file in files:
            if file in there:
                return Path(hf_hub_download(repo, file)).parent
    raise InputError(f"{repo!r} on the hub holds none of {', '.join(files)}: name another model")


def look(repo: str, **where: Any) -> None:
    """Raise an InputError unless there is such a model and an edit can use it, before someone downloads its weights.

    Args:
        repo: "owner/name".
        where: how to come by it: arguments of :func:`huggingface_hub.hf_hub_download`, such as ``revision``.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with explained(repo):
        for file in ("model_index.json", "unet/config.json", "vae/config.json"):
            try:
                path = Path(hf_hub_download(repo, file, **where))
            except EntryNotFoundError as error:
                if isinstance(error, LocalEntryNotFoundError):  # the network is what lacks
                    raise
                raise InputError(f"{repo!r} on the hub has no {file}: name a model in the diffusers layout") from error
            check_suits(path.parents[file.count("/")], repo)


def _download(repo: str, dtype: torch.dtype) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    files = HfApi().list_repo_files(repo)
    if "model_index.json" not in files:
        single = [file for file in files if file.endswith(".safetensors")]
        remedy = f"download {single[0]} and give its path" if single else "name a model in the diffusers layout"
        raise InputError(f"{repo!r} on the hub has no model_index.json: {remedy}")
    folder = Path(hf_hub_download(repo, "model_index.json")).parent
    for file in files:
        part, _, name = file.rpartition("/")
        if part in _PARTS and name.endswith((".json", ".txt")) and ".safetensors" not in name:
            hf_hub_download(repo, file)
    check_suits(folder, repo)
    for file in weights_of(repo, files, dtype):
        hf_hub_download(repo, file)
    return folder


def weights_of(repo: str, files: list[str], dtype: torch.dtype) -> Iterator[str]:
    """The safetensors of each part, in half precision if that is asked for and there, else as they are.

    Raises:
        InputError: a part has none.
    """
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        own = [file for file in files if file.startswith(part + "/")]
        sets = by_variant(file.removeprefix(part + "/") for file in own)
        if own and not sets:
            pickles = [file for file in own if file.endswith((".bin", ".ckpt", ".pt"))]
            found = f"only pickles such as {pickles[0]}, which may run code" if pickles else "no weights"
            raise InputError(f"{repo!r} on the hub has {found} for {part}: name a model stored as safetensors")
        if own:
            yield from (f"{part}/{name}" for name in sets[chosen(sets, half=dtype != torch.float32)])


@contextmanager
def explained(repo: str, state: str = "is not in the local cache") -> Iterator[None]:
    """Turn whatever the hub's client raises into an InputError of one line that says what to do.

    Args:
        repo: what is asked for.
        state: what there is of it already.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from huggingface_hub.utils import logging as client

    level = client.get_verbosity()
    client.set_verbosity_error()  # it would tell of every attempt
    try:
        yield
    except InputError:
        raise
    except GatedRepoError as error:
        raise InputError(
            f"{repo!r} is gated: accept its licence on its page on the hub, then log in with 'hf auth login'"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{repo!r} is not on the hub, or is private: check the spelling, or log in with 'hf auth login'"
        ) from error
    except Exception as error:  # of httpx, requests, ssl, the file system: whichever client is installed
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise InputError(
            f"{repo!r} {state} and cannot be downloaded ({reason}): connect to the network, "
            "or give a folder or a .safetensors file"
        ) from error
    finally:
        client.set_verbosity(level)
