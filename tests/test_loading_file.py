"""One .safetensors file in the original layout gives the very model that it was made of."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import dragonkit as dk
from dragonkit.edits import Move
from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.loading import single_file
from dragonkit.loading.published import PUBLISHED
from dragonkit.models import load
from tests.families import FAMILIES, UNETS, clip, family_parts, family_pipeline
from tests.original import original
from tests.tiny import SCHEDULER, box, picture


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """By family: the parts, their single file, and the diffusers folder of the same pipeline."""
    found = {}
    for family in FAMILIES:
        root = tmp_path_factory.mktemp(family)
        parts = family_parts(family)
        save_file(original(family, parts), root / "model.safetensors")
        family_pipeline(family).save_pretrained(root / "folder")
        found[family] = parts, root / "model.safetensors", root / "folder"
    return found


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch):
    """No vocabulary in the local cache, and no hub."""
    monkeypatch.setattr(single_file, "cached", lambda repo, file: None)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_is_the_model_that_its_folder_is(made, family):
    _, file, folder = made[family]
    ours, theirs = load(file, device="cpu", config=folder), load(folder, device="cpu")
    for part, net in theirs.parts.items():
        state = ours.parts[part].state_dict()
        assert state.keys() == net.state_dict().keys()
        assert all(torch.equal(state[key], tensor) for key, tensor in net.state_dict().items()), part
    assert ours.schedule_config["prediction_type"] == theirs.schedule_config["prediction_type"]
    assert ours.default_guidance == theirs.default_guidance
    for prompt in ("a ball", ""):
        for key, tensor in theirs.embed(prompt).items():
            assert torch.equal(ours.embed(prompt)[key], tensor), key
    w = Guidance.preset(ours.default_guidance).replace(steps=2, cfg=1.0)
    a, b = (
        dk.edit(m, picture(64, 64), Move(box(64, 64, 8, 8, 32, 32), by=(16, 8)), "a ball", guidance=w, progress=False)
        for m in (ours, theirs)
    )
    torch.testing.assert_close(a.tensor, b.tensor, atol=1e-4, rtol=0)  # the same numbers, otherwise laid in memory


def test_a_files_weights_are_read_in_any_dtype(made):
    _, file, folder = made["sdxl"]
    model = load(file, device="cpu", dtype=torch.float16, config=folder)
    assert model.dtype == torch.float16 and model.text_encoder_2.dtype == torch.float16
    exact = load(folder, device="cpu").vae.state_dict()
    assert all(torch.equal(t, exact[k]) for k, t in model.vae.state_dict().items())  # float32, and never narrower


PUBLISHED_SMALL = {"sd15": 768, "sd21": 1024, "sdxl": 2048}


def recognised(family, monkeypatch):
    """A family's small parts with text embeddings of the published width, by which a file is recognised."""
    width = PUBLISHED_SMALL[family]
    parts = family_parts(family)
    config = UNETS[family] | {"cross_attention_dim": width}
    if family == "sdxl":
        from transformers import CLIPTextModelWithProjection

        config |= {"projection_class_embeddings_input_dim": 6 * 8 + 1280}
        parts["text_encoder"] = clip(768, 1, "quick_gelu")
        parts["text_encoder_2"] = clip(1280, 1, "gelu", CLIPTextModelWithProjection)
    else:
        parts["text_encoder"] = clip(width, 1, "gelu" if family == "sd21" else "quick_gelu")
    parts["unet"] = type(parts["unet"])(**config)
    small = {part: _config(net) for part, net in parts.items() if part in PUBLISHED[family]}
    monkeypatch.setitem(PUBLISHED, family, {**small, "scheduler": PUBLISHED[family]["scheduler"]})
    return parts


def _config(net):
    config = dict(net.config) if not hasattr(net.config, "to_dict") else net.config.to_dict()
    return json.loads(json.dumps({key: value for key, value in config.items() if not key.startswith("_name")}))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_is_recognised_by_its_tensors(made, family, monkeypatch, tmp_path):
    parts = recognised(family, monkeypatch)
    save_file(original(family, parts), tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="holds no tokenizer, and the local cache has none: give tokenizer="):
        load(tmp_path / "model.safetensors", device="cpu")
    for tokenizer in (made[family][2], made[family][2] / "tokenizer"):
        model = load(tmp_path / "model.safetensors", device="cpu", tokenizer=tokenizer)
    assert torch.equal(model.unet.conv_in.weight, parts["unet"].conv_in.weight)
    assert model.schedule_config["prediction_type"] == ("v_prediction" if family == "sd21" else "epsilon")
    monkeypatch.setattr(single_file, "cached", lambda repo, file: made[family][2] / file if "/" in file else None)
    again = load(tmp_path / "model.safetensors", device="cpu")  # the vocabulary from the local cache
    assert torch.equal(again.embed("a ball")["encoder_hidden_states"], model.embed("a ball")["encoder_hidden_states"])


