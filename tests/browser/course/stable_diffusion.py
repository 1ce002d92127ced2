"""A person in notebook 09 adds the end of the spoon, which the mask had forgotten, with the brush."""

from __future__ import annotations

from tests.browser.gestures import drag, pixel
from tests.browser.notebook import Notebook


def use(notebook: Notebook) -> None:
    sketch = notebook.reveal(".dk-sketch", "painter = MaskPainter(")
    sketch.scroll_into_view_if_needed()
    canvas = sketch.locator("canvas").first
    canvas.wait_for(state="visible")
    before = notebook.python("int(painter.mask.sum())")
    assert not notebook.python("bool(painter.mask[88, 431])")
    sketch.locator("[data-tool=brush]").first.click()
    drag(notebook.page, canvas, pixel(canvas, 428, 112, 627), pixel(canvas, 435, 76, 627))
    notebook.until("bool(painter.mask[88, 431])")
    added = notebook.python("int(painter.mask.sum())") - before
    assert 0 < added < 60 * 20  # the stroke, less what the mask held already
    assert notebook.python("bool(painter.mask[225, 290])")  # and the cup is still there
