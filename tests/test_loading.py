"""Stable Diffusion 1.5, 2.1 and XL in small: loaded, embedded, generated and edited as diffusers has them."""

import itertools

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

import dragonkit as dk
from dragonkit.edits import Appearance, Drag, Move, Paste, Resize, Rotate
from dragonkit.errors import InputError
from dragonkit.guidance import PRESETS, Guidance
from dragonkit.inversion import ddim_invert, null_text_invert
from dragonkit.loading.published import PUBLISHED, build
from dragonkit.models import CARDS, Model, load
from dragonkit.random_model import random_model
from dragonkit.schedule import PURE_NOISE, Schedule, alphas_cumprod
from dragonkit.taps import attentions, tap
from tests.families import FAMILIES, edited_json, family_model, family_parts, family_pipeline
from tests.tiny import SCHEDULER, box, hooks, picture

H, W = 64, 128


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each family's pipeline as diffusers saves it."""
    return {f: _saved(family_pipeline(f), tmp_path_factory.mktemp(f)) for f in FAMILIES}


def _saved(pipe, folder):
    pipe.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_saved_pipeline_generates_what_diffusers_does(folders, family, cfg):
    model, pipe = load(folders[family], device="cpu"), family_pipeline(family)
    ours = model.generate("a red ball", 5, steps=4, cfg=cfg, size=(H, W))
    size = dict(height=H, width=W, output_type="latent")
    theirs = pipe("a red ball", latents=ours.z_T, num_inference_steps=4, guidance_scale=cfg, **size).images
    torch.testing.assert_close(ours.path.latents[4], theirs, atol=1e-4, rtol=1e-4)
    # SDXL's pipeline zeroes the empty prompt, the others embed it: with cfg 3 both halves are compared above.
    assert model.default_guidance == ("sdxl" if family == "sdxl" else "iclr")
    assert model.size == ((128, 128) if family == "sdxl" else (64, 64))
    assert model.multiple == (32 if family == "sdxl" else 64) and model.factor == 8


@pytest.mark.parametrize("prompt", ["a red ball", "élan ☃ 雪", "word " * 30, " "])
def test_two_encoders_embed_as_diffusers_does(prompt):
    model, pipe = family_model("sdxl"), family_pipeline("sdxl")
    hidden, none, pooled, no_pool = pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=True)
    told = pipe._get_add_time_ids((H, W), (0, 0), (H, W), torch.float32, pipe.text_encoder_2.config.projection_dim)
    cond, empty = model.embed(prompt, (H, W)), model.embed("", (H, W))
    assert torch.equal(cond["encoder_hidden_states"], hidden) and torch.equal(cond["text_embeds"], pooled)
    assert torch.equal(empty["encoder_hidden_states"], none) and torch.equal(empty["text_embeds"], no_pool)
    assert torch.equal(cond["time_ids"], told) and torch.equal(empty["time_ids"], told)
    assert torch.equal(model.embed(prompt)["time_ids"], torch.tensor([[128.0, 128, 0, 0, 128, 128]]))


@pytest.mark.parametrize("masked", [False, True])
def test_one_encoder_reads_padding_if_its_configuration_does_not_mask_it(masked):
    model, pipe = Model(name="tiny", **family_parts("sd21")), family_pipeline("sd21")
    for encoder in (model.text_encoder, pipe.text_encoder):
        encoder.config.use_attention_mask = masked
    words, none = pipe.encode_prompt("a red ball", "cpu", 1, do_classifier_free_guidance=True)
    assert torch.equal(model.embed("a red ball")["encoder_hidden_states"], words)
    assert torch.equal(model.embed("")["encoder_hidden_states"], none)
    plain = family_model("sd21").embed("a red ball")["encoder_hidden_states"]
    assert masked != torch.allclose(words, plain)


def test_an_empty_prompt_is_embedded_where_the_model_says_so(folders, tmp_path):
    pipe = family_pipeline("sdxl")
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    model = load(_saved(pipe, tmp_path), device="cpu")
    _, none, _, no_pool = pipe.encode_prompt("a ball", device="cpu", do_classifier_free_guidance=True)
    empty = model.embed("")
    assert torch.equal(empty["encoder_hidden_states"], none) and torch.equal(empty["text_embeds"], no_pool)
    assert none.abs().max() > 0 and not load(folders["sdxl"], device="cpu").embed("")["text_embeds"].any()


