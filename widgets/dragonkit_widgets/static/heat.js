// Numbers on a grid as colours.

const RAMPS = { // nine samples each of viridis and of a diverging map from blue over white to red
  size: ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"],
  sign: ["#053061", "#2a71b2", "#6bacd1", "#c2ddec", "#f7f6f6", "#fbccb4", "#e48066", "#ba2832", "#67001f"],
};

/** The 256 colours of a ramp, three bytes each. */
const coloursOf = Object.fromEntries(Object.entries(RAMPS).map(([name, stops]) => {
  const rgb = stops.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return [name, Uint8ClampedArray.from({ length: 768 }, (_, k) => {
    const place = (Math.floor(k / 3) / 255) * (stops.length - 1), left = Math.min(Math.floor(place), stops.length - 2);
    return rgb[left][k % 3] + (place - left) * (rgb[left + 1][k % 3] - rgb[left][k % 3]);
  })];
}));

/**
 * A canvas with one pixel a cell. ``opacity`` maps 0..1 to 0..1.
 */
function heat({ values, h, w }, low, high, ramp = "size", opacity = () => 1) {
  const canvas = Object.assign(document.createElement("canvas"), { width: w, height: h });
  const pixels = new ImageData(w, h), colours = coloursOf[ramp], span = high - low || 1;
  for (let k = 0; k < h * w; k++) {
    const part = Math.min(1, Math.max(0, (values[k] - low) / span)), at = 3 * Math.round(255 * part);
    for (let c = 0; c < 3; c++) pixels.data[4 * k + c] = colours[at + c];
    pixels.data[4 * k + 3] = 255 * opacity(part);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

/** A colour bar with its numbers: update(low, high, ramp), or update() for none. */
class Scale {
  constructor(title) {
    this.low = h("span"); this.high = h("span"); this.strip = h("span", { class: "dk-ramp" });
    this.element = h("div", { class: "dk-scale", title }, this.low, this.strip, this.high);
  }
  update(low, high, ramp) {
    this.element.style.visibility = ramp ? "visible" : "hidden";
    if (!ramp) return;
    this.low.textContent = short(low);
    this.high.textContent = short(high);
    this.strip.style.background = `linear-gradient(to right, ${RAMPS[ramp].join(", ")})`;
  }
}

/** A number in three digits. */
function short(x) {
  if (x == null || !Number.isFinite(x)) return "–";
  const size = Math.abs(x);
  return size && (size < 1e-3 || size >= 1e5) ? x.toExponential(1) : String(Number(x.toPrecision(3)));
}
