"""How quick the widgets are in a real browser: ``python -m tests.browser.speed [--json FILE] [NAME ...]`` prints JSON.

A measurement is a function: it takes a notebook, shows a widget in it, and returns numbers, whose names end in their
units.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import sync_playwright

from dragonkit.files import whole_file
from tests.browser.gestures import click
from tests.browser.notebook import Notebook
from tests.browser.server import launch_options, serving
from tests.browser.speed_drawing import drag_an_arrow, opening
from tests.browser.speed_player import player

Numbers = dict[str, float]

AFTER_PRESS = """() => {
  window.presses = [];
  window.addEventListener("pointerdown", (event) => { // bubbles here when the widget has done its part
    const handled = performance.now() - event.timeStamp;
    requestAnimationFrame(() => { // after the frame has been drawn, a message comes first
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => window.presses.push([handled, performance.now() - event.timeStamp]);
      port2.postMessage(0);
    });
  });
}"""


def explorer(notebook: Notebook) -> Numbers:
    """From pressing the mouse to a repainted map of 64x64x640 features, on one picture and on two.

    ``handled`` ends when the maps are computed and drawn on the canvases, ``shown`` when the frame with them is done.
    """
    cells = (
        "import dragonkit, torch\nfrom dragonkit.correspondence import FeatureMap\n"
        "from dragonkit.regions import Frame\nfrom dragonkit_widgets import CorrespondenceExplorer\n"
        "model, frame = dragonkit.load(), Frame(512, 512)\n"
        "images = [torch.rand(3, 512, 512) for _ in range(2)]\n"
        "def show(count):\n"
        "    w = CorrespondenceExplorer(model, *images[:count], layers=(3,), timesteps=(261,))\n"
        "    maps = [{3: FeatureMap(torch.randn(640, 64, 64), frame, 3, 261)} for _ in range(count)]\n"
        "    w.features = lambda t=261: maps\n"
        "    return w",
        "one = show(1)\none",
        "two = show(2)\ntwo",
    )
    notebook.run(*cells)
    notebook.page.evaluate(AFTER_PRESS)
    numbers = {}
    for k, name in enumerate(("one", "two")):
        root = notebook.page.locator(".dk-explorer").nth(k)
        root.locator(".dk-read", has_text="Move over").wait_for()
        notebook.page.evaluate("() => { window.presses = []; }")
        for n in range(40):
            click(notebook.page, root.locator("canvas.dk-a").first, (10 + 8 * n, 20 + (53 * n) % 320))
            notebook.page.wait_for_timeout(60)
        presses = notebook.page.evaluate("() => window.presses")[5:]  # the first ones are compiled meanwhile
        for part, values in zip(("handled", "shown"), zip(*presses, strict=True), strict=True):
            numbers |= summary(f"{name}_{part}", values)
    return numbers


def summary(name: str, values: tuple[float, ...] | list[float]) -> Numbers:
    """The median and the 90th percentile of times."""
    tenths = statistics.quantiles(values, n=10)
    return {f"{name}_median_ms": round(statistics.median(values), 2), f"{name}_p90_ms": round(tenths[-1], 2)}


MEASUREMENTS: dict[str, Callable[[Notebook], Numbers]] = {
    "explorer": explorer,
    "player": player,
    "arrow": drag_an_arrow,
    "opening": opening,
}


def measure(names: list[str]) -> dict[str, object]:
    """Make some of the measurements."""
    found: dict[str, object] = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    with tempfile.TemporaryDirectory() as home, serving(Path(home)) as lab, sync_playwright() as play:
        browser = play.chromium.launch(**launch_options())
        for name in names:
            page = browser.new_page(viewport={"width": 1280, "height": 1400})
            notebook = Notebook(lab.url, lab.root, lab.runtime, page, f"{name}.ipynb")
            found[name] = MEASUREMENTS[name](notebook)
            notebook.close()
            page.close()
    return found


def main() -> None:
    """Make the measurements that are named, or all, print them, and write them if asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.browser.speed", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASUREMENTS)}; default all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write them, whole or not at all")
    said = parser.parse_args()
    if unknown := set(said.names) - set(MEASUREMENTS):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(MEASUREMENTS)}")
    text = json.dumps(measure(said.names or list(MEASUREMENTS)), indent=1)
    print(text)
    if said.json:
        with whole_file(said.json) as draft:
            draft.write_text(text + "\n")


if __name__ == "__main__":
    main()
