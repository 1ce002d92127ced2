/** What all views of an explorer share: features by timestep, asked for once, and the pins that undo goes back to. */
class Shelf {
  constructor(model) {
    Object.assign(this, { model, found: new Map(), asked: new Map(), said: new Map(), views: new Set() });
    this.past = new Past(model.get("point"));
    model.on("msg:custom", (content, buffers) => {
      clearTimeout(this.asked.get(content.t));
      this.said.delete(content.t);
      if (content.error) this.said.set(content.t, content.error);
      else this.found.set(content.t, this.unpack(content.maps, buffers));
      this.changed();
    });
    model.on("change:point", () => {
      if (String(model.get("point")) !== String(this.past.state)) this.past.push(model.get("point"));
    });
  }

  changed() { this.views.forEach((view) => view()); }

  /** Layer -> { a, b }, the maps of the two pictures; there is no b where there is one picture. */
  unpack(headers, buffers) {
    const layers = new Map();
    headers.forEach((header, k) => {
      const map = new FeatureMap(header, buffers.slice(3 * k, 3 * k + 3)), first = layers.get(map.layer);
      layers.set(map.layer, first ? { a: first.a, b: map } : { a: map });
    });
    return layers;
  }

  /** Features at a timestep; undefined if they are on their way, or will not come: ``said`` has the reason. */
  at(t) {
    if (!this.found.has(t) && !this.asked.has(t)) {
      const say = (text) => { this.said.set(t, text); this.changed(); };
      const late = "Python has not answered yet: if the kernel was restarted, run this cell again";
      this.asked.set(t, setTimeout(() => say(late), 30000));
      try {
        this.model.send({ ask: t });
      } catch {
        say("Python is not there: run this cell again");
      }
    }
    return this.found.get(t);
  }

  /** Pin a point, null for none: Python is told, and it can be undone. */
  pin(point) { this.past.push(point); this.tell(); }
  undo() { this.past.undo(); this.tell(); }
  redo() { this.past.redo(); this.tell(); }
  tell() { this.model.set("point", this.past.state); this.model.save_changes(); }
}
