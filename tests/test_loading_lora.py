"""LoRAs of every layout that diffusers reads are added to the weights, and leave nothing else behind."""

import builtins

import huggingface_hub
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

import dragonkit as dk
from dragonkit.edits import Move
from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.models import Model, load
from dragonkit.taps import attentions
from tests.families import FAMILIES, family_parts, family_pipeline
from tests.tiny import box, hooks, picture

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def made(family, folder, text=True):
    """A random LoRA for a family, saved by diffusers: its file, and the pipeline that it is still a part of."""
    pipe = family_pipeline(family)
    torch.manual_seed(7)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=TARGETS, init_lora_weights=False)
    words = LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    pipe.unet.add_adapter(config)
    layers = {"unet_lora_layers": get_peft_model_state_dict(pipe.unet)}
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    if text:
        pipe.text_encoder.add_adapter(words)
        layers["text_encoder_lora_layers"] = get_peft_model_state_dict(pipe.text_encoder)
    if text and family == "sdxl":
        pipe.text_encoder_2.add_adapter(words)
        layers["text_encoder_2_lora_layers"] = get_peft_model_state_dict(pipe.text_encoder_2)
    # Strengths are no tensors in this layout: they go into the file as diffusers writes them today.
    adapters = {"unet_lora_adapter_metadata": config.to_dict()}
    if text:
        adapters["text_encoder_lora_adapter_metadata"] = words.to_dict()
    if text and family == "sdxl":
        adapters["text_encoder_2_lora_adapter_metadata"] = words.to_dict()
    for data in adapters.values():
        data["target_modules"] = sorted(data["target_modules"])
    kind.save_lora_weights(folder, **layers, **adapters)
    return folder / "pytorch_lora_weights.safetensors", pipe


