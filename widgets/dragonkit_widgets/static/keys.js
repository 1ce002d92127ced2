// The keyboard: what a key does in a sketch.

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Act on a key; true if it was one of ours. */
function pressed(sketch, event) {
  const { model, view } = sketch, key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey) {
    if (key !== "z" && key !== "y") return false;
    if (key === "y" || event.shiftKey) sketch.redo();
    else sketch.undo();
    return true;
  }
  const [target] = event.composedPath(); // sliders have keys of their own, and so have buttons
  if (target.tagName === "INPUT" || (target.tagName === "BUTTON" && (key === "Enter" || key === " "))) return false;
  if (key in ARROWS) {
    nudge(sketch, ARROWS[key], event.altKey ? 0.1 : event.shiftKey ? 10 : 1);
    return true;
  }
  const tools = model.get("tools"), tool = tools.find((name) => TOOLS[name][1] === key);
  const actions = {
    Enter: () => press(sketch, event),
    Escape: () => { sketch.rest(); sketch.select(-1); },
    Delete: () => sketch.drop(sketch.selected),
    Backspace: () => sketch.drop(sketch.selected),
    n: () => next(sketch, event.shiftKey ? -1 : 1),
    " ": () => { sketch.space = true; },
    "+": () => view.zoomBy(1.5),
    "=": () => view.zoomBy(1.5),
    "-": () => view.zoomBy(1 / 1.5),
    0: () => view.fit(),
    "[": () => sketch.set("brush", Math.max(1, Math.floor(sketch.brush / 1.2))),
    "]": () => sketch.set("brush", Math.min(2000, Math.ceil(sketch.brush * 1.2))),
    i: () => tools.some((name) => name !== "point" && name !== "pan") && sketch.change((mask) => mask.invert()),
  };
  const action = tool ? () => sketch.use(tool) : actions[key];
  if (!action) return false;
  action();
  sketch.refresh();
  return true;
}

/** Arrow keys move the selected end of a point, else the cross that Enter draws with; with the pan tool, the image. */
function nudge(sketch, [dx, dy], step) {
  const { mask: { width, height }, selected, model, points } = sketch, tool = model.get("tool");
  if (tool === "pan") return sketch.view.panBy(-dx * step * 20, -dy * step * 20);
  if (tool === "point" && selected >= 0 && !sketch.active) {
    const { end } = sketch.tools.point, moved = stays(points[selected]) && end === 0 ? BOTH : end;
    const far = sketch.snap ? Math.max(1, step) : step;
    const next = movedBy(points[selected], moved, dx * far, dy * far, [width, height], sketch.snap);
    sketch.points = points.map((old, i) => (i === selected ? next : old));
  } else {
    const [x, y] = sketch.cursor ?? middle(sketch), within = (v, most) => Math.min(most - 1, Math.max(0, v));
    sketch.cursor = [within(x + dx * step, width), within(y + dy * step, height)];
    sketch.active?.tool.move(sketch.cursor);
  }
  sketch.refresh();
}

/** Where the cross starts: at the pixel in the middle of what is seen. */
function middle({ view, mask }) {
  const within = (v, most) => Math.min(most - 1, Math.max(0, Math.floor(v)));
  const [w, hgt] = view.shown;
  return [within((w / 2 - view.x) / view.scale, mask.width), within((hgt / 2 - view.y) / view.scale, mask.height)];
}

/** Enter is the pointer's button: it goes down at the cross, and up where the cross has gone. */
function press(sketch, { altKey }) {
  if (sketch.active && sketch.active.pointer !== undefined) return; // the mouse is at it
  if (!sketch.active) {
    sketch.cursor ??= middle(sketch);
    sketch.begin(sketch.cursor, { altKey });
    if (sketch.model.get("tool") !== "segment") return;
  }
  sketch.finish(sketch.cursor, { altKey });
}

/** Select the next end of a point, or the one before. */
function next(sketch, step) {
  const tool = sketch.tools.point;
  const ends = sketch.points.flatMap((arrow, i) => (stays(arrow) ? [[i, BOTH]] : [[i, 0], [i, 1]]));
  if (!ends.length) return;
  const now = ends.findIndex(([i, end]) => i === sketch.selected && end === tool.end);
  const [index, end] = ends[now < 0 ? 0 : (now + step + ends.length) % ends.length];
  tool.end = end;
  sketch.select(index);
}
