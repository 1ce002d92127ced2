"""A person plays, scrubs, looks and compares; what is shown is what was traced."""

import re
import time
from pathlib import Path

import numpy as np
import pytest

from dragonkit.trace import Trace
from tests.browser.gestures import click, drag, on

ROOT = Path(__file__).parents[2]
SETUP = f"""
import sys, threading
sys.path.insert(0, {str(ROOT)!r})
import dragonkit as dk
from dragonkit.edits import Move
from dragonkit.guidance import Guidance
from dragonkit.trace import Record, Trace
from dragonkit_widgets import GuidancePlayer
from tests.tiny import box, picture, tiny_model

image = picture(96, 80)

def run(steps=20, **options):
    move = Move(box(96, 80, 20, 20, 50, 50), by=(16, 8))
    w = Guidance.preset('diffeditor', 'move').replace(steps=steps)
    return dk.edit(tiny_model(), image, move, guidance=w, progress=False, **({{'trace': True}} | options)).trace
"""
SIZE, SCALE = 240, 2.5  # of a picture of 80 x 96 pixels on the page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved trace, made by the same code that the cells run."""
    place: dict = {}
    exec(SETUP, place)
    return place["run"](trace=place["Record"](attention=True)).save(tmp_path_factory.mktemp("trace") / "trace")


@pytest.fixture
def opened(notebook, folder):
    """The saved trace in a player, and the page's element of it."""
    errors = []
    notebook.page.on("pageerror", lambda error: errors.append(str(error)))
    show = f"player = GuidancePlayer(Trace.load({str(folder)!r}), image, answer=image, size={SIZE})\nplayer"
    notebook.run(SETUP, show)
    element = notebook.widget(".dk-player")
    element.locator(".dk-preview canvas").wait_for()
    wait_for_read(element, "step 21 of 21")
    yield notebook, element
    assert not errors


def read(element):
    return element.locator(".dk-read").inner_text()


def wait_for_read(element, text):
    element.locator(".dk-read").filter(has_text=text).wait_for()


def colour(element, panel, x, y):
    """The colour on the page of a picture's pixel."""
    canvas = element.locator(f".dk-{panel} canvas")
    return canvas.evaluate(
        "(canvas, [x, y]) => { const ratio = window.devicePixelRatio;"
        " return [...canvas.getContext('2d').getImageData(x * ratio, y * ratio, 1, 1).data].slice(0, 3) }",
        [(x + 0.5) * SCALE, (y + 0.5) * SCALE],
    )


def wait_for_colour(element, panel, x, y, wanted):
    for _ in range(100):
        if (found := colour(element, panel, x, y)) == list(map(int, wanted)):
            return
        element.page.wait_for_timeout(50)
    raise AssertionError(f"pixel ({x}, {y}) of {panel} is {found} and not {list(wanted)}")


def test_every_step_shows_its_own_picture_by_keys_slider_curves_and_python(opened, folder):
    notebook, element = opened
    frames = [np.asarray(frame) for frame in Trace.load(folder).frames()]
    wait_for_colour(element, "preview", 30, 40, frames[21][40, 30])
    canvas = element.locator(".dk-preview canvas")
    canvas.focus()
    for key, step in (("Home", 0), ("ArrowRight", 1), ("PageDown", 6), ("ArrowLeft", 5), ("PageUp", 0), ("End", 21)):
        canvas.press(key)
        wait_for_read(element, f"step {step} of 21")
        wait_for_colour(element, "preview", 30, 40, frames[step][40, 30])
        notebook.until("player.step", step)
    slider = element.get_by_label("step", exact=True)
    slider.focus()
    slider.press("ArrowLeft")
    notebook.until("player.step", 20)
    for name, step in (("first step", 0), ("one step on", 1), ("one step back", 0), ("last step", 21)):
        element.get_by_label(name).click()
        notebook.until("player.step", step)
    notebook.do("player.step = 4")
    wait_for_read(element, "step 4 of 21")
    wait_for_colour(element, "preview", 7, 80, frames[4][80, 7])
    edit = Trace.load(folder).energies["edit"][4]
    assert f"edit {float(f'{edit:.3g}'):g}" in read(element)

    curves = element.locator(".dk-curves")
    width = curves.bounding_box()["width"]
    spot = lambda step: (44 + (width - 54) * step / 21, 60)  # noqa: E731 where a step is
    drag(notebook.page, curves, spot(4), spot(9), spot(12.2))
    notebook.until("player.step", 12)
    wait_for_read(element, "visit 3")
    assert element.locator(".dk-tip").inner_text().startswith("step 12, t = ") and "edit" in read(element)
    canvas.focus()
    canvas.press("Control+z")
    notebook.until("player.step", 4)
    canvas.press("Control+Shift+Z")
    notebook.until("player.step", 12)
    element.get_by_label("undo").click()
    notebook.until("player.step", 4)
    element.get_by_label("redo").click()
    notebook.until("player.step", 12)


