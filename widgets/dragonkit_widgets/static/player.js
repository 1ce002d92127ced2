// The page of a GuidancePlayer: pictures, transport, energies, and what is said about the step.

const label = (name) => name.replace(/^up_blocks\.(\d+)\.attentions\.(\d+).*$/, (_, a, b) => `layer ${+a + 1}, block ${+b + 1}`);

/** One view. */
class Board {
  constructor(deck, el) {
    Object.assign(this, { deck, model: deck.model, el, wipe: 0.5, log: false, hidden: new Set(), most: {} });
    this.paint = perFrame(() => this.refresh());
    this.panels = [
      new Panel(this, "preview", "x0 prediction", (pen) => this.drawPreview(pen)),
      new Panel(this, "gradient", "gradient", (pen) => this.drawGradient(pen)),
      new Panel(this, "source", "source", (pen) => this.drawSource(pen)),
      new Panel(this, "answer", "exact answer", (pen, view) => {
        const image = deck.images.answer;
        if (image) view.drawImage(pen, image.bitmap);
      }),
    ];
    for (const panel of this.panels) { panel.linked = true; this[panel.name] = panel; }
    this.references = [];
    this.curves = new Curves((step, done) => deck.go(step, done));
    this.build();
    deck.views.add(this.paint);
    this.theme = new MutationObserver(() => this.paint());
    this.theme.observe(document.body, { attributes: true }); // JupyterLab names its theme there
    this.paint();
  }

  get extent() { const [w, hgt] = this.model.get("extent"); return w ? [w, hgt] : [1, 1]; }
  get now() { return this.deck.reel.steps[this.deck.step]; }

  build() {
    const { deck, model } = this;
    const toggle = (text, name, action) => button(text, name, (event) => {
      const on = event.currentTarget.getAttribute("aria-pressed") !== "true";
      event.currentTarget.setAttribute("aria-pressed", on);
      action(on);
      this.paint();
    }, { "aria-pressed": "false" });

    this.playButton = button("", "play", () => deck.play(!deck.playing), { class: "dk-play" });
    this.slider = h("input", { type: "range", min: 0, step: 1, "aria-label": "step", oninput: () => deck.go(+this.slider.value, false), onchange: () => deck.go(+this.slider.value) });
    this.speed = choice("speed", [0.25, 0.5, 1, 2, 4].map((s) => [s, `${s}×`]), (value) => { model.set("speed", +value); model.save_changes(); });
    this.loop = toggle("loop", "play again and again (L)", (on) => { model.set("loop", on); model.save_changes(); });
    this.follow = button("live", "follow the newest step", () => deck.go(deck.last), { class: "dk-live" });
    const transport = h("div", { class: "dk-bar dk-transport" },
      button("|◀", "first step (Home)", () => deck.go(0)), button("‹", "one step back (left arrow)", () => deck.go(deck.step - 1)),
      this.playButton, button("›", "one step on (right arrow)", () => deck.go(deck.step + 1)),
      button("▶|", "last step (End)", () => deck.go(deck.last)), this.slider, this.speed, this.loop, this.follow);

    this.toggles = Object.fromEntries(["gradient", "source", "answer"].map((name) => {
      const made = toggle(name, `show the ${name}`, (on) => { this[name].element.hidden = !on; });
      made.setAttribute("aria-pressed", "true");
      return [name, made];
    }));
    this.wipeOf = choice("wipe", [["", "off"], ["source", "source"], ["answer", "answer"]], () => this.paint());
    this.wipeSlider = h("input", { type: "range", min: 0, max: 1, step: 0.01, class: "dk-wipe", "aria-label": "where the wipe is", oninput: () => this.setWipe(+this.wipeSlider.value) });
    this.channel = choice("gradient view", [[-1, "norm"]], () => this.paint());
    this.fixed = toggle("one scale", "the same colours for all steps", () => {});
    this.layer = choice("attention", [["off", "off"]], () => this.paint());
    this.undo = button("↶", "undo (Ctrl+Z)", () => deck.undo());
    this.redo = button("↷", "redo (Ctrl+Shift+Z)", () => deck.redo());
    const looks = h("div", { class: "dk-bar" },
      this.undo, this.redo, ...Object.values(this.toggles),
      h("label", {}, "wipe", this.wipeOf, this.wipeSlider), h("label", {}, "gradient", this.channel), this.fixed,
      h("label", {}, "attention", this.layer));

    this.legend = h("div", { class: "dk-bar dk-legend" });
    this.logButton = toggle("log", "logarithmic energies", (on) => { this.log = on; });
    this.row = h("div", { class: "dk-row" }, ...this.panels.map((panel) => panel.element));
    this.read = h("div", { class: "dk-read", role: "status", "aria-live": "polite" });
    this.error = h("div", { class: "dk-error", role: "alert" });
    this.el.classList.add("dk", "dk-player");
    this.el.setAttribute("data-lm-suppress-shortcuts", "true");
    this.el.append(this.row, transport, this.read, this.error, this.curves.element,
      h("div", { class: "dk-bar" }, this.legend, this.logButton), looks);
    this.onKey = (event) => this.key(event);
    this.el.addEventListener("keydown", this.onKey);
  }

