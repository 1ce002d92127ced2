"""A person in notebook 10 drags the arrow to the ground on the other side, and lets the new edit run."""

from __future__ import annotations

import pytest

from tests.browser.gestures import drag, pixel
from tests.browser.notebook import Notebook


def use(notebook: Notebook) -> None:
    studio = notebook.reveal(".dk-studio", "studio = EditStudio(")
    studio.scroll_into_view_if_needed()
    canvas = studio.locator(".dk-sketch canvas").first
    canvas.wait_for(state="visible")
    assert studio.get_by_text("Paint what shall go").is_visible()
    studio.locator("[data-tool=point]").first.click()
    drag(notebook.page, canvas, pixel(canvas, 25, 130), pixel(canvas, 225, 130))
    notebook.until("(type(studio.edit).__name__, round(studio.edit.by[0] / 2))", ("Erase", 50))
    assert notebook.python("studio.edit.by") == pytest.approx((100, 0), abs=0.6)
    studio.get_by_role("button", name="Run").locator("visible=true").first.click()
    notebook.until("studio.status.text[:4]", "done", seconds=240)
    assert notebook.python("psnr(studio.result.tensor, answer, mask)") > 20
