"""The diffusers pipeline: the conventions of diffusers, and the pictures of dragonkit.edit bit for bit."""

import functools

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.callbacks import PipelineCallback
from PIL import Image
from safetensors.torch import load_file

import dragonkit as dk
from dragonkit import DragonDiffusionPipeline
from dragonkit.edits import Appearance, Drag, Move
from dragonkit.errors import InputError
from dragonkit.graphs import Graphs
from dragonkit.guidance import Guidance
from dragonkit.inversion import fixed_point_invert
from dragonkit.models import CARDS, load
from tests.families import FAMILIES, family_model, family_parts, family_pipeline
from tests.test_graphs import Again
from tests.tiny import box, hooks, picture

SIZE = (64, 100)
IMAGE = picture(*SIZE)
MASK = box(*SIZE, 8, 8, 40, 40)
SOLVE = functools.partial(fixed_point_invert, iterations=2)
MOVE = Move(MASK, by=(24, 8))


def pipeline(family):
    pipe = DragonDiffusionPipeline.from_pipe(family_pipeline(family))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipes():
    return {family: pipeline(family) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_images_are_dragonkits_bit_for_bit(pipes, family):
    preset = "sdxl" if family == "sdxl" else "iclr"
    w = Guidance.preset(preset).replace(steps=3, cfg=2.0)
    expected = dk.edit(family_model(family), IMAGE, MOVE, "a ball", guidance=w, progress=False)
    out = pipes[family](IMAGE, MOVE, "a ball", num_inference_steps=3, guidance_scale=2.0, output_type="pt")
    assert torch.equal(out.images, expected.tensor[None])
    assert (pipes[family].num_timesteps, pipes[family].guidance_scale, pipes[family].interrupt) == (3, 2.0, False)
    assert hooks(pipes[family].model) == 0


def test_every_argument_reaches_the_edit(pipes):
    edit = Drag([(16, 16, 32, 24)], MASK)
    w = Guidance.preset("diffeditor", "drag").replace(steps=6, cfg=1.5, seed=11)
    expected = dk.edit(family_model("sd15"), IMAGE, edit, "a ball", guidance=w, invert=SOLVE, progress=False)
    generator = torch.Generator().manual_seed(11)
    state = generator.get_state()
    options = dict(guidance="diffeditor", num_inference_steps=6, guidance_scale=1.5, invert=SOLVE)
    out = pipes["sd15"](IMAGE, [edit], "a ball", generator=generator, output_type="latent", **options)
    assert torch.equal(out.images, expected.latent) and torch.equal(generator.get_state(), state)
    whole = pipes["sd15"](IMAGE, edit, "a ball", guidance=w, invert=SOLVE, output_type="latent").images
    assert torch.equal(whole, expected.latent)  # every number in one object
    other = pipes["sd15"](
        IMAGE, edit, "a ball", generator=torch.Generator().manual_seed(12), output_type="latent", **options
    )
    assert not torch.equal(other.images, expected.latent)


def test_the_outputs_are_those_of_diffusers(pipes):
    def run(**options):
        return pipes["sd15"](IMAGE, MOVE, num_inference_steps=2, **options)

    pt, z = run(output_type="pt").images, run(output_type="latent").images
    (pil,) = run().images
    as_np = run(output_type="np").images
    assert isinstance(pil, Image.Image) and pil.size == (100, 64) and z.shape == (1, 4, 8, 16)
    assert isinstance(as_np, np.ndarray) and as_np.shape == (1, 64, 100, 3) and as_np.dtype == np.float32
    assert torch.equal(torch.from_numpy(as_np).permute(0, 3, 1, 2), pt) and pt.shape == (1, 3, 64, 100)
    np.testing.assert_allclose(np.asarray(pil) / 255, as_np[0], atol=0.5 / 255 + 1e-6)
    (images,) = run(output_type="pt", return_dict=False)
    assert torch.equal(images, pt)
    from_pil = pipes["sd15"](pil, MOVE, num_inference_steps=1, output_type="pt").images
    assert from_pil.shape == pt.shape


def test_batches_of_one_are_taken_as_other_pipelines_give_them(pipes):
    def run(image, prompt="a ball", generator=None):
        w = Guidance.preset("diffeditor").replace(steps=4)
        return pipes["sd15"](image, MOVE, prompt, guidance=w, generator=generator, output_type="pt").images

    generator = torch.Generator().manual_seed(3)
    assert torch.equal(run(IMAGE[None], ["a ball"], [generator]), run(IMAGE, "a ball", generator))
    pil = pipes["sd15"](IMAGE, MOVE, num_inference_steps=1).images
    assert torch.equal(run(pil), run(pil[0])) and torch.equal(run(np.asarray(pil[0])[None]), run(pil[0]))
    for batch in (dict(image=pil * 2), dict(image=IMAGE, generator=[generator] * 2)):
        with pytest.raises(InputError, match=f"{list(batch)[-1]} is a list: give a"):
            run(**batch)


def test_it_is_loaded_saved_and_shared_as_any_pipeline(tmp_path, pipes):
    family_pipeline("sdxl").save_pretrained(tmp_path / "xl")
    pipe = DragonDiffusionPipeline.from_pretrained(tmp_path / "xl", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    expected = pipes["sdxl"](IMAGE, MOVE, num_inference_steps=2, output_type="pt").images
    found = pipe(IMAGE, MOVE, num_inference_steps=2, output_type="pt").images
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)  # read weights lie otherwise in memory
    pipe.save_pretrained(tmp_path / "again")
    again = DragonDiffusionPipeline.from_pretrained(tmp_path / "again")
    again.set_progress_bar_config(disable=True)
    found = again(IMAGE, MOVE, num_inference_steps=2, output_type="pt").images
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    w = Guidance.preset("sdxl").replace(steps=2)
    model = load(tmp_path / "again", device="cpu")  # the folder is an ordinary one
    result = dk.edit(model, IMAGE, MOVE, guidance=w, progress=False)
    torch.testing.assert_close(result.tensor[None], expected, atol=1e-3, rtol=0)
    shared = DragonDiffusionPipeline(**{k: v for k, v in pipe.components.items() if v is not None})
    assert shared.unet is pipe.unet and set(pipe.components) == {
        "vae", "text_encoder", "tokenizer", "unet", "scheduler", "text_encoder_2", "tokenizer_2",
    }  # fmt: skip
    assert pipe.to(torch.float64).dtype == torch.float64


def test_one_encoder_is_enough_to_save_and_to_load(tmp_path, pipes):
    pipes["sd21"].save_pretrained(tmp_path / "v")
    again = DragonDiffusionPipeline.from_pretrained(tmp_path / "v")
    assert again.text_encoder_2 is None and again.model.schedule_config["prediction_type"] == "v_prediction"
    back = StableDiffusionPipeline.from_pipe(again, safety_checker=None, feature_extractor=None)
    assert back.unet is again.unet


def test_the_cards_names_are_known(monkeypatch):
    pipe = DragonDiffusionPipeline.from_pretrained("mini")
    assert pipe.model.default_guidance == "mini" and pipe.model.size == (256, 256)
    looked = []

    def there(repo, **where):
        looked.append((repo, where))
        raise InputError("seen")

    monkeypatch.setattr("dragonkit.pipeline.look", there)
    with pytest.raises(InputError, match="seen"):
        DragonDiffusionPipeline.from_pretrained("sdxl", revision="main", variant="fp16")
    assert looked == [(CARDS["sdxl"].source, {"revision": "main"})]


def test_a_loaded_model_becomes_a_pipeline_with_its_own_preset():
    model = family_model("sdxl")
    pipe = DragonDiffusionPipeline.from_model(model)
    assert pipe.unet is model.unet and pipe.model.default_guidance == model.default_guidance
    pipe.register_to_config(guidance="mini")
    assert pipe.model.default_guidance == "mini"


def test_components_that_are_of_no_use_are_refused_when_the_pipeline_is_made():
    parts = family_parts("sd15")
    parts["scheduler"] = family_pipeline("sd15").scheduler
    del parts["schedule_config"]
    xl = {key: family_parts("sdxl")[key] for key in ("text_encoder_2", "tokenizer_2")}
    with pytest.raises(InputError, match="the U-Net wants one text encoder and the model has two"):
        DragonDiffusionPipeline(**parts, **xl)
    with pytest.raises(InputError, match="preset 'best' is not known"):
        DragonDiffusionPipeline(**parts, guidance="best")
    parts["unet"].register_to_config(in_channels=9)
    with pytest.raises(InputError, match="takes 9 channels and gives 4, an inpainting model"):
        DragonDiffusionPipeline(**parts)


def test_it_works_where_nothing_is_to_be_differentiated(pipes):
    expected = pipes["sd15"](IMAGE, MOVE, num_inference_steps=2, output_type="pt").images
    with torch.inference_mode():
        found = pipes["sd15"](IMAGE * 1, MOVE, num_inference_steps=2, output_type="pt").images
    assert torch.equal(found, expected)


def test_the_callback_sees_every_step_and_may_change_the_latents(pipes):
    seen = []

    def watch(pipe, i, t, told):
        assert pipe is pipes["sd15"] and set(told) == {"latents"}
        seen.append((i, t, told["latents"].clone()))
        return told

    def run(callback, **options):
        options = {"num_inference_steps": 4, "output_type": "latent", "callback_on_step_end": callback} | options
        return pipes["sd15"](IMAGE, MOVE, "a ball", **options).images

    plain, watched = run(None), run(watch)
    assert torch.equal(plain, watched) and torch.equal(seen[-1][2], watched)
    assert [i for i, *_ in seen] == [0, 1, 2, 3] and [t for _, t, _ in seen] == [751, 501, 251, 1]
    assert torch.equal(run(lambda *_: None), plain)  # nothing given back
    changed = run(lambda pipe, i, t, told: {"latents": told["latents"] * 0.5} if i == 1 else {})
    assert not torch.equal(changed, plain)
    assert torch.equal(run(lambda pipe, i, t, told: {"latents": torch.zeros_like(plain)} if i == 3 else {}), plain * 0)
    silent = []
    run(lambda pipe, i, t, told: silent.append(told), callback_on_step_end_tensor_inputs=[])
    assert silent == [{}] * 4
    with pytest.raises(InputError, match=r"callback_on_step_end gave latents \(1, 2\): give \(1, 4, 8, 16\)"):
        run(lambda *_: {"latents": torch.zeros(1, 2)})
    with pytest.raises(ZeroDivisionError):
        run(lambda *_: 1 / 0)
    assert hooks(pipes["sd15"].model) == 0


def test_passes_are_recorded_once_and_again_where_something_is_another(monkeypatch):
    made = []

    def recording(model):
        if model.graphs is None:
            made.append(Graphs(model, Again(model)))
        return model.graphs or made[-1]

    pipe, plain = pipeline("sd15"), pipeline("sd15")
    counts, options = [], dict(num_inference_steps=2, guidance_scale=2.0, output_type="latent")

    def edited():
        with monkeypatch.context() as patch:
            patch.setattr("dragonkit.pipeline.recording", recording)
            ours = pipe(IMAGE, MOVE, "a ball", **options).images
        assert torch.equal(ours, plain(IMAGE, MOVE, "a ball", **options).images)
        counts.append([graphs.recorder.recordings for graphs in made])

    edited()
    edited()
    for changed in (pipe, plain):
        changed.scheduler = changed.scheduler.from_config(changed.scheduler.config, prediction_type="v_prediction")
    edited()
    pipe.disable_graphs()
    edited()
    assert pipe.model.graphs is None
    pipe.enable_graphs()
    edited()
    first, again, swapped, without, back = counts
    # An energy is recorded anew for each edit, and passes once for each model.
    assert len(again) == 1 and again[0] - first[0] < first[0] and len(swapped) == 2 and swapped[1] == first[0]
    assert without == swapped and len(back) == 3


def test_a_callback_of_diffusers_own_kind_serves(pipes):
    class Halve(PipelineCallback):
        tensor_inputs = ["latents"]

        def callback_fn(self, pipe, i, t, told):
            return {"latents": told["latents"] / 2} if i == 0 else told

    options = dict(num_inference_steps=3, output_type="latent")
    ours = pipes["sd15"](IMAGE, MOVE, callback_on_step_end=Halve(cutoff_step_ratio=1.0), **options).images
    theirs = pipes["sd15"](
        IMAGE, MOVE, callback_on_step_end=lambda p, i, t, d: {"latents": d["latents"] / 2} if i == 0 else d, **options
    ).images
    assert torch.equal(ours, theirs)


def test_an_interrupt_ends_the_run_with_the_picture_so_far(pipes):
    pipe, seen = pipes["sd21"], []

    def stop(pipe, i, t, told):
        seen.append(told["latents"].clone())
        pipe._interrupt = i == 1
        return told

    z = pipe(IMAGE, MOVE, num_inference_steps=5, output_type="latent", callback_on_step_end=stop).images
    assert len(seen) == 2 and torch.equal(z, seen[1]) and pipe.interrupt and hooks(pipe.model) == 0
    out = pipe(IMAGE, MOVE, num_inference_steps=2, output_type="pt").images
    assert out.shape == (1, 3, 64, 100) and not pipe.interrupt  # the next run is a whole one


def test_progress_bars_follow_the_pipelines_settings(pipes, capsys):
    pipe = pipeline("sd15")
    reference = Appearance(MASK, IMAGE, MASK)
    pipe(IMAGE, reference, num_inference_steps=2)
    assert capsys.readouterr().err == ""
    pipe.set_progress_bar_config(disable=False)
    pipe(IMAGE, reference, num_inference_steps=2)
    err = capsys.readouterr().err
    assert all(f"{title}: 100%" in err for title in ("inversion", "reference", "edit")) and "2/2" in err


def test_a_lora_that_is_not_fused_works_too(pipes, tmp_path):
    from tests.test_loading_lora import made

    file, _ = made("sd15", tmp_path)
    theirs = family_pipeline("sd15")
    theirs.load_lora_weights(str(file.parent), weight_name=file.name)
    pipe = DragonDiffusionPipeline.from_pipe(theirs)
    pipe.set_progress_bar_config(disable=True)
    model = dk.Model(name="fused", **family_parts("sd15"))
    model.load_lora(file)
    ours = pipe(IMAGE, MOVE, "a ball", num_inference_steps=2, guidance_scale=1.0, output_type="pt").images
    w = Guidance.preset("iclr").replace(steps=2, cfg=1.0)
    fused = dk.edit(model, IMAGE, MOVE, "a ball", guidance=w, progress=False).tensor
    torch.testing.assert_close(ours[0], fused, atol=1e-3, rtol=0)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_loras_are_loaded_weighted_and_unloaded(family, tmp_path):
    from tests.test_loading_lora import made

    pipe, (file, _) = pipeline(family), made(family, tmp_path / "own")
    wrong, _ = made("sd21", tmp_path / "other")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    torch.save(load_file(file), pickled / "pytorch_lora_weights.bin")
    model = dk.Model(name="fused", **family_parts(family))
    model.load_lora(file, 0.5)

    def run():
        options = dict(num_inference_steps=1, guidance_scale=1.0, output_type="pt")
        return pipe(IMAGE, MOVE, "a ball", guidance="iclr" if family == "sd15" else "sdxl", **options).images[0]

    plain, keys = run(), pipe.unet.state_dict().keys()
    for source in (wrong, pickled, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="is no LoRA for this pipeline") as error:
            pipe.load_lora_weights(source)
        assert "\n" not in str(error.value) and pipe.unet.state_dict().keys() == keys
    pipe.load_lora_weights(file, adapter_name="own")
    pipe.set_adapters(["own"], [0.5])
    w = Guidance.preset("iclr" if family == "sd15" else "sdxl").replace(steps=1, cfg=1.0)
    expected = dk.edit(model, IMAGE, MOVE, "a ball", guidance=w, progress=False).tensor
    torch.testing.assert_close(run(), expected, atol=1e-3, rtol=0)
    assert not torch.equal(run(), plain)
    pipe.unload_lora_weights()
    torch.testing.assert_close(run(), plain, atol=1e-5, rtol=0)


def test_other_pipelines_and_removed_parts_end_in_one_line(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline", "transformer": ["diffusers", "Flux"]}')
    for name, message in (
        (tmp_path, "is a FluxPipeline with a transformer"),
        ("/no/where", "no pipeline '/no/where': give one of mini, sd15, sd21, sd21-base, sdxl, a diffusers folder or"),
        ("sd15-random", "from anything else that dragonkit.load takes, from_model makes one"),
        (3, "is 3"),
    ):
        with pytest.raises(InputError, match=message) as error:
            DragonDiffusionPipeline.from_pretrained(name)
        assert "\n" not in str(error.value)
    family_pipeline("sd15").save_pretrained(tmp_path / "half", variant="fp16")
    pipe = DragonDiffusionPipeline.from_pretrained(tmp_path / "half")
    with pytest.raises(InputError, match="the pipeline has no unet: give it one"):
        DragonDiffusionPipeline.from_pretrained(tmp_path / "half", unet=None)
    unet = family_parts("sd15")["unet"]
    assert DragonDiffusionPipeline.from_pretrained(tmp_path / "half", unet=unet).unet is unet
    pipe.vae = None
    with pytest.raises(InputError, match="the pipeline has no vae: give it one"):
        pipe(IMAGE, MOVE)


def test_sdxls_autoencoder_is_widened_where_half_precision_overflows():
    pipe = pipeline("sdxl").to(torch.float16)
    assert pipe.vae.dtype == torch.float16
    out = pipe(IMAGE, MOVE, num_inference_steps=1, output_type="pt").images
    assert pipe.vae.dtype == torch.float32 and pipe.unet.dtype == torch.float16 and out.isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image": "cat.png"}, "image is a str: give a PIL image"),
        ({"edit": "move"}, "edit is a str: give an edit"),
        ({"prompt": ["a", "b"]}, r"prompt is \['a', 'b'\]: give a text"),
        ({"num_inference_steps": 0}, "steps is 0: give 1 or more"),
        ({"guidance_scale": -1.0}, "cfg is -1.0: give 0 or more"),
        ({"guidance": "best"}, "preset 'best' is not known"),
        ({"guidance": 3}, "guidance is a int: give a preset's name or a Guidance"),
        ({"generator": 3}, "generator is a int: give a torch.Generator"),
        ({"output_type": "jpg"}, "output_type is 'jpg': choose from 'pil', 'np', 'pt', 'latent'"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "has 'prompt_embeds': it may hold 'latents'"),
        ({"callback_on_step_end_tensor_inputs": "latents"}, r"is 'latents': give \['latents'\] or \[\]"),
        ({"callback_on_step_end": "print"}, "callback_on_step_end is a str: give a function or a PipelineCallback"),
        ({"callback_on_step_end": lambda *_: 3, "num_inference_steps": 1}, "gave a int: give a dict, or None"),
        ({"invert": "ddim"}, "invert is a str: give a function such as ddim_invert"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(pipes, wrong, message):
    with pytest.raises(InputError, match=message) as error:
        pipes["sd15"](**{"image": IMAGE, "edit": MOVE, **wrong})
    assert "\n" not in str(error.value)


def test_offloaded_parts_are_refused_with_a_remedy_that_serves(monkeypatch):
    from accelerate import cpu_offload

    said = []

    def noted(*args, memory, **options):
        said.append(memory)
        return dk.edit(*args, memory=memory, **options)

    monkeypatch.setattr("dragonkit.pipeline._edit", noted)
    pipe, options = pipeline("sd15"), dict(num_inference_steps=2, output_type="pt")
    image, edit = picture(64, 64), Move(box(64, 64, 8, 8, 40, 40), by=(16, 8))
    expected = pipe(image, edit, **options).images
    cpu_offload(pipe.unet, execution_device=torch.device("cpu"))
    remedy = r"offloaded by hooks: call pipe.remove_all_hooks\(\) and pipe.enable_model_cpu_offload\(\)"
    with pytest.raises(InputError, match=remedy):
        pipe(IMAGE, MOVE)
    with pytest.raises(InputError, match="device is 'tpu', which is not there"):
        pipe.enable_model_cpu_offload(device="tpu")
    pipe.remove_all_hooks()
    pipe.enable_model_cpu_offload(device="cpu")
    assert torch.equal(pipe(image, edit, **options).images, expected)
    pipe(image, edit, memory="full", **options)
    assert said == ["full", "low", "full"]


@pytest.mark.parametrize("variant", [{}, {"variant": None}])
@pytest.mark.parametrize("options", [{}, {"use_safetensors": None}, {"use_safetensors": False}])
def test_pickles_are_not_read(tmp_path, options, variant):
    family_pipeline("sd15").save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(InputError, match="safetensors"):
        DragonDiffusionPipeline.from_pretrained(tmp_path, **options, **variant)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_name": "pytorch_lora_weights.bin"}, "is 'pytorch_lora_weights.bin': name a .safetensors file"),
        ({"use_safetensors": False}, "use_safetensors is False, but a pickle may run code when read"),
        ({"use_safetensors": None}, "is no LoRA for this pipeline"),
    ],
)
def test_nor_are_those_of_loras(tmp_path, monkeypatch, options, message):
    from tests.test_loading_lora import made

    file, _ = made("sd15", tmp_path)
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    with pytest.raises(InputError, match=message):
        pipeline("sd15").load_lora_weights(tmp_path, **options)


@pytest.mark.parametrize("options", [{"custom_pipeline": "owner/own"}, {"trust_remote_code": True}])
def test_no_code_of_a_models_own_is_run(options):
    (name,) = options
    with pytest.raises(InputError, match=f"{name} is .*, by which code of the model's own would run: leave it out"):
        DragonDiffusionPipeline.from_pretrained("mini", **options)
    assert DragonDiffusionPipeline.from_pretrained("mini", **{name: None}).model.default_guidance == "mini"
