"""A person in notebook 01 goes back to the first belief of a generation, and steps on until the object stands."""

from __future__ import annotations

from tests.browser.course.scrub import brought_to
from tests.browser.gestures import click, pixel
from tests.browser.notebook import Notebook


def use(notebook: Notebook) -> None:
    _, canvas = brought_to(notebook, 3)
    click(notebook.page, canvas, pixel(canvas, 128, 110))
    notebook.until("player.pin", [128, 110])
    assert notebook.python("len(player.trace)") == 10
