// One view of a sketch: pointer and keys go to the tool in use; what a gesture made is told to Python when it ends.
const LONGEST = 100; // steps of undo

const samePoints = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const sameBytes = (a, b) => a === b || (a.length === b.length && a.every((byte, i) => byte === b[i]));
const sameState = (a, b) => samePoints(a.points, b.points) && sameBytes(a.mask, b.mask);

const listen = (model, event, action) => { model.on(event, action); return () => model.off(event, action); };

class Sketch {
  constructor(model, el) {
    Object.assign(this, { model, el, points: [], hover: null, cursor: null, active: null, away: false, space: false });
    this.canvas = h("canvas", { tabindex: 0, role: "application", "aria-roledescription": "drawing canvas" });
    this.view = new View(this.canvas, (context) => this.draw(context));
    this.mask = new Mask(1, 1);
    this.overlay = new Overlay();
    this.tools = {
      point: new PointTool(this), brush: new Stroke(this, 1), eraser: new Stroke(this, 0), box: new Shape(this, "box"),
      lasso: new Shape(this, "lasso"), segment: new Segment(this), pan: new Pan(this),
    };
    this.past = new Past({ points: [], mask: new Uint8Array() });
    this.bar = toolbar(this);
    this.read = h("div", { class: "dk-read", "aria-live": "polite" });
    this.where = h("div", { class: "dk-where", "aria-hidden": "true" });
    this.alert = h("div", { class: "dk-error", role: "alert" });
    const stage = h("div", { class: "dk-stage" }, this.canvas);
    el.classList.add("dk", "dk-sketch");
    const { element, history, zoom } = this.bar;
    el.append(element, stage, h("div", { class: "dk-status" }, history, this.where, zoom), this.read, this.alert);
    this.listen();
    this.ends = [
      watch(model, ["_width", "_height", "_size", "_picture"], () => this.open()),
      watch(model, ["points", "mask_data"], () => this.sync()),
      watch(model, ["tool", "selected", "snap", "brush", "tolerance", "error"], () => this.refresh()),
      listen(model, "msg:custom", (content) => this.heard(content)),
      ownKeys(el, (event) => pressed(this, event)),
    ];
    this.open();
  }

  // --- what there is

  get tool() { return this.space ? this.tools.pan : this.tools[this.model.get("tool")]; }
  get selected() { return Math.min(this.model.get("selected"), this.points.length - 1); }
  get snap() { return this.model.get("snap"); }
  get brush() { return this.model.get("brush"); }
  takes(event) { return this.away || Boolean(event?.altKey); }

  /** Show the model's image. */
  async open() {
    const [width, height] = [this.model.get("_width"), this.model.get("_height")], data = this.model.get("_picture");
    if (this.mask.width !== width || this.mask.height !== height || this.most !== this.model.get("_size")) {
      this.most = this.model.get("_size");
      this.mask = new Mask(width, height);
      this.past = new Past(this.told());
      this.cursor = null;
      this.view.resize(width, height, this.most);
      this.el.style.setProperty("--dk-wide", `${this.view.shown[0]}px`);
      this.canvas.setAttribute("aria-label", `Image of ${width} by ${height} pixels to draw on`);
    }
    this.sync();
    if (this.data === data) return;
    this.data = data;
    const bitmap = await bitmapOf(data, "");
    if (this.data !== data) return bitmap?.close(); // a newer one came meanwhile
    this.bitmap?.close();
    this.bitmap = bitmap;
    this.view.paint();
  }

  /** What Python has been told, or has told. */
  told() {
    const data = this.model.get("mask_data");
    if (data !== this.packed?.data) this.packed = { data, bytes: bytesOf(data) };
    return { points: this.model.get("points"), mask: this.packed.bytes };
  }

  /** Follow the model: another view's gestures and undoing, Python's values. */
  sync() {
    if (this.telling) return;
    const state = this.told(), { past } = this;
    if (state.mask.length && state.mask.length !== (this.mask.bits.length + 7) >> 3) return; // the new size is on its way
    if (!sameState(state, past.state)) {
      if (past.before.length && sameState(past.before.at(-1), state)) past.undo();
      else if (past.after.length && sameState(past.after.at(-1), state)) past.redo();
      else this.remember(state);
    }
    this.show(state);
  }

