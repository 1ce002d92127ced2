"""Coordinates, masks and the picking of features."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dragonkit.errors import InputError
from dragonkit.regions import (
    Frame,
    Placement,
    as_image,
    as_mask,
    dilate,
    flat,
    inside,
    nearest,
    pad,
    pick,
    positions,
)
from tests.tiny import box, picture

sizes = st.integers(64, 300)


@settings(deadline=None, max_examples=50)
@given(sizes, sizes, st.floats(-50, 350), st.floats(-50, 350))
def test_pixels_and_cells_are_inverse_and_centred(height, width, x, y):
    frame = Frame(height, width)
    for shape, side in ((frame.latent, 8), (frame.grid, 4)):
        xy = torch.tensor([x, y], dtype=torch.float64)
        torch.testing.assert_close(frame.to_pixels(frame.to_cells(xy, shape), shape), xy)
        first = frame.to_pixels(torch.zeros(2, dtype=torch.float64), shape)
        assert first.tolist() == [side / 2 - 0.5] * 2  # the mean of the pixels 0 ... side - 1


@settings(deadline=None, max_examples=50)
@given(sizes, sizes)
def test_a_frame_covers_its_image_with_whole_cells(height, width):
    frame = Frame(height, width)
    assert all(0 <= p - n < 64 and p % 64 == 0 for p, n in zip(frame.padded, (height, width), strict=True))
    assert frame.grid == (2 * frame.latent[0], 2 * frame.latent[1]) and frame.latent[0] * 8 == frame.padded[0]
    padded = pad(picture(height, width), 64)
    assert padded.shape[1:] == frame.padded and torch.equal(padded[:, :height, :width], picture(height, width))


def test_padding_reflects():
    image = picture(64, 100)
    assert torch.equal(pad(image, 64)[:, :, 100:], image[:, :, 71:99].flip(2))
    assert pad(image[:, :, :3], 64).shape == (3, 64, 64)  # more than one reflection


def test_cells_are_those_half_covered_or_all_that_are_touched():
    frame = Frame(128, 64)
    assert torch.equal(frame.cells(box(128, 64, 8, 16, 24, 40), frame.latent), box(16, 8, 1, 2, 3, 5))
    assert torch.equal(frame.cells(box(128, 64, 8, 16, 28, 43), frame.latent), box(16, 8, 1, 2, 4, 5))
    speck = box(128, 64, 9, 9, 11, 11)
    assert torch.equal(frame.cells(speck, frame.latent), box(16, 8, 1, 1, 2, 2))
    assert not frame.cells(torch.zeros(128, 64, dtype=torch.bool), frame.latent).any()


def test_tokens_of_a_mask_lie_on_every_halving():
    frame = Frame(128, 64)
    mask = box(128, 64, 0, 0, 64, 64)
    assert {n: len(i) for n, i in frame.tokens(mask).items()} == {128: 64, 32: 16, 8: 4, 2: 1}
    assert all(len(i) == 0 for i in frame.tokens(torch.zeros_like(mask)).values())


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(InputError, match="mask is 64x128 but the image is 128x64"):
        Frame(64, 128).check(box(128, 64, 0, 0, 9, 9))


@settings(deadline=None, max_examples=50)
@given(st.integers(-9, 9), st.integers(-9, 9), st.floats(0, 100))
def test_whole_cell_shifts_are_a_roll_exactly(dx, dy, centre):
    frame = Frame(64, 128)
    features = torch.randn(1, 5, *frame.grid, generator=torch.Generator().manual_seed(0))
    back = frame.to_cells(Placement((centre, centre / 3), (4 * dx, 4 * dy)).back(frame.centres(frame.grid)), frame.grid)
    within = inside(back, frame.grid)
    rolled = torch.roll(features, (dy, dx), (2, 3))
    assert within.sum() == (frame.grid[0] - abs(dy)) * (frame.grid[1] - abs(dx))
    assert torch.equal(pick(features, back[within].float()), rolled[0][:, within])


@settings(deadline=None, max_examples=50)
@given(st.floats(-40, 40), st.floats(-40, 40), st.floats(0.2, 4), st.floats(-360, 360))
def test_a_placement_undoes_what_it_is(dx, dy, scale, angle):
    p = torch.tensor([[3.0, 4.0], [50.0, -2.0], [10.0, 20.0]], dtype=torch.float64)
    a = math.radians(angle)
    turn = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64)
    c, by = torch.tensor([10.0, 20.0], dtype=torch.float64), torch.tensor([dx, dy], dtype=torch.float64)
    moved = c + by + scale * (p - c) @ turn.T
    torch.testing.assert_close(Placement((10.0, 20.0), (dx, dy), scale, angle).back(moved), p)


def test_picking_by_mask_index_and_position_agree():
    features = torch.randn(1, 3, 6, 9)
    mask = torch.rand(6, 9) > 0.5
    by_mask = pick(features, mask)
    assert torch.equal(by_mask, pick(features, flat(mask)))
    assert torch.equal(by_mask, pick(features, positions((6, 9))[mask].float()))
    assert torch.equal(by_mask, nearest(features, positions((6, 9))[mask] + 0.4))
    assert torch.equal(pick(features), features[0].flatten(1))
    assert flat(mask & ~mask) is None


def test_picking_between_cells_is_bilinear_and_differentiable():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing="ij")
    plane = (2 * x - 3 * y + 1)[None, None].requires_grad_()
    at = torch.tensor([[0.25, 0.5], [7.9, 4.1], [3.0, 2.5]])
    found = pick(plane, at)
    torch.testing.assert_close(found[0], 2 * at[:, 0] - 3 * at[:, 1] + 1)
    assert torch.autograd.grad(found.sum(), plane)[0].sum() == pytest.approx(3)


def test_a_mask_grows_by_cells():
    assert torch.equal(dilate(box(9, 9, 4, 4, 5, 5), 2), box(9, 9, 2, 2, 7, 7))
    assert torch.equal(dilate(box(9, 9, 4, 4, 5, 5), 0), box(9, 9, 4, 4, 5, 5))


def test_images_of_every_accepted_kind_are_one():
    array = (picture(64, 80).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    expected = torch.from_numpy(array.astype(np.float32) / 255).permute(2, 0, 1)
    for image in (array, Image.fromarray(array), expected, expected.double()):
        torch.testing.assert_close(as_image(image), expected)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGBA", (64, 64)), "mode RGBA"),
        (Image.new("RGB", (64, 63)), "64x63: enlarge"),
        (np.zeros((64, 64), np.uint8), r"uint8 \(64, 64\)"),
        (np.zeros((64, 64, 3)), "float64"),
        (torch.zeros(3, 64, 64, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(64, 64, 3), r"\(64, 64, 3\)"),
        (torch.full((3, 64, 64), 200.0), "values from 200 to 200: scale"),
        (torch.full((3, 64, 64), torch.nan), "values from nan"),
        ("image.png", "is a str"),
    ],
)
def test_other_images_are_refused(image, message):
    with pytest.raises(InputError, match=message):
        as_image(image)


def test_masks_of_every_accepted_kind_are_one():
    mask = box(70, 64, 3, 4, 50, 60)
    kinds = (mask, mask.numpy(), mask.int(), mask.numpy().astype(np.uint8) * 255, mask.float())
    for given_mask in (*kinds, Image.fromarray(mask.numpy()), Image.fromarray(mask.numpy().astype(np.uint8) * 200)):
        assert torch.equal(as_mask(given_mask), mask)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (box(64, 64, 0, 0, 0, 0), "mask is empty"),
        (Image.new("RGB", (64, 64)), "mode RGB"),
        (torch.ones(1, 64, 64), r"\(1, 64, 64\)"),
        (torch.arange(64 * 64).reshape(64, 64), "values such as"),
        (torch.full((64, 64), torch.nan), "values such as"),
        (None, "NoneType"),
    ],
)
def test_other_masks_are_refused(mask, message):
    with pytest.raises(InputError, match=message):
        as_mask(mask)