  /** Whatever can change on the page, from what the deck and the controls say. */
  refresh() {
    const { deck, model } = this, { reel, step } = deck, now = this.now;
    const layout = [...this.extent, model.get("size")].join();
    if (layout !== this.layout) {
      this.layout = layout;
      for (const panel of this.panels) panel.view.resize(...this.extent, model.get("size"));
    }
    this.slider.max = deck.last;
    this.slider.value = step;
    this.slider.disabled = this.playButton.disabled = deck.count < 2;
    this.slider.setAttribute("aria-valuetext", `step ${step} of ${deck.last}`);
    this.playButton.textContent = deck.playing ? "pause" : "play";
    this.playButton.setAttribute("aria-label", deck.playing ? "pause (space)" : "play (space)");
    this.speed.value = model.get("speed");
    this.loop.setAttribute("aria-pressed", model.get("loop"));
    this.follow.hidden = !model.get("live");
    this.follow.setAttribute("aria-pressed", deck.following);
    this.undo.disabled = !deck.past.before.length;
    this.redo.disabled = !deck.past.after.length;
    this.error.textContent = model.get("error");

    const gradients = reel.steps.find((s) => s?.grad)?.grad.shape[0] ?? 0;
    offer(this.channel, [[-1, "norm"], ...Array.from({ length: gradients }, (_, c) => [c, `channel ${c + 1}`])], "-1");
    const layers = reel.layers;
    offer(this.layer, layers.length ? [["", "all layers"], ...layers.map((name) => [name, label(name)]), ["off", "off"]] : [["none", "not recorded"]], "");
    this.layer.title = layers.length ? "where the marked pixel looks if it is edited, else where the edit's target does" : HINT.attention;
    for (const name of ["source", "answer"]) {
      this.toggles[name].hidden = !deck.images[name];
      this.wipeOf.querySelector(`[value=${name}]`).disabled = !deck.images[name];
      this[name].element.hidden = !deck.images[name] || this.toggles[name].getAttribute("aria-pressed") !== "true";
    }
    if (this.wipeOf.value && !deck.images[this.wipeOf.value]) this.wipeOf.value = "";
    this.toggles.gradient.hidden = !gradients;
    this.gradient.element.hidden = !gradients || this.toggles.gradient.getAttribute("aria-pressed") !== "true";
    this.preview.element.hidden = !model.get("extent").length;
    this.wipeSlider.hidden = !this.wipes;
    this.wipeSlider.value = this.wipe;
    this.gaze = this.layer.value === "off" ? null : gazeOf(deck, this.layer.value);
    this.looks = this.gaze && (this.gaze.own ?? this.gaze.mean);
    this.showReferences();

    const names = reel.terms;
    this.curves.update({ names, steps: reel.steps, step, log: this.log, hidden: this.hidden });
    this.curves.element.hidden = !names.length;
    this.logButton.hidden = !names.length;
    const key = [names, names.map((name) => this.curves.colour(name)), [...this.hidden]].join();
    if (key !== this.legendKey) {
      this.legendKey = key;
      this.legend.replaceChildren(...names.map((name) => this.term(name)));
    }
    this.panels.concat(this.references).forEach((panel) => { if (panel.shown) panel.view.repaint(); });
    this.read.setAttribute("aria-live", deck.playing ? "off" : "polite");
    this.read.textContent = reading(deck, this.gaze, +this.channel.value, this.extent);
  }

