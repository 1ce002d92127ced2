"""A person in notebook 02 looks for the hat of a snowman, and chooses another layer."""

from __future__ import annotations

import pytest

from tests.browser.gestures import click, pixel
from tests.browser.notebook import Notebook


def use(notebook: Notebook) -> None:
    explorer = notebook.reveal(".dk-explorer", "explorer = CorrespondenceExplorer")
    explorer.scroll_into_view_if_needed()
    canvas = explorer.locator(".dk-main canvas.dk-a")
    canvas.wait_for(state="visible")
    click(notebook.page, canvas, pixel(canvas, 91, 88))
    notebook.until("explorer.point != belly")
    assert notebook.python("explorer.point") == pytest.approx((91, 88), abs=0.6)
    assert notebook.python("explorer.error") < 10
    explorer.locator(".dk-read").first.filter(has_text="best match").wait_for()
    explorer.locator(".dk-layer").nth(2).locator("canvas").first.click()
    notebook.until("explorer.layer", 3)
