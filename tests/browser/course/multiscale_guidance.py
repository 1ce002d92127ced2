"""A person in notebook 04 points at the white snowman and goes to another layer."""

from __future__ import annotations

import pytest

from tests.browser.gestures import click, pixel
from tests.browser.notebook import Notebook


def use(notebook: Notebook) -> None:
    explorer = notebook.reveal(".dk-explorer", "explorer = CorrespondenceExplorer")
    canvas = explorer.locator(".dk-main canvas.dk-a")
    canvas.wait_for(state="visible")
    click(notebook.page, canvas, pixel(canvas, 173, 150))
    notebook.until("explorer.point != (93, 145)")
    assert notebook.python("explorer.point") == pytest.approx((173, 150), abs=0.6)
    explorer.locator(".dk-read").first.filter(has_text="best match").wait_for()
    explorer.locator(".dk-layer").nth(1).locator("canvas").first.click()
    notebook.until("explorer.layer", 2)