  /** A legend's entry: its colour, its name, and whether it is drawn. */
  term(name) {
    const swatch = h("span", { class: "dk-swatch" });
    swatch.style.background = this.curves.colour(name);
    return h("button", { type: "button", class: "dk-term", "aria-pressed": String(!this.hidden.has(name)), title: `show or hide ${name}`, onclick: () => {
      if (!this.hidden.delete(name)) this.hidden.add(name);
      this.paint();
    } }, swatch, name);
  }

  get wipes() { return this.wipeOf.value; }
  get wipeAt() { return this.wipe * this.preview.view.shown[0]; }
  setWipe(part) { this.wipe = Math.min(1, Math.max(0, part)); this.paint(); }

  /** Zoom and pan of the picture that was touched last are those of all. */
  link(from) {
    if (from !== this.leader || !from.linked) return;
    for (const { view } of this.panels) {
      if (view === from.view || (view.scale === from.view.scale && view.x === from.view.x && view.y === from.view.y)) continue;
      Object.assign(view, { scale: from.view.scale, x: from.view.x, y: from.view.y });
      view.paint();
    }
  }

  drawPreview(pen) {
    const { deck } = this, { view } = this.preview, [at, picture] = deck.reel.pictureAt(deck.step);
    this.preview.caption.textContent = at == null || at === deck.step ? "x0 prediction" : `x0 prediction of step ${at}`;
    if (picture) view.drawImage(pen, picture);
    else this.preview.say(pen, deck.count ? HINT.picture : "no steps yet");
    const other = deck.images[this.wipes];
    if (!other) return;
    pen.save();
    pen.beginPath(); pen.rect(0, 0, this.wipeAt, view.shown[1]); pen.clip();
    view.drawImage(pen, other.bitmap);
    pen.restore();
    for (const [colour, width] of [["#000", 3], ["#fff", 1.5]]) {
      Object.assign(pen, { strokeStyle: colour, fillStyle: "#fff", lineWidth: width });
      pen.beginPath(); pen.moveTo(this.wipeAt, 0); pen.lineTo(this.wipeAt, view.shown[1]); pen.stroke();
    }
    pen.beginPath(); pen.arc(this.wipeAt, view.shown[1] / 2, 6, 0, 7); pen.fill(); pen.stroke();
  }

  drawGradient(pen) {
    const { grad } = this.now ?? {}, { scale } = this.gradient, channel = +this.channel.value;
    if (!grad) {
      scale.update();
      this.gradient.say(pen, "not guided at this step");
      return;
    }
    const map = channelOf(grad, channel), ramp = channel < 0 ? "size" : "sign";
    const most = this.fixed.getAttribute("aria-pressed") === "true" ? this.mostOf(channel) : peak(map.values);
    const low = channel < 0 ? 0 : -most;
    this.gradient.cells(pen, heat(map, low, most, ramp), map);
    scale.update(low, most, ramp);
  }

  mostOf(channel) {
    const { film, count } = this.deck.reel, key = [film, count, channel].join();
    if (this.most.key !== key) this.most = { key, value: this.deck.reel.most(channel) };
    return this.most.value;
  }

