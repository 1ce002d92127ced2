"""A person in notebook 06 marks a part of the reference object with a box instead of all of it."""

from __future__ import annotations

from tests.browser.gestures import drag, pixel
from tests.browser.notebook import Notebook


def use(notebook: Notebook) -> None:
    painter = notebook.reveal(".dk-sketch", "painter = MaskPainter(")
    painter.scroll_into_view_if_needed()
    canvas = painter.locator("canvas").first
    canvas.wait_for(state="visible")
    assert notebook.python("int(painter.mask.sum())") == notebook.python("int(cone.reference_mask.sum())")
    painter.locator("[data-do=clear-mask]").first.click()
    notebook.until("bool(painter.mask.any())", False)
    painter.locator("[data-tool=box]").first.click()
    drag(notebook.page, canvas, pixel(canvas, 80, 150), pixel(canvas, 110, 180))
    notebook.until("int(painter.mask.sum()) > 800")
    assert notebook.python("bool(painter.mask[160, 95])") and not notebook.python("bool(painter.mask[100, 95])")
    assert 40 < notebook.python("int(on_grid(torch.from_numpy(painter.mask)).sum())") < 80
    notebook.do("edited = dk.Appearance(cone.mask, cone.reference.image, painter.mask)")
    assert notebook.python("int(edited.references[0].mask.sum()) == int(painter.mask.sum())")
