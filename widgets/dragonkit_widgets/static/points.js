// Arrows from a handle to its target: (x0, y0, x1, y1) each, in image pixels. Lists of them are never changed in place.

const HANDLE_COLOUR = "#ff3b30", TARGET_COLOUR = "#2f6bff";
const BOTH = 2; // ends of an arrow: 0 the handle, 1 the target

const stays = ([x0, y0, x1, y1]) => x0 === x1 && y0 === y1;

/** The arrow with an end (or both) moved, no farther than the image reaches; whole pixels if snap. */
function movedBy(arrow, end, dx, dy, size, snap) {
  const low = snap ? 0 : -0.5, next = [...arrow];
  [dx, dy].forEach((shift, axis) => {
    const ends = end === BOTH ? [axis, axis + 2] : [axis + 2 * end], high = size[axis] - (snap ? 1 : 0.5);
    const least = low - Math.min(...ends.map((i) => arrow[i])), most = high - Math.max(...ends.map((i) => arrow[i]));
    const held = Math.min(Math.max(shift, least), most);
    for (const i of ends) next[i] = snap ? Math.round(arrow[i] + held) : arrow[i] + held;
  });
  return next;
}

/** Which end of which arrow is within a distance (image pixels) of a position: [index, end], or null. The last drawn wins. */
function hit(arrows, [x, y], reach) {
  let best = null, least = reach;
  arrows.forEach((arrow, index) => {
    for (const end of [0, 1]) {
      const far = Math.hypot(arrow[2 * end] - x, arrow[2 * end + 1] - y);
      if (far <= least) [best, least] = [[index, stays(arrow) ? BOTH : end], far];
    }
  });
  return best;
}

/** Draw one arrow; chosen is the end that the keyboard moves, or null. */
function drawArrow(context, view, arrow, number, chosen) {
  const [a, b] = [view.toScreen(arrow[0], arrow[1]), view.toScreen(arrow[2], arrow[3])];
  const length = Math.hypot(b[0] - a[0], b[1] - a[1]), angle = Math.atan2(b[1] - a[1], b[0] - a[0]);
  context.lineCap = context.lineJoin = "round";
  if (length > 1) {
    const line = new Path2D(), head = new Path2D(), barb = Math.min(13, length / 2), gap = Math.min(6, length / 3);
    const tip = [b[0] - gap * Math.cos(angle), b[1] - gap * Math.sin(angle)]; // just before the target's dot
    line.moveTo(...a);
    line.lineTo(...tip);
    head.moveTo(...tip);
    for (const turn of [0.42, -0.42]) {
      head.lineTo(tip[0] - barb * Math.cos(angle + turn), tip[1] - barb * Math.sin(angle + turn));
    }
    head.closePath();
    for (const [colour, width] of [["rgba(0, 0, 0, 0.75)", 5], ["#fff", 2.5]]) {
      Object.assign(context, { strokeStyle: colour, lineWidth: width, fillStyle: colour });
      context.stroke(line);
      context.stroke(head);
      context.fill(head);
    }
    dot(context, b, 4.5, TARGET_COLOUR, chosen === 1 || chosen === BOTH);
  }
  dot(context, a, 6, HANDLE_COLOUR, chosen === 0 || chosen === BOTH);
  if (number) {
    const side = length > 1 && Math.cos(angle) < 0 ? 12 : -12; // away from the arrow
    Object.assign(context, { font: "600 12px system-ui, sans-serif", textAlign: side < 0 ? "right" : "left" });
    Object.assign(context, { textBaseline: "middle", strokeStyle: "rgba(0, 0, 0, 0.8)", lineWidth: 3, fillStyle: "#fff" });
    context.strokeText(number, a[0] + side, a[1]);
    context.fillText(number, a[0] + side, a[1]);
  }
}

function dot(context, [x, y], radius, colour, chosen) {
  const ring = (r, style) => {
    context.beginPath();
    context.arc(x, y, r, 0, 2 * Math.PI);
    context.fillStyle = style;
    context.fill();
  };
  if (chosen) ring(radius + 5, "rgba(0, 0, 0, 0.75)");
  if (chosen) ring(radius + 4, "#ffd60a");
  ring(radius + 2.5, "rgba(0, 0, 0, 0.75)");
  ring(radius + 1.5, "#fff");
  ring(radius, colour);
}

