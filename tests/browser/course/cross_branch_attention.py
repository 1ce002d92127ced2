"""A person in notebook 08 asks the player where a pixel of the moved object looks."""

from __future__ import annotations

import re

from tests.browser.gestures import click, pixel
from tests.browser.notebook import Notebook


def use(notebook: Notebook) -> None:
    player = notebook.reveal(".dk-player", "player = GuidancePlayer(")
    canvas = player.locator(".dk-preview canvas")
    canvas.wait_for(state="visible")
    notebook.do("player.step = step")
    x, y = notebook.python("(x, y)")
    player.get_by_label("attention", exact=True).select_option(notebook.python("name"))
    click(notebook.page, canvas, pixel(canvas, x, y))
    notebook.until("player.pin", [x, y])
    read = player.locator(".dk-read").filter(has_text=re.compile(r"100% source"))
    read.wait_for()
    assert notebook.python("bool(one.target[y, x]) and not bool(one.mask[y, x])")
