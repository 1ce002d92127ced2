"""Generated images: the same as diffusers' own pipeline, and edited without inversion."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from dragonkit import editor, reconstruction
from dragonkit.edits import Edit, Move, Reconstruct
from dragonkit.energy import Term, attract, similarity
from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.regions import Frame
from tests.tiny import SCHEDULER, box, hooks, picture, tiny_model

W = Guidance.preset("iclr").replace(steps=4, cfg=1.0)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def generated(model):
    return model.generate("a ball", 3, steps=4, cfg=1.0, size=(64, 64))


@pytest.mark.parametrize("size", [64, "64x64", (64,), (64.0, 64), ("64", "64"), (64, 32), (0, 64), ()])
def test_sizes_of_no_use_are_refused(model, size):
    with pytest.raises(InputError, match="size is .*multiples of 64"):
        model.generate("a ball", steps=1, size=size)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_generation_is_diffusers_own(model, cfg):
    ours = model.generate("a red ball", 5, steps=6, cfg=cfg, size=(64, 128))
    scheduler = DDIMScheduler(**{k: v for k, v in SCHEDULER.items() if k[0] != "_"})
    pipe = StableDiffusionPipeline(
        vae=model.vae, text_encoder=model.text_encoder, tokenizer=model.tokenizer, unet=model.unet,
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    z = pipe("a red ball", latents=ours.z_T, num_inference_steps=6, guidance_scale=cfg, output_type="latent").images
    torch.testing.assert_close(ours.path.latents[6], z, atol=1e-5, rtol=1e-5)
    assert ours.tensor.shape == (3, 64, 128) and ours.image.size == (128, 64)


def test_the_noise_is_the_seeds(model, generated):
    again = model.generate("a ball", 3, steps=4, cfg=1.0, size=(64, 64))
    other = model.generate("a ball", 4, steps=4, cfg=1.0, size=(64, 64))
    assert torch.equal(again.tensor, generated.tensor) and not torch.equal(other.z_T, generated.z_T)
    assert torch.equal(generated.z_T, torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)))
    assert model.generate("a ball", steps=1).tensor.shape == (3, 128, 128)  # the model's own size


def test_an_edit_that_asks_for_nothing_gives_the_generated_image_back(model, generated):
    class Nothing(Edit):
        def terms(self, f, m, w):
            yield from ()

    result = editor.edit(
        model, generated, Nothing(), guidance=W.replace(attention_mode="off", energy=0), progress=False
    )
    torch.testing.assert_close(result.latent, generated.path.latents[4], atol=1e-5, rtol=1e-5)
    assert result.nfe == 4  # no inversion


def test_a_move_of_a_generated_image_needs_no_inversion(model, generated):
    move = Move(box(64, 64, 8, 8, 32, 32), by=(24, 16))
    result = editor.edit(model, generated, move, guidance=W, progress=False)
    assert result.tensor.isfinite().all() and hooks(model) == 0
    tokens_and_features = 4  # one evaluation a step gives both
    assert result.nfe == 4 + 2 + tokens_and_features
    again = editor.edit(model, generated, move, guidance=W, progress=False)
    assert torch.equal(again.tensor, result.tensor)
    assert again.nfe == 4 + 2  # the path has kept them
    default = editor.edit(model, generated, move, progress=False)  # steps and cfg as it was generated
    assert len(default.trace) == 4


def test_what_generation_cannot_use_is_refused(model, generated):
    for wrong, word in (
        ({"prompt": 3}, "prompt is 3"),
        ({"prompt": "", "seed": -1}, "seed is -1"),
        ({"prompt": "", "size": (60, 64)}, "64x60"),
        ({"prompt": "", "steps": 0}, "steps is 0"),
        ({"prompt": "", "cfg": float("nan")}, "cfg is nan"),
    ):
        with pytest.raises(InputError, match=word):
            model.generate(**wrong)
    with pytest.raises(InputError, match="generated in 4 steps and guidance has 5"):
        editor.edit(model, generated, Reconstruct(), guidance=W.replace(steps=5), progress=False)


def test_reconstruction_lets_the_image_in_through_the_chosen_features_only(model):
    image, w = picture(64, 64), Guidance.preset("paper").replace(steps=4, cfg=1.0)

    def run(layers, seed=0, picture=image):
        return reconstruction.reconstruct(
            model, picture, "a ball", layers=layers, seed=seed, guidance=w, progress=False
        )

    plain = run([])
    assert torch.equal(plain.tensor, run([], picture=picture(64, 64, 9)).tensor)  # no layer: nothing of the image
    assert plain.nfe == 4 + 4
    two, three = run([2]), run([3])
    assert not torch.equal(two.tensor, plain.tensor) and not torch.equal(two.tensor, three.tensor)
    assert not torch.equal(two.tensor, run([2], picture=picture(64, 64, 9)).tensor)
    assert not torch.equal(two.tensor, run([2], seed=1).tensor) and set(two.trace.energies) == {"content"}
    for wrong, word in (({"layers": [5]}, "5"), ({"layers": "23"}, "layers is '23'"), ({"seed": -1}, "seed is -1")):
        with pytest.raises(InputError, match=word):
            reconstruction.reconstruct(model, image, guidance=w, progress=False, **wrong)


def test_the_share_energy_of_a_reconstruction_is_eq_5_everywhere(model):
    from dragonkit.edits import Branches

    frame = Frame(64, 64, 8, 64)
    gen, gud = torch.randn(2, 1, 5, *frame.grid)
    edit = Reconstruct(0)
    (term,) = edit.terms(Branches(gen, gud, (), 3), edit.regions(frame), W)
    assert isinstance(term, Term)
    assert term.value == pytest.approx(attract(similarity(gen, gud), W.w_content, W.alpha, W.beta).item())
    np.testing.assert_array_equal(edit.start(torch.zeros(1, 4, 8, 8), (), edit.regions(frame)).std() > 0.5, True)
