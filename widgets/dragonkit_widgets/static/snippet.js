// Code, and a button that copies it.

function snippet({ model, el }) {
  const code = h("code");
  const text = h("pre", { tabindex: 0, "aria-label": "Python code" }, code);
  const done = h("span", { class: "dk-read", role: "status", "aria-live": "polite" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(model.get("code"));
      done.textContent = "Copied.";
    } catch { // no permission, or no clipboard: the code is selected, so that a key copies it
      getSelection().selectAllChildren(code);
      done.textContent = "Press Ctrl+C to copy the selected code.";
    }
    model.send({ copied: true });
  };
  const button = h("button", { type: "button", onclick: copy }, "Copy as Python");
  const root = h("div", { class: "dk dk-snippet" }, h("div", { class: "dk-bar" }, button, done), text);
  el.append(root);
  root.addEventListener("keydown", (event) => event.stopPropagation());
  const repaint = () => {
    code.textContent = model.get("code");
    button.disabled = !model.get("code");
    done.textContent = "";
  };
  const end = watch(model, ["code"], repaint);
  repaint();
  return end;
}

export default { render: snippet };
