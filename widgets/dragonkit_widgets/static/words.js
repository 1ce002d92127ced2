// What the pictures of a player show, in words and numbers.

const HINT = {
  picture: "no pictures were kept:\nedit(..., trace=True)",
  gradient: "no gradients were kept:\nedit(..., trace=True)",
  attention: "attention was not recorded: edit(..., trace=Record(attention=True))",
};

/** One line about the step, and one about the pixel that is marked if one is. */
function reading(deck, looks, channel, extent) {
  const { reel, step, last, pin } = deck, now = reel.steps[step];
  if (!now) return deck.count ? `step ${step} has not arrived` : "no run to show yet";
  const parts = [`step ${step} of ${last}`];
  if (reel.steps.some((s) => s?.visit)) parts.push(`denoising step ${now.i}, visit ${now.visit + 1}`);
  parts.push(`t = ${now.t}`);
  for (const [name, value] of Object.entries(now.energies)) parts.push(`${name} ${short(value)}`);
  if (!Object.keys(now.energies).length) parts.push("not guided");
  if (now.norm != null) parts.push(`‖gradient‖ ${short(now.norm)}`);
  return parts.join(" · ") + (pin.length ? `\n${readingAt(deck, now, looks, channel, extent)}` : "");
}

function readingAt({ pin, reel }, now, looks, channel, extent) {
  const [width] = extent, parts = [`pixel (${pin.join(", ")})`];
  if (now.grad) {
    const map = channelOf(now.grad, channel);
    parts.push(`gradient ${short(map.values[cellAt(map, width, pin)])}`);
  }
  if (!reel.layers.length) parts.push(HINT.attention);
  else if (looks) {
    const share = (map) => Math.round(100 * map.values.reduce((a, b) => a + b, 0));
    const shares = looks.map((map, k) => `${share(map)}% ${["own", "source"][k] ?? `reference ${k - 1}`}`);
    const here = looks[1].values[cellAt(looks[1], width, pin)];
    parts.push(`target looks: ${shares.join(", ")}; at this source pixel ${short(100 * here)}%`);
    parts.push(`most at (${spotOfMost(looks[1], extent).join(", ")})`);
  } else parts.push("no attention at this step");
  return parts.join(" · ");
}
