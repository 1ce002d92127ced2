// Feature maps: similarity to a vector (Eq. 4), the best match to fractions of a cell, colours. No document is needed.
//
// A map has rows × columns cells over a picture padded to padded[0] × padded[1] pixels. Its vectors lie one after the
// other, of unit length; what their lengths were is kept apart, for between cells it is the vectors themselves that
// are interpolated.

/** What every half-precision number is in single precision. */
const HALVES = (() => {
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const normal = exponent < 31 ? (1 + fraction / 1024) * 2 ** (exponent - 15) : NaN;
    const size = exponent === 0 ? fraction * 2 ** -24 : normal;
    table[bits] = bits >> 15 ? -size : size;
  }
  return table;
})();

/** Half-precision numbers, widened. */
function widened(halves) {
  const wide = new Float32Array(halves.length);
  for (let i = 0; i < wide.length; i++) wide[i] = HALVES[halves[i]];
  return wide;
}

class FeatureMap {
  /** header: of packing.py; buffers: its three. */
  constructor(header, [units, lengths, colours]) {
    const aligned = (view) => bytesOf(view).slice().buffer; // a view may begin at any byte
    [this.rows, this.columns] = header.shape;
    Object.assign(this, { layer: header.layer, padded: header.padded, channels: header.channels });
    Object.assign(this, { of: header.of, kept: header.kept, colours: bytesOf(colours).slice() });
    this.units = widened(new Uint16Array(aligned(units)));
    this.lengths = new Float32Array(aligned(lengths));
  }

  /** A place in pixels as a place in cells. */
  toCells(x, y) {
    return [(x + 0.5) / (this.padded[0] / this.columns) - 0.5, (y + 0.5) / (this.padded[1] / this.rows) - 0.5];
  }

  /** A place in cells as a place in pixels. */
  toPixels(column, row) {
    return [(column + 0.5) * (this.padded[0] / this.columns) - 0.5, (row + 0.5) * (this.padded[1] / this.rows) - 0.5];
  }

  /** The four cells round a place in pixels and their bilinear shares, held at the border: [[index, share], …]. */
  around(x, y) {
    const [cx, cy] = this.toCells(x, y);
    const column = Math.min(this.columns - 1, Math.max(0, cx)), row = Math.min(this.rows - 1, Math.max(0, cy));
    const left = Math.floor(column), top = Math.floor(row), fx = column - left, fy = row - top;
    const right = Math.min(left + 1, this.columns - 1), below = Math.min(top + 1, this.rows - 1);
    return [
      [top * this.columns + left, (1 - fx) * (1 - fy)], [top * this.columns + right, fx * (1 - fy)],
      [below * this.columns + left, (1 - fx) * fy], [below * this.columns + right, fx * fy],
    ];
  }

  /** The unit vector at a place in pixels. */
  describe(x, y) {
    const vector = new Float32Array(this.channels);
    for (const [index, share] of this.around(x, y)) {
      const weight = share * this.lengths[index], first = index * this.channels;
      for (let c = 0; c < this.channels; c++) vector[c] += weight * this.units[first + c];
    }
    const length = Math.sqrt(vector.reduce((sum, v) => sum + v * v, 0)) || 1;
    return vector.map((v) => v / length);
  }

  /** S of Eq. 4 of every cell: (cos + 1) / 2. */
  similarity(vector) {
    const { units, channels } = this, cells = this.rows * this.columns, s = new Float32Array(cells);
    const query = Float64Array.from(vector), share = (cos) => Math.min(1, Math.max(0, (cos + 1) / 2));
    for (let i = 0; i < cells; i += 4) { // four cells to each reading of the query, the last four twice if need be
      const cell = Math.max(0, Math.min(i, cells - 4)), k = cell * channels;
      const l = k + channels, m = l + channels, n = m + channels;
      let a = 0, b = 0, c = 0, d = 0;
      for (let j = 0; j < channels; j++) {
        const q = query[j];
        a += units[k + j] * q;
        b += units[l + j] * q;
        c += units[m + j] * q;
        d += units[n + j] * q;
      }
      s[cell] = share(a);
      s[cell + 1] = share(b); // of a map of fewer cells these are not there, and setting them does nothing
      s[cell + 2] = share(c);
      s[cell + 3] = share(d);
    }
    return s;
  }

