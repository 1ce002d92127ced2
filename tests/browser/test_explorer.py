"""A person looks for points with the correspondence explorer; what is seen is compared with Python's own answer."""

import re

import numpy as np
import pytest

from dragonkit_widgets.assets import module
from tests.browser.gestures import click, drag, on

SETUP = """
import dragonkit, torch
from dragonkit.world import counterfactual
from dragonkit.correspondence import describe, match, similarity_map
from dragonkit.regions import pick
from dragonkit_widgets import CorrespondenceExplorer
model = dragonkit.load()
case = counterfactual("move", 10**9 + 1, split="train")
where = case.mask.nonzero().double().mean(0).round().long().tolist()

def exact(x, y, side, at=None):
    a, b = (found[w.layer] for found in w.features())
    s = similarity_map(describe(a, at or w.point), [a, b][side])
    cells = a.frame.to_cells(torch.tensor([[x, y]], dtype=torch.float64), s.shape)
    return float(pick(s[None], cells)[0, 0])
"""
SHOW = "w = CorrespondenceExplorer.of(model, case, size=256)\nw"
NUMBER = r"(-?\d+\.\d+)"


def read(root, pattern, part=".dk-read"):
    text = root.locator(part).first.inner_text()
    found = re.search(pattern, text)
    assert found, f"{pattern} is not in {text!r}"
    return [float(v) for v in found.groups()]


def shows(root, part):
    """Wait until the read-out has some text."""
    root.locator(".dk-read").first.filter(has_text=part).wait_for()


def agrees(notebook, root, cell=8):
    """The best match on the page is Python's, to a tenth of a cell."""
    x, y, s = read(root, rf"best match in B \({NUMBER}, {NUMBER}\), S {NUMBER}")
    found = notebook.python("w.match")
    assert (x, y) == pytest.approx(found[:2], abs=0.1 * cell)
    assert s == pytest.approx(found[2], abs=1e-3)


def test_look_pin_and_compare(notebook):
    notebook.run(SETUP, SHOW)
    root = notebook.widget(".dk-explorer")
    a, b = root.locator(".dk-main canvas.dk-a"), root.locator(".dk-main canvas.dk-b")
    shows(root, "Move over")
    row, column = notebook.python("where")
    spot = (column + 0.5, row + 0.5)

    notebook.page.mouse.move(*on(a, spot))  # hovering looks and pins nothing
    shows(root, "best match")
    assert notebook.python("w.point") is None

    click(notebook.page, a, spot)
    notebook.until("w.point is not None")
    assert notebook.python("w.point") == pytest.approx((column, row), abs=0.51)
    shows(root, "pinned")
    agrees(notebook, root)
    assert read(root, rf"{NUMBER} px away")[0] == pytest.approx(notebook.python("w.error"), abs=0.8)

    for k, canvas in enumerate((a, b)):  # values under the mouse
        for at in ((31, 77), (200, 190), (128, 3)):
            notebook.page.mouse.move(*on(canvas, at))
            notebook.page.wait_for_timeout(50)
            x, y, s = read(root, rf"[AB] \({NUMBER}, {NUMBER}\), S {NUMBER}", ".dk-value")
            assert s == pytest.approx(notebook.python(f"exact({x}, {y}, {k})"), abs=1e-3)


def test_every_control(notebook):
    notebook.run(SETUP, SHOW, "w  # a second view")
    page, root = notebook.page, notebook.widget(".dk-explorer")
    a = root.locator(".dk-main canvas.dk-a")
    shows(root, "Move over")
    drag(page, a, (40, 40), (101, 80), (120.5, 90.5))
    notebook.until("w.point", (120.0, 90.0))
    shows(root, "A (120.00, 90.00), pinned")

    cells = page.locator(".jp-Notebook .jp-Cell").count()
    for key in ("ArrowRight", "Shift+ArrowDown", "ArrowUp", "ArrowLeft", "ArrowLeft", "a", "b", "d", "d"):
        page.keyboard.press(key)
    notebook.until("w.point", (119.0, 99.0))
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells, "the notebook took keys"
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    notebook.until("w.point", (121.0, 99.0))
    page.keyboard.press("Control+Shift+z")
    notebook.until("w.point", (120.0, 99.0))
    page.keyboard.press("Escape")
    notebook.until("w.point", None)
    root.get_by_role("button", name="Undo").click()
    notebook.until("w.point", (120.0, 99.0))
    root.get_by_role("button", name="Redo").click()
    notebook.until("w.point", None)

    notebook.do("w.point = (where[1], where[0])")  # from Python, into both views
    second = page.locator(".dk-explorer").nth(1)
    for view in (root, second):
        shows(view, "pinned")
        agrees(notebook, view)
    root.get_by_label("Layer", exact=True).press("Home")
    notebook.until("w.layer", 1)
    shows(second, "best match")
    agrees(notebook, second, cell=32)
    root.get_by_label("layer 2 on picture B").click()
    notebook.until("w.layer", 2)
    agrees(notebook, root, cell=16)
    root.get_by_role("checkbox", name="layer 4").uncheck()
    notebook.until("w.layers", [1, 2, 3])
    assert not root.get_by_label("layer 4 on picture A").is_visible()
    assert root.get_by_label("layer 3 on picture A").is_visible()

    before = read(root, rf"best match in B \({NUMBER}, {NUMBER}\)")
    root.get_by_label("Timestep", exact=True).press("End")
    notebook.until("w.timestep", 481)
    shows(root, "best match")
    agrees(notebook, root, cell=16)
    assert read(root, rf"best match in B \({NUMBER}, {NUMBER}\)") != before

    assert float(root.locator(".dk-scale span").first.inner_text()) > 0
    root.get_by_label("0 to 1").check()
    assert root.locator(".dk-scale span").first.inner_text() == "0.00"
    root.get_by_label("Opacity of the map").press("Home")
    notebook.until("w.opacity", 0)
    bare = a.screenshot()
    root.get_by_role("button", name="Components").click()
    notebook.until("w.view", "components")
    notebook.do("w.opacity = 1.0")
    root.locator(".dk-note", has_text="one colour").wait_for()
    notebook.comes(lambda: a.screenshot() != bare)

    a.focus()
    page.keyboard.press("+")  # 1.25 times about the middle, which stays
    click(page, a, (28, 128))
    notebook.until("w.point[0]", 127.5 - 100 / 1.25)


