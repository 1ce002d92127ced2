"""The browser, the server and the kernel work together, and nothing leaves this machine."""

import pytest

from tests.browser.gestures import click, drag
from tests.browser.test_studio import STUDIO, TINY

CELLS = (
    "import ipywidgets\nbutton = ipywidgets.Button(description='press')\npressed = []\n"
    "button.on_click(lambda b: pressed.append(1))\nbutton",
    "answer = 41 + 1",
)


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_a_widget_answers_in_python(notebook, app):
    notebook.run(*CELLS, app=app)
    assert notebook.python("answer") == 42
    notebook.widget("button.jupyter-button").click()
    notebook.until("pressed", [1])


EVERY = (
    TINY + "from dragonkit_widgets import CorrespondenceExplorer, GuidancePlayer, MaskPainter, PointPicker\n"
    "image, w = to_pil(picture()), dk.Guidance.preset('iclr').replace(steps=3)\n"
    "edit = dk.Move(np.pad(np.ones((40, 40), bool), 44), by=(16, 0))\n"
    "trace = dk.edit(tiny_model(), image, edit, guidance=w, trace=True, progress=False).trace",
    "picker = PointPicker(image, size=256)\npicker",
    "painter = MaskPainter(image, size=256, tool='box')\npainter",
    "explorer = CorrespondenceExplorer(tiny_model(), image, picture(seed=1), layers=(3,), timesteps=(261,), size=256)\n"
    "explorer",
    "player = GuidancePlayer(trace, image)\nplayer",
    STUDIO,
)


def test_every_widget_answers_a_gesture_in_notebook_7(notebook):
    notebook.run(*EVERY, app="notebook")
    page = notebook.page
    cells = page.locator(".jp-Notebook .jp-CodeCell")

    def part(cell, selector):
        found = cells.nth(cell).locator(selector).first
        found.wait_for()
        return found

    canvas = part(1, ".dk-sketch canvas")
    drag(page, canvas, (20, 30), (120, 80))  # two CSS pixels are one of the image
    notebook.until("[tuple(round(v) for v in point) for point in picker.points]", [(10, 14, 60, 40)])
    canvas = part(2, ".dk-sketch canvas")
    drag(page, canvas, (21, 41), (101, 81))
    notebook.until("bool(np.array_equal(painter.mask, np.pad(np.ones((21, 41), bool), ((20, 87), (10, 77)))))")
    read = part(3, ".dk-explorer .dk-read")
    read.filter(has_text="Move over").wait_for()
    click(page, part(3, ".dk-explorer canvas.dk-a"), (61, 81))
    notebook.until("explorer.point", (30.0, 40.0))
    read.filter(has_text="best match").wait_for()
    part(4, ".dk-player .dk-read").filter(has_text="step 2").wait_for()
    curves = part(4, ".dk-player .dk-curves")
    click(page, curves, (46, 40))
    notebook.until("player.step", 0)
    canvas = part(5, ".dk-studio .dk-sketch canvas")
    notebook.do("studio.guidance = studio.guidance.replace(steps=2)")
    part(5, ".dk-studio [data-tool=box]").click()
    drag(page, canvas, (100, 100), (200, 200))
    part(5, ".dk-studio [data-tool=point]").click()
    drag(page, canvas, (150, 150), (220, 150))
    notebook.until("(len(studio.sketch.points), bool(studio.sketch.mask.any()))", (1, True))
    part(5, ".dk-studio button:has-text('Run')").click()
    notebook.until("(studio.status.text[:4], len(studio.session.nodes))", ("done", 2), seconds=60)
