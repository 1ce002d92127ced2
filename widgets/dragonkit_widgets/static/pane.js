// A picture of a player: with a caption, a colour bar, and a canvas that is zoomed and marked together with the others.

class Panel {
  constructor(board, name, title, draw) {
    const canvas = h("canvas", { tabindex: 0, role: "img", "aria-label": title });
    this.caption = h("figcaption", {}, title);
    this.scale = new Scale(title);
    this.element = h("figure", { class: `dk-panel dk-${name}` }, this.caption, canvas, this.scale.element);
    Object.assign(this, { board, name, canvas });
    this.view = new View(canvas, (pen, view) => { draw(pen, view); board.link(this); this.cross(pen, view); });
    this.listen();
  }

  get shown() { return !this.element.hidden; }

  /** A line of text where no picture is. */
  say(pen, text) {
    Object.assign(pen, { fillStyle: getComputedStyle(this.element).color, textAlign: "center", font: "12px sans-serif" });
    text.split("\n").forEach((line, k, all) =>
      pen.fillText(line, this.view.shown[0] / 2, this.view.shown[1] / 2 + 16 * (k - (all.length - 1) / 2)));
  }

  /** A map of cells over the image. */
  cells(pen, canvas, map) {
    const { view } = this, size = cellSize(map, this.board.extent[0]) * view.scale;
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(canvas, view.x, view.y, map.w * size, map.h * size);
  }

  cross(pen, view) {
    const { pin } = this.board.deck;
    if (!pin.length || !this.linked) return;
    const [x, y] = view.toScreen(...pin);
    for (const [colour, width] of [["#000", 4], ["#fff", 1.5]]) {
      Object.assign(pen, { strokeStyle: colour, lineWidth: width });
      pen.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        pen.moveTo(x + 4 * dx, y + 4 * dy); pen.lineTo(x + 10 * dx, y + 10 * dy);
      }
      pen.stroke();
    }
  }

  /** Press and let go to mark; drag to pan what is zoomed; drag the wipe's line. */
  listen() {
    const { canvas, view, board } = this;
    for (const name of ["pointerenter", "pointerdown", "wheel"])
      canvas.addEventListener(name, () => { board.leader = this; }, { passive: true });
    let start = null, last = null, wiping = false;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button || view.pinching()) { start = null; return; } // a second finger marks nothing
      start = last = view.toCanvas(event);
      wiping = this.name === "preview" && board.wipes && Math.abs(start[0] - board.wipeAt) < (event.pointerType === "touch" ? 24 : 10);
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!start || view.pinching()) { start = null; return; }
      const now = view.toCanvas(event);
      if (wiping) board.setWipe(now[0] / view.shown[0]);
      else if (view.zoom > 1.001) view.panBy(now[0] - last[0], now[1] - last[1]);
      last = now;
    });
    canvas.addEventListener("pointerup", (event) => {
      const now = view.toCanvas(event);
      if (start && !wiping && this.linked && Math.hypot(now[0] - start[0], now[1] - start[1]) < (event.pointerType === "touch" ? 8 : 4)) board.mark(view.toImage(event));
      start = null;
    });
    canvas.addEventListener("pointercancel", () => { start = null; });
  }
}

const button = (text, name, action, more = {}) =>
  h("button", { type: "button", "aria-label": name, title: name, onclick: action, ...more }, text);

/** A select of [value, text] pairs. */
function choice(name, options, action) {
  const select = h("select", { "aria-label": name, onchange: () => action(select.value) });
  select.append(...options.map(([value, text]) => h("option", { value }, text)));
  return select;
}

/** Give a select other options, and keep what was chosen if it is still among them. */
function offer(select, options, first) {
  const key = JSON.stringify(options);
  if (select.dataset.key === key) return;
  const values = options.map(([value]) => String(value)), chosen = select.dataset.key ? select.value : first;
  select.dataset.key = key;
  select.replaceChildren(...options.map(([value, text]) => h("option", { value }, text)));
  select.value = [chosen, first, values[0]].find((value) => values.includes(value));
}
