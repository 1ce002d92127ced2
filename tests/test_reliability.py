"""Whatever is asked for, the answer is an image of the right size or one line that says what is wrong.

Thousands of random specs, every size and shape of image, half precision, and numbers that run away.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dragonkit.editor import edit as run
from dragonkit.edits import Appearance, Drag, Edit, Move, Paste, Resize, Rotate
from dragonkit.energy import Term
from dragonkit.errors import InputError, NonFiniteError
from dragonkit.evaluate.scores import psnr
from dragonkit.guidance import PRESETS, Guidance
from dragonkit.inversion import ddim_invert, fixed_point_invert, null_text_invert
from dragonkit.models import DTYPES, Model, load
from dragonkit.regions import Frame, inside, pad
from dragonkit.spec import Truth, load_task, save_spec
from dragonkit.trace import Record
from dragonkit.world import counterfactual
from tests.cases import WORDS, Case, tiniest_model
from tests.tiny import picture, tiny_model

SPECS = 2000
BLOCK = 100  # specs a test
INVERTERS = (  # each with most evaluations a step
    (ddim_invert, 1),
    (partial(fixed_point_invert, iterations=2), 3),
    (partial(null_text_invert, iterations=1, refine=1), 3 + 3),
)


@pytest.fixture(scope="module")
def models() -> list[Model]:
    """An ordinary model, and one whose projections are fused, as some fuse them for speed."""
    plain, fused = tiniest_model(), tiniest_model()
    fused.unet.fuse_qkv_projections()
    return [plain, fused]


def hanging(model: Model) -> int:
    """Hooks on any part of a model."""
    modules = [m for part in model.parts.values() for m in part.modules()]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules)


def carried_out(case: Case, model: Model, folder: Path) -> str:
    """Write a case as a spec, read it, run it, check what comes out; returns what kind of outcome that was."""
    rng, processors = case.rng, dict(model.unet.attn_processors)
    invert, cost = rng.choices(INVERTERS, (18, 1, 1))[0]
    try:
        guidance = None if case.often(0.03) else case.guidance()
        if case.often(0.05):
            case.height, case.width = size = 32 * rng.randint(2, 3), 32 * rng.randint(2, 3)
            steps = guidance.steps if guidance else 2
            words, seed, cfg = rng.choice(WORDS), rng.randrange(9), rng.choice((0, 1, 3))
            image = model.generate(words, seed, steps=steps, cfg=cfg, size=size)
        else:
            image = case.image(case.height, case.width)
        size = case.height, case.width
        truth = Truth(picture(*size), case.mask(*size)) if case.often(0.05) else None
        path = save_spec(folder, image, case.edits(), rng.choice(WORDS), guidance, model=model, truth=truth)
        if case.often(0.05):
            path.write_text(case.damaged(path.read_text()))
        task = load_task(path)
        if task.guidance.steps > 4:
            task = load_task(save_spec(folder, image, task.edits, "", task.guidance.replace(steps=2)))
        task, w = task.ready(model), task.guidance
        trace = rng.choice((False, True, Record(attention=w.one_pass is False, features=(1, 3))))
        said = {"prompt": task.prompt, "guidance": w, "invert": invert, "trace": trace, "progress": False}
        result = run(model, task.image, edits=task.edits, **said)
    except (InputError, NonFiniteError) as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 600
        assert isinstance(error, InputError) or case.wild, str(error)
        outcome = type(error).__name__
    else:
        assert result.tensor.shape == (3, case.height, case.width) and result.image.size == (case.width, case.height)
        assert result.tensor.isfinite().all() and result.tensor.min() >= 0 and result.tensor.max() <= 1
        branches, visits = 1 + len(task.edit.references), w.steps * w.repeats
        assert result.nfe <= branches * w.steps * cost + visits * (3 + 2 * branches)
        outcome = "image"
    assert hanging(model) == 0 and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert model.unet.attn_processors == processors
    return outcome


@pytest.mark.parametrize("first", range(0, SPECS, BLOCK))
def test_a_random_spec_gives_an_image_or_says_in_one_line_why_not(
    models: list[Model], tmp_path: Path, first: int
) -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(first, first + BLOCK):
        try:
            outcomes[carried_out(Case(seed), models[seed % 10 == 0], tmp_path / str(seed))] += 1
        except Exception as error:
            raise AssertionError(f"Case({seed}): {type(error).__name__}: {error}") from error
    assert outcomes["image"] > BLOCK / 2, outcomes


@settings(max_examples=400)
@given(seed=st.integers(0, 2**64), multiple=st.sampled_from([8, 32, 64]))
def test_every_region_lies_on_the_grid_and_has_its_source(seed: int, multiple: int) -> None:
    case = Case(seed)
    frame = Frame(case.height, case.width, 8, multiple)
    try:
        edit = case.edit()
        m = edit.regions(frame)
    except InputError:
        return
    cells = frame.grid[0] * frame.grid[1]
    for place in (m.gen, m.share, m.inpaint, m.outside):
        if place is not None and not place.is_floating_point():
            assert len(place) and place.min() >= 0 and place.max() < cells and len(place.unique()) == len(place)
    assert m.gen is not None and m.gud is not None and len(m.gen) and len(m.gud)
    assert isinstance(edit, Appearance) or len(m.gen) == len(m.gud)
    there = Frame(*edit.references[0].image.shape[1:], 8, multiple) if edit.references else frame
    if m.gud.is_floating_point():
        assert m.gud.isfinite().all() and inside(m.gud, there.grid).all()
    assert m.target is not None and m.target.shape == frame.latent and m.target.any()
    assert m.landing is not None and m.source is not None and len(m.source) == m.landing.sum()
    assert m.source.isfinite().all() and m.edited is not None and (m.edited | ~m.landing).all()
    for count, tokens in m.tokens.items():
        assert not len(tokens) or tokens.max() < count


def test_a_turn_that_points_contradict_or_that_has_no_room_is_solved_or_refused() -> None:
    frame, mask = Frame(64, 64), torch.zeros(64, 64, dtype=torch.bool)
    mask[5, 5] = True
    assert Rotate([(5, 5, 6, 5)], mask).regions(frame).gen is not None
    mask[10:40, 10:40] = True
    near = Rotate([(10, 10, 20, 20), (12, 12, 20 + 1e-9, 20)], mask).regions(frame)
    assert torch.equal(near.gud, Rotate([(10, 10, 20, 20)], mask).regions(frame).gud)
    mask[:] = False
    mask[57:59, 45:47] = True
    with pytest.raises(InputError, match="comes from off the image: draw shorter ways"):
        Rotate([(41, 5, 44, 56), (30, 49, 17, 24)], mask).regions(frame)


# Sizes.

SIZES = [(64, 512), (512, 64), (131, 257), (333, 500), (65, 64), (191, 320), (64, 65), (257, 511)]


def edits_of(height: int, width: int) -> list[Edit]:
    """One edit of each kind, in the middle of an image of that size."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    y, x = 0.4 * height, 0.4 * width
    theirs = torch.zeros(70, 100, dtype=torch.bool)
    theirs[20:50, 30:70] = True
    reference = picture(70, 100, seed=3)
    return [
        Move(mask, by=(width / 8, height / 9.5), scale=1.1, angle=10),
        Resize(mask, 0.7),
        Drag([(x, y, x + width / 6, y - height / 8)], mask=mask),
        Drag([(x, y, x + width / 6, y)]),
        Rotate([(x, y, x + width / 20, y), (x, y + 5, x + width / 30, y + 5)], mask=mask),
        Appearance(mask, reference, theirs, "a cube"),
        Paste(reference, theirs, at=(x, y)),
    ]


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[1]}x{s[0]}")
def test_any_size_comes_back_as_it_was_from_every_edit(models: list[Model], size: tuple[int, int]) -> None:
    for k, edit in enumerate(edits_of(*size)):
        w = Guidance.preset(sorted(PRESETS)[k % len(PRESETS)], edit.kind).replace(steps=1)
        result = run(models[0], picture(*size), edit, guidance=w, progress=False)
        assert result.tensor.shape == (3, *size) and result.image.size == size[::-1]
        assert result.tensor.isfinite().all()


