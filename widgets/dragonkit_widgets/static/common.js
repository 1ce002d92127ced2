// Elements, pictures and a canvas that knows where its pixels are.

/** An element. Attributes go through setAttribute, "on…" are listeners; strings become text nodes, never HTML. */
function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** The bytes of a trait, which arrive as a DataView. */
function bytesOf(view) {
  if (!view || !view.byteLength) return new Uint8Array();
  return view instanceof Uint8Array ? view : new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/** Decode a PNG; null if there is none. */
async function bitmapOf(view, type = "image/png") {
  const bytes = bytesOf(view);
  return bytes.length ? createImageBitmap(new Blob([bytes], { type })) : null;
}

/** Call at most once a frame, with the arguments of the last call. */
function perFrame(action) {
  let waiting = 0, last = [];
  const run = (...given) => {
    last = given;
    waiting ||= requestAnimationFrame(() => { waiting = 0; action(...last); });
  };
  run.now = () => { if (waiting) { cancelAnimationFrame(waiting); waiting = 0; action(...last); } };
  return run;
}

/** Call once the next frame has been drawn, and so hold none up; at most once a frame. */
function afterFrame(action) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => setTimeout(() => { waiting = false; action(); }));
  };
}

/** Listen to traits of a model; returns what ends it. */
function watch(model, names, action) {
  const events = names.map((name) => `change:${name}`);
  events.forEach((event) => model.on(event, action));
  return () => events.forEach((event) => model.off(event, action));
}

/**
 * Give the keys pressed inside an element to handler(event), which returns whether it took them, and not to the notebook,
 * which listens on the document before any element does. Combinations with Ctrl or Meta that are not taken go on (so that
 * Ctrl+S saves the notebook). Returns what ends it.
 */
function ownKeys(el, handler) {
  const listen = (event) => {
    if (!event.composedPath().includes(el)) return;
    const taken = handler(event);
    if (taken) event.preventDefault();
    if (taken || !(event.ctrlKey || event.metaKey)) event.stopPropagation();
  };
  window.addEventListener("keydown", listen, true);
  return () => window.removeEventListener("keydown", listen, true);
}

/** Undo and redo over states that are never changed in place. */
class Past {
  constructor(state) { this.before = []; this.state = state; this.after = []; }
  push(state) { this.before.push(this.state); this.state = state; this.after = []; return state; }
  undo() {
    if (this.before.length) { this.after.push(this.state); this.state = this.before.pop(); }
    return this.state;
  }
  redo() {
    if (this.after.length) { this.before.push(this.state); this.state = this.after.pop(); }
    return this.state;
  }
}

/**
 * A canvas over an image, at the screen's own resolution, with zoom and pan.
 *
 * Image coordinates are those of dragonkit: (x, y) pixels, the origin at the centre of the top-left pixel. Screen
 * coordinates are CSS pixels from the canvas's corner: screen = (image + 1/2) * scale + offset.
 *
 * draw(context, view) is called with a context in CSS pixels, at most once a frame.
 */
class View {
  constructor(canvas, draw) {
    Object.assign(this, { canvas, draw, width: 1, height: 1, scale: 1, x: 0, y: 0, shown: [1, 1] });
    this.paint = perFrame(() => this.repaint());
    this.listen();
  }

  /** Take an image size; the canvas becomes as wide as it fits into ``most`` CSS pixels, and all of it is shown. */
  resize(width, height, most = 512) {
    Object.assign(this, { width, height });
    const fit = Math.min(most / width, most / height);
    this.shown = [Math.round(width * fit), Math.round(height * fit)];
    this.canvas.style.width = `${this.shown[0]}px`;
    this.canvas.style.aspectRatio = `${this.shown[0]} / ${this.shown[1]}`;
    this.fit();
  }

  /** Show all of the image. */
  fit() {
    Object.assign(this, { scale: Math.min(this.shown[0] / this.width, this.shown[1] / this.height), x: 0, y: 0 });
    this.paint();
  }

