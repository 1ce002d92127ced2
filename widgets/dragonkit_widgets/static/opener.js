// An image file: chosen, or dropped on the button. Large files are scaled down here.

const HEAVY = 4e6; // bytes
const SIDE = 1024; // pixels

function opener({ model, el }) {
  const said = h("span", { class: "dk-read", role: "status", "aria-live": "polite" });
  const input = h("input", { type: "file", accept: "image/*", "aria-label": "image file", onchange: () => take(input.files[0]) });
  const choose = h("button", { type: "button", onclick: () => input.click() }, "Choose a file…");
  const root = h("div", { class: "dk dk-opener" }, h("div", { class: "dk-bar" }, choose, h("span", { class: "dk-dim" }, "or drop one here"), said), input);
  el.append(root);

  const say = (text, error = false) => {
    said.textContent = text;
    said.setAttribute("role", error ? "alert" : "status");
    said.classList.toggle("dk-error", error);
  };

  async function take(file) {
    if (!file) return;
    say(`reading ${file.name}`);
    try {
      if (file.size <= HEAVY) model.send({ name: file.name }, undefined, [await file.arrayBuffer()]);
      else await reduced(file);
      say(file.name);
    } catch {
      say(`${file.name} is not a readable image: choose another file`, true);
    }
    input.value = ""; // so that the same file can be chosen again
  }

  async function reduced(file) {
    const full = await createImageBitmap(file);
    const { width, height } = full;
    const factor = Math.min(1, SIDE / Math.max(width, height));
    const small = h("canvas");
    Object.assign(small, { width: Math.max(1, Math.round(width * factor)), height: Math.max(1, Math.round(height * factor)) });
    const context = small.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(full, 0, 0, small.width, small.height);
    full.close();
    const blob = await new Promise((resolve) => small.toBlob(resolve, "image/png"));
    model.send({ name: file.name, size: [width, height] }, undefined, [await blob.arrayBuffer()]);
  }

  const over = (event, on) => { event.preventDefault(); event.stopPropagation(); root.classList.toggle("dk-over", on); };
  root.addEventListener("dragover", (event) => over(event, true));
  root.addEventListener("dragleave", (event) => over(event, false));
  root.addEventListener("drop", (event) => { over(event, false); take(event.dataTransfer.files[0]); });
}

export default { render: opener };
