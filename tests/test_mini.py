"""The bundled model: what it is held to, that diffusers loads it, and that its training code runs."""

import json
import sys
from pathlib import Path

import pytest
import torch

import dragonkit as dk
from dragonkit.data import data_path
from dragonkit.mini import architecture, measure, train
from dragonkit.world.scene import caption, sample_scene

WORDS = "A Zebra ünder 猫 & <img onerror=1> " * 9


@pytest.fixture(scope="module")
def mini():
    return dk.load("mini", device="cpu")


def test_its_files_are_safe_and_small():
    files = [p for p in data_path("mini").rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 40e6
    assert {p.suffix for p in files} <= {".json", ".txt", ".md", ".png", ".safetensors"}


def test_the_stock_pipeline_draws_with_it():
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(data_path("mini"))
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    image = pipeline(
        "a red ball on grass at day",
        num_inference_steps=2,
        height=256,
        width=256,
        generator=generator,
        output_type="np",
    ).images
    assert image.shape == (1, 256, 256, 3)
    assert image.std() > 0.02


def test_any_text_encodes_and_every_word_of_the_world_is_one_token(mini):
    for seed in range(200):
        prompt = caption(sample_scene(seed, "test"))
        assert len(mini.tokenizer(prompt).input_ids) == len(prompt.split()) + 2 <= architecture.TEXT_LENGTH
    assert mini.tokenizer.unk_token_id not in mini.tokenizer(WORDS).input_ids[1:-1]
    for prompt in ("", WORDS):
        assert mini.embed(prompt)["encoder_hidden_states"].shape == (1, architecture.TEXT_LENGTH, 128)


def test_it_keeps_pictures_and_reads_captions(mini):
    """A small sample of what data/mini/measurements.json says of 256 scenes; these are held out of training too."""
    scenes = [sample_scene(train.VALIDATION + k, "train") for k in range(4)]
    result = measure.measure(mini, scenes, ("autoencoder", "classifier"), draws=8, batch=4)
    assert result["autoencoder"] > 34
    assert result["autoencoder_objects"] > 26
    assert min(result[f"classifier_{name}"] for name in measure.ATTRIBUTES) >= 0.75
    assert result["denoising_loss"] < 0.05


def test_the_recorded_measurements_meet_the_bars():
    recorded = json.loads((data_path("mini") / "measurements.json").read_text())
    assert recorded["scenes"] >= 256 and recorded["split"] == "test"
    assert recorded["autoencoder"] >= 31
    assert recorded["autoencoder_objects"] >= 26
    assert min(recorded[f"classifier_{name}"] for name in measure.ATTRIBUTES) >= 0.95
    assert recorded["inversion"] > recorded["inversion_autoencoder"] - 1


def test_inversion_solved_for_comes_back_to_the_autoencoders_picture(mini):
    result = measure.measure(mini, [sample_scene(train.VALIDATION + 2, "train")], ("autoencoder", "inversion"))
    assert result["inversion"] > result["autoencoder"] - 1
    assert 0.9 < result["inversion_noise_spread"] < 1.1


def test_changed_scenes_differ_in_one_word():
    for seed in range(20):
        scene = sample_scene(seed)
        for name in measure.ATTRIBUTES:
            a, b = caption(scene).split(), caption(measure.changed(scene, name, seed)).split()
            assert len(a) == len(b)
            assert sum(x != y and {x, y} != {"a", "an"} for x, y in zip(a, b, strict=True)) == 1


def test_standardised_latents_decode_to_the_same_images():
    torch.manual_seed(0)
    vae, x = architecture.build_vae().eval(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mean
        before = vae.decode(z).sample
        architecture.standardise_latents(vae, z.mean((0, 2, 3)), z.std((0, 2, 3)))
        posterior = vae.encode(x).latent_dist
        torch.testing.assert_close(posterior.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(posterior.mean.std((0, 2, 3)), torch.ones(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(vae.decode(posterior.mean).sample, before, atol=1e-4, rtol=0)
        torch.testing.assert_close(posterior.std, torch.full_like(posterior.std, 0.02))


def test_the_autoencoder_loss_is_least_at_equality():
    x, weight = torch.rand(2, 3, 16, 16) * 2 - 1, torch.ones(2, 1, 16, 16)
    assert float(train.autoencoder_loss(x, x, weight)) == 0
    assert float(train.autoencoder_loss(x + 0.01, x, weight)) < float(train.autoencoder_loss(x + 0.1, x, weight))


def test_training_runs_end_to_end_and_what_it_saves_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(architecture, "SIZE", 64)
    arguments = ["--scenes", "4", "--vae-batch", "2", "--batch", "2", "--render-batch", "2"]
    short = ["--vae-seconds", "0.01", "--seconds", "0.01"]
    monkeypatch.setattr(sys, "argv", ["train", "--out", str(tmp_path), *arguments, *short])
    train.main()
    assert "denoiser done" in (tmp_path / "log.txt").read_text()
    model = dk.load(str(tmp_path / "model"), device="cpu")
    assert model.predict(torch.zeros(1, 4, 8, 8), 1, model.embed("a red ball")).isfinite().all()
    more = ["--out", str(tmp_path / "more"), "--resume", str(tmp_path / "model"), "--vae-seconds", "0"]
    monkeypatch.setattr(sys, "argv", ["train", *arguments, *more, "--seconds", "0.01"])
    train.main()
    kept = dk.load(str(tmp_path / "more" / "model"), device="cpu")
    for a, b in zip(model.vae.parameters(), kept.vae.parameters(), strict=True):
        assert torch.equal(a, b)