/** A circle as wide as a brush. */
function drawRing(context, at, radius) {
  for (const [style, width] of [["rgba(0, 0, 0, 0.8)", 3], ["#fff", 1.5]]) {
    Object.assign(context, { strokeStyle: style, lineWidth: width });
    context.beginPath();
    context.arc(...at, radius, 0, 2 * Math.PI);
    context.stroke();
  }
}

/** Where the keyboard draws. */
function drawCross(context, [x, y]) {
  const path = new Path2D(`M${x - 12} ${y}H${x - 3}M${x + 3} ${y}H${x + 12}M${x} ${y - 12}V${y - 3}M${x} ${y + 3}V${y + 12}`);
  for (const [style, width] of [["#000", 4], ["#fff", 2]]) {
    Object.assign(context, { strokeStyle: style, lineWidth: width });
    context.stroke(path);
  }
}

/** The tool that draws and moves arrows. */
class PointTool {
  constructor(sketch) {
    Object.assign(this, { sketch, cursor: "crosshair", held: null, waiting: false, end: 1 });
  }

  get hint() {
    if (this.waiting) return "Click where it goes; or press Esc, and it stays where it is.";
    return "Drag from what moves to where it goes, or click both. Ends can be dragged.";
  }

  reach(event) { return (event?.pointerType === "touch" ? 22 : 11) / this.sketch.view.scale; }

  /** Drop what waits for a second click. */
  rest() { this.waiting = false; this.held = null; }

  down(at, event) {
    const { sketch } = this, found = this.waiting ? null : hit(sketch.points, at, this.reach(event));
    const size = [sketch.mask.width, sketch.mask.height];
    let index = this.waiting ? sketch.selected : found?.[0] ?? sketch.points.length;
    this.end = found ? found[1] : 1;
    if (found && event?.shiftKey) this.end = BOTH;
    if (found && event?.altKey) this.end = 1; // pulls an arrow out of a point that stays
    const fresh = !this.waiting && !found;
    if (fresh) {
      const [x, y] = movedBy([0, 0, 0, 0], 0, ...at, size, sketch.snap);
      sketch.points = [...sketch.points, [x, y, x, y]];
    }
    this.held = { index, at, arrow: sketch.points[index], fresh, size };
    sketch.select(index);
    if (this.waiting) this.move(at);
  }

  move(at) {
    if (!this.held) return;
    const { held: { index, arrow, size }, sketch } = this;
    // A new target comes to the pointer; an end that is dragged keeps its distance to it.
    const from = this.waiting || this.held.fresh ? arrow.slice(2) : this.held.at;
    const next = movedBy(arrow, this.end, at[0] - from[0], at[1] - from[1], size, sketch.snap);
    sketch.points = sketch.points.map((old, i) => (i === index ? next : old));
  }

  up(at) {
    if (!this.held) return;
    const { held: { index, arrow, fresh }, sketch } = this;
    const near = 4 / sketch.view.scale, moved = Math.hypot(at[0] - this.held.at[0], at[1] - this.held.at[1]) > near;
    const home = this.waiting && Math.hypot(at[0] - arrow[0], at[1] - arrow[1]) <= 2 * near;
    if ((fresh && !moved) || home) {
      const point = [arrow[0], arrow[1], arrow[0], arrow[1]];
      sketch.points = sketch.points.map((old, i) => (i === index ? point : old));
      this.end = BOTH;
    }
    this.waiting = fresh && !moved;
    this.held = null;
    sketch.commit();
  }

  /** The line to where a second click would put the target. */
  draw(context, view, hover) {
    const arrow = this.sketch.points[this.sketch.selected];
    if (!this.waiting || this.held || !hover || !arrow) return;
    context.setLineDash([5, 5]);
    Object.assign(context, { strokeStyle: "#fff", lineWidth: 2 });
    context.beginPath();
    context.moveTo(...view.toScreen(arrow[0], arrow[1]));
    context.lineTo(...view.toScreen(...hover));
    context.stroke();
    context.setLineDash([]);
  }
}
