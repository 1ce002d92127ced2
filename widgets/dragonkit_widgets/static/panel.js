// A picture under a map, with marks on it.

const INK = "#000", LIGHT = "#fff", TRUE = "#ff9f43";

/** Marks at a place of a panel: light on dark, so that they are seen on every colour. */
function drawMark(context, [x, y], shape, r) {
  context.beginPath();
  if (shape === "ring") {
    context.arc(x, y, r, 0, 7);
    context.moveTo(x + 0.5, y);
    context.arc(x, y, 0.5, 0, 7);
  } else if (shape === "cross") {
    for (const [dx, dy] of [[r, r], [r, -r]]) { context.moveTo(x - dx, y - dy); context.lineTo(x + dx, y + dy); }
  } else {
    for (const [dx, dy] of [[-r, 0], [0, -r], [r, 0], [0, r]]) context.lineTo(x + dx, y + dy);
    context.closePath();
  }
  for (const [style, width] of [[INK, r > 5 ? 4.5 : 3], [shape === "diamond" ? TRUE : LIGHT, r > 5 ? 2 : 1.25]]) {
    Object.assign(context, { strokeStyle: style, lineWidth: width });
    context.stroke();
  }
}

/** A picture with a map over it and marks; state() says which: { tile, padded, opacity, marks: [[place, shape], …] }. */
class Panel {
  constructor(most, state, attributes) {
    Object.assign(this, { most, state, bitmap: null });
    this.canvas = h("canvas", attributes);
    this.view = new View(this.canvas, (context) => this.draw(context));
  }

  show(bitmap) { this.bitmap = bitmap; this.view.resize(bitmap.width, bitmap.height, this.most); }

  /** A place in pixels, brought onto the picture. */
  held(place) {
    const size = [this.bitmap.width, this.bitmap.height];
    return place.map((v, k) => Math.min(size[k] - 0.5, Math.max(-0.5, v)));
  }

  holds(place) { return this.held(place).every((v, k) => v === place[k]); }

  draw(context) {
    if (!this.bitmap) return;
    const { view } = this, { tile, padded, opacity, marks } = this.state();
    view.drawImage(context, this.bitmap);
    if (tile) { // a map reaches over what pads the picture, which is not shown
      context.save();
      context.beginPath();
      context.rect(view.x, view.y, view.width * view.scale, view.height * view.scale);
      context.clip();
      Object.assign(context, { globalAlpha: opacity, imageSmoothingEnabled: true });
      context.drawImage(tile, view.x, view.y, padded[0] * view.scale, padded[1] * view.scale);
      context.restore();
    }
    const places = marks.map(([place, shape]) => [view.toScreen(...place), shape]);
    if (places.length === 2) { // the match and the truth: how far apart
      context.beginPath();
      places.forEach(([place]) => context.lineTo(...place));
      Object.assign(context, { strokeStyle: LIGHT, lineWidth: 1.5 });
      context.setLineDash([4, 3]);
      context.stroke();
      context.setLineDash([]);
    }
    for (const [place, shape] of places) drawMark(context, place, shape, (this.most > 150 ? 6 : 3) * (shape === "diamond" ? 1.7 : 1));
  }
}