def test_sizes_are_told_whole_in_every_dtype(folders):
    model = load(folders["sdxl"], device="cpu", dtype=torch.bfloat16)
    cond = model.embed("a ball", (1032, 776))  # bfloat16 has no 1032
    assert cond["time_ids"].tolist() == [[1032, 776, 0, 0, 1032, 776]]
    assert cond["text_embeds"].dtype == cond["encoder_hidden_states"].dtype == torch.bfloat16
    z = torch.zeros(1, 4, 16, 16)
    assert model.predict(z, 501, cond).dtype == torch.float32 and 1 in tap(model.unet, (1,), z, 501, cond)


@pytest.mark.parametrize(("upcast", "kept"), [(True, torch.float32), (False, torch.float16)])
def test_an_autoencoder_that_overflows_in_half_precision_stays_in_float32(folders, tmp_path, upcast, kept):
    pipe = family_pipeline("sdxl")
    pipe.vae.register_to_config(force_upcast=upcast)
    model = load(_saved(pipe, tmp_path), device="cpu", dtype=torch.float16)
    assert {p.dtype for p in model.vae.parameters()} == {kept} and model.dtype == torch.float16
    assert model.encode(picture(64, 64)[None]).isfinite().all()
    exact = load(folders["sdxl"], device="cpu")
    if upcast:  # read in float32, not widened after
        assert torch.equal(model.vae.decoder.conv_in.weight, exact.vae.decoder.conv_in.weight)
    assert load(folders["sd15"], device="cpu", dtype=torch.float16).vae.dtype == torch.float16  # its flag is a default


def test_another_autoencoder_can_be_named(folders, tmp_path):
    other = family_pipeline("sd15", seed=1).vae
    other.save_pretrained(tmp_path / "alone")
    for place in (tmp_path / "alone", _saved(family_pipeline("sd15", seed=1), tmp_path / "whole")):
        model = load(folders["sd15"], device="cpu", vae=place)
        assert torch.equal(model.vae.decoder.conv_in.weight, other.decoder.conv_in.weight)
        assert not torch.equal(model.vae.decoder.conv_in.weight, family_model("sd15").vae.decoder.conv_in.weight)
    with pytest.raises(InputError, match="no autoencoder 'nowhere'"):
        load(folders["sd15"], device="cpu", vae="nowhere")


def wishes(height, width):
    """One edit of every kind."""
    mask, other = box(height, width, 8, 8, 40, 40), picture(64, 96, 1)
    there = box(64, 96, 8, 8, 40, 40)
    return [
        Move(mask, by=(24, 8)),
        Resize(mask, 1.3),
        Rotate([(16, 16, 24, 20)], mask),
        Drag([(16, 16, 32, 24)], mask),
        Appearance(mask, other, there),
        Paste(other, there, (64, 32)),
    ]


# Every preset with every kind of edit somewhere, each family with every preset and every kind, in a sixth of the runs.
SAMPLED = [
    (FAMILIES[(p + k) % 3], preset, k)
    for (p, preset), k in itertools.product(enumerate(PRESETS), range(6))
    if k % 2 == p % 2
]


@pytest.mark.parametrize(("family", "preset", "k"), SAMPLED)
def test_every_edit_runs_with_every_preset(family, preset, k):
    model, (height, width) = family_model(family), ((72, 100), (64, 128))[k % 2]  # the first is padded
    edit = wishes(height, width)[k]
    w = Guidance.preset(preset, edit.kind).replace(steps=3)
    result = dk.edit(model, picture(height, width), edit, "a ball", guidance=w, progress=False)
    assert result.tensor.shape == (3, height, width) and result.tensor.isfinite().all() and hooks(model) == 0
    plain = w.replace(energy=0.0, attention_mode="off", start="keep", lock=False, preserve=False)
    if w.energy and Schedule(model, 3).window(w.guided):
        without = dk.edit(model, picture(height, width), edit, "a ball", guidance=plain, progress=False)
        assert not torch.equal(result.latent, without.latent)


def test_each_family_meets_each_kind_and_each_preset():
    assert {(f, k) for f, _, k in SAMPLED} == set(itertools.product(FAMILIES, range(6)))
    assert {(f, p) for f, p, _ in SAMPLED} == set(itertools.product(FAMILIES, PRESETS))