def test_it_plays_to_the_end_loops_and_pauses(opened):
    notebook, element = opened
    element.get_by_label("speed").select_option("4")
    notebook.until("player.speed", 4.0)
    canvas = element.locator(".dk-preview canvas")
    canvas.focus()
    canvas.press("Space")  # from the end it starts again
    notebook.until("player.playing", True)
    notebook.until("(player.playing, player.step)", (False, 21))
    element.get_by_label("play again and again").click()
    notebook.until("player.loop", True)
    element.locator(".dk-play").click()
    element.page.wait_for_timeout(1500)  # more than twice through
    assert element.locator(".dk-play").inner_text() == "pause"
    canvas.focus()
    canvas.press("Escape")
    notebook.until("player.playing", False)
    stopped = notebook.python("player.step")
    wait_for_read(element, f"step {stopped} of 21")
    notebook.do("player.loop = False; player.step = 0; player.playing = True")
    notebook.until("(player.playing, player.step)", (False, 21))


def told(looks, pin=None):
    """What the page says of maps that are a layer's, as numbers: shares of own and source, at the pixel, most at."""
    source = looks.source[:12, :10]  # the rest is padding
    y, x = divmod(int(source.argmax()), 10)
    at = [100 * looks.source[pin[1] // 8, pin[0] // 8].item()] if pin else []
    return [100 * looks.own.sum().item(), 100 * looks.source.sum().item(), *at, 8 * x + 3.5, 8 * y + 3.5]


def said(element, whose):
    """The numbers after "... look(s):" of the pixel that is marked, or of all target cells."""
    line = next(line for line in read(element).split("\n") if f"{whose}:" in line)
    return [float(x) for x in re.findall(r"[\d.]+(?:e-\d+)?", line.split(f"{whose}:")[1])]


def wait_for_said(element, whose, numbers):
    """Wait until its numbers begin with these, to a hundredth or half a pixel: it is drawn some time after."""
    close, end = pytest.approx(numbers, rel=0.01, abs=0.51), time.monotonic() + 60
    while (found := said(element, whose))[: len(numbers)] != close:
        assert time.monotonic() < end, f"{whose} {found}, not {numbers}"
        element.page.wait_for_timeout(50)
    return found


def test_two_pixels_look_elsewhere_and_what_is_not_edited_shows_the_mean(opened, folder):
    notebook, element = opened
    trace, caption = Trace.load(folder), element.locator(".dk-source figcaption")
    notebook.do("player.step = 3")
    wait_for_read(element, "step 3 of 21")
    name, look = next((n, x) for n, x in trace.attention[3].items() if n.startswith("up_blocks.3"))
    element.get_by_label("attention", exact=True).select_option(name)
    caption.filter(has_text="source, where the target looks").wait_for()
    wait_for_said(element, "all target cells look", told(look))
    drawn = lambda: element.locator(".dk-source canvas").evaluate("canvas => canvas.toDataURL()")  # noqa: E731
    pictures, numbers = [drawn()], []
    canvas = element.locator(".dk-preview canvas")
    for pin in ((33, 50), (60, 40)):
        click(notebook.page, canvas, ((pin[0] + 0.5) * SCALE, (pin[1] + 0.5) * SCALE))
        caption.filter(has_text=f"source, where pixel ({pin[0]}, {pin[1]}) looks").wait_for()
        wait_for_read(element, f"pixel ({pin[0]}, {pin[1]})")
        numbers.append(wait_for_said(element, "it looks", told(look.of(pin, (80, 96)), pin)))
        wait_for_said(element, "all target cells look", told(look, pin))
        notebook.comes(lambda: drawn() not in pictures)
        pictures.append(drawn())
    assert numbers[0] != numbers[1]

    canvas.focus()
    for step in (4, 5):  # as it is scrubbed, the pixel's attention stays that of the step
        canvas.press("ArrowRight")
        wait_for_read(element, f"step {step} of 21")
        seen = trace.attention[step][name]
        wait_for_said(element, "it looks", told(seen.of((60, 40), (80, 96)), (60, 40)))
    element.get_by_label("attention", exact=True).select_option("")  # all layers, each on its own grid
    every = [x.of((60, 40), (80, 96)) for x in trace.attention[5].values()]
    shares = [100 * sum(getattr(x, whose).sum().item() for x in every) / len(every) for whose in ("own", "source")]
    wait_for_said(element, "it looks", shares)
    element.get_by_label("attention", exact=True).select_option(name)
    click(notebook.page, canvas, ((4 + 0.5) * SCALE, (90 + 0.5) * SCALE))
    wait_for_read(element, "pixel (4, 90)")
    wait_for_read(element, "it is no edited pixel, and has no attention of its own")
    caption.filter(has_text="source, where the target looks").wait_for()
    wait_for_said(element, "all target cells look", told(trace.attention[5][name], (4, 90)))
    canvas.focus()
    canvas.press("Control+z")
    notebook.until("player.pin", [60, 40])
    caption.filter(has_text="source, where pixel (60, 40) looks").wait_for()
    element.get_by_label("attention", exact=True).select_option("off")
    wait_for_colour(element, "source", 55, 50, notebook.python("[round(255 * v) for v in image[:, 50, 55].tolist()]"))
    assert "look" not in read(element)


def test_a_trace_of_means_alone_says_so_and_a_live_run_tells_of_the_marked_pixel(notebook, folder):
    show = f"player = GuidancePlayer(source=image, size={SIZE})\nplayer"
    means = f"""
from dragonkit.trace import Look
old = Trace.load({str(folder)!r})
for seen in old.attention: seen.update({{name: Look(x.weights, x.shapes) for name, x in seen.items()}})
"""
    worker = """
going = threading.Event()
show_step = player.watch(decode_every=4)
def on_step(trace):
    show_step(trace)
    if len(trace) == 6: going.wait(60)
work = lambda: run(on_step=on_step, trace=Record(attention=True))
thread = threading.Thread(target=work)
"""
    notebook.run(SETUP, show, means + worker)
    element = notebook.widget(".dk-player")
    wait_for_read(element, "no run to show yet")
    notebook.do("player.show(old, image)\nplayer.pin = [60, 40]")
    wait_for_read(element, "its own attention was not kept")
    wait_for_read(element, "all target cells look")
    notebook.do("thread.start()")
    wait_for_read(element, "step 5 of 5")
    click(notebook.page, element.locator(".dk-preview canvas"), (60.5 * SCALE, 40.5 * SCALE))
    wait_for_read(element, "it looks: ")
    notebook.do("going.set(); thread.join()")
    wait_for_read(element, "step 21 of 21")
    wait_for_read(element, "it looks: ")  # steps that came after the question
    name = next(iter(notebook.python("list(player.trace.attention[21])")))
    element.get_by_label("attention", exact=True).select_option(name)
    one = f"player.trace.attention[21][{name!r}].of((60, 40), (80, 96))"
    wait_for_said(
        element, "it looks", [100 * notebook.python(f"{one}.{whose}.sum().item()") for whose in ("own", "source")]
    )
    assert notebook.python("player.error") == ""


@pytest.mark.parametrize("screen", [{"has_touch": True, "viewport": {"width": 1280, "height": 1000}}], indirect=True)
def test_fingers_pinch_pan_wipe_and_scrub(opened, folder):
    notebook, element = opened
    touch = notebook.page.context.new_cdp_session(notebook.page)
    canvas, curves = element.locator(".dk-preview canvas"), element.locator(".dk-curves")

    def fingers(place, *gesture):
        """A gesture: for each moment the spots of all fingers on the page; they are lifted after the last."""
        for k, spots in enumerate(gesture):
            points = [dict(zip("xy", on(place, spot), strict=True), id=i) for i, spot in enumerate(spots)]
            kind = "touchMove" if k and len(gesture[k - 1]) == len(spots) else "touchStart"
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    notebook.page.touchscreen.tap(*on(canvas, (100, 120)))
    pin = [round(100 / SCALE - 0.5), round(120 / SCALE - 0.5)]
    notebook.until("player.pin", pin)
    fingers(canvas, [(60, 120)], [(60, 120), (140, 120)])  # two fingers that rest mark nothing
    # Twice as large about (100, 120), then both fingers go right by 20 px: what was marked is under (120, 120).
    fingers(canvas, [(60, 120)], [(60, 120), (140, 120)], [(40, 120), (160, 120)], [(20, 120), (180, 120)],
            [(40, 120), (200, 120)])  # fmt: skip
    notebook.page.wait_for_timeout(200)
    assert notebook.python("player.pin") == pin
    notebook.page.touchscreen.tap(*on(canvas, (120 + 2 * SCALE * 10, 120)))
    notebook.until("player.pin", [pin[0] + 10, pin[1]])
    fingers(canvas, [(120, 60)], [(110, 60)], [(90, 70)])  # one finger pans by (-30, 10)
    notebook.page.wait_for_timeout(200)
    assert notebook.python("player.pin") == [pin[0] + 10, pin[1]]
    notebook.page.touchscreen.tap(*on(canvas, (90, 130)))
    notebook.until("player.pin", pin)
    # The other pictures go along.
    notebook.page.touchscreen.tap(*on(element.locator(".dk-gradient canvas"), (90 + 2 * SCALE * 5, 130)))
    notebook.until("player.pin", [pin[0] + 5, pin[1]])
    canvas.focus()
    canvas.press("0")

    element.get_by_label("wipe", exact=True).select_option("source")
    source = notebook.python("(255 * image).round().int().permute(1, 2, 0).tolist()")
    frame = np.asarray(Trace.load(folder).frames()[21])
    wait_for_colour(element, "preview", 70, 50, frame[50, 70])
    fingers(canvas, [(110, 60)], [(150, 60)], [(190, 60)])  # a finger need not be on the line
    wait_for_colour(element, "preview", 70, 50, source[50][70])
    assert notebook.python("player.pin") == [pin[0] + 5, pin[1]]

    width = curves.bounding_box()["width"]
    spot = lambda step: (44 + (width - 54) * step / 21, 60)  # noqa: E731 where a step is
    fingers(curves, [spot(4)], [spot(6)], [spot(9.2)])
    notebook.until("player.step", 9)
    wait_for_read(element, "step 9 of 21")
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [
        dict(zip("xy", on(curves, spot(2)), strict=True))]})  # fmt: skip
    wait_for_read(element, "step 2 of 21")
    touch.send("Input.dispatchTouchEvent", {"type": "touchCancel", "touchPoints": []})
    wait_for_read(element, "step 9 of 21")  # what the page takes for something else changes nothing
    notebook.until("player.step", 9)


