"""A person draws on a sketch, with mouse, keys and fingers; Python is asked what came of it."""

import json

import pytest

from tests.browser.gestures import Fingers, click, drag, on

CELL = """
import numpy as np
from PIL import Image
from dragonkit_widgets import MaskPainter, PointPicker, Sketch
y, x = np.mgrid[:128, :160]
pixels = np.stack([x, y, 0 * x], 2).astype(np.uint8)
pixels[(x - 120) ** 2 + (y - 90) ** 2 <= 400] = (250, 250, 250)
image = Image.fromarray(pixels)
Y, X = np.mgrid[:128, :160].astype(float)
def within(x0, y0, x1, y1):
    return (X >= x0) & (X <= x1) & (Y >= y0) & (Y <= y1)
"""
SIDES = [160, 128]
SHARP = pytest.mark.parametrize(
    "screen", [{"device_scale_factor": ratio} for ratio in (1, 2)], indirect=True, ids=["dpr1", "dpr2"]
)


class Canvas:
    """A sketch's canvas as its user sees it: where an image position is on the screen follows from the zoom alone."""

    def __init__(self, notebook, sides=SIDES, selector=".dk-sketch"):
        self.notebook, self.page, self.sides, self.zoom = notebook, notebook.page, sides, 1.0
        self.widget = notebook.widget(selector)
        self.element = self.widget.locator("canvas").first
        self.element.wait_for()

    def spot(self, at):
        """CSS pixels from the canvas's corner; zooming is about its middle."""
        box = self.element.bounding_box()
        fit = min(box["width"] / self.sides[0], box["height"] / self.sides[1])
        middle = (box["width"] / 2, box["height"] / 2)
        return tuple(((v + 0.5) * fit - m) * self.zoom + m for v, m in zip(at, middle, strict=True))

    def drag(self, *ats, **options):
        drag(self.page, self.element, *(self.spot(at) for at in ats), **options)

    def click(self, at, **options):
        self.page.mouse.click(*on(self.element, self.spot(at)), **options)

    def press(self, name):
        self.widget.locator(f"[data-do={name}], [data-tool={name}]").first.click()

    def keys(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def zoom_in(self, times=2):
        for _ in range(times):
            self.press("in")
        self.zoom *= 1.5**times

    def read(self, text):
        self.widget.locator(".dk-read").filter(has_text=text).wait_for()


def close(notebook, points, tolerance=0.1):
    """Wait until the sketch's points are these, to a tenth of a pixel."""
    near = f"np.allclose(s.points, {json.dumps(points)}, atol={tolerance}, rtol=0)"
    notebook.until(f"len(s.points) == {len(points)} and bool({near})")


def same(notebook, expression):
    notebook.until(f"bool(np.array_equal(s.mask, {expression}))")


@SHARP
def test_points_and_boxes_are_exact_at_two_zooms(notebook):
    notebook.run(CELL + "s = Sketch(image)\ns")
    canvas = Canvas(notebook)
    boxes = "within(10, 20, 50, 60)"
    canvas.drag((20.3, 30.7), (100.1, 44.9))
    close(notebook, [[20.3, 30.7, 100.1, 44.9]])
    canvas.press("box")
    canvas.drag((10, 20), (50, 60))
    same(notebook, boxes)
    canvas.drag((109.6, 10.3), (90.4, 15.7))  # from any corner; the pixels whose centres it holds
    boxes += " | within(91, 11, 109, 15)"
    same(notebook, boxes)
    canvas.zoom_in()
    canvas.drag((60, 70), (80, 90))
    boxes += " | within(60, 70, 80, 90)"
    same(notebook, boxes)
    canvas.drag((61.6, 60.3), (70.4, 65.7))
    same(notebook, boxes + " | within(62, 61, 70, 65)")
    canvas.press("point")
    canvas.drag((100.1, 44.9), (90.45, 52.15))  # its target, taken up again
    close(notebook, [[20.3, 30.7, 90.45, 52.15]])
    canvas.drag((60.05, 60.55), (99.95, 80.25))
    close(notebook, [[20.3, 30.7, 90.45, 52.15], [60.05, 60.55, 99.95, 80.25]])


def test_points_by_mouse(notebook):
    notebook.run(CELL + "s = PointPicker(image, [(20, 20, 60, 20)], size=480)\ns")
    canvas = Canvas(notebook)
    first, second = [20, 20, 60, 20], [30, 60, 90.5, 70]
    assert canvas.widget.locator("[data-tool]").count() == 2

    canvas.click((30, 60))  # a click, then another: handle and target
    close(notebook, [first, [30, 60, 30, 60]])
    canvas.click((90.5, 70))
    close(notebook, [first, second])
    canvas.click((130, 100))  # a click and Esc: a point that stays
    canvas.keys("Escape")
    canvas.drag((140, 20), (140, 60))
    close(notebook, [first, second, [130, 100, 130, 100], [140, 20, 140, 60]])
    canvas.read("Point 4 of 4: (140.0, 20.0) → (140.0, 60.0)")

    canvas.drag((20, 20), (10, 30))  # handles, anchors and whole arrows move
    canvas.drag((130, 100), (120, 110))
    canvas.page.keyboard.down("Shift")
    canvas.drag((140, 60), (130, 70))
    canvas.page.keyboard.up("Shift")
    moved = [[10, 30, 60, 20], second, [120, 110, 120, 110], [130, 30, 130, 70]]
    close(notebook, moved)
    canvas.drag((130, 30), (400, -90))  # no farther than the image reaches
    close(notebook, [*moved[:3], [159.5, -0.5, 130, 70]])
    canvas.keys("Control+z", "Control+z")
    close(notebook, [*moved[:3], [140, 20, 140, 60]])

    canvas.click((90.5, 70))
    canvas.keys("Delete")
    close(notebook, [moved[0], moved[2], [140, 20, 140, 60]])
    canvas.click((60, 20), button="right")
    close(notebook, [moved[2], [140, 20, 140, 60]])
    canvas.press("undo")
    canvas.press("undo")
    close(notebook, [*moved[:3], [140, 20, 140, 60]])
    canvas.press("redo")
    close(notebook, [moved[0], moved[2], [140, 20, 140, 60]])
    canvas.click((140, 20))
    canvas.press("delete")
    close(notebook, [moved[0], moved[2]])
    canvas.press("clear-points")
    notebook.until("s.points", [])
    canvas.keys("Control+z")
    close(notebook, [moved[0], moved[2]])

    notebook.do("s.points = []")
    canvas.press("snap")
    canvas.drag((10.4, 10.6), (30.3, 40.8))
    notebook.until("s.points", [(10.0, 11.0, 30.0, 41.0)])


def test_zoom_and_pan(notebook):
    notebook.run(CELL + "s = PointPicker(image, size=480)\ns")
    canvas = Canvas(notebook)
    page, middle = notebook.page, on(canvas.element, (240, 192))
    page.mouse.move(*middle)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    canvas.widget.locator("[data-do=fit]").filter(has_text="2.7×").wait_for()
    canvas.press("fit")
    canvas.zoom_in()  # 2.25
    scale = 3 * canvas.zoom

    def at(x, y, by=(0, 0)):
        return canvas.spot((x - by[0] / scale, y - by[1] / scale))

    for by, pan in (((90, 45), "tool"), ((45, 45), "middle"), ((0, 0), "space")):
        step = {"tool": (-90, -45), "middle": (45, 0), "space": (45, 45)}[pan]
        page.mouse.move(*middle)
        if pan == "tool":
            canvas.press("pan")
        if pan == "space":
            canvas.element.focus()
            page.keyboard.down("Space")
        page.mouse.move(*middle)
        page.mouse.down(button="middle" if pan == "middle" else "left")
        page.mouse.move(middle[0] + step[0], middle[1] + step[1], steps=3)
        page.mouse.up(button="middle" if pan == "middle" else "left")
        if pan == "space":
            page.keyboard.up("Space")
        canvas.press("point")
        notebook.do("s.points = []")
        drag(page, canvas.element, at(70, 60, by), at(85.5, 70.5, by))
        close(notebook, [[70, 60, 85.5, 70.5]])
    canvas.element.focus()
    canvas.keys("0")
    canvas.widget.locator("[data-do=fit]").filter(has_text="1.0×").wait_for()


def test_masks_by_mouse(notebook):
    notebook.run(CELL + "s = MaskPainter(image, brush=21)\ns")
    canvas = Canvas(notebook)
    undone = []  # how many gestures there were to undo

    def after(expression):
        undone.append(1)
        same(notebook, expression)

    canvas.drag((30, 40), (90, 40))
    line = "(np.hypot(X - np.clip(X, 30, 90), Y - 40) <= 10.5)"
    after(line)
    canvas.press("eraser")
    canvas.click((60, 40))
    ring = f"({line} & ~(np.hypot(X - 60, Y - 40) <= 10.5))"
    after(ring)
    canvas.press("lasso")
    canvas.drag((100.4, 20.4), (140.4, 20.4), (140.4, 50.4), (100.4, 50.4))
    lasso = f"({ring} | within(101, 21, 140, 50))"
    after(lasso)
    canvas.press("away")
    canvas.press("box")
    canvas.drag((109.5, 19.5), (119.5, 60.5))
    cut = f"({lasso} & ~within(110, 20, 119, 60))"
    after(cut)
    canvas.press("away")
    canvas.page.keyboard.down("Alt")
    canvas.drag((129.5, 19.5), (159, 60.5))
    canvas.page.keyboard.up("Alt")
    cut = f"({cut} & ~within(130, 20, 159, 60))"
    after(cut)
    canvas.press("segment")
    canvas.click((120, 90))
    disc = "((X - 120) ** 2 + (Y - 90) ** 2 <= 400)"
    after(f"({cut} | {disc})")
    canvas.press("undo")
    same(notebook, cut)
    canvas.press("redo")
    whole = f"({cut} | {disc})"
    same(notebook, whole)
    notebook.do("from scipy.ndimage import binary_dilation, binary_erosion\nm = s.mask\nsquare = np.ones((3, 3))")
    canvas.press("grow")
    after("binary_dilation(m, square)")
    canvas.press("shrink")
    after("binary_erosion(binary_dilation(m, square), square, border_value=1)")
    canvas.press("invert")
    after("~binary_erosion(binary_dilation(m, square), square, border_value=1)")
    canvas.press("clear-mask")
    after("np.zeros((128, 160), bool)")
    for _ in undone:
        canvas.element.focus()
        canvas.keys("Control+z")
    same(notebook, "np.zeros((128, 160), bool)")
    assert canvas.widget.locator("[data-do=undo]").is_disabled()
    for expression in (line, ring, lasso):
        canvas.keys("Control+Shift+z")
        same(notebook, expression)

    notebook.do("s.mask = None")
    canvas.press("brush")
    canvas.widget.locator("[data-slider=brush] input").fill("9")
    canvas.click((30, 30))
    same(notebook, "np.hypot(X - 30, Y - 30) <= 4.5")
    canvas.keys("]")
    notebook.until("s.brush", 11)


def test_all_by_keyboard(notebook):
    notebook.run(CELL + "s = Sketch(image, points=[(20, 20, 60, 20)])\ns")
    canvas = Canvas(notebook)
    cells = notebook.page.locator(".jp-Notebook .jp-Cell").count()
    canvas.element.focus()
    canvas.keys("n", "ArrowRight", "Shift+ArrowDown", "Alt+ArrowLeft")
    close(notebook, [[20.9, 30, 60, 20]], 1e-6)
    canvas.keys("n", "ArrowUp")
    close(notebook, [[20.9, 30, 60, 19]], 1e-6)
    canvas.read("Point 1 of 1: (20.9, 30.0) → (60.0, 19.0)")
    canvas.page.keyboard.down("ArrowUp")  # held: one step of undo
    canvas.page.keyboard.down("ArrowUp")
    canvas.page.keyboard.down("ArrowUp")
    canvas.page.keyboard.up("ArrowUp")
    close(notebook, [[20.9, 30, 60, 16]], 1e-6)
    canvas.keys("Control+z")
    close(notebook, [[20.9, 30, 60, 19]], 1e-6)
    canvas.keys("Escape", "ArrowLeft", "Enter", "Shift+ArrowDown", "Enter")  # the cross starts in the middle: 80, 64
    close(notebook, [[20.9, 30, 60, 19], [79, 64, 79, 74]], 1e-6)
    canvas.keys("Backspace")
    close(notebook, [[20.9, 30, 60, 19]], 1e-6)

    canvas.keys("r", "Enter", "Shift+ArrowRight", "Shift+ArrowDown", "Enter")
    x, y = 79, 74
    boxes = f"within({x}, {y}, {x + 10}, {y + 10})"
    same(notebook, boxes)
    canvas.keys("l", "Shift+ArrowRight", "Enter", "Shift+ArrowRight", "Shift+ArrowUp", "Shift+ArrowLeft", "Enter")
    notebook.until(f"bool((s.mask & ~{boxes}).sum() >= 81)")
    canvas.keys("Control+z", "s", "Shift+ArrowRight", "Enter")
    notebook.until(f"bool(s.mask.sum() > ({boxes}).sum()) and s.error", "")
    canvas.keys("Control+z", "i")
    same(notebook, f"~({boxes})")
    canvas.keys("i", "b", "[", "Enter", "Enter")
    notebook.until(f"s.brush < 8 and bool((s.mask & ~({boxes})).any())")
    canvas.keys("x", "d", "d", "a", "Enter", "Escape")  # what the notebook would do with them
    assert notebook.page.locator(".jp-Notebook .jp-Cell").count() == cells
    assert canvas.element.evaluate("e => e === document.activeElement")


@pytest.mark.parametrize("screen", [{"has_touch": True}], indirect=True)
def test_fingers(notebook):
    notebook.run(CELL + "s = Sketch(image, brush=10, size=480)\ns")
    canvas = Canvas(notebook)
    touch = Fingers(notebook.page)

    def fingers(kind, *ats):
        touch.put(kind, *(on(canvas.element, canvas.spot(at)) for at in ats))

    notebook.page.touchscreen.tap(*on(canvas.element, canvas.spot((30, 40))))
    notebook.page.touchscreen.tap(*on(canvas.element, canvas.spot((70, 50))))
    close(notebook, [[30, 40, 70, 50]], 0.4)
    canvas.press("brush")
    fingers("touchStart", (30, 90))
    fingers("touchMove", (50, 90))
    fingers("touchMove", (80, 90))
    fingers("touchEnd")
    notebook.until("bool(s.mask[90, 30:81].all() and not s.mask[:80].any())")
    painted = notebook.python("int(s.mask.sum())")
    fingers("touchStart", (60, 60))  # a second finger: the stroke was the beginning of a pinch
    fingers("touchStart", (60, 60), (100, 60))
    fingers("touchMove", (50, 60), (110, 60))
    fingers("touchMove", (40, 60), (120, 60))
    fingers("touchEnd")
    canvas.widget.locator("[data-do=fit]").filter(has_text="2.0×").wait_for()
    assert notebook.python("int(s.mask.sum())") == painted


def test_a_large_image_and_two_views(notebook):
    notebook.run(
        CELL + "large = image.resize((3500, 2400))\ns = MaskPainter(large, tolerance=30)\ns",
        "from IPython.display import display\ndisplay(s)",
    )
    views = notebook.page.locator(".dk-sketch")
    views.nth(1).wait_for()
    canvas = Canvas(notebook, [3500, 2400])
    assert notebook.python("s.mask.shape") == (2400, 3500)
    canvas.press("box")
    canvas.drag((500.5, 600.5), (1000.5, 1200.5))
    same(notebook, "np.indices((2400, 3500)).transpose(1, 2, 0).clip((601, 501), (1200, 1000)).__eq__("
         "np.indices((2400, 3500)).transpose(1, 2, 0)).all(-1)")  # fmt: skip
    canvas.press("brush")
    canvas.drag((2000, 1800), (3000, 1800))
    notebook.until("bool(s.mask[1800, 2000:3001].all())")
    count = notebook.python("f'{s.mask.sum():,}'")
    for i in range(2):  # each view says the same, and each can undo
        views.nth(i).locator(".dk-read").filter(has_text=f"Mask: {count} pixels").wait_for()
    views.nth(1).locator("[data-do=undo]").click()
    notebook.until("int(s.mask.sum())", 600 * 500)
    for i in range(2):
        views.nth(i).locator(".dk-read").filter(has_text="Mask: 300,000 pixels").wait_for()
        assert views.nth(i).locator("[data-do=redo]").is_enabled()
    views.nth(0).locator("[data-do=redo]").click()
    notebook.until("f'{s.mask.sum():,}'", count)
    views.nth(1).locator(".dk-read").filter(has_text=f"Mask: {count} pixels").wait_for()
    canvas.press("segment")
    canvas.click((120 * 3500 / 160, 90 * 2400 / 128))
    notebook.until("bool(s.mask[1500:1700, 2500:2700].all())")

    notebook.do("s.image = image")  # another size: nothing of the old is left
    views.nth(1).locator(".dk-read").filter(has_text="Click a region").wait_for()
    assert views.nth(0).locator("[data-do=undo]").is_disabled()
    notebook.do("s.mask = within(3, 4, 5, 6)")
    for i in range(2):
        views.nth(i).locator(".dk-read").filter(has_text="Mask: 9 pixels").wait_for()


def test_a_slow_segmentation_leaves_kernel_and_canvas_free(notebook):
    notebook.run(
        CELL + "import threading\ngo = threading.Event()\n"
        "def slow(pixels, x, y):\n    go.wait(60)\n    return within(x - 5, y - 5, x + 5, y + 5)\n"
        "s = MaskPainter(image, segment=slow, tool='segment')\ns"
    )
    canvas = Canvas(notebook)
    canvas.click((30, 30))
    canvas.read("Segmenting…")
    assert notebook.python("(1 + 1, bool(s.mask.any()))") == (2, False)
    canvas.click((100, 60))  # takes the first one's place
    canvas.press("box")
    canvas.drag((10, 90), (20, 100))
    same(notebook, "within(10, 90, 20, 100)")
    canvas.read("Segmenting…")
    notebook.do("go.set()")
    notebook.until("bool(s.mask[60, 100] and s.mask[95, 15])")
    assert notebook.python("int(s.mask.sum())") in range(221, 244) and not notebook.python("bool(s.mask[30, 30])")
    canvas.read("Mask: 2")
    canvas.press("undo")
    same(notebook, "within(10, 90, 20, 100)")


def test_errors_and_a_kernel_that_is_gone(notebook):
    crashes = []
    notebook.page.on("pageerror", lambda error: crashes.append(error))
    notebook.run(
        CELL + "def wrong(*_): raise ValueError('<img src=x onerror=document.title=1>')\n"
        "s = Sketch(image, segment=wrong, tool='segment')\ns"
    )
    canvas = Canvas(notebook)
    canvas.click((20, 20))
    alert = canvas.widget.locator("[role=alert]")
    alert.filter(has_text="ValueError: <img src=x onerror=document.title=1>").wait_for()
    assert canvas.widget.locator("img").count() == 0 and notebook.page.title() != "1"
    canvas.press("box")
    canvas.drag((10, 20), (50, 60))
    same(notebook, "within(10, 20, 50, 60)")
    assert alert.inner_text() == ""
    notebook.restart()
    canvas.drag((60, 20), (70, 60))  # the canvas goes on, on its own
    canvas.read("Mask: 2,132 pixels")
    canvas.press("segment")
    canvas.click((20, 20))
    canvas.read("No answer: if the kernel was restarted, run this cell again.")
    canvas.press("point")
    canvas.drag((60, 20), (70, 60))
    canvas.read("Point 1 of 1")
    assert crashes == []
    assert notebook.python("1 + 1") == 2


def test_what_python_sets_is_shown(notebook):
    notebook.run(CELL + "s = Sketch(image)\ns")
    canvas = Canvas(notebook)
    blank = canvas.element.screenshot()
    notebook.do("s.points = [(1, 2, 30, 40)]; s.mask = within(50, 50, 90, 90); s.selected = 0")
    canvas.read("Point 1 of 1: (1.0, 2.0) → (30.0, 40.0).  Mask: 1,681 pixels, 8.2 %.")
    assert canvas.element.screenshot() != blank
    canvas.press("undo")
    canvas.read("Point 1 of 1")
    canvas.press("undo")
    notebook.until("(s.points, bool(s.mask.any()))", ([], False))
    click(notebook.page, canvas.element, (10, 10))
    notebook.until("len(s.points)", 1)
