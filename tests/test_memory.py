"""Less memory, the same edit; and when there is too little, an error that frees what was held and names a remedy."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dragonkit.cli import BAD_INPUT, main
from dragonkit.editor import edit
from dragonkit.edits import Appearance, Edit, Move
from dragonkit.errors import InputError, OutOfMemoryError
from dragonkit.guidance import Guidance
from dragonkit.inversion import null_text_invert
from dragonkit.memory import HostStore, economy, frees
from dragonkit.models import Model
from dragonkit.reconstruction import reconstruct
from dragonkit.spec import save_spec
from tests.families import FAMILIES, family_model
from tests.tiny import box, fresh_model, hooks, picture, save_pipeline, tiny_model

DEVICES = [torch.device("cpu"), *(torch.device("cuda", k) for k in range(torch.cuda.device_count()))]
IMAGE, MASK = picture(64, 64), box(64, 64, 8, 8, 32, 32)
MOVE = Move(MASK, by=(24, 16))
SHORT = Guidance().replace(steps=4)


def roomy(device: torch.device | str = "cpu") -> Model:
    """A model of its own on a device."""
    model = fresh_model()
    for part in model.parts.values():
        part.to(device)
    return model


def run(model: Model, image: Any = IMAGE, task: Edit = MOVE, guidance: Guidance = SHORT, **options: Any) -> Any:
    return edit(model, image, task, guidance=guidance, progress=False, **options)


@pytest.mark.parametrize("device", DEVICES)
def test_a_host_store_is_a_dict_of_steps_with_at_most_two_on_the_device(device: torch.device) -> None:
    rng, store, plain = random.Random(0), HostStore(device=device), dict[int, dict[str, Tensor]]()
    for _ in range(300):
        i, what = rng.randrange(6), rng.choice(("put", "get", "get", "get", "drop"))
        if what == "put":
            x = {"a": torch.rand(3, 5, device=device), "b": torch.rand(2, device=device).half()}
            store[i] = x
            plain[i] = {name: value.clone() for name, value in x.items()}
        elif what == "drop" and i in plain:
            del store[i], plain[i]
        elif what == "get" and i in plain:
            found = store[i]
            assert found.keys() == plain[i].keys()
            assert all(torch.equal(found[k], plain[i][k]) and found[k].device == device for k in found)
            following = [k for k in sorted(plain) if k > i][:1]
            assert store.ahead == {i, *following}  # the next one is on its way
        assert list(store) == list(plain) and len(store) == len(plain) and (i in store) == (i in plain)
        assert len(store.ahead) <= 2
    assert HostStore(plain, device=device).keys() == plain.keys()
    with pytest.raises(KeyError):
        store[99]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("task", "guidance", "options"),
    [
        (MOVE, SHORT, {}),
        (MOVE, Guidance.preset("diffeditor").replace(steps=9, travel=(0.4, 0.8)), {}),  # steps are read again
        (Appearance(MASK, picture(64, 64, 1), MASK), Guidance.preset("iclr", "appearance").replace(steps=4), {}),
        (MOVE, SHORT, {"invert": partial(null_text_invert, iterations=1)}),
        (MOVE, SHORT.replace(reference="live", attention=(0.5, 1.0)), {}),
    ],
)
def test_low_memory_changes_no_bit(device: torch.device, task: Edit, guidance: Guidance, options: Any) -> None:
    model = roomy(device)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        full, low = (run(model, IMAGE, task, guidance, memory=memory, **options) for memory in ("full", "low"))
    # A GPU's sums differ from run to run, and time travel, null-text and live references magnify that.
    assert (low.latent - full.latent).norm() <= (0 if device.type == "cpu" else 0.01) * full.latent.norm()
    assert low.nfe == full.nfe and low.trace.energies.keys() == full.trace.energies.keys()


def test_nor_does_it_for_a_generated_picture_whose_own_path_stays_as_it_was() -> None:
    model = roomy()
    full = run(model, model.generate("a ball", 1, steps=4, cfg=4.0, size=(64, 64)))
    generated = model.generate("a ball", 1, steps=4, cfg=4.0, size=(64, 64))
    low = run(model, generated, memory="low")
    assert torch.equal(low.latent, full.latent) and not generated.path.tokens
    assert torch.equal(run(model, generated).latent, full.latent)


@pytest.mark.parametrize("device", DEVICES)
def test_the_model_is_left_as_it_was_however_the_block_ends(device: torch.device) -> None:
    model = roomy(device)
    model.vae.enable_slicing()
    for stop in (False, True):
        try:
            with economy(model, "low") as store:
                assert model.vae.use_tiling and isinstance(store(), HostStore)
                model.embed("a ball")
                z = model.encode(IMAGE[None])
                model.predict(z, 1, model.embed(""))
                others = {p.device.type for part in (model.vae, model.text_encoder) for p in part.parameters()}
                assert others == {"cpu"} and model.device == device  # gone while the denoiser computes
                assert model.decode(z).shape == (1, 3, 64, 64)
                if stop:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert stop
        assert not model.vae.use_tiling and model.vae.use_slicing and hooks(model) == 0
        assert all(p.device == device for part in model.parts.values() for p in part.parameters())
        assert not any(hasattr(part, "_hf_hook") for part in model.parts.values())


def test_larger_pictures_are_coded_in_tiles_of_their_own() -> None:
    model, image, passes = fresh_model(), picture(128, 128), list[tuple[int, ...]]()
    model.unet.register_to_config(sample_size=(8, 6))  # trained on 64 x 48 pixels, by an autoencoder that tells no size
    assert model.vae.tile_sample_min_size == 32
    model.vae.decoder.register_forward_pre_hook(lambda module, args: passes.append(tuple(args[0].shape)))
    z = model.encode(image[None])
    whole = model.decode(z)
    with economy(model, "low"):
        tiles = model.decode(z)
    assert passes == [(1, 4, 16, 16)] + [(1, 4, h, w) for h in (8, 8, 4) for w in (8, 8, 4)]  # overlapping by a quarter
    corner = (slice(None), slice(None), slice(32), slice(32))  # seen by the first tile alone
    assert tiles.shape == whole.shape and not torch.equal(tiles, whole)
    alone = model.decode(z[..., :8, :8])
    torch.testing.assert_close(tiles[corner], alone[corner])
    assert (model.vae.tile_sample_min_size, model.vae.tile_latent_min_size) == (32, 4)  # as before


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_as_large_as_those_of_training_are_coded_whole(family: str) -> None:
    model, (high, wide) = family_model(family), family_model(family).size
    image, task = picture(high, wide), Move(box(high, wide, 8, 8, 32, 32), by=(16, 8))
    w = Guidance.preset(model.default_guidance).replace(steps=2)
    shapes: list[tuple[int, ...]] = []
    handle = model.vae.decoder.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape)))
    full, low = (run(model, image, task, w, memory=memory) for memory in ("full", "low"))
    handle.remove()
    assert shapes == [(1, 4, high // model.factor, wide // model.factor)] * 2
    # Some processors' convolutions round by where their inputs lie; tiles would differ by more than that.
    torch.testing.assert_close(low.tensor, full.tensor, rtol=0, atol=1e-4)


class Recording:
    """Stands for recorded passes."""

    cleared = 0

    def usable(self) -> bool:
        return False

    def clear(self) -> None:
        self.cleared += 1

    def look(self) -> None:
        pass

    def tidy(self) -> None:
        pass

    def repeated(self, work: Callable[..., Any], kind: Any) -> Callable[..., Any]:
        return work


def test_recorded_passes_are_forgotten_for_low_memory_and_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    model, graphs = roomy(), Recording()
    model.graphs = graphs  # type: ignore[assignment]
    run(model)
    assert graphs.cleared == 0
    with economy(model, "low"):
        assert model.graphs is None and graphs.cleared == 1
    assert model.graphs is graphs
    monkeypatch.setattr(type(model.unet), "forward", lambda *args, **kwargs: torch.empty(2**55))
    with pytest.raises(OutOfMemoryError):
        run(model)
    assert graphs.cleared == 2 and model.graphs is graphs


def test_another_word_is_refused_before_anything_runs() -> None:
    with pytest.raises(InputError, match="memory is 'lowest': choose from 'full', 'low'"):
        run(tiny_model(), memory="lowest")


FULL: dict[str, Callable[[], Exception]] = {
    "gpu": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total of ..."),
    "cpu": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    "python": MemoryError,
    "cublas": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "pinned": lambda: RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
}


@pytest.mark.parametrize(  # in the inversion, in the pass that predicts noise, in the differentiated one
    ("kind", "call"), [("gpu", 2), ("gpu", 5), ("cpu", 6), ("python", 6), ("cublas", 2), ("pinned", 3)]
)
def test_out_of_memory_names_a_remedy_frees_what_was_held_and_the_session_goes_on(
    monkeypatch: pytest.MonkeyPatch, kind: str, call: int
) -> None:
    model, seen = roomy(), list[weakref.ref[Tensor]]()
    before, forward = run(model), type(model.unet).forward

    def full(self: nn.Module, z: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(weakref.ref(z))
        if len(seen) == call:
            held = torch.zeros(1000)  # what a failing layer has on its hands
            seen.append(weakref.ref(held))
            raise FULL[kind]()
        return forward(self, z, *args, **kwargs)

    monkeypatch.setattr(type(model.unet), "forward", full)
    with pytest.raises(OutOfMemoryError) as caught:
        run(model)
    said = str(caught.value)
    for remedy in ("memory='low'", "smaller image", "smaller batch", "fewer layers"):
        assert remedy in said
    assert "\n" not in said and caught.value.__context__ is None and caught.value.__cause__ is None
    assert len(seen) == call + 1 and all(ref() is None for ref in seen)  # though the error is still at hand
    assert hooks(model) == 0

    monkeypatch.undo()
    assert torch.equal(run(model).latent, before.latent)


def test_what_is_low_already_is_not_told_to_be() -> None:
    @frees
    def full(memory: str = "full") -> None:
        torch.empty(2**55)

    with pytest.raises(OutOfMemoryError, match="give memory='low', a smaller image"):
        full()
    with pytest.raises(OutOfMemoryError, match="give a smaller image"):
        full(memory="low")


def test_so_it_does_where_pictures_are_generated_and_reconstructed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = roomy()
    monkeypatch.setattr(type(model.unet), "forward", lambda *args, **kwargs: torch.empty(2**55))
    with pytest.raises(OutOfMemoryError, match="give a smaller image"):
        model.generate("a ball", steps=2, size=(64, 64))
    with pytest.raises(OutOfMemoryError, match="give a smaller image"):
        reconstruct(model, IMAGE, progress=False, memory="low")


def test_other_errors_pass() -> None:
    error = RuntimeError("shapes differ")

    @frees
    def wrong() -> None:
        raise error

    with pytest.raises(RuntimeError) as caught:
        wrong()
    assert caught.value is error


def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_pipeline(tmp_path, fresh_model())
    spec = save_spec(tmp_path, IMAGE, MOVE, guidance=SHORT, model="./")
    out = tmp_path / "out"
    assert main(["edit", str(spec), "--out", str(out), "--memory", "low"]) == 0 and (out / "edit.png").is_file()
    capsys.readouterr()
    unet = type(fresh_model().unet)
    monkeypatch.setattr(unet, "forward", lambda *args, **kwargs: (_ for _ in ()).throw(FULL["gpu"]()))
    assert main(["edit", str(spec), "--out", str(tmp_path / "none")]) == BAD_INPUT
    said = capsys.readouterr().err
    line = said.splitlines()[-1]
    assert line.startswith("dragonkit: out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.): give memory=")
    assert "Traceback" not in said and not (tmp_path / "none").exists()
