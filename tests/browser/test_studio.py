"""EditStudio as a person uses it: with the mouse, on pictures of the bundled world and on a tiny model's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from skimage.measure import approximate_polygon, find_contours

from dragonkit.world import counterfactual
from tests.browser.gestures import Fingers, drag

ROOT = Path(__file__).resolve().parents[2]
TINY = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import dragonkit as dk, numpy as np
from dragonkit_widgets import EditStudio
from dragonkit.trace import to_pil
from tests.tiny import picture, tiny_model
dk.load = lambda name: tiny_model()
"""
PROMPT = "<img src=x onerror=window.broken=1>"
STUDIO = f"studio = EditStudio(tiny_model(), to_pil(picture()), prompt={PROMPT!r})\nstudio"


def button(notebook, name):
    """A button of the studio by its words."""
    words = re.compile(rf"^\s*{re.escape(name)}\s*$")
    return notebook.page.locator(".dk-studio button", has_text=words).locator("visible=true").first


def press(notebook, name):
    """Press a button of the studio."""
    button(notebook, name).click()


def field(notebook, name):
    """The input of an ipywidgets control by its description; the first that is shown."""
    row = notebook.page.locator(".dk-studio .widget-inline-hbox", has=notebook.page.get_by_text(name, exact=True))
    return row.locator("visible=true").first.locator("input, select").first


def fill(notebook, name, value):
    """Type into an input, and leave it."""
    field(notebook, name).fill(str(value))
    field(notebook, name).press("Tab")


def unfold(notebook, title):
    """Open a section of the accordion."""
    notebook.page.locator(".dk-studio").get_by_text(title, exact=True).click()


def spot(canvas, size, x, y):
    """Where image pixel (x, y) is on a canvas, CSS pixels from its corner."""
    scale = canvas.bounding_box()["width"] / size
    return (x + 0.5) * scale, (y + 0.5) * scale


def outline(mask):
    """The corners of a mask's contour, as (x, y)."""
    contour = max(find_contours(np.pad(mask, 1).astype(float)), key=len) - 1
    return [(x, y) for y, x in approximate_polygon(contour, 0.6)]


def test_a_move_with_the_mouse_alone_is_near_the_exact_answer(notebook):
    case = counterfactual("move", 10**9, "train")
    notebook.run("from dragonkit_widgets import EditStudio\nstudio = EditStudio(size=512)\nstudio")
    notebook.widget(".dk-studio .dk-sketch canvas")
    field(notebook, "image").select_option("scene with exact answer")
    fill(notebook, "seed", 10**9)
    press(notebook, "Open")
    notebook.until("studio.prompt", case.prompt)
    unfold(notebook, "Advanced")
    fill(notebook, "steps", 14)
    notebook.until("studio.guidance.steps", 14)
    unfold(notebook, "Advanced")

    canvas = notebook.widget(".dk-sketch canvas")
    press(notebook, "Lasso")
    corners = [spot(canvas, 256, x, y) for x, y in outline(case.mask.numpy())]
    drag(notebook.page, canvas, *corners, corners[0], steps=1)
    notebook.until("int(studio.sketch.mask.sum()) > 100")
    press(notebook, "Point")
    (dx, dy), middle = case.edit.by, case.mask.nonzero().float().mean(0).flip(0).tolist()
    drag(notebook.page, canvas, spot(canvas, 256, *middle), spot(canvas, 256, middle[0] + dx, middle[1] + dy))
    notebook.until("len(studio.sketch.points)", 1)
    drawn = notebook.python(
        "(studio.edit.by, studio.sketch.mask.nonzero()[0].tolist(), studio.sketch.mask.nonzero()[1].tolist())"
    )
    mask = np.zeros((256, 256), bool)
    mask[drawn[1], drawn[2]] = True
    assert abs(drawn[0][0] - dx) < 0.6 and abs(drawn[0][1] - dy) < 0.6
    assert (mask & case.mask.numpy()).sum() / (mask | case.mask.numpy()).sum() > 0.93

    press(notebook, "Run")
    notebook.page.wait_for_function(
        "() => /edit [1-9]/.test(document.querySelector('.dk-notice').textContent)", timeout=120_000
    )
    assert notebook.python("1 + 1") == 2, "the kernel answers while an edit runs"
    assert notebook.python("len(studio.player.trace)") >= 1, "the preview is live"
    notebook.until("studio.status.text[:4]", "done", seconds=180)
    notebook.do(
        "from dragonkit_widgets.sources import answered\nfrom dragonkit.evaluate.scores import placement_error\n"
        f"case = answered('move', {10**9}).case\n"
        "pictures = (case.before.image, studio.result.tensor)\n"
        "errors = [placement_error(picture, case.after.image, case.target) for picture in pictures]"
    )
    before, after = notebook.python("errors")
    assert after < 3 < before, (before, after)

    compare = notebook.page.locator(".dk-compare")
    edge = notebook.widget(".dk-compare canvas")
    drag(notebook.page, edge, (20, 100), (105, 100))
    notebook.until("round(studio.compare.position, 1)", 0.2)
    edge.press("ArrowRight")
    notebook.until("studio.compare.position > 0.21 and studio.compare.position < 0.24")
    compare.locator("select").select_option("answer")
    compare.get_by_text("blink").click()
    notebook.until("(studio.compare.mode, studio.compare.against)", ("blink", "answer"))
    compare.get_by_text("side by side").click()
    assert compare.locator("figure").count() == 3


