// A mask as one byte a pixel, and the shapes that are painted into it.

/** Pixels: an edge that runs through a pixel's centre takes the pixel, however the pointer's position was rounded. */
const EDGE = 1e-3;

/**
 * Rules, in image coordinates (a pixel's centre has whole ones): a box or a lasso takes the pixels whose centres lie in
 * it, its edge included; a stroke those whose centres are at most its radius away from the way of the pointer.
 */
class Mask {
  constructor(width, height) {
    Object.assign(this, { width, height, bits: new Uint8Array(width * height), version: 0, source: null, sum: 0 });
  }

  /** The bits have been changed: what was derived from them no longer holds. */
  changed() { this.version++; this.source = this.sum = null; }

  /** Take packed bits, as numpy.packbits has them; none at all mean an empty mask. */
  load(packed) {
    const { bits } = this;
    if (packed === this.source) return;
    if (!packed.length) bits.fill(0);
    else for (let i = 0; i < bits.length; i++) bits[i] = (packed[i >> 3] >> (7 - (i & 7))) & 1;
    this.changed();
    this.source = packed;
  }

  /** The packed bits, or none if nothing is set. */
  packed() {
    if (this.source) return this.source;
    const bytes = new Uint8Array((this.bits.length + 7) >> 3);
    let any = 0;
    for (let i = 0; i < this.bits.length; i++) any |= bytes[i >> 3] |= this.bits[i] << (7 - (i & 7));
    return (this.source = any ? bytes : new Uint8Array());
  }

  /** How many pixels are set. */
  count() {
    if (this.sum === null) this.sum = this.bits.reduce((sum, bit) => sum + bit, 0);
    return this.sum;
  }

  /** Pixels of row y whose centres are in [left, right]. */
  span(y, left, right, value) {
    const from = Math.max(0, Math.ceil(left - EDGE)), to = Math.min(this.width - 1, Math.floor(right + EDGE));
    if (from <= to) this.bits.fill(value, y * this.width + from, y * this.width + to + 1);
  }

  /** Call action(y) for the rows whose centres are in [top, bottom]. */
  rows(top, bottom, action) {
    const last = Math.min(this.height - 1, Math.floor(bottom + EDGE));
    for (let y = Math.max(0, Math.ceil(top - EDGE)); y <= last; y++) action(y);
    this.changed();
  }

  box([x0, y0], [x1, y1], value) {
    const [left, right, top, bottom] = [Math.min(x0, x1), Math.max(x0, x1), Math.min(y0, y1), Math.max(y0, y1)];
    this.rows(top, bottom, (y) => this.span(y, left, right, value));
  }

  /** A disc drawn along a line. The shape is convex: a row of it is one span, from disc, line or disc. */
  stroke([x0, y0], [x1, y1], radius, value) {
    const length = Math.hypot(x1 - x0, y1 - y0), [ux, uy] = length ? [(x1 - x0) / length, (y1 - y0) / length] : [1, 0];
    /** Where, along a row, slope * x lies in [low, high]. */
    const within = (slope, low, high) => {
      if (Math.abs(slope) < 1e-9) return low <= 0 && high >= 0 ? [-Infinity, Infinity] : [Infinity, -Infinity];
      return slope > 0 ? [low / slope, high / slope] : [high / slope, low / slope];
    };
    this.rows(Math.min(y0, y1) - radius, Math.max(y0, y1) + radius, (y) => {
      let left = Infinity, right = -Infinity;
      for (const [x, middle] of [[x0, y0], [x1, y1]]) {
        const half = radius * radius - (y - middle) ** 2;
        if (half >= 0) [left, right] = [Math.min(left, x - Math.sqrt(half)), Math.max(right, x + Math.sqrt(half))];
      }
      const dy = y - y0; // between the ends: at most length along the line, at most radius across it
      const along = within(ux, -uy * dy, length - uy * dy), across = within(-uy, -radius - ux * dy, radius - ux * dy);
      const from = Math.max(along[0], across[0]), to = Math.min(along[1], across[1]);
      if (from <= to) [left, right] = [Math.min(left, x0 + from), Math.max(right, x0 + to)];
      this.span(y, left, right, value);
    });
  }

  /** A closed line of corners; where it crosses itself, what it runs round at all is inside. */
  lasso(corners, value) {
    const heights = corners.map(([, y]) => y);
    this.rows(Math.min(...heights), Math.max(...heights), (y) => {
      const cuts = [];
      corners.forEach(([xa, ya], i) => {
        const [xb, yb] = corners[(i + 1) % corners.length];
        if (ya <= y !== yb <= y) cuts.push([xa + ((y - ya) * (xb - xa)) / (yb - ya), ya <= y ? 1 : -1]);
      });
      let turns = 0;
      cuts.sort((a, b) => a[0] - b[0]).forEach(([x, turn], i) => {
        turns += turn;
        if (turns) this.span(y, x, cuts[i + 1][0], value);
      });
    });
  }

  invert() {
    for (let i = 0; i < this.bits.length; i++) this.bits[i] ^= 1;
    this.changed();
  }

  /** Grow by a pixel in every direction, diagonals included (value 1), or shrink (0); the image's border is no edge. */
  grow(value) {
    const { width, height, bits } = this, wide = bits.slice();
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        if ((x && bits[i - 1] === value) || (x < width - 1 && bits[i + 1] === value)) wide[i] = value;
      }
    }
    bits.set(wide);
    for (let i = 0; i < bits.length; i++) {
      if (wide[i - width] === value || wide[i + width] === value) bits[i] = value; // outside: undefined
    }
    this.changed();
  }
}