def fresh(family):
    return Model(name=family, **family_parts(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fused_lora_computes_what_diffusers_computes_with_its_layers(family, tmp_path):
    file, pipe = made(family, tmp_path)
    model, plain = fresh(family), fresh(family)
    keys = {name: net.state_dict().keys() for name, net in model.parts.items()}
    places = {p.data_ptr() for net in model.parts.values() for p in net.parameters()}
    model.load_lora(file)
    assert places == {p.data_ptr() for net in model.parts.values() for p in net.parameters()}  # recorded passes go on
    ours = model.generate("a red ball", 5, steps=3, cfg=3.0, size=(64, 64))
    size = dict(height=64, width=64, output_type="latent")
    theirs = pipe("a red ball", latents=ours.z_T, num_inference_steps=3, guidance_scale=3.0, **size).images
    torch.testing.assert_close(ours.path.latents[3], theirs, atol=1e-3, rtol=1e-3)
    without = plain.generate("a red ball", 5, steps=3, cfg=3.0, size=(64, 64)).path.latents[3]
    assert (without - theirs).abs().max() > 0.1
    assert {name: net.state_dict().keys() for name, net in model.parts.items()} == keys and hooks(model) == 0
    assert attentions(model.unet).keys() == attentions(plain.unet).keys()
    assert not any(p.requires_grad for net in model.parts.values() for p in net.parameters())
    assert not any(type(m).__module__.startswith("peft") for net in model.parts.values() for m in net.modules())
    w = Guidance.preset("iclr").replace(steps=2, layers=(1, 2))
    edit = Move(box(64, 64, 8, 8, 32, 32), by=(16, 8))
    a, b = (dk.edit(m, picture(64, 64), edit, guidance=w, progress=False).tensor for m in (model, plain))
    assert a.isfinite().all() and not torch.equal(a, b)


def test_the_scale_is_the_strength(tmp_path):
    file, _ = made("sd15", tmp_path)
    name = "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    state = load_file(file)
    change = state[f"unet.{name}.lora_B.weight"] @ state[f"unet.{name}.lora_A.weight"] * 4 / 2  # α / r
    before = fresh("sd15").unet.get_submodule(name).weight
    for scale in (1.0, 0.5, -2, 0):
        model = fresh("sd15")
        model.load_lora(tmp_path, scale)
        torch.testing.assert_close(model.unet.get_submodule(name).weight, before + scale * change)
    model.load_lora(file, 1.0)
    model.load_lora(file, 0.5)  # one after the other
    torch.testing.assert_close(model.unet.get_submodule(name).weight, before + 1.5 * change)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_it_may_be_stored_in_other_numbers_than_the_model_has(tmp_path, dtype):
    file, _ = made("sd15", tmp_path, text=False)
    stored = {key: tensor.to(dtype) for key, tensor in load_file(file).items()}
    save_file(stored, tmp_path / "stored.safetensors")
    save_file({key: tensor.float() for key, tensor in stored.items()}, tmp_path / "wide.safetensors")
    models = fresh("sd15"), fresh("sd15")
    for model, name in zip(models, ("stored", "wide"), strict=True):
        model.load_lora(tmp_path / f"{name}.safetensors")
    for a, b in zip(*(model.unet.parameters() for model in models), strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)
    key = next(iter(stored))
    save_file(stored | {key: torch.full_like(stored[key], torch.nan)}, tmp_path / "broken.safetensors")
    with pytest.raises(InputError, match=r"broken.safetensors: .* holds NaN or infinity"):
        models[0].load_lora(tmp_path / "broken.safetensors")


def test_a_lora_in_another_layout_does_the_same(tmp_path):
    """As kohya's scripts write it: flat names, down and up, and α as a tensor."""
    file, _ = made("sd15", tmp_path, text=False)
    other = {}
    for key, tensor in load_file(file).items():
        name, kind = key.removeprefix("unet.").rsplit(".lora_", 1)
        flat = "lora_unet_" + name.replace(".", "_")
        other[f"{flat}.lora_{'down' if kind[0] == 'A' else 'up'}.weight"] = tensor
        other[f"{flat}.alpha"] = torch.tensor(4.0)
    save_file(other, tmp_path / "kohya.safetensors")
    models = []
    for path in (file, tmp_path / "kohya.safetensors"):
        models.append(fresh("sd15"))
        models[-1].load_lora(path)
    for (key, a), b in zip(models[0].unet.state_dict().items(), models[1].unet.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=key)


def test_a_lora_is_loaded_with_the_model_and_from_the_hub(tmp_path, monkeypatch):
    file, _ = made("sdxl", tmp_path / "lora")
    family_pipeline("sdxl").save_pretrained(tmp_path / "model")
    model = load(tmp_path / "model", device="cpu", dtype=torch.float16, lora=file)
    assert model.dtype == torch.float16 and model.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    before = family_parts("sdxl")["unet"].get_submodule(name).weight.half()
    assert not torch.equal(model.unet.get_submodule(name).weight, before)
    asked = []
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, name: asked.append(repo) or str(file))
    again = load(tmp_path / "model", device="cpu", dtype=torch.float16, lora="owner/lora")
    assert asked == ["owner/lora"]
    for a, b in zip(model.unet.parameters(), again.unet.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_is_no_lora_for_the_model_is_refused_and_leaves_it_as_it_was(tmp_path, capfd):
    file, _ = made("sd15", tmp_path / "sd15")
    xl, _ = made("sdxl", tmp_path / "sdxl")
    state = load_file(file)
    cut, broken, whole, empty = (tmp_path / f"{n}.safetensors" for n in ("cut", "nan", "whole", "no"))
    cut.write_bytes(file.read_bytes()[:-10])
    first = sorted(state)[0]
    save_file(state | {first: torch.full_like(state[first], torch.nan)}, broken)
    save_file(fresh("sd15").unet.state_dict(), whole)
    save_file({"weight": torch.zeros(1)}, empty)
    pickle = tmp_path / "lora.bin"
    torch.save(state, pickle)
    several = tmp_path / "several"
    several.mkdir()
    for name in ("a", "b"):
        save_file(state, several / f"{name}.safetensors")
    (tmp_path / "none").mkdir()
    model, before = fresh("sd15"), fresh("sd15")
    capfd.readouterr()
    for source, message in (
        (cut, "cut.safetensors is damaged"),
        (broken, f"nan.safetensors: {first} holds NaN"),
        (whole, "whole.safetensors (is no LoRA for|changes nothing in) 'sd15'"),
        (empty, "no.safetensors (is no LoRA for|changes nothing in) 'sd15'"),
        (xl, "pytorch_lora_weights.safetensors is no LoRA for 'sd15'"),
        (pickle, "lora.bin is no .safetensors file: fetch the LoRA in that format"),
        (several, "holds a.safetensors, b.safetensors: give one"),
        (tmp_path / "none", "holds nothing: give one .safetensors file"),
        (tmp_path / "missing", "no LoRA '.*missing': give a .safetensors file"),
    ):
        with pytest.raises(InputError, match=message) as error:
            model.load_lora(source)
        assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")  # nor is anything said beside the error
    with pytest.raises(InputError, match="at scale 1e\\+300 leaves weights infinite in torch.float32: lower the scale"):
        model.load_lora(file, 1e300)
    for wrong in (float("nan"), float("inf"), "1", True, None):
        with pytest.raises(InputError, match="scale is"):
            model.load_lora(file, wrong)
    for name, net in before.parts.items():
        state = model.parts[name].state_dict()
        assert state.keys() == net.state_dict().keys()
        assert all(torch.equal(state[key], tensor) for key, tensor in net.state_dict().items())


def test_without_peft_the_line_says_what_to_install(tmp_path, monkeypatch):
    file, _ = made("sd15", tmp_path)
    real = builtins.__import__

    def importing(name, *args, **kwargs):
        if name == "peft":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    model = fresh("sd15")
    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(InputError, match="LoRAs need the package peft: run pip install"):
        model.load_lora(file)