def test_the_layers_of_sdxl_are_those_of_the_papers_resolutions():
    cells = {}
    for family in ("sd15", "sdxl"):
        model = family_model(family)
        z = torch.zeros(1, 4, 16, 16)
        cells[family] = {
            k: f.shape[-1]
            for k, f in tap(model.unet, range(1, len(model.unet.up_blocks) + 1), z, 1, model.embed("")).items()
        }
    assert cells == {"sd15": {1: 4, 2: 8, 3: 16, 4: 16}, "sdxl": {1: 8, 2: 16, 3: 16}}
    for kind in ("move", "drag", "appearance", "paste"):
        theirs, ours = Guidance.preset("iclr", kind), Guidance.preset("sdxl", kind)
        assert [cells["sdxl"][k] for k in ours.layers] == [cells["sd15"][k] for k in theirs.layers]
        assert ours.replace(layers=theirs.layers) == theirs
    assert (
        dk.edit(family_model("sdxl"), picture(64, 64), wishes(64, 64)[0], guidance=None, progress=False)
        .tensor.isfinite()
        .all()
    )
    assert len(attentions(family_model("sdxl").unet)) == 2 * 2 + 2 * 1


def test_the_empty_prompt_of_a_run_knows_its_size():
    model = family_model("sdxl")
    z0, schedule = model.encode(picture(H, W)[None]), Schedule(model, 3)
    told = torch.tensor([[H, W, 0, 0, H, W]], dtype=torch.float32)
    path = ddim_invert(model, z0, model.embed("a ball", model.size_of(z0)), schedule)
    assert all(torch.equal(c["time_ids"], told) for c in path.unconditional(model, 3.0))
    null = null_text_invert(model, z0, path.cond, schedule, cfg=3.0, iterations=1, refine=0)
    assert all(torch.equal(c["time_ids"], told) and c["text_embeds"].shape == (1, 24) for c in null.empty.values())
    assert torch.equal(model.generate("a ball", steps=1, size=(H, W)).path.cond["time_ids"], told)


@pytest.mark.parametrize(("family", "offset"), [("sd15", 0), ("sdxl", 0)])
def test_an_outdated_offset_is_set_right_where_diffusers_does(tmp_path, family, offset):
    pipe = family_pipeline(family)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, steps_offset=offset)
    ours = load(_saved(pipe, tmp_path), device="cpu").generate("a ball", 5, steps=2, cfg=1.0, size=(64, 64))
    theirs = type(pipe).from_pretrained(tmp_path)
    assert ours.path.schedule.timesteps[-1] == theirs.scheduler.config.steps_offset == (0 if family == "sdxl" else 1)


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_steps_are_those_of_diffusers_euler_scheduler(spacing, tmp_path):
    pipe = family_pipeline("sd15")
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing=spacing)
    ours = load(_saved(pipe, tmp_path), device="cpu").generate("a ball", 5, steps=7, cfg=1.0, size=(64, 64))
    pipe.scheduler.set_timesteps(7)
    noise = ours.z_T * (pipe.scheduler.sigmas[0] ** 2 + 1) ** 0.5 / pipe.scheduler.init_noise_sigma  # it goes by σ
    options = dict(num_inference_steps=7, guidance_scale=1.0, height=64, width=64, output_type="latent")
    theirs = pipe("a ball", latents=noise, **options).images
    # What is left is that its last step goes to no noise at all.
    assert (ours.path.latents[7] - theirs).abs().max() < 2e-3 * theirs.abs().max()


ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}


def test_a_schedule_that_ends_in_noise_alone_is_diffusers_own():
    config = SCHEDULER | ZERO_SNR
    theirs = DDIMScheduler.from_config(config).alphas_cumprod
    ours = alphas_cumprod(config)
    assert theirs[-1] == 0 and ours[-1] == PURE_NOISE
    torch.testing.assert_close(ours[:-1], theirs[:-1], atol=1e-6, rtol=1e-3)


def test_a_model_trained_to_start_from_noise_alone_generates_and_edits():
    parts = family_parts("sd21")
    parts["schedule_config"] |= ZERO_SNR
    model, pipe = Model("tiny", **parts), family_pipeline("sd21")
    pipe.scheduler = DDIMScheduler.from_config(parts["schedule_config"])
    ours = model.generate("a red ball", 5, steps=5, cfg=3.0, size=(64, 64))
    theirs = pipe(
        "a red ball", latents=ours.z_T, num_inference_steps=5, guidance_scale=3.0, output_type="latent"
    ).images
    assert ours.path.schedule.timesteps[0] == 999
    torch.testing.assert_close(ours.path.latents[5], theirs, atol=2e-3, rtol=2e-3)
    w = Guidance.preset("iclr").replace(steps=5, cfg=1.0)
    result = dk.edit(model, picture(64, 64), wishes(64, 64)[0], guidance=w, trace=True, progress=False)
    assert result.tensor.isfinite().all()
    assert [g is None for g in result.trace.grads] == [
        True,
        False,
        False,
        True,
        True,
    ]  # at noise alone no step is guided
    with pytest.raises(InputError, match="rescale_betas_zero_snr wants 'v_prediction'"):
        Model("tiny", **family_parts("sd15") | {"schedule_config": SCHEDULER | {"rescale_betas_zero_snr": True}})


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 7, 24, 50])
def test_timesteps_are_spaced_as_diffusers_does(spacing, steps):
    scheduler = DDIMScheduler.from_config(SCHEDULER | {"timestep_spacing": spacing})
    scheduler.set_timesteps(steps)
    schedule = Schedule(Model("tiny", **family_parts("sd15") | {"schedule_config": dict(scheduler.config)}), steps)
    assert schedule.timesteps == scheduler.timesteps.tolist()


