// A mask over an image: translucent, with a light line inside its edge and a dark one outside, at the screen's resolution.

const rgba = (r, g, b, a) => new Uint32Array(new Uint8ClampedArray([r, g, b, a]).buffer)[0];
const FILL = rgba(0, 200, 255, 107), LIGHT = rgba(255, 255, 255, 255), DARK = rgba(20, 20, 20, 255);

class Overlay {
  constructor() { this.canvas = document.createElement("canvas"); this.drawn = ""; }

  /** Draw a mask where a view shows its image. */
  paint(context, view, mask) {
    const { width, height } = view.canvas;
    const state = [width, height, view.x, view.y, view.scale, mask.version, mask.width, mask.height].join();
    if (state !== this.drawn) this.render(view, mask);
    this.drawn = state;
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(this.canvas, 0, 0);
    context.restore();
  }

  render(view, mask) {
    const { width, height } = Object.assign(this.canvas, { width: view.canvas.width, height: view.canvas.height });
    const ratio = width / view.shown[0], { bits } = mask;
    const pixel = (device, offset, count) => {
      const at = Math.floor(((device + 0.5) / ratio - offset) / view.scale);
      return Math.min(count - 1, Math.max(0, at));
    };
    const columns = Int32Array.from({ length: width }, (_, i) => pixel(i, view.x, mask.width));
    const inside = new Uint8Array(width * height);
    for (let j = 0, i = 0; j < height; j++) {
      const row = pixel(j, view.y, mask.height) * mask.width;
      for (let c = 0; c < width; c++) inside[i++] = bits[row + columns[c]];
    }
    const context = this.canvas.getContext("2d"), image = context.createImageData(width, height);
    const colours = new Uint32Array(image.data.buffer), line = Math.max(1, Math.round(ratio));
    for (let j = 0, i = 0; j < height; j++) {
      const above = j < line ? 0 : -line * width, below = j >= height - line ? 0 : line * width;
      for (let c = 0; c < width; c++, i++) {
        const own = inside[i];
        const left = c < line ? 0 : -line, right = c >= width - line ? 0 : line;
        const around = inside[i + left] + inside[i + right] + inside[i + above] + inside[i + below];
        if (own) colours[i] = around < 4 ? LIGHT : FILL;
        else if (around) colours[i] = DARK;
      }
    }
    context.putImageData(image, 0, 0);
  }
}
