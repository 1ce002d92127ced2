"""How smoothly an arrow is dragged, and how soon each widget is there; see :mod:`tests.browser.speed`."""

from __future__ import annotations

import json
import math
import statistics
import time

from tests.browser.gestures import on
from tests.browser.notebook import Notebook

SECONDS = 2.0

# Every repaint of a sketch asks for its context once and clears it first; a frame counts if the canvas was repainted in
# it. (The clock is that of the frames, so what is told apart is frames and not calls.)
PAINTS = """(canvas) => {
  window.painted = [];
  const context = canvas.getContext('2d'), clear = context.clearRect.bind(context);
  let dirty = false;
  context.clearRect = (...box) => { dirty = true; clear(...box); };
  const look = (now) => {
    if (dirty) window.painted.push(now);
    dirty = false;
    window.looking = requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}"""

WIDGETS = {
    "PointPicker": ("PointPicker(image)", ".dk-sketch canvas"),
    "MaskPainter": ("MaskPainter(image)", ".dk-sketch canvas"),
    "CorrespondenceExplorer": ("CorrespondenceExplorer(model, small, other)", ".dk-explorer canvas.dk-a"),
    "EditStudio": ("EditStudio(model, image)", ".dk-studio .dk-sketch canvas"),
}
IMPORTS = """
import dragonkit as dk, numpy as np
from PIL import Image
from dragonkit_widgets import CorrespondenceExplorer, EditStudio, MaskPainter, PointPicker
rng = np.random.default_rng(0)
image, small, other = (Image.fromarray(rng.integers(0, 255, (n, n, 3), np.uint8)) for n in (512, 256, 256))
model = dk.load()
"""

# From the command to the first frame in which the canvas shows something opaque; that frame has been drawn when the
# message after it comes.
OPEN = """(selector) => new Promise((done) => {
  const start = performance.now();
  window.jupyterapp.commands.execute('notebook:run-cell');
  const look = () => {
    const canvas = document.querySelector(selector), w = canvas?.width ?? 0;
    const painted = w > 200 && canvas.getContext('2d').getImageData(w >> 1, canvas.height >> 1, 1, 1).data[3] === 255;
    if (!painted) return requestAnimationFrame(look);
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => done((performance.now() - start) / 1000);
    port2.postMessage(0);
  };
  look();
})"""


def drag_an_arrow(notebook: Notebook) -> dict[str, float]:
    """Frames a second in which the canvas is repainted while an arrow's end is dragged, and the longest gap.

    The mouse is the browser's own, moved as often as its driver can: ``moves_per_second`` bounds what can be painted.
    """
    notebook.run(IMPORTS, "picker = PointPicker(image, [(100, 100, 250, 250)])\npicker")
    canvas = notebook.widget(".dk-sketch canvas")
    notebook.page.wait_for_timeout(1000)
    mouse, (left, top) = notebook.page.mouse, on(canvas, (0, 0))
    canvas.evaluate(PAINTS)
    mouse.move(left + 250.5, top + 250.5)
    mouse.down()
    began, moves = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < SECONDS:
        turn = 2 * math.pi * spent
        mouse.move(left + 250 + 100 * math.sin(turn), top + 250 + 100 * (1 - math.cos(turn)))
        moves += 1
    mouse.up()
    painted = notebook.page.evaluate("() => { cancelAnimationFrame(window.looking); return window.painted; }")
    notebook.until("picker.points[0][2:] != (250.0, 250.0)")
    gaps = [b - a for a, b in zip(painted, painted[1:], strict=False)]
    return {
        "moves_per_second": round(moves / SECONDS, 1),
        "frames_per_second": round(1000 * len(gaps) / (painted[-1] - painted[0]), 1),
        "median_gap_ms": round(statistics.median(gaps), 1),
        "longest_gap_ms": round(max(gaps), 1),
    }


def opening(notebook: Notebook) -> dict[str, float]:
    """Seconds from running a cell to the first frame with the widget's picture, the model loaded before.

    A widget's script is compiled the first time; ``again`` is the same cell run once more.
    """
    found = {}
    for name, (code, selector) in WIDGETS.items():
        notebook.run(IMPORTS)
        notebook.page.evaluate("() => window.jupyterapp.commands.execute('notebook:insert-cell-below')")
        text = json.dumps({"text": f"widget = {code}\nwidget"})
        notebook.page.evaluate(f"() => window.jupyterapp.commands.execute('notebook:replace-selection', {text})")
        found[f"{name}_s"] = round(notebook.page.evaluate(OPEN, selector), 3)
        notebook.close()
    return found