def test_odd_sizes_alone_approximate_and_what_goes_wrong(notebook):
    odd = (
        "import numpy as np\nwide = case.before.image[:, 20:220]\nhigh = case.after.image[:, :, 30:]\n"
        "w = CorrespondenceExplorer(model, wide, high, layers=(2, 3), components=6, size=200, timesteps=(261, 400))\n"
        "w.point = (100.25, 120.75)\nw"
    )
    alone = "one = CorrespondenceExplorer(model, case.before.image, layers=(3,), timesteps=(261,), size=256)\none"
    notebook.run(SETUP, odd, alone)
    page, root = notebook.page, notebook.widget(".dk-explorer")
    shows(root, "best match")
    note = root.locator(".dk-note", has_text="Approximate: 6 of 128 dimensions")
    notebook.do(
        "from dragonkit_widgets.packing import reduced\n"
        "few, kept = reduced([f[3] for f in w.features()], 6)\nbest = match(*few, [w.point])"
    )
    assert float(re.search(r"([\d.]+) %", note.inner_text())[1]) == pytest.approx(
        notebook.python("100 * kept"), abs=0.06
    )
    x, y, s = read(root, rf"best match in B \({NUMBER}, {NUMBER}\), S {NUMBER}")
    assert (x, y) == pytest.approx(notebook.python("tuple(best.found[0].tolist())"), abs=0.8)
    assert s == pytest.approx(notebook.python("best.score.item()"), abs=1e-3)

    single = page.locator(".dk-explorer").nth(1)
    click(page, single.locator("canvas.dk-a"), (60.5, 70.5))
    notebook.until("one.point", (60.0, 70.0))
    shows(single, "A (60.00, 70.00), pinned")
    assert single.locator("canvas.dk-b").count() == 0

    notebook.do("def broken(t):\n    raise MemoryError('<img src=x onerror=alert(1)>')\nw.features = broken")
    root.get_by_label("Timestep", exact=True).press("End")
    alert = root.get_by_role("alert").filter(has_text="<img src=x onerror=alert(1)>")
    alert.wait_for()
    assert alert.locator("img").count() == 0
    root.get_by_label("Timestep", exact=True).press("Home")
    shows(root, "best match")

    notebook.restart()  # what the page has goes on working
    a = single.locator("canvas.dk-a")
    click(page, a, (90.5, 30.5))
    shows(single, "A (90.00, 30.00), pinned")


@pytest.mark.parametrize("screen", [{"device_scale_factor": 2, "has_touch": True}], indirect=True)
def test_fine_screens_and_fingers(notebook):
    notebook.run(SETUP, SHOW)
    root = notebook.widget(".dk-explorer")
    a = root.locator(".dk-main canvas.dk-a")
    shows(root, "Move over")
    assert a.evaluate("canvas => [canvas.width, canvas.clientWidth]") == [512, 256]
    x, y = on(a, (80.5, 100.5))
    notebook.page.touchscreen.tap(x, y)
    notebook.until("w.point is not None")
    assert notebook.python("w.point") == pytest.approx((80, 100), abs=0.51)
    shows(root, "pinned")
    agrees(notebook, root)


@pytest.mark.parametrize(("rows", "columns", "channels"), [(1, 1, 3), (1, 3, 5), (2, 2, 8), (5, 7, 13), (16, 16, 64)])
def test_similarities_in_the_page_are_numpys(tab, rows, columns, channels):
    rng = np.random.default_rng(0)
    units, query = rng.normal(size=(rows * columns, channels)), rng.normal(size=channels)
    units, query = units / np.linalg.norm(units, axis=1, keepdims=True), query / np.linalg.norm(query)
    found = tab.evaluate(
        f"""([rows, columns, channels, units, query]) => {{ {module("common", "features")}
            const map = Object.assign(Object.create(FeatureMap.prototype), {{ rows, columns, channels }});
            map.units = Float32Array.from(units);
            return Array.from(map.similarity(Float32Array.from(query)));
        }}""",
        [rows, columns, channels, units.ravel().tolist(), query.tolist()],
    )
    np.testing.assert_allclose(found, (units @ query + 1) / 2, atol=1e-6)
