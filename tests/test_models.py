"""Loading, and what a model answers."""

import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file

from dragonkit.errors import InputError
from dragonkit.models import CARDS, load
from tests.tiny import SCHEDULER, fresh_model, picture, save_pipeline, tiny_model

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("model"), tiny_model())


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def same_answers(a, b, **tolerance):
    z, cond = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), a.embed("a ball")
    torch.testing.assert_close(b.embed("a ball")["encoder_hidden_states"], cond["encoder_hidden_states"], **tolerance)
    torch.testing.assert_close(b.predict(z, 301, cond), a.predict(z, 301, cond), **tolerance)
    torch.testing.assert_close(b.encode(picture(64, 64)[None]), a.encode(picture(64, 64)[None]), **tolerance)


def test_a_saved_folder_loads_as_the_same_model(folder):
    model = load(str(folder), device="cpu")
    assert model.dtype == torch.float32 and model.default_guidance == "iclr" and model.name == str(folder)
    assert not any(p.requires_grad for part in model.parts.values() for p in part.parameters())
    assert not any(part.training for part in model.parts.values())
    assert model.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    same_answers(tiny_model(), model)


def test_half_precision_weights_are_widened_on_a_cpu(folder):
    for file in folder.rglob("*.safetensors"):
        save_file({k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()}, file)
    model = load(folder, device="cpu")
    assert {p.dtype for part in model.parts.values() for p in part.parameters()} == {torch.float32}
    same_answers(tiny_model(), model, atol=0.02, rtol=0.02)


def test_a_variant_named_fp16_is_found(folder):
    for part in ("unet", "vae", "text_encoder"):
        for file in (folder / part).glob("*.safetensors"):
            file.rename(file.with_suffix(".fp16.safetensors"))
    same_answers(tiny_model(), load(folder, device="cpu"))


@pytest.mark.parametrize("name", ["nonsense", "", "/no/such/folder", "../nowhere", "a/b/c", 3, None])
def test_unknown_names_are_refused_and_the_known_ones_listed(name):
    with pytest.raises(InputError) as error:
        load(name)
    assert all(known in str(error.value) for known in CARDS) and "\n" not in str(error.value)


def test_truncated_weights_are_refused(folder):
    data = (folder / WEIGHTS).read_bytes()
    for length in (0, 5, len(data) // 2, len(data) - 1):
        (folder / WEIGHTS).write_bytes(data[:length])
        with pytest.raises(InputError, match="unet/diffusion_pytorch_model.safetensors is damaged"):
            load(folder)


def test_missing_weights_are_refused_even_if_a_pickle_is_there(folder):
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(state, folder / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="no unet/.*safetensors"):
        load(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_missing_tensor_is_named(folder, part):
    file = next((folder / part).glob("*.safetensors"))
    state = load_file(file)
    gone = sorted(state)[0]
    del state[gone]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"{part} weights lack .*{gone.rsplit('.', 2)[-2]}"):
        load(folder, device="cpu")


def test_weights_that_are_not_finite_are_named(folder):
    state = load_file(folder / WEIGHTS)
    state["conv_out.weight"][0, 0, 0, 0] = torch.nan
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(InputError, match="unet/conv_out.weight holds NaN"):
        load(folder)


@pytest.mark.parametrize("lost", ["scheduler/scheduler_config.json", "unet/config.json", "tokenizer"])
def test_an_incomplete_folder_is_one_line(folder, lost):
    shutil.rmtree(folder / lost) if (folder / lost).is_dir() else (folder / lost).unlink()
    with pytest.raises(InputError) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_another_kind_of_prediction_is_refused(folder):
    config = folder / "scheduler/scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "flow"}))
    with pytest.raises(InputError, match="prediction_type 'flow'"):
        load(folder)


def test_a_clean_latent_is_converted_to_noise():
    model, theirs = (
        fresh_model(prediction_type="sample"),
        DDIMScheduler.from_config(SCHEDULER, prediction_type="sample"),
    )
    z, t, out = torch.randn(1, 4, 8, 8), 501, torch.randn(1, 4, 8, 8)
    theirs.set_timesteps(2)
    a = theirs.alphas_cumprod[1]
    expected = a**0.5 * out + (1 - a) ** 0.5 * model.noise(out, z, t)
    torch.testing.assert_close(theirs.step(out, t, z).prev_sample, expected)


def test_an_untold_size_is_the_familys():
    model = fresh_model()
    model.unet.register_to_config(sample_size=None)
    assert model.size == (512, 512)


def test_prompts_of_no_use_are_refused():
    model = fresh_model()
    for prompt in (None, 3, ["a"], "half \ud800"):
        with pytest.raises(InputError, match="prompt"):
            model.embed(prompt)
    model.tokenizer.add_tokens(["<new>"])
    with pytest.raises(InputError, match="prompt has token 514, the text encoder knows 514: use the tokenizer it came"):
        model.embed("a <new> ball")


def test_v_prediction_is_converted_to_noise():
    plain, model = fresh_model(), fresh_model(prediction_type="v_prediction")
    z, cond, t = torch.randn(2, 4, 8, 8), plain.embed("x"), 501
    cond = {k: v.expand(2, -1, -1) for k, v in cond.items()}
    v, eps = plain.predict(z, t, cond), model.predict(z, t, cond)
    a = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)[t]
    x0 = a.sqrt() * z - (1 - a).sqrt() * v  # what v means
    torch.testing.assert_close(a.sqrt() * x0 + (1 - a).sqrt() * eps, z)


def test_images_and_latents():
    model = tiny_model()
    z = model.encode(picture(64, 128)[None])
    assert z.shape == (1, 4, 8, 16) and z.dtype == torch.float32
    scaled = model.vae.encode(picture(64, 128)[None] * 2 - 1).latent_dist.mean * model.vae.config.scaling_factor
    assert torch.equal(z, scaled)
    image = model.decode(100 * z)
    assert image.shape == (1, 3, 64, 128) and image.min() >= 0 and image.max() <= 1
    assert model.factor == 8 and model.multiple == 64


def test_any_text_can_be_embedded():
    model = tiny_model()
    shapes = {model.embed(p)["encoder_hidden_states"].shape for p in ("", "a ball", "élan ☃ 雪", "word " * 100)}
    assert shapes == {(1, 12, 16)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "nonsense"}, "device is 'nonsense', which is not there: choose from 'cpu'"),
        ({"device": "meta"}, "device is 'meta', which is not there"),
        ({"device": "cuda:99"}, "device is 'cuda:99', which is not there"),
        ({"dtype": torch.int8}, "dtype is torch.int8: choose from torch.float32, torch.bfloat16, torch.float16"),
        ({"dtype": torch.float64}, "dtype is torch.float64: choose from"),
        ({"dtype": "float16"}, "dtype is 'float16': choose from"),
    ],
)
def test_a_device_or_dtype_that_cannot_be_had_is_refused(options, message):
    with pytest.raises(InputError, match=message) as error:
        load("mini", **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_of_a_model_is_loaded_in_its_dtype(folder, dtype):
    model = load(folder, device="cpu", dtype=dtype)
    assert {p.dtype for part in model.parts.values() for p in part.parameters()} == {dtype} == {model.dtype}
    assert model.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.vae.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.decode(model.encode(picture(64, 64)[None])).dtype == torch.float32
