"""A person in notebook 00 drags the arrow of the studio elsewhere, and runs the edit."""

from __future__ import annotations

from tests.browser.gestures import drag, pixel
from tests.browser.notebook import Notebook


def use(notebook: Notebook) -> None:
    studio = notebook.reveal(".dk-studio", "studio = EditStudio(")
    studio.scroll_into_view_if_needed()
    canvas = studio.locator(".dk-sketch canvas").first
    canvas.wait_for(state="visible")
    (before,) = notebook.python("studio.sketch.points")
    x, y = before[2:]
    studio.locator("[data-tool=point]").first.click()
    drag(notebook.page, canvas, pixel(canvas, x, y), pixel(canvas, x - 40, y + 20))
    notebook.until("(round(studio.edit.by[0] - move.by[0]), round(studio.edit.by[1] - move.by[1]))", (-40, 20))
    notebook.do("studio.guidance = dk.Guidance.preset('fast', 'move')")
    studio.get_by_role("button", name="Run").locator("visible=true").first.click()
    notebook.until("studio.status.text[:4]", "done", seconds=240)
    notebook.do(
        "from dragonkit.evaluate import paste\n"
        "mine = dk.Move(task.mask, by=(move.by[0] - 40, move.by[1] + 20))\n"
        "wanted = paste(dk.regions.as_image(task.image), mine)\n"
        "off = placement_error(studio.result.tensor, wanted, mine.target())"
    )
    assert notebook.python("off") < 6