  remember(state) {
    this.past.push(state);
    if (this.past.before.length > LONGEST) this.past.before.shift();
  }

  show(state) {
    this.points = state.points;
    this.mask.load(state.mask);
    this.refresh();
  }

  /** A gesture has ended: keep what it made, and tell Python. */
  commit() {
    const state = { points: this.points, mask: this.mask.packed() };
    if (sameState(state, this.past.state)) return this.refresh();
    this.remember(state);
    this.tell(state);
    this.refresh();
  }

  tell(state) {
    const { model } = this, now = this.told();
    this.telling = true;
    if (!samePoints(state.points, now.points)) model.set("points", state.points);
    if (!sameBytes(state.mask, now.mask)) {
      this.packed = { data: new DataView(state.mask.slice().buffer), bytes: state.mask };
      model.set("mask_data", this.packed.data);
    }
    this.telling = false;
    model.save_changes();
  }

  // --- what the buttons do

  use(tool) { this.rest(); this.set("tool", tool); }
  select(index) { if (this.model.get("selected") !== index) this.set("selected", index); }
  set(name, value) { this.model.set(name, value); this.model.save_changes(); }
  toggleSnap() { this.set("snap", !this.snap); }
  toggleAway() { this.away = !this.away; this.refresh(); }
  undo() { this.rest(); this.tell(this.past.undo()); this.show(this.past.state); }
  redo() { this.rest(); this.tell(this.past.redo()); this.show(this.past.state); }
  change(action) { this.rest(); action(this.mask); this.commit(); }
  clearPoints() { this.rest(); this.points = []; this.select(-1); this.commit(); }

  drop(index) {
    if (index < 0) return;
    this.rest();
    this.points = this.points.filter((_, i) => i !== index);
    this.select(-1);
    this.commit();
  }

  /** Ask Python; its answer is a new mask, or an error. A restarted kernel never answers, or cannot be asked. */
  ask(question) {
    this.working = false;
    this.wait("Asking for the region…");
    const late = () => this.wait("No answer: if the kernel was restarted, run this cell again.");
    this.patience = setTimeout(late, 5000);
    try { this.model.send(question); } catch { late(); }
  }

  /** Python says that it has begun, which may take long, or that it has ended. */
  heard(content) {
    this.working = "segmenting" in content;
    this.wait(this.working ? "Segmenting…" : "");
  }

  wait(text) {
    clearTimeout(this.patience);
    this.waiting = text;
    this.refresh();
  }

  /** End what is half done, and show what was there before it. */
  rest() {
    for (const tool of Object.values(this.tools)) tool.rest();
    this.active = null;
    this.show(this.past.state);
  }

  // --- pointer

  listen() {
    const { canvas } = this, on = (name, action) => canvas.addEventListener(name, action);
    on("pointerdown", (event) => {
      canvas.focus({ preventScroll: true });
      this.cursor = null;
      if (this.view.pinching()) return this.active && this.rest();
      if (event.button !== 0 || this.active) return;
      try { canvas.setPointerCapture(event.pointerId); } catch { /* it has gone already */ }
      this.begin(this.view.toImage(event), event);
    });
    on("pointermove", (event) => {
      this.hover = this.view.toImage(event);
      if (this.view.pinching()) return this.active && this.rest();
      if (this.active && event.pointerId === this.active.pointer) {
        const passed = event.getCoalescedEvents?.() ?? [];
        for (const one of passed.length ? passed : [event]) this.active.tool.move(this.view.toImage(one), one);
      }
      this.point(event);
      this.view.paint();
    });
    on("pointerup", (event) => {
      if (this.active?.pointer === event.pointerId) this.finish(this.view.toImage(event), event);
      if (event.pointerType === "touch") this.hover = null;
    });
    on("pointercancel", () => this.active && this.rest());
    on("pointerleave", () => { this.hover = null; this.where.textContent = ""; this.view.paint(); });
    on("contextmenu", (event) => {
      event.preventDefault();
      event.stopPropagation();
      const found = this.model.get("tools").includes("point") && hit(this.points, this.view.toImage(event), 11 / this.view.scale);
      if (found) this.drop(found[0]);
    });
    on("dblclick", (event) => event.stopPropagation());
    on("keyup", (event) => {
      if (event.key === " ") this.space = false;
      if (event.key in ARROWS) this.commit(); // nudges are one step of undo until the key is let go
      this.refresh();
    });
    on("blur", () => { this.space = false; this.cursor = null; if (!this.active) this.commit(); });
  }