def test_a_clicked_pixel_tells_its_gradient(opened, folder):
    notebook, element = opened
    trace = Trace.load(folder)
    notebook.do("player.step = 3")
    wait_for_read(element, "step 3 of 21")
    canvas = element.locator(".dk-preview canvas")
    click(notebook.page, canvas, ((33 + 0.5) * SCALE, (50 + 0.5) * SCALE))
    notebook.until("player.pin", [33, 50])
    wait_for_read(element, "pixel (33, 50)")
    element.get_by_label("attention", exact=True).select_option("off")

    def number(pattern):
        return float(re.search(pattern, read(element)).group(1))

    grad = trace.grads[3][0]
    assert number(r"\) · gradient ([\d.e-]+)") == pytest.approx(grad[:, 50 // 8, 33 // 8].norm().item(), rel=0.01)
    element.get_by_label("gradient view").select_option("2")
    element.locator(".dk-read").filter(has_text=re.compile(r"gradient -?[\d.]")).wait_for()
    component = pytest.approx(grad[2, 50 // 8, 33 // 8].item(), rel=0.01, abs=1e-7)
    notebook.comes(lambda: number(r"\) · gradient (-?[\d.e-]+)") == component)

    canvas.focus()
    canvas.press("Shift+ArrowRight")
    notebook.until("player.pin", [34, 50])
    canvas.press("Control+z")
    notebook.until("player.pin", [33, 50])
    canvas.press("Escape")
    notebook.until("player.pin", [])
    canvas.press("Enter")
    notebook.until("player.pin", [40, 48])
    canvas.press("+")  # zoomed about the middle: what is clicked there is the same pixel
    canvas.press("+")
    notebook.page.wait_for_timeout(200)
    click(notebook.page, canvas, (40 * SCALE + 2.25 * 10 * SCALE, 48 * SCALE))
    notebook.until("player.pin", [50, 48])
    drag(notebook.page, canvas, (100, 100), (50, 100))
    click(notebook.page, canvas, (40 * SCALE - 50 + 2.25 * 10 * SCALE, 48 * SCALE))
    notebook.until("player.pin", [50, 48])


def test_wipe_scales_panels_and_curves(opened, folder):
    notebook, element = opened
    frames = [np.asarray(frame) for frame in Trace.load(folder).frames()]
    source = notebook.python("(255 * image).round().int().permute(1, 2, 0).tolist()")
    element.get_by_label("wipe", exact=True).select_option("source")
    canvas = element.locator(".dk-preview canvas")
    wait_for_colour(element, "preview", 10, 50, source[50][10])
    wait_for_colour(element, "preview", 70, 50, frames[21][50, 70])
    drag(notebook.page, canvas, (100, 100), (190, 100))
    wait_for_colour(element, "preview", 70, 50, source[50][70])
    wait_for_colour(element, "preview", 79, 50, frames[21][50, 79])
    assert notebook.python("player.pin") == []
    element.get_by_label("where the wipe is").fill("0")
    wait_for_colour(element, "preview", 10, 50, frames[21][50, 10])

    for name in ("gradient", "source", "answer"):
        element.get_by_label(f"show the {name}").click()
        element.locator(f".dk-panel.dk-{name}").wait_for(state="hidden")
        element.get_by_label(f"show the {name}").click()
        element.locator(f".dk-panel.dk-{name}").wait_for(state="visible")

    largest = max(g.norm(dim=1).max().item() for g in Trace.load(folder).grads if g is not None)
    notebook.do("player.step = 2")
    wait_for_read(element, "step 2 of")
    element.get_by_label("the same colours for all steps").click()
    shown = element.locator(".dk-gradient .dk-scale span").last
    shown.filter(has_text=re.compile(r"\d")).wait_for()
    notebook.comes(lambda: float(shown.inner_text()) == pytest.approx(largest, rel=0.06))

    curves = element.locator(".dk-curves")
    drawn = lambda: curves.evaluate("canvas => canvas.toDataURL()")  # noqa: E731
    linear = drawn()
    element.get_by_label("logarithmic energies").click()
    notebook.comes(lambda: drawn() != linear)
    log = drawn()
    element.locator(".dk-term", has_text="content").click()
    notebook.comes(lambda: drawn() not in (linear, log))
    assert element.locator(".dk-term", has_text="content").get_attribute("aria-pressed") == "false"
    assert element.locator(".dk-term").all_inner_texts() == list(Trace.load(folder).energies)


def test_a_run_is_followed_live_until_the_person_looks_back(notebook):
    show = f"player = GuidancePlayer(source=image, size={SIZE})\nplayer"
    worker = """
going = [threading.Event(), threading.Event()]
show_step = player.watch(decode_every=2)
found = []
def on_step(trace):
    show_step(trace)
    for k, event in zip((6, 9), going):
        if len(trace) == k: event.wait(60)
thread = threading.Thread(target=lambda: found.append(run(on_step=on_step)))
"""
    notebook.run(SETUP, show, worker)
    element = notebook.widget(".dk-player")
    wait_for_read(element, "no run to show yet")
    notebook.do("thread.start()")
    wait_for_read(element, "step 5 of 5")
    element.get_by_text("x0 prediction of step 4").wait_for()
    frame = notebook.python("player.trace.frames(len(player.trace) - 1)[0].getpixel((30, 40))")
    assert frame and element.locator(".dk-live").is_visible()
    element.get_by_label("one step back").click()
    element.get_by_label("one step back").click()
    notebook.until("player.step", 3)
    notebook.do("going[0].set()")
    notebook.until("len(player.trace)", 9)
    wait_for_read(element, "step 3 of 8")
    element.get_by_label("follow the newest step").click()
    wait_for_read(element, "step 8 of 8")
    notebook.do("going[1].set(); thread.join()")
    wait_for_read(element, "step 21 of 21")
    notebook.until("player.step", 21)
    click(notebook.page, element.locator(".dk-preview canvas"), (100, 100))
    wait_for_read(element, "attention was not recorded: edit(..., trace=Record(attention=True))")
    assert notebook.python("player.error") == ""
    notebook.do("player.show(found[0], image)")
    element.get_by_text("x0 prediction", exact=True).wait_for()
    last = notebook.python("found[0].frames(22)[0].getpixel((30, 40))")
    wait_for_colour(element, "preview", 30, 40, last)
    notebook.do("player.error = '<img src=x onerror=alert(1)>'")
    element.get_by_role("alert").filter(has_text="<img src=x onerror=alert(1)>").wait_for()


@pytest.mark.parametrize(
    "screen", [{"device_scale_factor": 2, "has_touch": True, "viewport": {"width": 800, "height": 1200}}], indirect=True
)
def test_two_views_stay_in_step_at_twice_the_pixels_under_a_finger(opened, folder):
    notebook, first = opened
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('notebook:insert-cell-below')")
    frame = np.asarray(Trace.load(folder).frames()[21])
    wait_for_colour(first, "preview", 30, 40, frame[40, 30])
    assert first.locator(".dk-preview canvas").evaluate("canvas => [canvas.width, canvas.height]") == [400, 480]
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('notebook:replace-selection', { text: 'player' })")
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-cell')")
    views = notebook.page.locator(".dk-player")
    views.nth(1).wait_for()
    box = first.locator(".dk-preview canvas").bounding_box()
    notebook.page.touchscreen.tap(box["x"] + (12 + 0.5) * SCALE, box["y"] + (80 + 0.5) * SCALE)
    notebook.until("player.pin", [12, 80])
    for k in range(2):
        wait_for_read(views.nth(k), "pixel (12, 80)")
    views.nth(1).get_by_label("first step").click()
    wait_for_read(first, "step 0 of 21")
    notebook.until("player.step", 0)
