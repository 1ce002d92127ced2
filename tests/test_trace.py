"""Traces and results: kept cheaply, decoded when looked at, written whole or not at all."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dragonkit.errors import InputError
from dragonkit.trace import Result, Trace, to_pil
from tests.tiny import picture


def steps():
    for i, t in enumerate((41, 21, 1)):
        energies = {"edit": torch.tensor(2.0 - i), "content": torch.tensor(1.0)} if i < 2 else {}
        grad = torch.full((1, 4, 2, 2), float(i)) if i < 2 else None
        yield SimpleNamespace(t=t, x0=torch.full((1, 3, 2, 2), i / 10), grad=grad, energies=energies)


def traced(**kwargs):
    trace = Trace(**kwargs)
    for step in steps():
        trace.add(step)
    return trace


def result(**kwargs):
    fields = dict(tensor=picture(64, 80), latent=torch.zeros(1, 4, 8, 10), trace=Trace(), nfe=130, seconds=1.0)
    return Result(**fields | kwargs)


def test_energies_are_by_name_and_nan_where_not_guided():
    trace = traced()
    assert list(trace.energies) == ["edit", "content"] and trace.energies["edit"][:2] == [2.0, 1.0]
    assert all(math.isnan(values[2]) and len(values) == 3 for values in trace.energies.values())
    assert trace.timesteps == [41, 21, 1] and len(trace) == 3


def test_json_holds_null_where_not_guided():
    data = json.loads(traced().to_json())
    assert data == {"timesteps": [41, 21, 1], "energies": {"edit": [2.0, 1.0, None], "content": [1.0, 1.0, None]}}


def test_frames_are_decoded_when_asked_and_only_those():
    decoded = []

    def decode(z):
        decoded.append(z[0, 0, 0, 0].item())
        return z[0]

    trace = traced(decode=decode, latents=True)
    assert decoded == []
    frames = trace.frames(every=2)
    assert decoded == pytest.approx([0.0, 0.2]) and [np.asarray(f).max() for f in frames] == [0, 51]
    assert len(trace.frames()) == 3
    assert trace.gradient_norms[:2] == [0, 4] and math.isnan(trace.gradient_norms[2])


def test_frames_need_latents():
    with pytest.raises(InputError, match="trace=True"):
        traced().frames()
    with pytest.raises(InputError, match="every is 0"):
        traced(decode=lambda z: z[0], latents=True).frames(every=0)


def test_a_plot_has_a_line_a_term():
    axes = traced().plot().axes[0]
    assert [line.get_label() for line in axes.lines] == ["edit", "content"]
    assert axes.lines[0].get_ydata()[:2].tolist() == [2.0, 1.0]


def test_pixels_are_rounded_to_8_bits():
    image = to_pil(torch.tensor([[[0.0, 0.5, 1.0, 0.4999 / 255]]]).expand(3, -1, -1))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 128, 255, 0]


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".webp", ".jpg"])
def test_a_saved_result_opens_again(tmp_path, suffix):
    edited = result()
    path = edited.save(tmp_path / f"edited{suffix}")
    again = np.asarray(Image.open(path).convert("RGB"), dtype=float)
    assert abs(again - np.asarray(edited.image, dtype=float)).mean() <= (0 if suffix.lower() == ".png" else 4)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "edited.png"
    path.write_bytes(b"before")

    def fail(self, file, **kwargs):
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        result().save(path)
    assert path.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["edited.png"]


@pytest.mark.parametrize("name", ["edited", "edited.txt", "edited.json"])
def test_a_name_without_an_image_suffix_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=f"'{name}' has no suffix"):
        result().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_result_shows_itself():
    bundle = result()._repr_mimebundle_()
    assert (
        bundle["image/png"].startswith(b"\x89PNG") and bundle["text/plain"] == "Result(80x64, 130 evaluations, 1.0 s)"
    )
