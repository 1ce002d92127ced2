export default { render({ model, el }) { el.classList.add("dk", "dk-sketch"); return () => {}; } };
