// One line of text, a bar while something is under way.

function notice({ model, el }) {
  const line = h("span", { class: "dk-notice-line" });
  const bar = h("progress", { max: 1, "aria-label": "progress" });
  const root = h("div", { class: "dk dk-notice" }, bar, line);
  el.append(root);
  const repaint = () => {
    const error = model.get("error"), fraction = model.get("fraction");
    line.setAttribute("role", error ? "alert" : "status");
    line.classList.toggle("dk-error", error);
    line.textContent = model.get("text");
    bar.hidden = fraction < 0;
    bar.value = Math.max(0, fraction);
  };
  const end = watch(model, ["text", "error", "fraction"], perFrame(repaint));
  repaint();
  return end;
}

export default { render: notice };
