"""The sketch without a browser: what it takes, what it refuses, and what it shows where no front end draws it."""

import base64
import io
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import label

from dragonkit.errors import InputError
from dragonkit_widgets import MaskPainter, PointPicker, Sketch
from dragonkit_widgets.overlay import FILL
from dragonkit_widgets.segmenting import grown, lab
from dragonkit_widgets.sketch import SHOWN

WIDTH, HEIGHT = 90, 70


@pytest.fixture
def image():
    """A grey picture with a red disc that has a grey hole."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    far = np.hypot(x - 40, y - 30)
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    pixels[(far <= 15) & (far > 4)] = (200, 30, 30)
    return Image.fromarray(pixels)


def random_mask(seed=0):
    return np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.3


def asked(sketch, x, y, **more):
    """What the browser's message does, once it is done."""
    replies, ended = [], threading.Event()

    def note(content):
        replies.append(content)
        if "segmented" in content:
            ended.set()

    sketch.send = note
    sketch._handle_custom_msg({"segment": [x, y], **more}, [])
    assert ended.wait(30) and replies == [{"segmenting": [x, y]}, {"segmented": [x, y]}]
    return sketch.mask


def test_points_are_kept_as_given(image):
    sketch = PointPicker(image, [(1, 2, 3.25, 4)])
    assert sketch.points == [(1.0, 2.0, 3.25, 4.0)] and not sketch.mask.any()
    seen = []
    sketch.observe(lambda change: seen.append(change.new), "points")
    sketch.points = np.array([[-0.5, -0.5, WIDTH - 0.5, HEIGHT - 0.5]])[:1].tolist()
    assert seen == [[(-0.5, -0.5, WIDTH - 0.5, HEIGHT - 0.5)]]
    sketch.selected = 0
    sketch.points = []
    assert sketch.selected == -1


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([(1, 2, 3)], "four numbers"),
        (["abcd"], "four numbers"),
        ([(1, 2, 3, float("nan"))], "finite"),
        ([(1, 2, 3, None)], "finite"),
        ([(1, 2, 3, HEIGHT)], "move it in"),
        ([(-0.6, 2, 3, 4)], "move it in"),
    ],
)
def test_points_that_are_none_are_refused(image, points, said):
    sketch = PointPicker(image, [(1, 2, 3, 4)])
    with pytest.raises(InputError, match=said):
        sketch.points = points
    assert sketch.points == [(1.0, 2.0, 3.0, 4.0)]


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, lambda m: m.astype(np.uint8) * 255, Image.fromarray])
def test_a_mask_comes_back_as_it_was(image, kind):
    mask = random_mask()
    assert np.array_equal(MaskPainter(image, kind(mask)).mask, mask)


def test_the_mask_is_a_copy_of_the_image_s_size(image):
    sketch = MaskPainter(image)
    assert sketch.mask.shape == (HEIGHT, WIDTH) and sketch.mask.dtype == bool and not sketch.mask.any()
    sketch.mask = random_mask()
    sketch.mask[:] = False
    assert np.array_equal(sketch.mask, random_mask())
    for empty in (None, np.zeros((HEIGHT, WIDTH), bool)):
        sketch.mask = random_mask()
        sketch.mask = empty
        assert sketch.mask_data == b"" and not sketch.mask.any()


@pytest.mark.parametrize(
    "mask", [np.ones((3, 4), bool), np.zeros((3, 4), bool), np.full((HEIGHT, WIDTH), 0.5), [[True]], "mask"]
)
def test_masks_that_are_none_are_refused(image, mask):
    sketch = MaskPainter(image, random_mask())
    with pytest.raises(InputError):
        sketch.mask = mask
    with pytest.raises(InputError):
        sketch.mask_data = b"abc"
    assert np.array_equal(sketch.mask, random_mask())


def test_what_the_browser_sends_arrives(image):
    sketch = Sketch(image)
    mask = random_mask()
    packed = memoryview(np.packbits(mask).tobytes())
    sketch.set_state({"points": [[1, 2, 3, 4]], "mask_data": packed, "selected": 0})
    assert sketch.points == [(1.0, 2.0, 3.0, 4.0)] and sketch.selected == 0
    assert isinstance(sketch.mask_data, bytes) and np.array_equal(sketch.mask, mask)


