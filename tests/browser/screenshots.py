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


SHOTS: dict[str, Shot] = {}


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
                Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)
                print(path)
            notebook.close()
            page.close()


if __name__ == "__main__":
    shoot(sys.argv[1:])