  /** A map of this grid, bilinearly at a place in pixels. */
  at(s, x, y) { return this.around(x, y).reduce((sum, [index, share]) => sum + share * s[index], 0); }

  /** The most similar place on the picture: { x, y } in its pixels, and the score of its cell. */
  best(s, width, height) {
    let most = -1, row = 0, column = 0;
    for (let r = 0; r < this.rows; r++) {
      for (let c = 0; c < this.columns; c++) {
        if (s[r * this.columns + c] <= most) continue;
        const [x, y] = this.toPixels(c, r);
        if (x > width - 0.5 || y > height - 0.5) continue; // what pads a picture is not in it
        [most, row, column] = [s[r * this.columns + c], r, c];
      }
    }
    const [dx, dy] = this.vertex(s, row, column), [x, y] = this.toPixels(column + dx, row + dy);
    const held = (value, size) => Math.min(size - 0.5, Math.max(-0.5, value));
    return { x: held(x, width), y: held(y, height), score: most };
  }

  /** Where the paraboloid at a peak is highest, relative to it, in cells: -H⁻¹ g, and 0 along an axis with no peak. */
  vertex(s, row, column) {
    const held = (v, size) => Math.min(size - 1, Math.max(0, v));
    const f = (dy, dx) => s[held(row + dy, this.rows) * this.columns + held(column + dx, this.columns)];
    const gx = (f(0, 1) - f(0, -1)) / 2, hxx = f(0, -1) - 2 * f(0, 0) + f(0, 1);
    const gy = (f(1, 0) - f(-1, 0)) / 2, hyy = f(-1, 0) - 2 * f(0, 0) + f(1, 0);
    const hxy = (f(-1, -1) + f(1, 1) - f(-1, 1) - f(1, -1)) / 4;
    const freeX = column > 0 && column < this.columns - 1 && hxx < 0;
    const freeY = row > 0 && row < this.rows - 1 && hyy < 0;
    const det = hxx * hyy - hxy * hxy, joint = freeX && freeY && det > 0;
    const x = joint ? (hxy * gy - hyy * gx) / det : -gx / hxx;
    const y = joint ? (hxy * gx - hxx * gy) / det : -gy / hyy;
    const half = (v) => Math.min(0.5, Math.max(-0.5, v));
    return [freeX ? half(x) : 0, freeY ? half(y) : 0];
  }
}

/** Viridis, from 17 of its colours: dark is low, and equal steps look equal. */
const VIRIDIS = (() => {
  const stops = ("440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26818e 21908c 1f9f88 28ae80 3ebc74 5dc963 82d34c "
    + "abdc32 d5e21a fde725").split(" ").map((text) => [0, 2, 4].map((i) => parseInt(text.slice(i, i + 2), 16)));
  const table = new Uint32Array(256); // as ImageData has them: one number a pixel, alpha first
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (stops.length - 1), k = Math.min(stops.length - 2, Math.floor(place));
    const [r, g, b] = stops[k].map((v, n) => Math.round(v + (stops[k + 1][n] - v) * (place - k)));
    table[i] = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  }
  return table;
})();

/** Paint values from low to high into pixels (an ImageData). */
function paintMap(pixels, s, low, high) {
  const out = new Uint32Array(pixels.data.buffer), scale = 255 / (high - low || 1);
  for (let i = 0; i < s.length; i++) out[i] = VIRIDIS[Math.min(255, Math.max(0, Math.round((s[i] - low) * scale)))];
}

/** Paint colours (red, green, blue a cell) into pixels. */
function paintColours(pixels, colours) {
  for (let i = 0, k = 0; k < colours.length; i += 4, k += 3) pixels.data.set([...colours.subarray(k, k + 3), 255], i);
}
