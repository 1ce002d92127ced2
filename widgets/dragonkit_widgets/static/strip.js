// The tree of a history: a button a picture, placed on a grid, with lines from parents to children.

function strip({ model, el }) {
  const act = (what) => model.send({ act: what });
  const undo = h("button", { type: "button", title: "Ctrl+Z", onclick: () => act("undo") }, "Undo");
  const redo = h("button", { type: "button", title: "Ctrl+Shift+Z", onclick: () => act("redo") }, "Redo");
  const read = h("span", { class: "dk-read", role: "status", "aria-live": "polite" });
  const tree = h("div", { class: "dk-strip-tree" });
  const root = h("div", { class: "dk dk-strip", role: "group", "aria-label": "history" },
    h("div", { class: "dk-bar" }, undo, redo, read), tree);
  el.append(root);
  let urls = [];

  const place = (node, columns) => Object.assign(node.style, columns);
  const repaint = () => {
    const nodes = model.get("nodes"), current = model.get("current"), still = model.get("disabled");
    const focused = tree.contains(document.activeElement);
    const old = urls;
    urls = nodes.map((node) => URL.createObjectURL(new Blob([bytesOf(node.picture)], { type: "image/png" })));
    const parts = [];
    nodes.forEach((node, k) => {
      const [column, row] = node.at, name = `${node.id} ${node.label}`;
      if (node.parent !== null) {
        const above = nodes[node.parent].at[1];
        const line = h("span", { class: row === above ? "dk-strip-line" : "dk-strip-elbow", "aria-hidden": "true" });
        place(line, { gridColumn: 2 * column, gridRow: row === above ? `${row + 1}` : `${above + 1} / ${row + 2}` });
        parts.push(line);
      }
      const button = h("button", {
        type: "button", "data-node": node.id, disabled: still, "aria-pressed": String(node.id === current),
        title: node.about, "aria-label": `go to picture ${name}`, onclick: () => act(node.id),
      }, h("img", { src: urls[k], alt: "" }), h("span", {}, name));
      place(button, { gridColumn: 2 * column + 1, gridRow: row + 1 });
      parts.push(button);
    });
    tree.replaceChildren(...parts);
    old.forEach((url) => URL.revokeObjectURL(url));
    undo.disabled = still || !model.get("can_undo");
    redo.disabled = still || !model.get("can_redo");
    const here = nodes[current];
    read.textContent = here ? [`Picture ${here.id} of ${nodes.length - 1}: ${here.label}`, here.about].filter(Boolean).join(", ") : "No picture yet.";
    const now = tree.querySelector('[aria-pressed="true"]');
    if (now && focused) now.focus();
    if (now) tree.scrollLeft = Math.max(0, now.offsetLeft - tree.clientWidth / 2);
  };

  root.addEventListener("keydown", (event) => {
    event.stopPropagation();
    const key = event.key.toLowerCase(), command = event.ctrlKey || event.metaKey;
    const way = command && key === "z" ? (event.shiftKey ? "redo" : "undo") : command && key === "y" ? "redo" : null;
    const step = { arrowleft: -1, arrowright: 1, arrowup: -1, arrowdown: 1 }[key];
    if (way && model.get(`can_${way}`)) { event.preventDefault(); act(way); }
    if (step && document.activeElement.dataset.node !== undefined) {
      event.preventDefault();
      const all = [...tree.querySelectorAll("[data-node]")];
      all[Math.min(all.length - 1, Math.max(0, all.indexOf(document.activeElement) + step))].focus();
    }
  });

  const end = watch(model, ["nodes", "current", "can_undo", "can_redo", "disabled"], perFrame(repaint));
  repaint();
  return () => { end(); urls.forEach((url) => URL.revokeObjectURL(url)); };
}

export default { render: strip };
