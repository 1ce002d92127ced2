"""A person in notebook 01 goes back to the first belief of a generation, and steps on until the object stands."""

from __future__ import annotations

from tests.browser.gestures import click
from tests.browser.notebook import Notebook


def use(notebook: Notebook) -> None:
    player = notebook.reveal(".dk-player", "player = GuidancePlayer(")
    canvas = player.locator(".dk-preview canvas")
    canvas.wait_for(state="visible")
    canvas.focus()
    canvas.press("Home")
    notebook.until("player.step", 0)
    slider = player.get_by_label("step", exact=True)
    slider.focus()
    for _ in range(3):
        slider.press("ArrowRight")
    notebook.until("player.step", 3)
    scale = 280 / 256
    click(notebook.page, canvas, (128.5 * scale, 110.5 * scale))
    notebook.until("player.pin", [128, 110])
    assert notebook.python("len(player.trace)") == 10
