"""How fast a GuidancePlayer opens and scrubs; see :mod:`tests.browser.speed`."""

from __future__ import annotations

import json

from tests.browser.notebook import Notebook

STEPS, SIDE = 50, 512
CELL = f"""
import sys, time
from types import SimpleNamespace
import numpy as np, torch
from PIL import Image
from dragonkit.trace import Look, Record, Rows, Trace
from dragonkit_widgets import GuidancePlayer

rng = np.random.default_rng(0)
rows, columns = np.mgrid[:{SIDE}, :{SIDE}] / {SIDE}
def frame(k):
    waves = [np.sin(2 * np.pi * (f * rows + g * columns + k / {STEPS})) for f, g in ((1, 3), (4, 2), (7, 5))]
    noisy = 127 + 90 * np.stack(waves, -1) + rng.normal(0, 8, rows.shape + (3,))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
def single(s):
    cells = torch.arange(s * s // 2, s * s // 2 + 2 * s)  # two rows of cells below the middle
    return Rows(torch.rand(len(cells), s * s).half() / s**2, cells, torch.arange(s * s, 2 * s * s))
trace = Trace(None, Record())
for k in range({STEPS}):
    looks = {{f'up_blocks.{{b}}.attentions.0': Look(torch.rand(2 * s * s) / s**2, ((s, s),) * 2, single(s))
             for b, s in ((1, 16), (2, 32), (3, 64))}}
    trace.add(SimpleNamespace(i=k, t=1000 - 20 * k, x0=torch.zeros(1), grad=torch.randn(1, 4, 64, 64), visit=0,
              energies={{n: torch.rand(()) for n in ('edit', 'content', 'contrast', 'inpaint')}}, attention=looks))
trace.keep_frames([frame(k) for k in range({STEPS})])
began = time.time()
"""
SHOW = "player = GuidancePlayer(trace, source=trace.frames()[0])\npacked = time.time() - began\nplayer"

# A person drags the curves' cursor over every step: each pointer event is followed by two animation frames, after which
# the page has been painted.
SCRUB = """
async (root) => {
  const canvas = root.querySelector('.dk-curves'), preview = root.querySelector('.dk-preview canvas');
  const frame = () => new Promise(requestAnimationFrame);
  const send = (type, k) => {
    const box = canvas.getBoundingClientRect(), x = box.left + 44 + (box.width - 54) * k / STEPS_LAST;
    canvas.dispatchEvent(new PointerEvent(type, { clientX: x, clientY: box.top + 40, pointerId: 1, bubbles: true }));
  };
  canvas.setPointerCapture = () => {};
  send('pointerdown', 0);
  await frame(); await frame();
  const times = [], shown = new Set(), began = performance.now();
  for (let k = 0; k <= STEPS_LAST; k++) {
    const start = performance.now();
    send('pointermove', k);
    await frame();
    await new Promise((done) => setTimeout(done));
    times.push(performance.now() - start);
    shown.add([...preview.getContext('2d').getImageData(200, 100, 8, 8).data].join());
  }
  const seconds = (performance.now() - began) / 1000;
  send('pointerup', STEPS_LAST);
  times.sort((a, b) => a - b);
  return { frames: times.length, different: shown.size, per_second: times.length / seconds,
    median_ms: times[times.length >> 1], slowest_ms: times.at(-1) };
}
""".replace("STEPS_LAST", str(STEPS - 1))


def player(notebook: Notebook) -> dict[str, float]:
    """Frames a second while scrubbing 50 frames of 512 px, a pixel marked, and seconds from the cell to the picture.

    ``packed_s`` is what Python takes to make the widget (JPEGs of all frames); it is part of ``opened_s``.
    """
    notebook.run(CELL)
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('notebook:insert-cell-below')")
    text = json.dumps({"text": "began = time.time()\n" + SHOW})
    notebook.page.evaluate(f"() => window.jupyterapp.commands.execute('notebook:replace-selection', {text})")
    notebook.page.evaluate(
        """() => { window.opened = new Promise((done) => {
          const start = performance.now();
          window.jupyterapp.commands.execute('notebook:run-cell');
          const look = () => {
            const canvas = document.querySelector('.dk-preview canvas');
            const pixel = canvas?.width > 300 && canvas.getContext('2d').getImageData(150, 150, 1, 1).data[3];
            const text = document.querySelector('.dk-player .dk-read')?.textContent ?? '';
            if (pixel && text.startsWith('step')) done((performance.now() - start) / 1000);
            else requestAnimationFrame(look);
          };
          look();
        }); }"""
    )
    opened = notebook.page.evaluate("() => window.opened")
    element = notebook.widget(".dk-player")
    notebook.page.wait_for_timeout(3000)
    notebook.do("player.pin = [256, 260]")  # scrubbed with a pixel marked, whose own attention is drawn
    element.locator(".dk-read").filter(has_text="it looks: ").wait_for()
    scrubbed = element.evaluate(SCRUB)
    return {"opened_s": opened, "packed_s": notebook.python("packed"), **scrubbed}