@pytest.mark.parametrize("size", [(131, 257), (65, 70), (100, 64)], ids=lambda s: f"{s[1]}x{s[0]}")
def test_padding_by_hand_gives_the_same_pixels(size: tuple[int, int]) -> None:
    """Masks, points and placements lie where they lay, whatever is added to the image at its right and below."""
    model, image = tiny_model(), picture(*size)
    padded = pad(image, model.multiple)
    right, below = padded.shape[2] - size[1], padded.shape[1] - size[0]
    assert right >= 0 and below >= 0 and right + below > 0

    def widened(mask: Tensor) -> Tensor:
        return F.pad(mask, (0, right, 0, below))

    move, resize, drag, _, rotate, appearance, paste = edits_of(*size)
    by_hand = [
        Move(widened(move.mask), move.by, move.scale, move.angle),
        Resize(widened(resize.mask), resize.scale),
        Drag(drag.points, widened(drag.mask)),
        Rotate(rotate.points, widened(rotate.mask)),
        Appearance(widened(appearance.mask), appearance.reference, appearance.reference_mask, "a cube"),
        paste,
    ]
    for edit, other in zip((move, resize, drag, rotate, appearance, paste), by_hand, strict=True):
        for preset in ("iclr", "diffeditor"):
            w = Guidance.preset(preset, edit.kind).replace(steps=2, lock=True)
            a, b = (run(model, *what, guidance=w, progress=False) for what in ((image, edit), (padded, other)))
            assert torch.equal(a.tensor, b.tensor[:, : size[0], : size[1]]), (type(edit), preset)
            assert torch.equal(a.latent, b.latent)