COUNTS = {
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd21": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sd21-base": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {
        "unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_have_the_published_numbers_of_parameters(name):
    with torch.device("meta"):
        parts = {part: build(config) for part, config in PUBLISHED[name].items() if part != "scheduler"}
    assert {part: sum(p.numel() for p in net.parameters()) for part, net in parts.items()} == COUNTS[name]
    model = Model(name, tokenizer=None, schedule_config=PUBLISHED[name]["scheduler"], **parts)
    assert model.size == {"sd15": (512, 512), "sd21": (768, 768), "sd21-base": (512, 512), "sdxl": (1024, 1024)}[name]
    assert model.multiple == (32 if name == "sdxl" else 64)
    assert f"{name}-random" in CARDS and "random" in CARDS[f"{name}-random"].about and name in CARDS


def _small(name):
    """The published configurations, all but a few channels and layers left out."""
    small = {part: dict(config) for part, config in PUBLISHED[name].items()}
    levels = len(small["unet"]["block_out_channels"])
    small["unet"] |= {"block_out_channels": [32] * levels, "attention_head_dim": 4, "layers_per_block": 1}
    small["vae"] |= {"block_out_channels": [32] * 4, "layers_per_block": 1}
    for part in small.keys() & {"text_encoder", "text_encoder_2"}:
        small[part] |= {"num_hidden_layers": 2, "intermediate_size": 32, "vocab_size": 600}
    if levels == 3:
        small["unet"]["transformer_layers_per_block"] = 1
    return small


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_random_models_are_the_seeds_and_any_text_embeds(monkeypatch, name, dtype):
    monkeypatch.setitem(PUBLISHED, name, _small(name))
    state, before = torch.get_rng_state(), torch.get_default_dtype()
    model = load(f"{name}-random", device="cpu", dtype=dtype)
    assert torch.equal(torch.get_rng_state(), state) and torch.get_default_dtype() == before
    again, other = (random_model(name, device="cpu", dtype=dtype, seed=seed) for seed in (0, 1))
    weight = model.unet.conv_in.weight
    assert torch.equal(weight, again.unet.conv_in.weight) and not torch.equal(weight, other.unet.conv_in.weight)
    assert again.name == model.name == f"{name}-random" and again.card is model.card
    for wrong in ({"seed": -1}, {"dtype": torch.int8}, {"device": "meta"}):
        with pytest.raises(InputError):
            random_model(name, **{"device": "cpu", **wrong})
    with pytest.raises(InputError, match="no published shape 'sd16': choose from sd15, sd21, sd21-base, sdxl"):
        random_model("sd16")
    assert model.dtype == dtype and model.default_guidance == CARDS[name].guidance and "random" in model.card.about
    assert model.vae.dtype == (torch.float32 if name == "sdxl" else dtype)
    assert model.embed("élan ☃ 雪 " * 40)["encoder_hidden_states"].shape[1] == 77
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert model.predict(z, 501, model.embed("a ball")).isfinite().all()


def test_a_u_net_and_encoders_that_do_not_belong_together_are_refused(folders, tmp_path):
    import shutil

    one = shutil.copytree(folders["sd21"], tmp_path / "one")
    shutil.rmtree(one / "text_encoder")
    shutil.copytree(folders["sd15"] / "text_encoder", one / "text_encoder")
    with pytest.raises(InputError, match="text embeddings are 16 wide, the U-Net wants 24"):
        load(one, device="cpu")
    two = shutil.copytree(folders["sdxl"], tmp_path / "two")
    for part in ("text_encoder_2", "tokenizer_2"):
        shutil.rmtree(two / part)
    with pytest.raises(InputError, match="the U-Net wants two text encoders and the model has one"):
        load(two, device="cpu")
    edited_json(
        shutil.copytree(folders["sd15"], tmp_path / "three") / "scheduler/scheduler_config.json", beta_start=None
    )
    with pytest.raises(InputError, match="the DDIMScheduler has no beta_start"):
        load(tmp_path / "three", device="cpu")
