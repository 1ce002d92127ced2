"""A person in notebook 07 draws on the picker, and walks through the studio's history."""

from __future__ import annotations

from playwright.sync_api import Locator

from tests.browser.gestures import drag, pixel
from tests.browser.notebook import Notebook


def shown(canvas: Locator) -> Locator:
    """The canvas, scrolled into view."""
    canvas.wait_for(state="attached")
    canvas.scroll_into_view_if_needed()
    return canvas


def use(notebook: Notebook) -> None:
    page = notebook.page
    canvas = shown(notebook.reveal(".dk-sketch", "picker = PointPicker(").locator("canvas").first)
    drag(page, canvas, pixel(canvas, *notebook.python("point[2:]")), pixel(canvas, 90, 60))
    notebook.until("[round(v) for v in picker.points[0]]", notebook.python("[round(v) for v in point[:2]] + [90, 60]"))
    drag(page, canvas, pixel(canvas, 150, 200), pixel(canvas, 180.5, 200))
    notebook.until("len(picker.points)", 2)

    studio = notebook.reveal(".dk-studio", "studio = EditStudio(")
    strip = studio.locator(".dk-strip")
    shown(strip)
    strip.locator("[data-node='2']").click()
    notebook.until("studio.session.current.id", 2)
    strip.get_by_role("button", name="Undo").click()
    notebook.until("studio.session.current.id", 1)
    studio.get_by_role("button", name="drag", exact=True).first.click()
    canvas = shown(studio.locator(".dk-sketch canvas").first)
    notebook.do("studio.sketch.points = []")
    studio.locator("[data-tool=point]").first.click()
    drag(page, canvas, pixel(canvas, 56, 90), pixel(canvas, 70, 60))
    notebook.until("len(studio.sketch.points)", 1)
    notebook.until("type(studio.edit).__name__", "Drag")
