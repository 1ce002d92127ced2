"""What notebook 09 runs on, and the measurements that it reads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import dragonkit as dk
from dragonkit.course import stand_in
from dragonkit.course.stable_diffusion import MEASURED, REMEDIES, SYMPTOMS, measured, speed_table
from dragonkit.errors import InputError
from dragonkit.loading.published import PUBLISHED
from tests.course.stable_diffusion import tokens as token_bytes


@pytest.fixture(scope="module")
def shapes():
    return {family: stand_in.shape(family) for family in stand_in.FAMILIES}


@pytest.mark.parametrize("family", stand_in.FAMILIES)
def test_a_tiny_model_is_the_published_one_at_an_eighth_of_its_width(shapes, family):
    small, large = stand_in.tiny(family), shapes[family]
    assert large.device.type == "meta" and small.device.type == "cpu"
    names = {name for name, _ in large.unet.named_modules()}
    assert {name for name, _ in small.unet.named_modules()} == names  # every layer of it, by name
    for mine, theirs in zip(small.unet.parameters(), large.unet.parameters(), strict=True):
        assert all(a in (b, b // stand_in.NARROWER) for a, b in zip(mine.shape, theirs.shape, strict=True))
    assert small.schedule_config == PUBLISHED[family]["scheduler"]
    assert small.size == (stand_in.TINY_SIZE,) * 2 and small.multiple == large.multiple
    assert small.default_guidance == large.default_guidance and stand_in.is_tiny(small) and not stand_in.is_tiny(large)
    assert stand_in.family_of(small) == stand_in.family_of(large) == family
    (mine, my_tokens), (theirs, their_tokens) = stand_in.one_pass(small), stand_in.one_pass(large)
    assert {k: (8 * f.shape[1]) for k, f in mine.items()} == {k: f.shape[1] for k, f in theirs.items()}
    assert my_tokens.keys() == their_tokens.keys()
    state = torch.random.get_rng_state()
    again = stand_in.tiny(family)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(again.unet.parameters(), small.unet.parameters(), strict=True))


def test_the_published_models_are_counted_right(shapes):
    cards = {family: stand_in.card(model) for family, model in shapes.items()}
    assert [card["parameters"] for card in cards.values()] == ["860 M", "866 M", "2,567 M"]
    assert [card["prediction"] for card in cards.values()] == ["ε", "v", "ε"]
    assert [card["preset"] for card in cards.values()] == ["iclr", "iclr", "sdxl"]
    assert [card["pixels"] for card in cards.values()] == ["512 x 512", "768 x 768", "1024 x 1024"]
    tokens = {family: stand_in.one_pass(model)[1] for family, model in shapes.items()}
    bytes_a_step = {family: sum(x.nbytes for x in found.values()) for family, found in tokens.items()}
    assert bytes_a_step["sd15"] == token_bytes(512, 512, 1, 2) and bytes_a_step["sd21"] == token_bytes(768, 768, 1, 2)
    assert bytes_a_step["sdxl"] == 8 * bytes_a_step["sd15"]


def test_without_a_gpu_nothing_is_loaded_and_the_reader_is_told(capsys, monkeypatch):
    monkeypatch.setattr(stand_in, "load", lambda name: pytest.fail(f"{name} is loaded"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    models = stand_in.models(" sd15, owner/name ")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "There is no GPU here, so sd15, owner/name would take hours: tiny models instead."
    assert list(models) == list(stand_in.FAMILIES) and all(map(stand_in.is_tiny, models.values()))
    assert all("with random weights: its pictures mean nothing" in line for line in said[1:])
    mini = dk.load("mini", device="cpu").vae.state_dict()
    for model in models.values():
        assert all(torch.equal(x, mini[name]) for name, x in model.vae.state_dict().items())


def test_with_a_gpu_what_is_named_takes_the_place_of_its_family(capsys, monkeypatch):
    given = {"a/two": stand_in.tiny("sd21"), "folder": stand_in.tiny("sdxl"), "other": stand_in.tiny("sd21", seed=1)}
    for name, model in given.items():
        model.name = f"tiny {name}"
    monkeypatch.setattr(stand_in, "load", given.__getitem__)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    models = stand_in.models("a/two,folder,")
    assert models["sd21"] is given["a/two"] and models["sdxl"] is given["folder"] and models["sd15"].name == "tiny sd15"
    assert list(models) == list(stand_in.FAMILIES)
    assert "sd21: 'tiny a/two' on cpu, the published build" in capsys.readouterr().out
    with pytest.raises(InputError, match="'tiny a/two' and 'other' are both of sd21: name one of each"):
        stand_in.models("a/two,other")
    with pytest.raises(InputError, match="'mini' is no Stable Diffusion 1, 2 or XL"):
        stand_in.family_of(dk.load("mini", device="cpu"))
    for make in (stand_in.tiny, stand_in.shape):
        with pytest.raises(InputError, match="no family 'sd3': choose from sd15, sd21, sdxl"):
            make("sd3")


@pytest.mark.parametrize("size", [(400, 600), (451, 300), (64, 64)])
def test_a_picture_is_fitted_in_its_proportions(shapes, size):
    photo = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    fitted = stand_in.fit(photo, shapes["sd21"])
    assert fitted.width * fitted.height == pytest.approx(768 * 768, rel=0.002)
    assert fitted.width / fitted.height == pytest.approx(size[1] / size[0], rel=0.002)


def test_symptoms_are_changes_of_a_preset_and_each_has_its_remedy():
    assert SYMPTOMS.keys() == REMEDIES.keys() and len(set(REMEDIES.values())) == len(REMEDIES)
    fast = dk.Guidance.preset("fast", "move")
    assert len({fast, *(fast.replace(**changes) for changes in SYMPTOMS.values())}) == 5


def report(model: str, side: int) -> dict:
    seconds = {"official": 8.0, "eager": 4.0, "ours": 1.0, "low": 2.0}
    row = {"nfe": 160, "share_of_peak": {"measured": 0.02, "nominal": 0.01}}
    rows = {
        name: {**row, "seconds": s, "peak_gb": {"allocated": 4 + s, "reserved": 5 + s}} for name, s in seconds.items()
    }
    rows["ours"] |= {"first_call_seconds": 7.5}
    run = {"model": model, "kind": "move", "preset": "iclr", "steps": 50, "size": [side, 2 * side], "dtype": "float16"}
    return {"run": run, "variants": rows, "made_with": {"hardware": "a card"}}


def test_measurements_are_read_or_the_missing_one_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=f"^{MEASURED[0]} is not there: `python -m dragonkit bench speed` makes it"):
        measured(tmp_path)
    for name in MEASURED:
        (tmp_path / name).write_text(json.dumps(report(name.split("-")[1] + "-random", 512)))
    assert list(measured(tmp_path)) == list(MEASURED)
    (tmp_path / MEASURED[1]).unlink()
    with pytest.raises(InputError, match=MEASURED[1]):
        measured(tmp_path)
    (tmp_path / MEASURED[1]).write_text("{")
    with pytest.raises(InputError, match=f"{MEASURED[1]} cannot be read as JSON"):
        measured(tmp_path)


def test_the_table_says_what_was_run_and_how_it_compares():
    text = speed_table({name: report("sd15-random", 512) for name in MEASURED})
    assert text.count("sd15-random, 1024 x 512, float16: move, iclr, 50 steps\non a card\n") == len(MEASURED)
    head, official, eager, ours, low, call = text.split("\n\n")[0].splitlines()[2:]
    assert head.split() == ["seconds", "faster", "evaluations", "GB", "held", "use"]
    assert official.split()[-6:] == ["8.00", "1.0x", "160", "12.0", "13.0", "2%"]
    assert ours.split() == ["ours", "1.00", "8.0x", "160", "5.0", "6.0", "2%"]
    assert eager.split()[-5] == "2.0x" and low.split()[-6] == "2.00" and call.split()[-1] == "+7.50"
    assert len({len(line) for line in (head, official, eager, ours, low)}) == 1
