// What all views of one player share: the steps, which one is shown, whether it plays, and the pixel that is marked.

class Deck {
  constructor(model) {
    Object.assign(this, { model, views: new Set(), step: 0, pin: [], following: true, playing: false, images: {}, asked: "" });
    this.past = new Past(this.place);
    this.reel = new Reel(() => this.repaint());
    this.stops = [
      watch(model, ["film"], () => { this.open(); this.ask(); }),
      watch(model, ["stills"], () => this.decode()),
      watch(model, ["step"], () => this.hear()),
      watch(model, ["pin"], () => { this.pin = model.get("pin"); this.come(); }),
      watch(model, ["playing"], () => { if (model.get("playing") !== this.playing) this.play(!this.playing); }),
      watch(model, ["following"], () => { this.following = model.get("following"); this.repaint(); }),
      watch(model, ["loop", "speed", "fps", "live", "error", "extent", "size"], () => this.repaint()),
    ];
    const onMessage = (content, buffers) => this.receive(content, buffers);
    model.on("msg:custom", onMessage);
    this.stops.push(() => model.off("msg:custom", onMessage));
    this.open();
    this.decode();
    this.ask(); // steps may have come between what the model's state was made from and now
  }

  get count() { return this.reel.count; }
  get last() { return Math.max(this.count - 1, 0); }
  get place() { return { step: this.step, pin: this.pin }; }

  open() {
    const { film, blocks } = this.model.get("film");
    this.step = this.model.get("step");
    this.pin = this.model.get("pin");
    this.reel.begin(film, blocks, this.step);
    this.following = this.model.get("following");
    this.past = new Past(this.place);
    if (this.model.get("playing")) this.play(true); else this.halt();
  }

  ask() { this.model.send({ kind: "have", film: this.reel.film, count: this.count }); }

  /** The cell that is marked, or -1. */
  get cell() { return this.pin.length ? this.reel.cellOf(this.pin, this.model.get("extent")[0]) : -1; }

  /** Ask where the marked cell looks at the steps of which that is not known, once. */
  inquire() {
    const { reel, cell, pin } = this, first = reel.known(cell);
    if (cell < 0 || first >= this.count || !reel.steps.some((step) => step?.single)) return;
    const question = [reel.film, cell, first].join();
    if (question === this.asked) return;
    this.asked = question;
    this.model.send({ kind: "look", film: reel.film, pin, first });
  }

  receive(content, buffers) {
    if (content.film !== this.reel.film) return;
    if (content.kind === "looks") this.reel.hear(this.reel.cellOf(content.pin, this.model.get("extent")[0]), content.first, buffers);
    if (content.kind !== "blocks") return;
    this.reel.take(content.first, buffers);
    if (!this.following || !this.model.get("live") || this.playing) return;
    this.step = this.last;
    this.come();
  }

  /** The pictures that stay: source, answer and references, by name. */
  async decode() {
    const stills = this.model.get("stills"), images = {};
    for (const [name, still] of Object.entries(stills))
      images[name] = { bitmap: await bitmapOf(still.data, still.type), width: still.width, height: still.height };
    if (stills === this.model.get("stills")) this.images = images;
    this.repaint();
  }

  /** Python says which step. A person who has left the newest step is not called back by the next one. */
  hear() {
    const step = this.model.get("step");
    if (step === this.step || (!this.following && this.model.get("live") && step === this.last)) return;
    this.step = step;
    this.come();
  }

  /** What was not done by hand is no step of undo: it is where the next gesture starts from. */
  come() {
    if (!this.telling) this.past.state = this.place;
    this.repaint();
  }

  /** Show a step; ``done`` when the gesture is over, which is when Python hears of it. */
  go(step, done = true) {
    this.halt();
    this.step = Math.max(0, Math.min(this.last, step));
    this.following = this.step === this.last;
    if (done) this.settle();
    this.repaint();
  }

  mark(pin) {
    this.pin = pin;
    this.settle();
    this.repaint();
  }

  settle() {
    const { step, pin } = this.past.state;
    if (step !== this.step || pin.join() !== this.pin.join()) this.past.push(this.place);
    this.tell();
  }

  undo() { this.restore(this.past.undo()); }
  redo() { this.restore(this.past.redo()); }
  restore({ step, pin }) {
    this.halt();
    Object.assign(this, { step: Math.min(step, this.last), pin });
    this.following = this.step === this.last;
    this.tell();
    this.repaint();
  }

  tell() {
    const { step, pin, following, playing } = this;
    this.telling = true; // our own changes come back as events
    for (const [name, value] of Object.entries({ step, pin, following, playing })) this.model.set(name, value);
    this.telling = false;
    this.model.save_changes();
  }

  halt() { this.playing = false; cancelAnimationFrame(this.clock); }

  /** Start or stop; from the end it starts again. */
  play(on) {
    this.halt();
    if (on && this.count > 1) {
      this.playing = true;
      if (this.step === this.last) this.step = 0;
      let before = performance.now(), part = 0;
      const tick = (now) => {
        part += (Math.max(0, now - before) / 1000) * this.model.get("fps") * this.model.get("speed");
        before = now;
        if (part >= 1) {
          const next = this.step + Math.floor(part);
          part %= 1;
          if (next > this.last && !this.model.get("loop")) { this.step = this.last; this.play(false); return; }
          this.step = next > this.last ? 0 : next;
          this.repaint();
        }
        this.clock = requestAnimationFrame(tick);
      };
      this.clock = requestAnimationFrame(tick);
      this.following = false;
      this.tell();
    } else this.settle();
    this.repaint();
  }

  repaint() {
    this.inquire();
    for (const paint of this.views) paint();
  }

  destroy() { this.halt(); this.stops.forEach((stop) => stop()); this.reel.begin(-1); }
}
