// Energy terms as curves over the steps, on a canvas of our own.

const INKS = { light: ["#0072b2", "#c04a00", "#008060", "#b0508a", "#9a6a00", "#3b7dd8"],
  dark: ["#56b4e9", "#ff8c42", "#2ecc9b", "#f09cc8", "#f0c000", "#9db8ff"] };

/** Whether text is lighter than what it stands on. */
function isDark(element) {
  const [r, g, b] = (getComputedStyle(element).color.match(/[\d.]+/g) ?? [0, 0, 0]).map(Number);
  return r + g + b > 384;
}

/** Numbers for an axis from low to high: round ones, or powers of ten. */
function ticks(low, high, log) {
  if (!log) {
    const rough = (high - low) / 5 || 1, ten = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * ten).find((s) => s >= rough);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-6); k * step <= high + step * 1e-6; k++) found.push(k * step);
    return found;
  }
  const found = [], narrow = Math.log10(high / low) < 1.5;
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
    for (const m of narrow ? [1, 2, 5] : [1]) if (m * 10 ** e >= low && m * 10 ** e <= high) found.push(m * 10 ** e);
  return found.length > 1 ? found.filter((_, k) => k % Math.ceil(found.length / 5) === 0) : [low, high];
}

class Curves {
  /** pick(step, done) is told while the pointer is down, and once more with done = true when it is lifted. */
  constructor(pick) {
    this.canvas = h("canvas", { class: "dk-curves", role: "img", "aria-label": "energy terms by step" });
    this.tip = h("div", { class: "dk-tip", hidden: true });
    this.element = h("div", { class: "dk-chart" }, this.canvas, this.tip);
    this.state = { names: [], steps: [], step: 0, log: false, hidden: new Set() };
    this.paint = perFrame(() => this.repaint());
    this.observer = new ResizeObserver(() => this.paint());
    this.observer.observe(this.canvas);
    let down = false, began = 0;
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button || !this.state.steps.length) return;
      down = true;
      began = this.state.step;
      this.canvas.setPointerCapture(event.pointerId);
      pick(this.stepAt(event), false);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!this.state.steps.length) return;
      this.show(this.stepAt(event));
      if (down) pick(this.stepAt(event), false);
    });
    const lift = (step) => { if (down) { down = false; pick(step, true); } };
    this.canvas.addEventListener("pointerup", (event) => lift(this.stepAt(event)));
    this.canvas.addEventListener("pointercancel", () => lift(began)); // it was no gesture of ours
    this.canvas.addEventListener("pointerleave", () => { this.tip.hidden = true; });
  }

  update(state) { Object.assign(this.state, state); this.paint(); }

  colour(name) {
    const inks = INKS[isDark(this.element) ? "dark" : "light"];
    return inks[this.state.names.indexOf(name) % inks.length];
  }

  destroy() { this.observer.disconnect(); }

  get box() { return { left: 44, top: 8, right: this.canvas.clientWidth - 10, bottom: this.canvas.clientHeight - 22 }; }

  x(k) {
    const { left, right } = this.box;
    return left + ((right - left) * k) / Math.max(this.state.steps.length - 1, 1);
  }

  stepAt(event) {
    const { left, right } = this.box, last = this.state.steps.length - 1;
    const part = (event.clientX - this.canvas.getBoundingClientRect().left - left) / (right - left);
    return Math.max(0, Math.min(last, Math.round(part * last)));
  }

  /** The tooltip at a step. */
  show(k) {
    const step = this.state.steps[k];
    const values = this.state.names.filter((n) => n in (step?.energies ?? {})).map((n) => `${n} ${short(step.energies[n])}`);
    this.tip.replaceChildren(...[`step ${k}, t = ${step?.t ?? "–"}${step?.visit ? `, visit ${step.visit + 1}` : ""}`,
      ...(values.length ? values : ["not guided"])].map((line) => h("div", {}, line)));
    this.tip.hidden = false;
    const half = this.canvas.clientWidth / 2, at = this.x(k);
    Object.assign(this.tip.style, at < half ? { left: `${at + 10}px`, right: "auto" }
      : { left: "auto", right: `${this.canvas.clientWidth - at + 10}px` });
  }

  repaint() {
    const { canvas } = this, { names, steps, step, log, hidden } = this.state, ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width) return;
    Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    const pen = canvas.getContext("2d"), style = getComputedStyle(this.element), box = this.box;
    const [ink, dim, line] = ["--dk-fg", "--dk-dim", "--dk-line"].map((name) => style.getPropertyValue(name).trim());
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = `11px ${style.fontFamily}`;
    const shown = names.filter((name) => !hidden.has(name));
    const usable = (v) => v != null && Number.isFinite(v) && (!log || v > 0);
    const known = shown.flatMap((name) => steps.map((s) => s?.energies[name])).filter(usable);
    let [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [log ? 0.1 : 0, 1];
    if (!log) low = Math.min(0, low);
    if (low === high) [low, high] = log ? [low / 2, high * 2] : [low, high + 1];
    const scaled = (v) => (log ? Math.log(v) : v);
    const y = (v) => box.bottom - ((box.bottom - box.top) * (scaled(v) - scaled(low))) / (scaled(high) - scaled(low));

    steps.forEach((s, k) => { // steps that the run came back to
      if (!s?.visit) return;
      pen.globalAlpha = 0.35;
      pen.fillStyle = line;
      const half = (this.x(1) - this.x(0)) / 2;
      pen.fillRect(this.x(k) - half, box.top, 2 * half, box.bottom - box.top);
      pen.globalAlpha = 1;
    });
    Object.assign(pen, { fillStyle: dim, strokeStyle: line, lineWidth: 1, textBaseline: "middle", textAlign: "right" });
    for (const value of ticks(low, high, log)) {
      pen.beginPath(); pen.moveTo(box.left, y(value)); pen.lineTo(box.right, y(value)); pen.stroke();
      pen.fillText(short(value), box.left - 6, y(value));
    }
    Object.assign(pen, { textAlign: "center", textBaseline: "top" });
    const last = steps.length - 1, apart = Math.max(1, ticks(0, Math.max(last, 3), false)[1]);
    for (let k = 0; k <= last && this.x(k) < box.right - 36; k += Math.round(apart)) pen.fillText(String(k), this.x(k), box.bottom + 6);

    pen.textAlign = "right";
    pen.fillText("step", box.right, box.bottom + 6);
    const again = steps.findIndex((s) => s?.visit);
    if (again >= 0) { pen.textAlign = "left"; pen.fillText("time travel", this.x(again), box.top + 2); }
    for (const name of shown) {
      Object.assign(pen, { strokeStyle: this.colour(name), fillStyle: this.colour(name), lineWidth: 2, lineJoin: "round" });
      pen.beginPath();
      let before = false;
      steps.forEach((s, k) => {
        const value = s?.energies[name], there = usable(value);
        if (there && before) pen.lineTo(this.x(k), y(value));
        else if (there) pen.moveTo(this.x(k), y(value));
        before = there;
      });
      pen.stroke();
      steps.forEach((s, k) => { // a value without neighbours has no line
        const alone = usable(s?.energies[name]) && ![k - 1, k + 1].some((n) => usable(steps[n]?.energies[name]));
        if (!alone && k !== step) return;
        if (!usable(s?.energies[name])) return;
        pen.beginPath(); pen.arc(this.x(k), y(s.energies[name]), k === step ? 4 : 2, 0, 7); pen.fill();
      });
    }
    if (last < 0) return;
    Object.assign(pen, { strokeStyle: ink, lineWidth: 1.5 });
    pen.beginPath(); pen.moveTo(this.x(step), box.top); pen.lineTo(this.x(step), box.bottom); pen.stroke();
  }
}