def test_another_image_keeps_what_fits_it(image):
    sketch = Sketch(image, points=[(1, 2, 3, 4), (85, 5, 3, 4)], mask=random_mask())
    sketch.image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert len(sketch.points) == 2 and np.array_equal(sketch.mask, random_mask())
    sketch.image = image.crop((0, 0, 80, HEIGHT))
    assert sketch.points == [(1.0, 2.0, 3.0, 4.0)]
    assert sketch.mask.shape == (HEIGHT, 80) and not sketch.mask.any()
    with pytest.raises(InputError, match="convert it"):
        sketch.image = image.convert("L")
    assert sketch.image.size == (80, HEIGHT)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tools": ("spray",)}, "spray"),
        ({"tools": ()}, "give some of"),
        ({"size": 3}, "64 to 4096"),
        ({"points": [(1, 2, 3, 4000)]}, "move it in"),
        ({"mask": np.ones((2, 2), bool)}, "draw it on this image"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(image, options, said):
    with pytest.raises(InputError, match=said):
        Sketch(image, **options)


def test_tools_are_those_offered(image):
    assert PointPicker(image).tools == ["point", "pan"] and PointPicker(image).tool == "point"
    assert "point" not in MaskPainter(image).tools
    with pytest.raises(InputError, match="none of this canvas's tools"):
        PointPicker(image).tool = "brush"


def test_a_large_image_is_shown_smaller_and_masked_in_full():
    pixels = np.random.default_rng(0).integers(0, 255, (30, 44, 3), np.uint8)
    large = Image.fromarray(pixels).resize((3504, 2336))
    sketch = Sketch(large, points=[(3503, 2335, 0, 0)])
    with Image.open(io.BytesIO(sketch._picture)) as shown:
        assert 0.95 * SHOWN < shown.width * shown.height <= 1.01 * SHOWN
    assert sketch.mask.shape == (2336, 3504)
    sketch.mask = pixels.mean(axis=2).repeat(78, 0)[:2336].repeat(80, 1)[:, :3504] > 128
    assert sketch.face().size == (512, 341)


def test_a_click_takes_the_region_of_its_colour(image):
    red = np.asarray(image)[..., 0] == 200
    disc = red | (np.hypot(*np.ogrid[-30 : HEIGHT - 30, -40 : WIDTH - 40]) <= 4)
    sketch = MaskPainter(image)
    assert 0 < (disc & ~red).sum() <= WIDTH * HEIGHT / 100 < disc.sum()
    assert np.array_equal(asked(sketch, 30.2, 30.4, add=True), disc)  # the hole is filled
    assert not asked(sketch, 30, 30, add=False).any()
    assert np.array_equal(asked(sketch, 0, 0), ~disc) and sketch.error == ""  # the disc is no speck in its surroundings


def test_a_region_is_connected_and_grows_with_the_tolerance():
    pixels = np.random.default_rng(3).integers(100, 160, (40, 50, 3), np.uint8)
    colours, before = lab(pixels), np.zeros((40, 50), bool)
    for tolerance in (0, 8, 16, 32, 200):
        found = grown(colours, 20, 10, tolerance)
        assert found[10, 20] and label(found)[1] == 1 and (found | ~before).all()
        before = found
    assert before.all()


def test_a_function_of_one_s_own_segments(image):
    seen = []

    def half(pixels, x, y):
        seen.append((pixels.shape, x, y))
        return np.arange(WIDTH)[None] * np.ones((HEIGHT, 1)) < x

    sketch = MaskPainter(image, segment=half)
    assert asked(sketch, 10.5, 3).sum() == 11 * HEIGHT
    assert seen == [((HEIGHT, WIDTH, 3), 10.5, 3.0)]


@pytest.mark.parametrize("found", [np.ones((2, 2), bool), "<img src=x onerror=alert(1)>", None])
def test_what_goes_wrong_is_said_in_the_widget(image, found):
    sketch = MaskPainter(image, random_mask(), segment=lambda *_: found)
    assert np.array_equal(asked(sketch, 1, 1), random_mask())
    assert sketch.error.startswith("InputError: the region is")


def test_a_slow_function_holds_nothing_up_and_the_last_click_counts(image):
    begun, go, seen, replies = threading.Event(), threading.Event(), [], []

    def slow(pixels, x, y):
        seen.append(x)
        begun.set()
        assert go.wait(30) and threading.current_thread() is not threading.main_thread()
        return np.arange(WIDTH)[None] * np.ones((HEIGHT, 1)) == x

    sketch = MaskPainter(image, segment=slow)
    sketch.send = replies.append
    futures = [sketch._asked(sketch, {"segment": [x, 0]}, []) for x in (1, 2, 3)]
    assert begun.wait(30) and not any(future.done() for future in futures) and not sketch.mask.any()
    go.set()
    for future in futures:
        future.result(30)
    assert seen == [1, 3], "the second was replaced while it waited"
    assert sketch.mask.any(0).nonzero()[0].tolist() == [3], "the first while it ran"
    assert replies == [{"segmenting": [x, 0]} for x in (1, 2, 3)] + [{"segmented": [3, 0]}]

    go.clear()
    last = sketch._asked(sketch, {"segment": [5, 0]}, [])
    sketch.image = image.resize((64, 64))  # nothing comes of a click on a picture that is gone
    go.set()
    last.result(30)
    assert not sketch.mask.any() and sketch.error == "" and replies[-1] == {"segmented": None}
    sketch.close()


def test_the_face_shows_mask_and_arrows(image):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[40:60, 50:80] = True
    plain = np.asarray(Sketch(image, size=WIDTH).face()).astype(int)
    face = np.asarray(Sketch(image, size=WIDTH, mask=mask).face()).astype(int)
    assert np.array_equal(plain, np.asarray(image))
    inner, outer = mask.copy(), mask.copy()
    inner[[40, 59]] = inner[:, [50, 79]] = False
    outer[39:61, 49:81] = True
    assert np.array_equal(face[~outer], plain[~outer])
    assert np.abs(face[inner] - (0.58 * plain[inner] + 0.42 * np.array(FILL))).max() <= 1
    drawn = np.asarray(Sketch(image, size=WIDTH, points=[(20, 50, 70, 50)]).face()).astype(int)
    assert (drawn[50, 20] == (255, 59, 48)).all() and (drawn[50, 70] == (47, 107, 255)).all()


def test_where_no_front_end_is_a_picture_is_shown(image):
    sketch = Sketch(image, points=[(1, 2, 3, 4)], mask=random_mask())
    data, _ = sketch._repr_mimebundle_()
    assert data["text/plain"] == repr(sketch) == f"Sketch(90x70, 1 points, {random_mask().sum()} pixels masked)"
    with Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as shown:
        assert shown.size == (512, 398)
