// The buttons over and under the canvas: what is there depends on the tools and the one in use.

const TOOLS = {
  point: ["Point", "p", "Arrows from what moves to where it goes"],
  brush: ["Brush", "b", "Paint the mask"],
  eraser: ["Eraser", "e", "Wipe the mask"],
  box: ["Box", "r", "Mask a rectangle"],
  lasso: ["Lasso", "l", "Mask what a line runs round"],
  segment: ["Region", "s", "Mask the region that is clicked"],
  pan: ["Pan", "h", "Move the image; the space bar held does the same"],
};

/** The buttons of a sketch: element over the canvas, history and zoom under it; refresh() and zoomed() show the present state. */
function toolbar(sketch) {
  const { model } = sketch, offered = model.get("tools");
  const masks = offered.some((tool) => !["point", "pan"].includes(tool));
  const press = (label, title, action, more = {}) => h("button", { type: "button", title, onclick: action, ...more }, label);
  const group = (label, ...nodes) => h("div", { class: "dk-group", role: "group", "aria-label": label }, ...nodes);

  const tools = Object.fromEntries(offered.map((tool) => {
    const [label, key, title] = TOOLS[tool];
    return [tool, press(label, `${title} (${key.toUpperCase()})`, () => sketch.use(tool), { "data-tool": tool })];
  }));
  const undo = press("Undo", "Undo (Ctrl+Z)", () => sketch.undo(), { "data-do": "undo" });
  const redo = press("Redo", "Redo (Ctrl+Shift+Z)", () => sketch.redo(), { "data-do": "redo" });
  const fit = press("1×", "Show the whole image (0)", () => sketch.view.fit(), { "data-do": "fit" });
  const zoom = group("Zoom",
    press("−", "Zoom out (-)", () => sketch.view.zoomBy(1 / 1.5), { "aria-label": "Zoom out", "data-do": "out" }), fit,
    press("+", "Zoom in (+, or Ctrl and the wheel)", () => sketch.view.zoomBy(1.5), { "aria-label": "Zoom in", "data-do": "in" }));

  const slider = (label, name, attributes) => {
    const input = h("input", { type: "range", "aria-label": label, ...attributes });
    const shown = h("output", {});
    input.addEventListener("input", () => { model.set(name, Number(input.value)); model.save_changes(); });
    return { node: h("label", { "data-slider": name }, label, input, shown), input, shown };
  };
  const size = slider("Size", "brush", { min: 1, step: 1, title: "The brush's width in pixels of the image ([ and ])" });
  const near = slider("Tolerance", "tolerance", { min: 1, max: 60, step: 1, title: "How far colours may differ" });
  const away = press("Take away", "Box, lasso and region take away (Alt while drawing)", () => sketch.toggleAway(), { "data-do": "away" });
  const snap = press("Snap", "Points go to whole pixels", () => sketch.toggleSnap(), { "data-do": "snap" });
  const drop = press("Delete", "Delete the selected point (Delete)", () => sketch.drop(sketch.selected), { "data-do": "delete" });
  const none = press("Clear", "Delete all points", () => sketch.clearPoints(), { "data-do": "clear-points" });
  const change = (label, title, name, action) => press(label, title, () => sketch.change(action), { "data-do": name });
  const whole = group("Mask",
    change("Grow", "A pixel more on every side", "grow", (mask) => mask.grow(1)),
    change("Shrink", "A pixel less on every side", "shrink", (mask) => mask.grow(0)),
    change("Invert", "Mask what is not masked (I)", "invert", (mask) => mask.invert()),
    change("Clear", "Empty the mask", "clear-mask", (mask) => mask.load(new Uint8Array())));
  const points = group("Points", snap, drop, none);

  const element = h("div", { class: "dk-bar dk-tools", role: "toolbar", "aria-label": "Drawing tools" },
    group("Tool", ...Object.values(tools)),
    h("div", { class: "dk-bar dk-options" }, points, size.node, near.node, away, whole));

  const refresh = () => {
    const tool = model.get("tool"), brushes = ["brush", "eraser"].includes(tool);
    for (const [name, button] of Object.entries(tools)) button.setAttribute("aria-pressed", name === tool);
    undo.disabled = !sketch.past.before.length;
    redo.disabled = !sketch.past.after.length;
    points.hidden = !offered.includes("point") || (tool !== "point" && masks);
    size.node.hidden = !brushes;
    near.node.hidden = tool !== "segment";
    away.hidden = !["box", "lasso", "segment"].includes(tool);
    whole.hidden = !masks || tool === "point";
    snap.setAttribute("aria-pressed", model.get("snap"));
    away.setAttribute("aria-pressed", sketch.away);
    drop.disabled = sketch.selected < 0;
    none.disabled = !sketch.points.length;
    size.input.max = Math.max(8, Math.round(Math.max(sketch.mask.width, sketch.mask.height) / 3));
    size.input.value = sketch.brush;
    size.shown.textContent = `${Math.round(sketch.brush)} px`;
    near.input.value = near.shown.textContent = model.get("tolerance");
  };
  const zoomed = () => { fit.textContent = `${sketch.view.zoom.toFixed(1)}×`; };
  return { element, history: group("History", undo, redo), zoom, refresh, zoomed };
}
