"""Pictures of every widget, light and dark, for the README: ``python -m tests.browser.screenshots [NAME ...]``."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser.notebook import Notebook
from tests.browser.server import launch_options, serving

OUT = Path("data/widgets")
SCENE = """
import dragonkit as dk, numpy as np
from dragonkit.world import counterfactual
case = counterfactual("move", 1005, split="test")
image, mask = case.before.image, case.mask.numpy()
"""


@dataclass(frozen=True)
class Shot:
    """One widget to photograph.

    Attributes:
        code: cells of Python; the last shows the widget.
        selector: its element.
        ready: a Python expression that is true once it shows what it should.
    """

    code: tuple[str, ...]
    selector: str
    ready: str = "True"


DRAWN = """
from dragonkit_widgets import MaskPainter, PointPicker, Sketch
ys, xs = np.nonzero(mask)
x, y = float(xs.mean()), float(ys.mean())
"""
EXPLORED = """
from dragonkit_widgets import CorrespondenceExplorer
w = CorrespondenceExplorer.of(dk.load(), case)
w.point = case.points(1)[0][:2]
w
"""
PLAYED = """
from dragonkit.trace import Record
from dragonkit_widgets import GuidancePlayer
result = dk.edit(dk.load(), image, case.edit, trace=Record(attention=True), progress=False)
w = GuidancePlayer(result.trace, image, case.after.image, size=250)
w.step, w.pin = 8, [170, 130]
w
"""
USED = """
import dragonkit as dk
from dragonkit_widgets import EditStudio
from dragonkit_widgets.sources import answered
studio = EditStudio()
studio.begin(answered("move", 10**9))
studio.fill_in()
studio.run()
studio.wait()
studio
"""
SHOTS = {
    "sketch": Shot(
        (SCENE + DRAWN, "Sketch(image, points=[(x, y, x + 44, y - 6), (30, 40, 30, 40)], mask=mask, selected=0)"),
        ".dk-sketch",
    ),
    "points": Shot(
        (SCENE + DRAWN, "PointPicker(image, points=[(x, y, x + 44, y - 6), (30, 40, 70, 20)], selected=0)"),
        ".dk-sketch",
    ),
    "mask": Shot((SCENE + DRAWN, "MaskPainter(image, mask, size=420)"), ".dk-sketch"),
    "explorer": Shot((SCENE, EXPLORED), ".dk-explorer", "w.timestep in w._extraction"),
    "player": Shot((SCENE, PLAYED), ".dk-player"),
    "studio": Shot((USED,), ".dk-studio", "studio.status.text[:4] == 'done'"),
}


def shoot(names: list[str]) -> None:
    """Photograph some widgets, or all, and put the pictures under ``data/widgets``."""
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, serving(Path(home)) as lab, sync_playwright() as play:
        browser = play.chromium.launch(**launch_options())
        for name in names or SHOTS:
            shot = SHOTS[name]
            page = browser.new_page(viewport={"width": 1280, "height": 1400})
            notebook = Notebook(lab.url, lab.root, lab.runtime, page, f"{name}.ipynb").run(*shot.code)
            element = notebook.widget(shot.selector)
            notebook.until(shot.ready, seconds=120)
            for theme in ("light", "dark"):
                title = f"JupyterLab {theme.title()}"
                page.evaluate(
                    f"() => window.jupyterapp.commands.execute('apputils:change-theme', {{theme: '{title}'}})"
                )
                page.wait_for_timeout(1500)
                path = OUT / f"{name}-{theme}.png"
                element.screenshot(path=path)
                Image.open(path).convert("RGB").save(path, optimize=True)
                print(path)
            notebook.close()
            page.close()


if __name__ == "__main__":
    shoot(sys.argv[1:])
