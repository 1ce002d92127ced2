"""A person in notebook 03 scrubs through the guided run and reads a gradient."""

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
    for _ in range(6):
        slider.press("ArrowRight")
    notebook.until("player.step", 6)
    scale = 240 / 256
    click(notebook.page, canvas, (141.5 * scale, 150.5 * scale))  # in the orange outline
    notebook.until("player.pin", [141, 150])
    assert notebook.python("bool(case.target[150, 141])")
    read = player.locator(".dk-read").filter(has_text="gradient")
    read.wait_for()
    assert notebook.python("player.trace.grads[6] is not None")