@pytest.mark.parametrize("size", [(90, 200), (150, 70)], ids=lambda s: f"{s[1]}x{s[0]}")
def test_the_bundled_model_takes_any_size_too(mini: Model, size: tuple[int, int]) -> None:
    scene = counterfactual("move", 10**9, "train", size=256)
    image, mask = scene.before.image[:, : size[0], : size[1]], torch.zeros(*size, dtype=torch.bool)
    mask[30:60, 20:50] = True
    result = run(mini, image, Move(mask, by=(12, 9)), guidance=Guidance.preset("mini").replace(steps=2), progress=False)
    assert result.tensor.shape == image.shape and result.tensor.isfinite().all()
    # The picture is upright and in its place: only what the edit touched differs from the source.
    touched = torch.zeros_like(mask)
    touched[:90, :80] = True
    assert psnr(result.tensor, image, ~touched) > 25 > psnr(result.tensor.roll(8, dims=1), image, ~touched)


# Precision.


@pytest.fixture(scope="module")
def mini() -> Model:
    return load("mini", device="cpu")


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 8), (torch.float16, 11)], ids=str)
def test_every_edit_of_the_bundled_model_works_in_half_precision(mini: Model, dtype: torch.dtype, bits: int) -> None:
    """Every network's answer is within a few roundings, 2**-bits, of float32's, and so, magnified, is the edit.

    Measured over four scenes: 34 to 65 dB in bfloat16, 58 to 85 dB in float16. A bit is worth 6 dB, and the bar is what
    is left of the bits if an edit magnifies rounding by up to 16 dB (some six times): 32 dB and 50 dB.
    """
    model = load("mini", device="cpu", dtype=dtype)
    assert {p.dtype for part in model.parts.values() for p in part.parameters()} == {dtype} and dtype in DTYPES
    case, other = (counterfactual("move", 10**9 + k, "train", size=64) for k in (5, 105))
    image, mask = case.before.image, case.mask
    theirs = other.before.image, other.mask
    z, cond = mini.encode(image[None]), mini.embed(case.prompt)
    eps = mini.predict(z, 501, cond)
    for near, exact in (
        (model.encode(image[None]), z),
        (model.predict(z, 501, model.embed(case.prompt)), eps),
        (model.decode(z), mini.decode(z)),
    ):
        assert near.dtype == torch.float32
        assert (near - exact).square().mean().sqrt() < 8 * 2.0**-bits * exact.square().mean().sqrt()
    for edit in (
        case.edit,
        Resize(mask, 1.3),
        Drag([(20.0, 35.0, 32.0, 32.0)]),
        Rotate([(20.0, 35.0, 25.0, 34.0)]),
        Appearance(mask, *theirs, other.prompt),
        Paste(*theirs, at=(32, 35)),
    ):
        w = Guidance.preset("mini", edit.kind).replace(steps=2)
        a, b = (run(m, image, edit, case.prompt, guidance=w, trace=True, progress=False) for m in (model, mini))
        assert a.tensor.dtype == a.latent.dtype == torch.float32 and a.tensor.isfinite().all()
        assert a.nfe == b.nfe and psnr(a.tensor, b.tensor) > 6.02 * bits - 16, type(edit)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_edit_and_preset_of_a_random_model_works_in_half_precision(dtype: torch.dtype, preset: str) -> None:
    model = tiniest_model()
    for part in model.parts.values():
        part.to(dtype)
    for edit in edits_of(64, 90):
        w = Guidance.preset(preset, edit.kind).replace(steps=2)
        record = Record(attention=True, features=(2,))
        result = run(model, picture(64, 90), edit, "a ball", guidance=w, trace=record, progress=False)
        assert result.tensor.dtype == torch.float32 and result.tensor.isfinite().all()
        assert all(g is None or g.dtype == torch.float32 for g in result.trace.grads)