  drawSource(pen) {
    const image = this.deck.images.source;
    if (!image) return;
    this.source.view.drawImage(pen, image.bitmap);
    const map = this.looks?.[1];
    const whose = this.gaze?.own ? `pixel (${this.deck.pin.join(", ")}) looks` : "the target looks";
    this.source.caption.textContent = map ? `source, where ${whose}` : "source";
    this.overlay(this.source, pen, map);
  }

  /** Attention over a picture: what is looked at is bright, what is not is darkened. */
  overlay(panel, pen, map) {
    if (!map) { panel.scale.update(); return; }
    const most = peak(map.values);
    panel.cells(pen, heat(map, 0, most, "size", (part) => 0.35 + 0.4 * part), map);
    panel.scale.update(0, most, "size");
  }

  /** One panel for each reference image that is looked at. */
  showReferences() {
    const names = Object.keys(this.deck.images).filter((name) => name.startsWith("reference"));
    const key = names.join();
    if (key !== this.referenceKey) {
      this.referenceKey = key;
      this.references.forEach((panel) => { panel.view.destroy(); panel.element.remove(); });
      this.references = names.map((name, k) => {
        const panel = new Panel(this, `reference`, name, (pen, view) => {
          view.drawImage(pen, this.deck.images[name].bitmap);
          const map = this.looks?.[2 + k];
          if (!map) { panel.scale.update(); return; }
          const most = peak(map.values), size = cellSize(map, view.width) * view.scale;
          pen.drawImage(heat(map, 0, most, "size", (part) => 0.35 + 0.4 * part), view.x, view.y, map.w * size, map.h * size);
          panel.scale.update(0, most, "size");
        });
        panel.view.resize(this.deck.images[name].width, this.deck.images[name].height, this.model.get("size"));
        this.row.append(panel.element);
        return panel;
      });
    }
  }

  mark([x, y]) {
    const [w, hgt] = this.extent, clip = (v, n) => Math.max(0, Math.min(n - 1, Math.round(v)));
    this.deck.mark([clip(x, w), clip(y, hgt)]);
  }

  key(event) {
    if (event.key === "Tab") return;
    event.stopPropagation();
    const { deck } = this, { view } = this.preview, command = event.ctrlKey || event.metaKey;
    if (command && event.key.toLowerCase() === "z") { event.shiftKey ? deck.redo() : deck.undo(); event.preventDefault(); return; }
    if (command && event.key.toLowerCase() === "y") { deck.redo(); event.preventDefault(); return; }
    if (command || event.altKey || !["CANVAS", "DIV"].includes(event.target.tagName)) return;
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    if (dx || dy) {
      if (event.shiftKey) { if (deck.pin.length) this.mark([deck.pin[0] + dx, deck.pin[1] + dy]); }
      else if (dx) deck.go(deck.step + dx);
      else return;
    } else {
      const actions = {
        Home: () => deck.go(0), End: () => deck.go(deck.last),
        PageUp: () => deck.go(deck.step - 5), PageDown: () => deck.go(deck.step + 5),
        " ": () => deck.play(!deck.playing), l: () => this.loop.click(), L: () => this.loop.click(),
        Enter: () => this.mark(this.extent.map((n) => (n - 1) / 2)),
        Escape: () => { if (deck.playing) deck.play(false); else if (deck.pin.length) deck.mark([]); },
        "+": () => view.zoomBy(1.5), "=": () => view.zoomBy(1.5), "-": () => view.zoomBy(1 / 1.5), 0: () => view.fit(),
      };
      if (!actions[event.key]) return;
      this.leader = this.preview;
      actions[event.key]();
    }
    event.preventDefault();
  }

  destroy() {
    this.deck.views.delete(this.paint);
    this.theme.disconnect();
    this.el.removeEventListener("keydown", this.onKey);
    this.panels.concat(this.references).forEach((panel) => panel.view.destroy());
    this.curves.destroy();
  }
}

export default () => {
  let deck = null;
  return {
    initialize({ model }) {
      deck = new Deck(model);
      return () => deck.destroy();
    },
    render({ el }) {
      const board = new Board(deck, el);
      return () => board.destroy();
    },
  };
};
