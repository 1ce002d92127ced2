// Pictures of one size: one over the other with an edge to drag, one after the other, or one beside the other.

const NAMES = { before: "before", after: "after", answer: "exact answer" };
const BLINK = 700; // milliseconds a picture is shown

function comparison({ model, el }) {
  const bitmaps = {};
  let shown = "after", timer = 0, generation = 0;

  const modes = ["wipe", "blink", "side by side"].map((mode) =>
    h("button", { type: "button", "data-mode": mode, onclick: () => set({ mode }) }, mode));
  const against = h("select", { "aria-label": "compare with", onchange: () => set({ against: against.value }) },
    h("option", { value: "before" }, "with before"), h("option", { value: "answer" }, "with the exact answer"));
  const canvas = h("canvas", { tabindex: 0 });
  const read = h("div", { class: "dk-read", role: "status", "aria-live": "polite" });
  const row = h("div", { class: "dk-row dk-compare-side" });
  const labels = h("div", { class: "dk-compare-labels" });
  const one = h("div", { class: "dk-compare-one" }, canvas, labels);
  const root = h("div", { class: "dk dk-compare", role: "group", "aria-label": "compare the pictures" },
    h("div", { class: "dk-bar" }, ...modes, against), one, row, read);
  el.append(root);

  const set = (changes) => {
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
  };
  const left = () => (model.get("against") === "answer" && bitmaps.answer ? "answer" : "before");

  const view = new View(canvas, (context) => {
    const after = bitmaps.after, other = bitmaps[left()];
    if (!after || !other) return;
    if (model.get("mode") === "blink") return view.drawImage(context, shown === "after" ? after : other);
    view.drawImage(context, after);
    const edge = model.get("position") * view.shown[0];
    context.save();
    context.beginPath();
    context.rect(0, 0, edge, view.shown[1]);
    context.clip();
    view.drawImage(context, other);
    context.restore();
    context.fillStyle = "rgba(0, 0, 0, 0.55)";
    context.fillRect(edge - 2, 0, 4, view.shown[1]);
    context.fillStyle = "#fff";
    context.fillRect(edge - 1, 0, 2, view.shown[1]);
    const middle = view.shown[1] / 2;
    context.beginPath();
    context.arc(edge, middle, 11, 0, 2 * Math.PI);
    context.fill();
    context.strokeStyle = "rgba(0, 0, 0, 0.55)";
    context.stroke();
    context.fillStyle = "#333";
    for (const side of [-1, 1]) {
      context.beginPath();
      context.moveTo(edge + side * 8, middle);
      context.lineTo(edge + side * 3, middle - 4);
      context.lineTo(edge + side * 3, middle + 4);
      context.fill();
    }
  });

  const side = () => {
    const names = ["before", "after", "answer"].filter((name) => bitmaps[name]);
    row.replaceChildren(...names.map((name) => {
      const copy = h("canvas", { role: "img", "aria-label": NAMES[name] });
      const ratio = window.devicePixelRatio || 1;
      const width = Math.min(model.get("size"), Math.max(160, Math.floor((root.clientWidth - 12 * names.length) / names.length)) || 200);
      const height = Math.round((width * bitmaps[name].height) / bitmaps[name].width);
      Object.assign(copy, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
      Object.assign(copy.style, { width: `${width}px` });
      copy.getContext("2d").drawImage(bitmaps[name], 0, 0, copy.width, copy.height);
      return h("figure", {}, copy, h("figcaption", {}, NAMES[name]));
    }));
  };

  const repaint = () => {
    const mode = model.get("mode"), there = Boolean(bitmaps.after);
    modes.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.mode === mode)));
    against.hidden = !bitmaps.answer || mode === "side by side";
    against.value = model.get("against");
    one.hidden = !there || mode === "side by side";
    row.hidden = !there || mode !== "side by side";
    clearInterval(timer);
    shown = "after";
    if (mode === "blink" && there) timer = setInterval(() => { shown = shown === "after" ? left() : "after"; tell(); view.paint(); }, BLINK);
    if (mode === "side by side" && there) side();
    const percent = Math.round(model.get("position") * 100);
    const role = mode === "wipe" ? "slider" : "img";
    canvas.setAttribute("role", role);
    canvas.setAttribute("aria-label", `${NAMES[left()]} and after, ${mode}`);
    if (role === "slider") canvas.setAttribute("aria-valuenow", percent);
    else canvas.removeAttribute("aria-valuenow");
    tell();
    view.paint();
  };
  const tell = () => {
    const mode = model.get("mode"), percent = Math.round(model.get("position") * 100);
    const names = mode === "blink" ? [NAMES[shown]] : [NAMES[left()], "after"];
    labels.replaceChildren(...names.map((name) => h("span", {}, name)));
    read.textContent = !bitmaps.after ? "No result yet." : {
      wipe: `Left of the edge ${NAMES[left()]}, right of it after; edge at ${percent} %. Drag it, or use the arrow keys.`,
      blink: "The two pictures in turn.",
      "side by side": "",
    }[mode];
  };

  const moveTo = (event) => set({ position: Math.min(1, Math.max(0, view.toCanvas(event)[0] / view.shown[0])) });
  const dragging = perFrame(moveTo);
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || model.get("mode") !== "wipe") return;
    canvas.setPointerCapture(event.pointerId);
    moveTo(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (canvas.hasPointerCapture(event.pointerId) && !view.pinching()) dragging(event);
  });
  canvas.addEventListener("pointerup", () => dragging.now());
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[event.key];
    event.stopPropagation();
    if (by === undefined || model.get("mode") !== "wipe") return;
    event.preventDefault();
    set({ position: Math.min(1, Math.max(0, model.get("position") + by)) });
  });

  const take = async () => {
    const mine = ++generation, found = {};
    for (const name of Object.keys(NAMES)) found[name] = await bitmapOf(model.get(`_${name}`));
    if (mine !== generation) return; // newer pictures are on their way
    Object.assign(bitmaps, found);
    if (found.after && (view.width !== found.after.width || view.height !== found.after.height || !view.sized)) {
      view.resize(found.after.width, found.after.height, model.get("size"));
      view.sized = true;
    }
    repaint();
  };
  const ends = [watch(model, ["_before", "_after", "_answer", "size"], take), watch(model, ["mode", "position", "against"], repaint)];
  take();
  return () => { clearInterval(timer); ends.forEach((end) => end()); view.destroy(); };
}

export default { render: comparison };