# Numbers that run away.

MASK = torch.zeros(64, 64, dtype=torch.bool)
MASK[8:32, 8:32] = True
MOVE = Move(MASK, by=(24, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"energy": 1e36}, r"step 1 \(t = 501\): energy term 'edit'"),
        ({"alpha": 1e-38, "beta": 0.0, "guided": (0.5, 1.0)}, r"step 2 \(t = 251\): energy term 'edit'"),
        ({"energy": 1e36, "guided": (0.0, 0.25)}, r"step 1 \(t = 501\): the latent"),
        ({"energy": 1e34, "guided": (0.75, 1.0)}, "the decoded image is not finite"),
    ],
)
def test_what_overflows_is_named_and_never_becomes_a_picture(changes: dict, message: str) -> None:
    with pytest.raises(NonFiniteError, match=message):
        run(tiny_model(), picture(64, 64), MOVE, guidance=Guidance().replace(steps=4, **changes), progress=False)
    assert hanging(tiny_model()) == 0


class Poisoned(Move):
    """A move, one of whose terms is NaN at one step."""

    def __init__(self, term: str, step: int) -> None:
        super().__init__(MASK, by=(24, 16))
        self.__dict__.update(term=term, step=step, calls=0)

    def terms(self, f, m, w):
        self.__dict__["calls"] += 1
        broken = self.calls - 1 == self.step * len(w.layers)
        for term in super().terms(f, m, w):
            yield Term(term.name, term.value * (torch.nan if broken and term.name == self.term else 1.0), term.region)


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("term", ["edit", "content", "contrast", "inpaint"])
def test_a_term_that_is_not_finite_is_named_with_its_step(term: str, step: int) -> None:
    w = Guidance().replace(steps=4, guided=(0.0, 1.0))
    named = rf"^step {step} \(t = {751 - 250 * step}\): energy term '{term}' is not finite"
    with pytest.raises(NonFiniteError, match=named):
        run(tiny_model(), picture(64, 64), Poisoned(term, step), guidance=w, progress=False)
    assert hanging(tiny_model()) == 0


def test_a_half_precision_autoencoder_that_overflows_says_so() -> None:
    model = tiniest_model()
    for part in model.parts.values():
        part.to(torch.float16)
    model.vae.encoder.conv_in.weight.data.fill_(3e4)
    with pytest.raises(NonFiniteError, match="the image's latent is not finite: load the model in a wider dtype"):
        model.encode(torch.ones(1, 3, 64, 64))


# A model that is not as guidance expects.


def test_a_model_without_the_layers_names_those_it_has(models: list[Model]) -> None:
    names = r"1 \(up_blocks\[0\]\), 2 \(up_blocks\[1\]\), 3 \(up_blocks\[2\]\)$"
    w = Guidance().replace(steps=2, layers=(4, 2))
    with pytest.raises(InputError, match=rf"layers \[4\] cannot be tapped: choose from {names}"):
        run(models[0], picture(64, 64), MOVE, guidance=w, progress=False)
    with pytest.raises(InputError, match=rf"layers \[7\] cannot be tapped: choose from {names}"):
        run(models[0], picture(64, 64), MOVE, trace=Record(features=(3, 7)), progress=False)
    assert hanging(models[0]) == 0