  begin(at, event) {
    if (!this.working) this.wait("");
    if (this.model.get("error")) this.set("error", "");
    this.active = { tool: this.tool, pointer: event?.pointerId };
    this.active.tool.down(at, event);
    this.refresh();
  }

  finish(at, event) {
    const { tool } = this.active;
    tool.move(at, event);
    this.active = null;
    tool.up(at, event);
    this.refresh();
  }

  /** Say where the pointer is, and what it would take hold of. */
  point(event) {
    const [x, y] = this.hover;
    this.where.textContent = `x ${x.toFixed(1)}  y ${y.toFixed(1)}`;
    const over = this.model.get("tool") === "point" && !this.tools.point.waiting && hit(this.points, this.hover, this.tools.point.reach(event));
    this.canvas.style.cursor = over && !this.space ? "grab" : this.tool.cursor;
  }

  // --- what is seen

  refresh() {
    this.alert.textContent = this.model.get("error");
    this.read.textContent = this.summary();
    this.canvas.style.cursor = this.tool.cursor;
    const focused = this.el.contains(document.activeElement) ? document.activeElement : null;
    this.bar.refresh();
    if (focused?.disabled || focused?.closest("[hidden]")) this.canvas.focus({ preventScroll: true }); // or keys are lost
    this.view.paint();
  }

  summary() {
    if (this.waiting) return this.waiting;
    const said = [], number = (v) => v.toFixed(1), arrow = this.points[this.selected];
    if (arrow) {
      const [x0, y0, x1, y1] = arrow.map(number), name = `Point ${this.selected + 1} of ${this.points.length}`;
      said.push(stays(arrow) ? `${name} stays at (${x0}, ${y0}).` : `${name}: (${x0}, ${y0}) → (${x1}, ${y1}).`);
    } else if (this.points.length) said.push(`${this.points.length} point${this.points.length > 1 ? "s" : ""}.`);
    const count = this.active ? 0 : this.mask.count(), { width, height } = this.mask;
    if (count) said.push(`Mask: ${count.toLocaleString("en")} pixels, ${((100 * count) / (width * height)).toFixed(1)} %.`);
    if (this.cursor) said.push(`Cross at (${this.cursor.map(number).join(", ")}).`);
    return [said.join("  "), this.tool.hint].filter(Boolean).join("\n");
  }

  draw(context) {
    const { view, points, selected } = this;
    context.imageSmoothingQuality = "medium";
    if (this.bitmap) view.drawImage(context, this.bitmap);
    this.overlay.paint(context, view, this.mask);
    this.bar.zoomed();
    this.tool.draw?.(context, view, this.hover);
    const end = this.tools.point.end;
    points.forEach((arrow, i) => drawArrow(context, view, arrow, points.length > 1 ? String(i + 1) : "", i === selected ? end : null));
    const at = this.cursor ?? this.hover;
    if (this.tool.round && at) drawRing(context, view.toScreen(...at), this.tool.radius * view.scale);
    if (this.cursor) drawCross(context, view.toScreen(...this.cursor));
  }

  destroy() {
    clearTimeout(this.patience);
    this.ends.forEach((end) => end());
    this.view.destroy();
    this.bitmap?.close();
  }
}

export default {
  render({ model, el }) {
    const sketch = new Sketch(model, el);
    return () => sketch.destroy();
  },
};
