"""A person in notebook 05 rubs the hat out of the mask, and takes that back."""

from __future__ import annotations

from tests.browser.gestures import drag, pixel
from tests.browser.notebook import Notebook

LEFT = "int((on_grid(case.mask & ~torch.from_numpy(painter.mask)) & ~m_gen).sum())"


def use(notebook: Notebook) -> None:
    painter = notebook.reveal(".dk-sketch", "painter = MaskPainter(")
    canvas = painter.locator("canvas").first
    canvas.wait_for(state="visible")
    whole = notebook.python("int(painter.mask.sum())")
    assert whole == notebook.python("int(case.mask.sum())") and notebook.python(LEFT) == 0
    painter.locator("[data-tool=eraser]").first.click()
    drag(notebook.page, canvas, pixel(canvas, 66, 92), pixel(canvas, 100, 96))
    notebook.until(f"int(painter.mask.sum()) < {whole} - 100")
    assert notebook.python(LEFT) > 5
    assert not notebook.python("bool(painter.mask[90:98, 78:90].any())"), "the rim of the hat is rubbed out"
    painter.locator("[data-do=undo]").first.click()
    notebook.until("int(painter.mask.sum())", whole)