def test_undo_redo_branch_and_copy_with_the_mouse(notebook):
    notebook.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    notebook.run(TINY, STUDIO)
    canvas = notebook.widget(".dk-studio .dk-sketch canvas")
    unfold(notebook, "Advanced")
    fill(notebook, "steps", 3)
    notebook.until("studio.guidance.steps", 3)
    unfold(notebook, "Save, load, copy as Python")
    assert not notebook.page.evaluate("() => window.broken")

    def move(by, name):
        press(notebook, "Box")
        drag(notebook.page, canvas, spot(canvas, 128, 30, 30), spot(canvas, 128, 70, 70))
        press(notebook, "Point")
        drag(notebook.page, canvas, spot(canvas, 128, 50, 50), spot(canvas, 128, 50 + by, 50))
        notebook.until("len(studio.sketch.points)", 1)
        press(notebook, "Run")
        notebook.until(f"len(studio.session.nodes) == {name + 1} and studio.status.text[:4] == 'done'")

    move(20, 1)
    strip = notebook.page.locator(".dk-strip")
    strip.get_by_role("button", name="Undo").click()
    notebook.until(
        "(studio.session.current.id, len(studio.sketch.points), int(studio.sketch.mask.sum()) > 0)", (0, 1, True)
    )
    strip.get_by_role("button", name="Redo").click()
    notebook.until("studio.session.current.id", 1)
    strip.locator("[data-node='0']").click()
    notebook.until("studio.session.current.id", 0)
    notebook.do("studio.sketch.points = []; studio.sketch.mask = None")
    move(-20, 2)
    assert notebook.python("[node.parent for node in studio.session.nodes]") == [None, 0, 0]
    strip.locator("[data-node='1']").click()
    notebook.until("studio.session.current.id", 1)
    strip.locator("[data-node='1']").press("Control+z")
    notebook.until("studio.session.current.id", 0)
    strip.locator("[data-node='2']").click()
    notebook.until("studio.session.current.id", 2)
    assert PROMPT in strip.locator(".dk-read").inner_text()

    press(notebook, "Copy as Python")
    notebook.until("studio.status.text[:5]", "saved")
    code = notebook.page.evaluate("() => navigator.clipboard.readText()")
    assert code == notebook.python("studio.code") and PROMPT in code
    notebook.do(code)
    assert notebook.python("np.array_equal(np.asarray(result.image), np.asarray(studio.image))")
    notebook.do("studio.begin(to_pil(picture(seed=5)))")
    press(notebook, "Load")
    notebook.until("studio.status.text", "loaded")
    assert notebook.python("(len(studio.session.nodes), studio.session.current.id)") == (3, 2)
    assert (
        not notebook.page.evaluate("() => window.broken")
        and notebook.page.locator(".dk-studio img[src=x]").count() == 0
    )


def test_stop_errors_and_a_kernel_that_restarts(notebook):
    broken: list = []
    notebook.page.on("pageerror", lambda error: broken.append(error.stack))
    notebook.run(TINY, STUDIO)
    canvas = notebook.widget(".dk-studio .dk-sketch canvas")
    press(notebook, "Run")
    alert = notebook.page.locator(".dk-notice [role=alert]")
    alert.wait_for()
    assert alert.inner_text().startswith("nothing is painted")

    unfold(notebook, "Advanced")
    fill(notebook, "steps", 500)
    notebook.until("studio.guidance.steps", 500)
    unfold(notebook, "Advanced")
    notebook.do(
        "seen = []; studio.status.observe(lambda c: seen.append(c['new']), 'text')\n"
        "studio.sketch.mask = np.pad(np.ones((40, 40), bool), 44); studio.sketch.points = [(60, 60, 80, 60)]"
    )
    press(notebook, "Run")
    notebook.until("any('inversion' in text for text in seen)", seconds=30)
    press(notebook, "Stop")
    notebook.until("studio.status.text", "stopped")
    assert notebook.python("not studio._workshop.worker.busy and len(studio.session.nodes)") == 1
    since = notebook.python("[t for t in seen[seen.index('stopping'):] if 'inversion' in t or 'edit' in t]")
    assert len(since) <= 1, f"it stopped within one step, not after {since}"
    unfold(notebook, "Advanced")
    press(notebook, "Reset to preset")
    expect(field(notebook, "steps")).to_have_value("50")
    fill(notebook, "steps", 3)
    notebook.until("studio.guidance.steps", 3)
    press(notebook, "Run")
    notebook.until("studio.status.text[:4]", "done")
    expect(button(notebook, "Run")).to_be_enabled()  # else it stays as it was, with no kernel to change it

    notebook.restart()
    notebook.page.wait_for_timeout(1000)
    drag(notebook.page, canvas, spot(canvas, 128, 30, 30), spot(canvas, 128, 70, 70))
    press(notebook, "Run")
    notebook.page.wait_for_timeout(500)
    ours = [stack for stack in broken if "blob:" in stack or "Cannot send" not in stack]
    assert not ours, "but for what ipywidgets says itself of a button whose kernel is gone"
    notebook.run_all()
    notebook.until("len(studio.session.nodes)", 1)
    press(notebook, "resize")
    notebook.until("studio.kind", "resize")


