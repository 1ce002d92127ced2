// The steps of a run as Python packed them (reel.py), unpacked once and their pictures decoded ahead.

const CELLS = 16; // whose attention is remembered, half a megabyte each with the bundled model

class Reel {
  constructor(changed) { Object.assign(this, { changed, film: -1, steps: [], gazes: new Map() }); }

  get count() { return this.steps.length; }

  /** Forget what is there and take another run. */
  begin(film, blocks = [], wanted = -1) {
    for (const step of this.steps) step?.picture?.close();
    Object.assign(this, { film, steps: [], gazes: new Map() });
    this.take(0, blocks, wanted);
  }

  /** Take blocks of steps, from the first's index on; steps that are there already stay. The picture of step ``wanted``
      is decoded before the others. */
  take(first, blocks, wanted = -1) {
    const files = [];
    blocks.forEach((block, k) => {
      if (this.steps[first + k]) return;
      const { step, file } = unpacked(block);
      this.steps[first + k] = step;
      if (file) files[first + k === wanted ? "unshift" : "push"]([step, file]);
    });
    for (const [step, { bytes, type }] of files) {
      bitmapOf(bytes, type).then(
        (picture) => { if (this.steps.includes(step)) { step.picture = picture; this.changed(); } else picture.close(); },
        () => { step.broken = true; this.changed(); },
      );
    }
    this.changed();
  }

  /** The step with the newest picture that is no newer than step k, as [index, bitmap]; [] if there is none. */
  pictureAt(k) {
    for (; k >= 0; k--) if (this.steps[k]?.picture) return [k, this.steps[k].picture];
    return [];
  }

  /** Names of all energy terms, in the order in which they come up. */
  get terms() { return [...new Set(this.steps.flatMap((step) => Object.keys(step?.energies ?? {})))]; }

  /** Names of all layers whose attention was recorded. */
  get layers() { return [...new Set(this.steps.flatMap((step) => Object.keys(step?.looks ?? {})))]; }

  /** The cell of the finest attention layer that a pixel lies in: pixels of one cell look alike. */
  cellOf(pin, width) {
    const fine = this.steps.flatMap((step) => Object.values(step?.grids ?? {})).reduce((a, b) => (b.w > a.w ? b : a), { w: 0 });
    return fine.w ? cellAt(fine, width, pin) : -1;
  }

  /** At how many steps it is known where a cell looks. */
  known(cell) { return this.gazes.get(cell)?.length ?? 0; }

  /** Take what Python says of a cell, step by step; cells that were asked for long ago are forgotten. */
  hear(cell, first, blocks) {
    const steps = this.gazes.get(cell) ?? [];
    blocks.forEach((block, k) => { steps[first + k] ??= unpacked(block).step.looks; });
    this.gazes.delete(cell);
    this.gazes.set(cell, steps);
    if (this.gazes.size > CELLS) this.gazes.delete(this.gazes.keys().next().value);
    this.changed();
  }

  /** Where a cell looks at step k, as step.looks: {} if it was not observed, undefined if that is not known yet. */
  gazeOf(cell, k) { return this.gazes.get(cell)?.[k]; }

  /** The largest magnitude of a gradient view over all steps. */
  most(channel) {
    return Math.max(0, ...this.steps.flatMap((step) => (step?.grad ? [peak(channelOf(step.grad, channel).values)] : [])));
  }
}

/** The largest magnitude in a list of numbers. */
function peak(values) { let most = 0; for (const v of values) most = Math.max(most, Math.abs(v)); return most; }

/** A property that is computed when it is first read. */
function later(object, name, compute) {
  const keep = (value) => { Object.defineProperty(object, name, { value, enumerable: true }); return value; };
  Object.defineProperty(object, name, { get: () => keep(compute()), enumerable: true, configurable: true });
}

/** A block's step, and the file of its picture. Numbers are unpacked when they are first looked at. */
function unpacked(block) {
  const bytes = bytesOf(block);
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const part = (place) => bytes.slice(4 + length + place.start, 4 + length + place.start + place.length);
  const numbers = (place) => Float32Array.from(new Int16Array(part(place).buffer)).map((v) => v * place.scale);
  const step = { ...head, looks: {}, grids: {} }; // of where it looks, and of what looks
  if (head.grad) later(step, "grad", () => ({ values: numbers(head.grad), shape: head.grad.shape }));
  for (const [name, place] of Object.entries(head.looks)) {
    step.grids[name] = { h: place.shapes[0][0], w: place.shapes[0][1] };
    later(step.looks, name, () => {
      const all = numbers(place);
      let start = 0;
      return place.shapes.map(([rows, columns]) => {
        const values = all.subarray(start, start += rows * columns);
        return { values, h: rows, w: columns };
      });
    });
  }
  return { step, file: head.frame && { bytes: part(head.frame), type: head.frame.type } };
}

/** One view of a gradient (C, h, w): a channel from 0, or with -1 the norm over channels. */
function channelOf({ values, shape: [channels, h, w] }, channel) {
  const cells = h * w;
  if (channel >= 0) return { values: values.subarray(channel * cells, (channel + 1) * cells), h, w };
  const norm = new Float32Array(cells);
  for (let k = 0; k < values.length; k++) norm[k % cells] += values[k] * values[k];
  return { values: norm.map(Math.sqrt), h, w };
}

/** Attention of one step: the maps of a layer, or their mean over all layers on the finest grid ("" for the layer). */
function looksOf(looks, layer) {
  const chosen = layer ? [looks[layer]].filter(Boolean) : Object.values(looks);
  if (!chosen.length) return null;
  return chosen[0].map((_, place) => {
    const h = Math.max(...chosen.map((maps) => maps[place].h)), w = Math.max(...chosen.map((maps) => maps[place].w));
    const values = new Float32Array(h * w);
    for (const { [place]: map } of chosen) {
      const down = h / map.h, right = w / map.w, share = 1 / (chosen.length * down * right);
      for (let y = 0; y < h; y++) for (let x = 0; x < w; x++)
        values[y * w + x] += share * map.values[Math.floor(y / down) * map.w + Math.floor(x / right)];
    }
    return { values, h, w };
  });
}

/** Pixels a cell: the padded image is a power of two times the grid, and less than twice the image. */
function cellSize(map, width) { return 2 ** Math.ceil(Math.log2(width / map.w) - 1e-9); }

/** The cell of a map that an image pixel lies in, as an index. */
function cellAt(map, width, [x, y]) {
  const size = cellSize(map, width), clip = (v, n) => Math.min(n - 1, Math.max(0, Math.floor(v / size)));
  return clip(y, map.h) * map.w + clip(x, map.w);
}

/** The image pixel at the middle of a map's largest cell, of those that lie in the image. */
function spotOfMost(map, [width, height]) {
  const size = cellSize(map, width), middle = (size - 1) / 2;
  const inside = (k) => (k % map.w) * size < width && Math.floor(k / map.w) * size < height;
  let most = 0;
  map.values.forEach((v, k) => { if (v > map.values[most] && inside(k)) most = k; });
  return [(most % map.w) * size + middle, Math.floor(most / map.w) * size + middle];
}
