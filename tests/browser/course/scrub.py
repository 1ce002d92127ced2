"""What persons do in more than one notebook: bring a player to a step with the keys."""

from __future__ import annotations

from playwright.sync_api import Locator

from tests.browser.notebook import Notebook


def brought_to(notebook: Notebook, step: int) -> tuple[Locator, Locator]:
    """The notebook's player and the canvas of its prediction, from the first step on gone as far as ``step``."""
    player = notebook.reveal(".dk-player", "player = GuidancePlayer(")
    canvas = player.locator(".dk-preview canvas")
    canvas.wait_for(state="visible")
    canvas.focus()
    canvas.press("Home")
    notebook.until("player.step", 0)
    slider = player.get_by_label("step", exact=True)
    slider.focus()
    for _ in range(step):
        slider.press("ArrowRight")
    notebook.until("player.step", step)
    return player, canvas
