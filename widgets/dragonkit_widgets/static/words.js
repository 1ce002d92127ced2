// What the pictures of a player show, in words and numbers.

const HINT = {
  picture: "no pictures were kept:\nedit(..., trace=True)",
  gradient: "no gradients were kept:\nedit(..., trace=True)",
  attention: "attention was not recorded: edit(..., trace=Record(attention=True))",
};

/** What is known of where edited cells look at the step shown: ``mean`` over the target, ``own`` of the marked pixel's cell,
    each as maps, or null; ``parts`` are the layers that they are means over, [own, mean]; ``why`` there is no ``own``. */
function gazeOf({ reel, step, pin, cell }, layer) {
  const now = reel.steps[step], looks = reel.gazeOf(cell, step);
  const mean = now ? looksOf(now.looks, layer) : null, own = pin.length && looks ? looksOf(looks, layer) : null;
  const parts = [looks ?? {}, now?.looks ?? {}].map((some) => (layer ? 1 : Object.keys(some).length));
  const why = !pin.length || !mean || own ? "" : !now.single ? "its own attention was not kept"
    : looks ? "it is no edited pixel, and has no attention of its own" : "where it looks has not arrived";
  return { mean, own, parts, why };
}

/** One line about the step, one about the pixel that is marked if one is, and one about the target's attention. */
function reading(deck, gaze, channel, extent) {
  const { reel, step, last, pin } = deck, now = reel.steps[step];
  if (!now) return deck.count ? `step ${step} has not arrived` : "no run to show yet";
  const parts = [`step ${step} of ${last}`];
  if (reel.steps.some((s) => s?.visit)) parts.push(`denoising step ${now.i}, visit ${now.visit + 1}`);
  parts.push(`t = ${now.t}`);
  for (const [name, value] of Object.entries(now.energies)) parts.push(`${name} ${short(value)}`);
  if (!Object.keys(now.energies).length) parts.push("not guided");
  if (now.norm != null) parts.push(`‖gradient‖ ${short(now.norm)}`);
  const lines = [parts.join(" · ")];
  if (pin.length) lines.push(readingAt(deck, now, gaze, channel, extent));
  if (gaze?.mean) lines.push(`all target cells look: ${shares(gaze.mean, pin, extent)}`);
  return lines.join("\n");
}

function readingAt({ pin, reel }, now, gaze, channel, extent) {
  const parts = [`pixel (${pin.join(", ")})`];
  if (now.grad) {
    const map = channelOf(now.grad, channel);
    parts.push(`gradient ${short(map.values[cellAt(map, extent[0], pin)])}`);
  }
  if (!reel.layers.length) parts.push(HINT.attention);
  else if (gaze?.own) {
    const [some, all] = gaze.parts;
    parts.push(`it looks${some < all ? ` (in ${some} of ${all} blocks)` : ""}: ${shares(gaze.own, pin, extent)}`);
  } else if (gaze) parts.push(gaze.why || "no attention at this step");
  return parts.join(" · ");
}

/** How much of attention goes to which picture, how much of it to the source's marked pixel, and where most of it goes. */
function shares(looks, pin, extent) {
  const share = (map) => Math.round(100 * map.values.reduce((a, b) => a + b, 0));
  const parts = [looks.map((map, k) => `${share(map)}% ${["own", "source"][k] ?? `reference ${k - 1}`}`).join(", ")];
  if (pin.length) parts.push(`at this source pixel ${short(100 * looks[1].values[cellAt(looks[1], extent[0], pin)])}%`);
  return [...parts, `most at (${spotOfMost(looks[1], extent).join(", ")})`].join("; ");
}
