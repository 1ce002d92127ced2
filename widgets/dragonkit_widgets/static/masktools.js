// The tools that paint a mask. A tool gets image positions: down, move and up; cancel undoes what is not finished.

class Stroke {
  constructor(sketch, value) { Object.assign(this, { sketch, value, cursor: "crosshair", round: true, last: null }); }

  get hint() { return this.value ? "Paint over the object." : "Wipe the mask away."; }

  /** Never narrower than a pixel's diagonal, so that the pixel under the pointer is always taken. */
  get radius() { return Math.max(this.sketch.brush / 2, Math.SQRT1_2); }

  down(at) { this.last = at; this.move(at); }

  move(at) {
    if (!this.last) return;
    this.sketch.mask.stroke(this.last, at, this.radius, this.value);
    this.last = at;
  }

  up() { this.last = null; this.sketch.commit(); }

  rest() { this.last = null; }
}

/** Corners are collected, and the shape is painted when the pointer lifts. */
class Shape {
  constructor(sketch, kind) { Object.assign(this, { sketch, kind, cursor: "crosshair", corners: [] }); }

  get hint() {
    const what = this.kind === "box" ? "Drag from corner to corner of a box" : "Draw a line round the object";
    return `${what}${this.sketch.takes() ? ": it is taken away." : "; with Alt it is taken away."}`;
  }

  down(at) { this.corners = [at]; }

  move(at) {
    if (!this.corners.length) return;
    this.corners = this.kind === "box" ? [this.corners[0], at] : [...this.corners, at];
  }

  up(at, event) {
    const { corners, sketch } = this;
    this.corners = [];
    if (corners.length > 1) {
      const value = sketch.takes(event) ? 0 : 1;
      if (this.kind === "box") sketch.mask.box(...corners, value);
      else sketch.mask.lasso(corners, value);
    }
    sketch.commit();
  }

  rest() { this.corners = []; }

  draw(context, view) {
    if (this.corners.length < 2) return;
    const path = new Path2D(), [first, ...others] = this.corners.map((corner) => view.toScreen(...corner));
    if (this.kind === "box") path.rect(...first, others[0][0] - first[0], others[0][1] - first[1]);
    else { path.moveTo(...first); others.forEach((corner) => path.lineTo(...corner)); path.closePath(); }
    for (const [colour, offset] of [["#000", 0], ["#fff", 5]]) {
      context.setLineDash([5, 5]);
      Object.assign(context, { strokeStyle: colour, lineWidth: 1.5, lineDashOffset: offset });
      context.stroke(path);
    }
    context.setLineDash([]);
  }
}

/** Python finds the region of a click. */
class Segment {
  constructor(sketch) { Object.assign(this, { sketch, cursor: "cell", at: null }); }

  get hint() {
    return `Click a region of one colour${this.sketch.takes() ? ": it is taken away." : "; with Alt it is taken away."}`;
  }

  down(at) { this.at = at; }

  move() {}

  up(at, event) {
    if (!this.at) return;
    this.sketch.ask({ segment: this.at, add: !this.sketch.takes(event) });
    this.at = null;
  }

  rest() { this.at = null; }
}

class Pan {
  constructor(sketch) { Object.assign(this, { sketch, cursor: "grab", at: null, hint: "Drag the image; Ctrl and the wheel zoom." }); }

  down(at, event) { this.at = event ? this.sketch.view.toCanvas(event) : null; }

  move(at, event) {
    if (!this.at || !event) return;
    const now = this.sketch.view.toCanvas(event);
    this.sketch.view.panBy(now[0] - this.at[0], now[1] - this.at[1]);
    this.at = now;
  }

  up() { this.at = null; }

  rest() { this.at = null; }
}