def test_what_a_file_says_of_its_training_counts(made, tmp_path):
    _, file, folder = made["sdxl"]
    told = load_file(file) | {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    save_file(told, tmp_path / "told.safetensors")
    config = load(tmp_path / "told.safetensors", device="cpu", config=folder).schedule_config
    assert (config["prediction_type"], config["rescale_betas_zero_snr"]) == ("v_prediction", True)
    assert config["timestep_spacing"] == "trailing" and config["beta_start"] == SCHEDULER["beta_start"]


def test_the_base_of_stable_diffusion_2_has_to_be_named(made, monkeypatch, tmp_path):
    parts = recognised("sd21", monkeypatch)
    monkeypatch.setitem(PUBLISHED, "sd21-base", {**PUBLISHED["sd21"], "scheduler": PUBLISHED["sd21-base"]["scheduler"]})
    save_file(original("sd21", parts), tmp_path / "model.safetensors")
    model = load(tmp_path / "model.safetensors", device="cpu", config="sd21-base", tokenizer=made["sd21"][2])
    assert model.schedule_config["prediction_type"] == "epsilon"


def test_tensors_beside_the_model_do_no_harm_and_missing_ones_are_named(made, tmp_path):
    _, file, folder = made["sd15"]
    state = load_file(file)
    more = {
        "model_ema.decay": torch.tensor(0.5),
        "alphas_cumprod": torch.ones(1000),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(12)[None],
        "first_stage_model.loss.logvar": torch.zeros(1),
    }
    save_file(state | more, tmp_path / "more.safetensors")
    words = load(tmp_path / "more.safetensors", device="cpu", config=folder).embed("a")["encoder_hidden_states"]
    assert torch.equal(words, load(folder, device="cpu").embed("a")["encoder_hidden_states"])
    for key, name in (
        ("model.diffusion_model.out.2.bias", "tensors of its U-Net or autoencoder"),
        ("first_stage_model.decoder.conv_out.bias", "tensors of its U-Net or autoencoder"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "text_encoder's .*final_layer_norm.bias"),
    ):
        save_file({k: v for k, v in state.items() if k != key}, tmp_path / "less.safetensors")
        with pytest.raises(InputError, match=rf"less.safetensors lacks {name}") as error:
            load(tmp_path / "less.safetensors", device="cpu", config=folder)
        assert "\n" not in str(error.value)


def test_an_autoencoder_may_be_one_file_of_either_layout_and_stand_in_for_one_that_lacks(made, tmp_path):
    parts, file, folder = made["sdxl"]
    state, vae = load_file(file), "first_stage_model."
    bare, alone = tmp_path / "bare.safetensors", tmp_path / "vae.safetensors"
    save_file({key: tensor for key, tensor in state.items() if not key.startswith(vae)}, bare)
    save_file({key.removeprefix(vae): tensor for key, tensor in state.items() if key.startswith(vae)}, alone)
    with pytest.raises(InputError, match="bare.safetensors holds no autoencoder: give one as vae="):
        load(bare, device="cpu", config=folder)
    theirs = folder / "vae" / "diffusion_pytorch_model.safetensors"
    given = dict(device="cpu", dtype=torch.float16)
    for source in (alone, file, theirs, folder):
        model = load(bare, config=folder, vae=source, **given) if source != alone else load(folder, vae=source, **given)
        for key, tensor in parts["vae"].state_dict().items():
            assert torch.equal(model.vae.state_dict()[key], tensor)  # in float32, for its scale is that of SDXL's
    assert model.vae.config.scaling_factor == 0.13025
    cut = {key: tensor for key, tensor in state.items() if not key.startswith("conditioner.")}
    save_file(cut, tmp_path / "cut.safetensors")
    for source, options, message in (
        (tmp_path / "cut.safetensors", {"config": folder}, "holds a U-Net without a text encoder"),
        (folder, {"vae": folder / "unet" / "diffusion_pytorch_model.safetensors"}, "holds no autoencoder"),
        (folder, {"vae": folder / "vae" / "config.json"}, "config.json is no .safetensors file"),
    ):
        with pytest.raises(InputError, match=message) as error:
            load(source, device="cpu", **options)
        assert "\n" not in str(error.value)


def one(key, *shape):
    return {key: torch.zeros(shape)}


UNET = "model.diffusion_model."
WRONG = {
    "inpainting": (one(UNET + "input_blocks.0.0.weight", 4, 9, 3, 3), "takes 9 channels .* an inpainting model"),
    "pix2pix": (one(UNET + "input_blocks.0.0.weight", 4, 8, 3, 3), "takes 8 channels .* an instruct-pix2pix model"),
    "upscaler": (one(UNET + "input_blocks.0.0.weight", 4, 7, 3, 3), "takes 7 channels .* an upscaler"),
    "refiner": (
        one(UNET + "input_blocks.0.0.weight", 4, 4, 3, 3)
        | one(UNET + "label_emb.0.0.weight", 4, 4)
        | one(UNET + "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", 4, 1280),
        "Stable Diffusion XL's refiner: give the base model",
    ),
    "another": (
        one(UNET + "input_blocks.0.0.weight", 4, 4, 3, 3)
        | one(UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", 4, 640),
        "has text embeddings 640 wide",
    ),
    "flux": (one("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", 4, 4), "is a Flux transformer"),
    "sd3": (one("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", 4, 4), "Stable Diffusion 3 transf"),
    "lora": (one("lora_unet_mid_block_attentions_0.lora_up.weight", 4, 4), "is a LoRA, not a model: .*load_lora"),
    "peft lora": (one("unet.mid_block.attentions.0.to_q.lora_A.weight", 4, 4), "is a LoRA, not a model"),
    "vae": (one("decoder.conv_in.weight", 4, 4, 3, 3), "is a bare autoencoder: .* vae="),
    "unet": (one("down_blocks.0.resnets.0.conv1.weight", 4, 4, 3, 3), "one network of the diffusers layout"),
    "controlnet": (one("control_model.input_blocks.0.0.weight", 4, 4, 3, 3), "is a ControlNet"),
    "diffusers' controlnet": (
        one("down_blocks.0.resnets.0.conv1.weight", 4, 4, 3, 3) | one("controlnet_mid_block.weight", 4, 4, 1, 1),
        "is a ControlNet",
    ),
    "nothing": (one("weight", 4), "is no Stable Diffusion"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_files_of_another_kind_are_named_for_what_they_are(kind, tmp_path):
    tensors, message = WRONG[kind]
    save_file(tensors, tmp_path / "file.safetensors")
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path / "file.safetensors", device="cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model.pt", "model.pth", "MODEL.CKPT"])
def test_pickles_are_not_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(InputError, match=f"{name} is a pickle, which may run code when read: fetch it as .safetensors"):
        load(tmp_path / name, device="cpu")


def test_damaged_files_and_useless_arguments_are_refused(made, tmp_path):
    _, file, folder = made["sd15"]
    data = file.read_bytes()
    for length in (0, 5, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.safetensors").write_bytes(data[:length])
        with pytest.raises(InputError, match="cut.safetensors is damaged"):
            load(tmp_path / "cut.safetensors", device="cpu", config=folder)
    (tmp_path / "notes.txt").write_text("a model")
    bare = shutil.copytree(folder, tmp_path / "bare")
    shutil.rmtree(bare / "tokenizer")
    for name, options, message in (
        (tmp_path / "notes.txt", {}, "notes.txt is no .safetensors file"),
        (folder, {"config": folder}, "config is given, but .* is no single file"),
        (folder, {"tokenizer": folder}, "tokenizer is given, but"),
        ("mini", {"config": "sd15"}, "config is given, but 'mini' is no single file"),
        (file, {"config": "sd16"}, "config is 'sd16': give one of sd15, sd21, sd21-base, sdxl, a folder"),
        (file, {"config": bare}, "no vocab.json in .*bare"),
        (file, {"config": folder, "tokenizer": tmp_path}, "no vocab.json in"),
    ):
        with pytest.raises(InputError, match=message) as error:
            load(name, device="cpu", **options)
        assert "\n" not in str(error.value)
