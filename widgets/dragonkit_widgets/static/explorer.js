// The correspondence explorer: point at picture A, and see what is like it, there and in picture B.

function explore(model, el, shelf) {
  const two = bytesOf(model.get("_image_b")).length > 0, size = model.get("_size");
  const layers = model.get("_layers"), timesteps = model.get("_timesteps");
  const flow = new Float32Array(bytesOf(model.get("_truth")).slice().buffer);
  const tiles = new WeakMap(), results = new Map(); // FeatureMap -> canvas; layer -> what the point gives there
  let hover = null, held = null, full = false; // where the mouse is over A, and where a pin is being dragged
  const ends = [];

  const point = () => held ?? model.get("point") ?? hover;
  const maps = () => shelf.at(model.get("timestep"));
  const set = (name, value) => { model.set(name, value); model.save_changes(); };

  /** The canvas of a map, a pixel a cell, painted by ``paint``. */
  function tile(map, paint) {
    if (!tiles.has(map)) {
      const canvas = h("canvas", { width: map.columns, height: map.rows }), context = canvas.getContext("2d");
      tiles.set(map, { canvas, context, pixels: context.createImageData(map.columns, map.rows) });
    }
    const { canvas, context, pixels } = tiles.get(map);
    paint(pixels);
    context.putImageData(pixels, 0, 0);
    return canvas;
  }

  /** What a layer makes of the point: similarities, their span, the best match, and canvases of them. */
  function compute(layer) {
    const pair = maps()?.get(layer), place = point();
    results.delete(layer);
    if (!pair || !panels.a.bitmap || (two && !panels.b.bitmap)) return;
    const sides = two ? ["a", "b"] : ["a"], result = { pair, s: {}, tiles: {}, low: 0, high: 1, best: null };
    if (place) {
      const vector = pair.a.describe(...place);
      for (const side of sides) result.s[side] = pair[side].similarity(vector);
      const { b } = panels;
      if (two) result.best = pair.b.best(result.s.b, b.bitmap.width, b.bitmap.height);
      const least = Math.min(...Object.values(result.s).map((s) => s.reduce((x, y) => Math.min(x, y), 1)));
      if (!full && least < 0.999) result.low = least;
    }
    for (const side of sides) {
      const map = pair[side], s = result.s[side];
      if (model.get("view") === "components") result.tiles[side] = tile(map, (p) => paintColours(p, map.colours));
      else if (s) result.tiles[side] = tile(map, (p) => paintMap(p, s, result.low, result.high));
    }
    results.set(layer, result);
  }

  /** Where the point really is in B; null if that is not known. */
  function truth(place) {
    if (!flow.length || !place || !panels.a.bitmap) return null;
    const { width, height } = panels.a.bitmap;
    const [column, row] = [width, height].map((n, k) => Math.min(n - 1, Math.floor(place[k] + 0.5)));
    const at = row * width + column;
    const found = [flow[at] + place[0] - column, flow[width * height + at] + place[1] - row];
    return Number.isFinite(found[0]) ? found : null;
  }

  function stateOf(side, layer) {
    const result = results.get(layer), place = point(), real = place && truth(place), marks = [];
    if (side === "a" && place) marks.push([place, "ring"]);
    if (side === "b" && real) marks.push([real, "diamond"]);
    if (side === "b" && result?.best) marks.push([[result.best.x, result.best.y], "cross"]);
    return { tile: result?.tiles[side], padded: result?.pair[side].padded, opacity: model.get("opacity"), marks };
  }

  // -- what is on the page

  const about = (side) => (side === "a"
    ? "Picture A. Move over it to look, click to pin a point. Arrow keys move the point by a pixel, with Shift by ten; "
      + "Escape lets go."
    : "Picture B with the best match of the point.");
  const panels = {};
  for (const side of two ? ["a", "b"] : ["a"]) {
    const attributes = { tabindex: 0, role: "application", "aria-label": about(side), class: `dk-${side}` };
    panels[side] = new Panel(size, () => stateOf(side, model.get("layer")), attributes);
  }
  const button = (text, title, click) => h("button", { type: "button", title, onclick: click }, text);
  const undo = button("Undo", "Ctrl+Z", () => shelf.undo()), redo = button("Redo", "Ctrl+Shift+Z", () => shelf.redo());
  const free = button("Unpin", "Esc", () => shelf.pin(null));
  const looks = { similarity: "Similarity", components: "Components" };
  const views = Object.entries(looks).map(([name, text]) => [name, button(text, "", () => set("view", name))]);
  views[0][1].title = "How like the point every place is";
  views[1][1].title = "The first three principal components as red, green and blue";
  const slider = (label, max, step, input) =>
    h("input", { type: "range", min: 0, max, step, "aria-label": label, oninput: (e) => input(+e.target.value) });
  const opacity = slider("Opacity of the map", 1, 0.05, (v) => set("opacity", v));
  const depth = slider("Layer", layers.length - 1, 1, (v) => set("layer", layers[v])), depthRead = h("output");
  const time = slider("Timestep", timesteps.length - 1, 1, (v) => set("timestep", timesteps[v])), timeRead = h("output");
  const low = h("span"), high = h("span"), bar = h("canvas", { width: 256, height: 1, "aria-hidden": "true" });
  const barPixels = bar.getContext("2d").createImageData(256, 1);
  paintMap(barPixels, Float32Array.from({ length: 256 }, (_, i) => i), 0, 255);
  bar.getContext("2d").putImageData(barPixels, 0, 0);
  const wide = h("input", { type: "checkbox", onchange: () => { full = wide.checked; recompute(); } });
  const scale = h("span", { class: "dk-scale", title: "S = (cos + 1) / 2" }, "S", low, bar, high, h("label", {}, wide, "0 to 1"));
  const error = h("div", { role: "alert", class: "dk-error" });
  const read = h("div", { class: "dk-read", role: "status", "aria-live": "polite" });
  const value = h("div", { class: "dk-read dk-value" });
  const note = h("div", { class: "dk-note" });
  const thumb = Math.floor(((2 * size + 10 - 30) / 4 - 18) / 2); // four cards as wide as two pictures
  const cards = layers.map((layer) => {
    const choose = () => set("layer", layer), sides = {};
    for (const side of Object.keys(panels)) {
      const label = `layer ${layer} on picture ${side.toUpperCase()}`;
      sides[side] = new Panel(thumb, () => stateOf(side, layer), { role: "img", "aria-label": label, onclick: choose });
    }
    const check = () => set("layers", cards.filter((c) => c.box.checked).map((c) => c.layer));
    const box = h("input", { type: "checkbox", onchange: check }), found = h("small");
    const pictures = h("div", { class: "dk-row", style: "gap: 4px" }, ...Object.values(sides).map((p) => p.canvas));
    const card = h("figure", { class: "dk-layer" }, h("label", {}, box, `layer ${layer}`), pictures, found);
    return { layer, sides, box, found, pictures, card };
  });
  const key = (sign, text) => h("span", { class: "dk-key" }, h("b", { "aria-hidden": "true" }, sign), ` ${text}`);
  const figure = (title, keys, panel) => h("figure", {}, h("figcaption", {}, h("b", {}, title), ...keys), panel.canvas);
  const inB = [key("✕", "best match"), ...(flow.length ? [key("◇", "where it really is")] : [])];
  const across = `width: ${Math.max(two ? 2 * size + 10 : size, 560)}px`; // not as wide as its longest text
  const root = h("div", { class: "dk dk-explorer", style: across, "data-lm-suppress-shortcuts": "true" },
    h("div", { class: "dk-bar" }, undo, redo, free, ...views.map(([, b]) => b), scale),
    h("div", { class: "dk-bar" }, h("label", {}, "Layer", depth, depthRead), h("label", {}, "Timestep", time, timeRead),
      h("label", {}, "Opacity", opacity)),
    h("div", { class: "dk-row dk-main" },
      figure("A", [key("○", "the point")], panels.a), two ? figure("B", inB, panels.b) : ""),
    read, value, error, h("div", { class: "dk-layers" }, ...cards.map((c) => c.card)), note);

  // -- what changes on it

  const pixels = ([x, y]) => `(${x.toFixed(2)}, ${y.toFixed(2)})`;
  const apart = (best, real) => Math.hypot(best.x - real[0], best.y - real[1]);

  function readOut() {
    const place = point(), result = results.get(model.get("layer")), t = model.get("timestep");
    if (shelf.said.has(t)) return (read.textContent = "");
    if (!maps()) return (read.textContent = `computing features at timestep ${t}…`);
    if (!place) return (read.textContent = "Move over picture A to look, click to pin a point.");
    const real = truth(place), best = result?.best, pinned = model.get("point") || held ? ", pinned" : "";
    const parts = [`A ${pixels(place)}${pinned}`];
    if (best) parts.push(`best match in B ${pixels([best.x, best.y])}, S ${best.score.toFixed(4)}`);
    if (best && real) parts.push(`truth ${pixels(real)}, ${apart(best, real).toFixed(2)} px away`);
    else if (two && flow.length) parts.push("truth not known here: off the object, or hidden in B");
    read.textContent = parts.join(" · ");
  }

  /** The value under the mouse. */
  function readValue(side, place) {
    const result = results.get(model.get("layer")), s = result?.s[side];
    const here = () => `${side.toUpperCase()} ${pixels(place)}, S ${result.pair[side].at(s, ...place).toFixed(4)}`;
    value.textContent = s && place ? `under the mouse: ${here()}` : "";
  }

  const small = afterFrame(() => { // the large map is shown first
    for (const card of cards) {
      if (!card.box.checked) continue;
      if (card.layer !== model.get("layer")) compute(card.layer);
      const best = results.get(card.layer)?.best, real = truth(point());
      const away = best && real ? ` · ${apart(best, real).toFixed(1)} px` : "";
      card.found.textContent = best ? `S ${best.score.toFixed(3)}${away}` : "\u00a0"; // which keeps the line's height
      Object.values(card.sides).forEach((panel) => panel.view.paint());
    }
  });

  function recompute(now = false) {
    if (!panels.a.bitmap) return;
    compute(model.get("layer"));
    const result = results.get(model.get("layer"));
    for (const panel of Object.values(panels)) now ? panel.view.repaint() : panel.view.paint();
    low.textContent = (result?.low ?? 0).toFixed(2);
    high.textContent = "1.00";
    readOut();
    small();
  }
  const soon = perFrame(() => recompute());

  function refresh() {
    const layer = model.get("layer"), t = model.get("timestep"), map = maps()?.get(layer)?.a;
    Object.assign(depth, { value: layers.indexOf(layer) }).setAttribute("aria-valuetext", `layer ${layer}`);
    Object.assign(time, { value: timesteps.indexOf(t) }).setAttribute("aria-valuetext", `timestep ${t}`);
    depthRead.textContent = map ? `${layer} · ${map.columns}×${map.rows} · ${map.of} ch` : `${layer}`;
    timeRead.textContent = `${t}`;
    opacity.value = model.get("opacity");
    views.forEach(([name, b]) => b.setAttribute("aria-pressed", String(model.get("view") === name)));
    scale.style.visibility = model.get("view") === "similarity" ? "" : "hidden";
    cards.forEach((card) => {
      card.box.checked = model.get("layers").includes(card.layer);
      card.pictures.hidden = card.found.hidden = !card.box.checked;
      card.card.classList.toggle("dk-chosen", card.layer === layer);
    });
    Object.assign(undo, { disabled: !shelf.past.before.length });
    Object.assign(redo, { disabled: !shelf.past.after.length });
    Object.assign(free, { disabled: !model.get("point") });
    error.textContent = shelf.said.get(t) ?? "";
    const notes = [];
    if (model.get("view") === "components") notes.push("Components: what the denoiser sees alike has one colour.");
    if (map && map.channels < map.of) {
      const kept = (100 * map.kept).toFixed(1);
      notes.push(`Approximate: ${map.channels} of ${map.of} dimensions, ${kept} % of the energy.`);
    }
    note.textContent = notes.join(" ");
    recompute();
  }

  // -- what a person does

  const { a } = panels, place = (event) => a.held(a.view.toImage(event));
  const drop = () => { held = null; refresh(); };
  a.canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !a.bitmap) return;
    if (a.view.pinching()) return drop();
    a.canvas.focus({ preventScroll: true });
    a.canvas.setPointerCapture(event.pointerId);
    held = place(event);
    recompute(true);
  });
  a.canvas.addEventListener("pointermove", (event) => {
    if (!a.bitmap || a.view.pinching()) return;
    if (held) held = place(event);
    else if (event.pointerType !== "touch") hover = place(event);
    if (held || !model.get("point")) soon();
    else readValue("a", place(event));
  });
  a.canvas.addEventListener("pointerup", () => {
    if (!held) return;
    const pinned = held;
    held = null;
    shelf.pin(pinned);
  });
  a.canvas.addEventListener("pointercancel", drop);
  a.canvas.addEventListener("pointerleave", () => { hover = null; readValue(); if (!model.get("point") && !held) soon(); });
  if (two) {
    const { b } = panels;
    b.canvas.addEventListener("pointermove", (event) => b.bitmap && readValue("b", b.held(b.view.toImage(event))));
    b.canvas.addEventListener("pointerleave", () => readValue());
  }
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  root.addEventListener("keydown", (event) => {
    if (event.key !== "Tab") event.stopPropagation(); // or the notebook takes it
    const control = event.ctrlKey || event.metaKey, name = event.key.toLowerCase();
    const on = Object.values(panels).find((panel) => panel.canvas === event.target);
    const act = control && (name === "y" || (name === "z" && event.shiftKey)) ? () => shelf.redo()
      : control && name === "z" ? () => shelf.undo()
      : event.key === "Escape" ? () => { held = null; if (model.get("point")) shelf.pin(null); }
      : !on?.bitmap || control ? null
      : steps[event.key] ? () => {
        const by = event.shiftKey ? 10 : 1, middle = [(a.bitmap.width - 1) / 2, (a.bitmap.height - 1) / 2];
        const from = model.get("point") ?? hover ?? middle;
        shelf.pin(a.held(from.map((v, k) => v + by * steps[event.key][k])));
      }
      : event.key === "+" || event.key === "=" ? () => on.view.zoomBy(1.25)
      : event.key === "-" ? () => on.view.zoomBy(0.8)
      : event.key === "0" ? () => on.view.fit() : null;
    if (act) { event.preventDefault(); act(); }
  });

  shelf.views.add(refresh);
  ends.push(watch(model, ["point", "layers", "layer", "timestep", "view", "opacity"], refresh));
  Object.keys(panels).forEach(async (side) => {
    const bitmap = await bitmapOf(model.get(`_image_${side}`));
    [panels[side], ...cards.map((card) => card.sides[side])].forEach((panel) => panel.show(bitmap));
    refresh();
  });
  el.append(root);
  refresh();
  return () => {
    shelf.views.delete(refresh);
    ends.forEach((end) => end());
    [...Object.values(panels), ...cards.flatMap((card) => Object.values(card.sides))].forEach((panel) => panel.view.destroy());
  };
}

export default () => {
  let shelf; // one for all views of a widget
  return {
    initialize({ model }) { shelf = new Shelf(model); },
    render({ model, el }) { return explore(model, el, shelf); },
  };
};
