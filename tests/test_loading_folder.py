"""Folders of every kind that is no model for an edit, made by diffusers where it makes them: each says what it is."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, FluxPipeline, FluxTransformer2DModel, UNet2DConditionModel
from safetensors.torch import save_file

from dragonkit.errors import InputError
from dragonkit.loading.cards import CARDS
from dragonkit.models import load
from tests.families import UNETS, edited_json, family_parts, family_pipeline
from tests.test_loading_lora import made


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return {f: _saved(family_pipeline(f), tmp_path_factory.mktemp(f)) for f in ("sd15", "sdxl")}


def _saved(pipe, folder):
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved["sd15"], tmp_path / "model")


def refused(folder, message):
    with pytest.raises(InputError, match=message) as error:
        load(folder, device="cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (9, "takes 9 channels and gives 4, an inpainting model"),
        (8, "takes 8 channels and gives 4, an instruct-pix2pix model"),
        (7, "takes 7 channels and gives 4, an upscaler"),
        (5, "takes 5 channels and gives 4, a depth-guided model"),
    ],
)
def test_u_nets_that_take_more_than_noise(folder, channels, message):
    UNet2DConditionModel(**UNETS["sd15"] | {"in_channels": channels}).save_pretrained(folder / "unet")
    refused(folder, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "UNetMotionModel"}, "the denoiser is a UNetMotionModel"),
        ({"class_embed_type": "projection"}, r"wants conditioning on more than a prompt \(projection\)"),
        ({"num_class_embeds": 1000}, r"wants conditioning on more than a prompt \(1000\)"),
        ({"encoder_hid_dim_type": "image_proj"}, r"more than a prompt \(image_proj\)"),
        ({"time_cond_proj_dim": 256}, r"more than a prompt \(a distilled guidance scale\)"),
        ({"addition_embed_type": "image"}, "has addition_embed_type 'image'"),
        ({"addition_embed_type": "text_time", "cross_attention_dim": 1280}, "Stable Diffusion XL's refiner: give the"),
    ],
)
def test_u_nets_of_other_models(folder, changes, message):
    edited_json(folder / "unet" / "config.json", **changes)
    refused(folder, message)


def test_autoencoders_of_other_models(folder):
    tiny = AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
                           num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))  # fmt: skip
    tiny.save_pretrained(folder / "vae")
    refused(folder, "the autoencoder is a AutoencoderTiny: give one of class AutoencoderKL")
    AutoencoderKL(latent_channels=16, block_out_channels=(4,), norm_num_groups=2).save_pretrained(folder / "vae")
    refused(folder, "the autoencoder has 16 latent channels, the U-Net 4")
    edited_json(folder / "vae" / "config.json", latent_channels=4, latents_mean=[0.1] * 4)
    refused(folder, "the autoencoder's latents are shifted")


def test_text_encoders_of_other_models(folder):
    edited_json(folder / "text_encoder" / "config.json", architectures=["T5EncoderModel"])
    refused(folder, "text_encoder is a T5EncoderModel, not CLIP's")
    (folder / "text_encoder" / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/other"}')
    refused(folder, "text_encoder is an adapter to another model's")


def test_quantised_weights(folder):
    edited_json(folder / "unet" / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    refused(folder, "unet is quantised, which leaves no gradient to guide by: give float16 or wider weights")


def test_pipelines_without_a_u_net(tmp_path):
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    pipe = FluxPipeline(
        scheduler=None, vae=family_parts("sd15")["vae"], text_encoder=None, tokenizer=None, text_encoder_2=None,
        tokenizer_2=None, transformer=transformer,
    )  # fmt: skip
    refused(_saved(pipe, tmp_path / "flux"), "'flux' is a FluxPipeline with a transformer: give a text-to-image model")


def test_parts_of_models_given_as_models(tmp_path):
    family_parts("sd15")["vae"].save_pretrained(tmp_path / "vae")
    refused(tmp_path / "vae", "'vae' is a bare AutoencoderKL, not a whole model")
    family_parts("sd15")["unet"].save_pretrained(tmp_path / "alone")
    refused(tmp_path / "alone", "'alone' is a bare UNet2DConditionModel, not a whole model")
    made("sd15", tmp_path / "lora")
    refused(tmp_path / "lora", r"'lora' is a LoRA, not a model \(load the model .* model.load_lora\(folder\)\)")
    (tmp_path / "files").mkdir()
    save_file({"weight": torch.zeros(1)}, tmp_path / "files" / "model.safetensors")
    refused(tmp_path / "files", r"'files' is not in the diffusers layout \(if model.safetensors is a whole checkpoint")
    (tmp_path / "pickles").mkdir()
    torch.save({}, tmp_path / "pickles" / "model.ckpt")
    refused(tmp_path / "pickles", "'pickles' is only pickles such as model.ckpt, which may run code when read")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "'empty' is not a model's folder: no unet/ in it")


def test_weights_stored_as_pickles(tmp_path):
    family_pipeline("sd15").save_pretrained(tmp_path / "model", safe_serialization=False)
    refused(tmp_path / "model", r"no unet/\*.safetensors in .*\(diffusion_pytorch_model.bin is a pickle, which may run")


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("text_encoder_2/model.safetensors", r"no text_encoder_2/\*.safetensors"),
        ("tokenizer_2", "no tokenizer_2/vocab.json"),
        ("tokenizer", "no tokenizer/vocab.json"),
        ("text_encoder_2", r"no text_encoder_2/\*.safetensors"),
        ("scheduler", "scheduler/scheduler_config.json is missing"),
        ("vae", r"no vae/\*.safetensors"),
    ],
)
def test_what_a_model_of_two_encoders_lacks_is_named(saved, tmp_path, lost, message):
    folder = shutil.copytree(saved["sdxl"], tmp_path / "model")
    shutil.rmtree(folder / lost) if (folder / lost).is_dir() else (folder / lost).unlink()
    refused(folder, message)


def test_models_are_loaded_from_several_threads(saved):
    from transformers.utils.logging import get_verbosity

    before = get_verbosity()
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda family: load(saved[family], device="cpu"), ["sd15", "sdxl"] * 2))
    assert [len(model.parts) for model in models] == [3, 4, 3, 4] and get_verbosity() == before


def test_parts_that_the_pipeline_never_had_are_named(folder):
    shutil.rmtree(folder / "text_encoder")
    edited_json(folder / "model_index.json", _class_name="StableDiffusionImageVariationPipeline", text_encoder=None)
    refused(folder, "'model' is a StableDiffusionImageVariationPipeline without a text encoder: give a text-to-image")


def test_files_left_by_another_model_do_not_count(folder, saved):
    for part in ("text_encoder_2", "tokenizer_2"):
        shutil.copytree(saved["sdxl"] / part, folder / part)
    assert sorted(load(folder, device="cpu").parts) == ["text_encoder", "unet", "vae"]


@pytest.mark.parametrize("variant", ["bf16", "non_ema"])
def test_a_variant_is_read_if_it_is_the_only_one(tmp_path, variant):
    pipe = family_pipeline("sd15")
    pipe.save_pretrained(tmp_path, variant=variant, max_shard_size="500KB")
    assert torch.equal(load(tmp_path, device="cpu").unet.conv_in.weight, pipe.unet.conv_in.weight)


def test_variants_that_are_not_read_are_not_looked_at(folder):
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"cut")
    assert load(folder, device="cpu").unet is not None


def test_files_of_other_names_are_not_taken_for_the_weights(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(folder / "unet" / "diffusion_pytorch_model-00001-of-00001.safetensors")
    refused(folder, "no unet/diffusion_pytorch_model.safetensors or diffusion_pytorch_model.safetensors.index.json in")
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text('{"weight_map": null}')
    refused(folder, "unet/diffusion_pytorch_model.safetensors.index.json lists no weights")


def test_whole_numbers_are_no_weights(folder):
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({"decoder.conv_in.weight": torch.zeros(4, 4, 3, 3, dtype=torch.int8)}, file)
    refused(folder, r"quantised \(decoder.conv_in.weight is of type I8\), which leaves no gradient to guide by")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet/config.json", {"sample_size": "x"}, "the U-Net's sample_size is 'x'"),
        ("unet/config.json", {"sample_size": [8]}, r"the U-Net's sample_size is \[8\]"),
        ("unet/config.json", {"norm_num_groups": 0}, "cannot be loaded .*: fetch it again, or give one of mini"),
        ("vae/config.json", {"scaling_factor": None}, "the autoencoder's scaling_factor is None"),
        ("text_encoder/config.json", {"hidden_size": "wide"}, "cannot be loaded .*hidden_size.*fetch it again"),
        ("scheduler/scheduler_config.json", {"beta_end": "x"}, "beta_end is 'x': give a finite number"),
        ("scheduler/scheduler_config.json", {"beta_end": 5.0}, "the scheduler's betas are from .* to 5"),
        (
            "scheduler/scheduler_config.json",
            {"num_train_timesteps": 1e3},
            "num_train_timesteps is 1000.0: give a whole",
        ),
    ],
)
def test_configurations_of_no_use_end_in_one_line(folder, file, changes, message):
    edited_json(folder / file, **changes)
    refused(folder, message)


def test_a_network_without_its_configuration_is_named(folder):
    (folder / "text_encoder" / "config.json").unlink()
    refused(folder, "text_encoder/config.json is missing")


@pytest.mark.parametrize("name", ["~nobody-of-that-name/model", "x" * 5000, "owner/..", b"mini"])
def test_names_that_no_file_can_have_are_refused(name):
    with pytest.raises(InputError) as error:
        load(name, device="cpu")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    for option in ("vae", "lora"):
        with pytest.raises(InputError):
            load("mini", device="cpu", **{option: name})


def test_shards_are_all_wanted(folder):
    net = UNet2DConditionModel.from_pretrained(folder / "unet")
    shutil.rmtree(folder / "unet")
    net.save_pretrained(folder / "unet", max_shard_size="300KB")
    shards = sorted((folder / "unet").glob("*.safetensors"))
    assert len(shards) > 1
    assert torch.equal(load(folder, device="cpu").unet.conv_in.weight, net.conv_in.weight)
    shards[-1].unlink()
    refused(folder, f"no unet/{shards[-1].name} in")


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_configurations_that_are_no_json_are_named(folder, file, text):
    (folder / file).write_text(text)
    refused(folder, f"{file.rpartition('/')[2]} (cannot be read as JSON|holds no JSON object)")


def test_a_folder_reaches_for_no_network(saved):
    """Not even for what its configurations name: sockets are closed to this process."""
    code = (
        "import socket, sys, dragonkit as dk\n"
        "def no(*a, **k): raise AssertionError('the network was asked')\n"
        "socket.socket.connect = socket.getaddrinfo = no\n"
        "print(sorted(dk.load(sys.argv[1], device='cpu').parts))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(saved["sdxl"])], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "['text_encoder', 'text_encoder_2', 'unet', 'vae']", done.stderr


def test_the_command_line_lists_the_cards(capsys):
    from dragonkit.cli import main

    assert main(["models"]) == 0
    out = capsys.readouterr().out
    for name, card in CARDS.items():
        assert f"{name} " in out and card.about in out
        assert card.source in out or "/" not in card.source
    assert all(len(line) <= 120 for line in out.splitlines())
