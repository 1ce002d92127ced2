"""A person looks for points with the correspondence explorer; what is seen is compared with Python's own answer."""

import re

import pytest

from tests.browser.gestures import click, on

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


def ready(root):
    root.get_by_text("computing").wait_for(state="detached")
    root.page.wait_for_timeout(200)


def test_look_pin_and_compare(notebook):
    notebook.run(SETUP, SHOW)
    root = notebook.widget(".dk-explorer")
    a, b = root.locator(".dk-main canvas.dk-a"), root.locator(".dk-main canvas.dk-b")
    root.locator(".dk-read", has_text="Move over").wait_for()
    row, column = notebook.python("where")
    spot = (column + 0.5, row + 0.5)

    notebook.page.mouse.move(*on(a, (spot[0], spot[1])))  # hovering looks and pins nothing
    root.locator(".dk-read", has_text="best match").wait_for()
    assert notebook.python("w.point") is None

    click(notebook.page, a, spot)
    notebook.until("w.point is not None")
    assert notebook.python("w.point") == pytest.approx((column, row), abs=0.6)
    x, y, s = read(root, rf"best match in B \({NUMBER}, {NUMBER}\), S {NUMBER}")
    assert (x, y, s) == pytest.approx(notebook.python("w.match"), abs=0.8), "a tenth of a cell of 8 pixels"
    assert s == pytest.approx(notebook.python("w.match")[2], abs=1e-3)
    assert read(root, rf"{NUMBER} px away")[0] == pytest.approx(notebook.python("w.error"), abs=0.8)

    for k, canvas in enumerate((a, b)):  # values under the mouse
        for at in ((31, 77), (200, 190), (128, 3)):
            notebook.page.mouse.move(*on(canvas, at))
            notebook.page.wait_for_timeout(50)
            x, y, s = read(root, rf"[AB] \({NUMBER}, {NUMBER}\), S {NUMBER}", ".dk-value")
            assert s == pytest.approx(notebook.python(f"exact({x}, {y}, {k})"), abs=1e-3)
    root.screenshot(path="/tmp/explorer.png")
