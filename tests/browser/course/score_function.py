"""A person in notebook 03 scrubs through the guided run and reads a gradient."""

from __future__ import annotations

from tests.browser.course.scrub import brought_to
from tests.browser.gestures import click, pixel
from tests.browser.notebook import Notebook


def use(notebook: Notebook) -> None:
    player, canvas = brought_to(notebook, 6)
    click(notebook.page, canvas, pixel(canvas, 141, 150))  # in the orange outline
    notebook.until("player.pin", [141, 150])
    assert notebook.python("bool(case.target[150, 141])")
    read = player.locator(".dk-read").filter(has_text="gradient")
    read.wait_for()
    assert notebook.python("player.trace.grads[6] is not None")