  /** How many times the image is larger than when all of it is shown. */
  get zoom() { return this.scale / Math.min(this.shown[0] / this.width, this.shown[1] / this.height); }

  /** Zoom by a factor about a screen position, between 1 and 32 times. */
  zoomBy(factor, sx = this.shown[0] / 2, sy = this.shown[1] / 2) {
    const least = this.scale / this.zoom;
    const next = Math.min(32 * least, Math.max(least, this.scale * factor));
    this.x = sx - ((sx - this.x) * next) / this.scale;
    this.y = sy - ((sy - this.y) * next) / this.scale;
    this.scale = next;
    this.panBy(0, 0);
  }

  /** Pan by CSS pixels, as far as the image reaches. */
  panBy(dx, dy) {
    const low = (size, shown) => Math.min(0, shown - size * this.scale);
    this.x = Math.min(0, Math.max(low(this.width, this.shown[0]), this.x + dx));
    this.y = Math.min(0, Math.max(low(this.height, this.shown[1]), this.y + dy));
    this.paint();
  }

  /** Screen position of an image position. */
  toScreen(x, y) { return [(x + 0.5) * this.scale + this.x, (y + 0.5) * this.scale + this.y]; }

  /** Image position (fractions kept) of a pointer event. */
  toImage(event) {
    const [sx, sy] = this.toCanvas(event);
    return [(sx - this.x) / this.scale - 0.5, (sy - this.y) / this.scale - 0.5];
  }

  /** Screen position of a pointer event; the canvas may be shown smaller than it asked for. */
  toCanvas(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) * this.shown[0]) / (box.width || 1),
      ((event.clientY - box.top) * this.shown[1]) / (box.height || 1),
    ];
  }

  repaint() {
    const ratio = window.devicePixelRatio || 1;
    const [w, hgt] = this.shown.map((n) => Math.round(n * ratio));
    if (this.canvas.width !== w || this.canvas.height !== hgt) Object.assign(this.canvas, { width: w, height: hgt });
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, ...this.shown);
    this.draw(context, this);
  }

  /** Draw something of the image's size (a bitmap, another canvas) where the image is. */
  drawImage(context, image, smooth = this.scale < 2) {
    context.imageSmoothingEnabled = smooth;
    context.drawImage(image, this.x, this.y, this.width * this.scale, this.height * this.scale);
  }

  listen() {
    const fingers = new Map();
    let panning = null;
    this.canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.shiftKey && !event.altKey) return; // the page scrolls
      event.preventDefault();
      this.zoomBy(Math.exp(-(event.deltaY || event.deltaX) / 300), ...this.toCanvas(event));
    }, { passive: false });
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch") fingers.set(event.pointerId, this.toCanvas(event));
      if (event.button === 1) { panning = this.toCanvas(event); event.preventDefault(); }
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const now = this.toCanvas(event);
      if (panning) { this.panBy(now[0] - panning[0], now[1] - panning[1]); panning = now; }
      if (fingers.size === 2 && fingers.has(event.pointerId)) { // pinch: zoom about the middle, and pan with it
        const [a, b] = [...fingers.values()];
        fingers.set(event.pointerId, now);
        const [c, d] = [...fingers.values()];
        const apart = (p, q) => Math.hypot(p[0] - q[0], p[1] - q[1]) || 1;
        this.zoomBy(apart(c, d) / apart(a, b), (a[0] + b[0]) / 2, (a[1] + b[1]) / 2); // first: what is not zoomed cannot be panned
        this.panBy((c[0] + d[0] - a[0] - b[0]) / 2, (c[1] + d[1] - a[1] - b[1]) / 2);
      }
    });
    const lift = (event) => { fingers.delete(event.pointerId); if (event.button === 1) panning = null; };
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) this.canvas.addEventListener(name, lift);
    this.pinching = () => fingers.size > 1;
    this.observer = new ResizeObserver(() => this.paint());
    this.observer.observe(this.canvas);
  }

  destroy() { this.observer.disconnect(); }
}