# All of it on the screen: the browser takes a tap just after a scroll for the end of that.
@pytest.mark.parametrize("screen", [{"has_touch": True, "viewport": {"width": 1280, "height": 1700}}], indirect=True)
def test_a_finger_draws_runs_and_wipes(notebook):
    notebook.run(TINY, STUDIO)
    canvas, fingers = notebook.widget(".dk-studio .dk-sketch canvas"), Fingers(notebook.page)
    notebook.do("studio.guidance = studio.guidance.replace(steps=3)")

    fingers.tap(button(notebook, "Brush"))
    fingers.drag(canvas, *(spot(canvas, 128, x, 50) for x in (30, 40, 50, 60)))
    notebook.until("bool(studio.sketch.mask[50, 30:61].all())")
    fingers.tap(button(notebook, "Point"))
    fingers.drag(canvas, spot(canvas, 128, 45, 50), spot(canvas, 128, 60, 60), spot(canvas, 128, 65, 80))
    notebook.until("len(studio.sketch.points)", 1)
    x, y = notebook.python("studio.edit.by")
    assert abs(x - 20) < 0.5 and abs(y - 30) < 0.5
    fingers.tap(button(notebook, "Run"))
    notebook.until("(studio.status.text[:4], len(studio.session.nodes))", ("done", 2), seconds=60)

    edge = notebook.widget(".dk-compare canvas")
    width = edge.bounding_box()["width"]
    fingers.drag(edge, (width / 2, 60), (0.6 * width, 60), (0.8 * width, 60))
    notebook.until("round(studio.compare.position, 2)", 0.8)


def test_files_are_opened_large_broken_and_as_reference(notebook, tmp_path):
    photo = np.random.default_rng(0).integers(0, 255, (2448, 3264, 3), np.uint8)
    photo[:, :1632] //= 4
    Image.fromarray(photo).save(tmp_path / "photo.png", compress_level=1)
    assert (tmp_path / "photo.png").stat().st_size > 20e6, "more than a Jupyter server lets through in one message"
    Image.fromarray(photo[:1024, :2048]).save(tmp_path / "small.jpg", quality=50)
    (tmp_path / "bad.png").write_bytes(b"no picture" * 10)
    notebook.run(TINY, STUDIO)
    notebook.widget(".dk-studio .dk-sketch canvas")
    field(notebook, "image").select_option("file")
    file = notebook.page.locator(".dk-opener input[type=file]").first
    file.set_input_files(tmp_path / "photo.png")
    notebook.until("studio.status.text", "scaled down from 3264x2448 to 512x384", seconds=60)
    assert notebook.python("studio.image.size") == (512, 384)
    left, right = notebook.python(
        "[float(np.asarray(studio.image)[:, s].mean()) for s in (slice(0, 250), slice(262, 512))]"
    )
    assert abs(left - 31.4) < 3 and abs(right - 127) < 3
    file.set_input_files(tmp_path / "bad.png")
    notebook.until("(studio.status.error, studio.status.text[:32])", (True, "bad.png is not a readable image:"))
    press(notebook, "appearance")
    field(notebook, "reference").select_option("file")
    notebook.page.locator(".dk-opener input[type=file]").nth(1).set_input_files(tmp_path / "small.jpg")
    notebook.until("studio.reference.image.size", (512, 256))
    assert notebook.python("studio.image.size") == (512, 384)
    field(notebook, "image").select_option("prompt")
    notebook.page.get_by_placeholder("a red ball on grass at day").first.fill(PROMPT)
    press(notebook, "Generate")
    notebook.until("studio.prompt", PROMPT, seconds=60)
    assert not notebook.page.evaluate("() => window.broken")
