/** What one value of a layer listens to: its gradient back to the input, plain and guided. */
import { gradients } from "./api.js";
import { byId, make } from "./dom.js";
import { Latest } from "./latest.js";
import { floatsFromBase64, paintInput, paintMap, paintScale, strongestOf } from "./pixels.js";
import { session } from "./session.js";

const KINDS = ["plain", "guided"];
const asking = new Latest(ask);

/**
 * Show the gradients of a value.
 * @param {{place: object, layer: object}} shown
 * @param {number} unit its place in the layer's shape
 */
export function showGradients({ place, layer }, unit) {
  if (!session.answer) return;
  paintInput(byId("gradient-input"), session.answer.pixels, session.answer.shape);
  if (layer.kind === "input") {
    asking.clear();
    refuse("This is the input itself; what follows from it has gradients.");
  } else {
    asking.submit({ place, unit, pixels: session.answer.pixels });
  }
}

async function ask({ place, unit, pixels }, isWanted) {
  try {
    const found = await gradients(place, unit, pixels);
    if (!isWanted()) return;
    for (const kind of KINDS) paint(kind, found[kind]);
    refuse("");
  } catch (failure) {
    if (!failure.kind) throw failure;
    if (isWanted()) refuse(failure.message);
  }
}

function paint(kind, { shape: [channels, height, width], float32 }) {
  const values = strongestChannel(floatsFromBase64(float32), channels, height * width);
  const strongest = strongestOf(values);
  paintMap(byId(`gradient-${kind}`), values, height, width, strongest);
  const bar = make("canvas", { "aria-hidden": "true" });
  paintScale(bar);
  const most = strongest > 1e-11 ? strongest : 0;
  byId(`gradient-${kind}-scale`).replaceChildren(`−${write(most)}`, bar, write(most));
}

/** Of each pixel the colour that counts most; a grey one has no other. */
function strongestChannel(values, channels, area) {
  return Float32Array.from({ length: area }, (_, index) => {
    const each = Array.from({ length: channels }, (_, channel) => values[channel * area + index]);
    return each.reduce((one, other) => (Math.abs(other) > Math.abs(one) ? other : one));
  });
}

function refuse(why) {
  byId("gradient-refusal").textContent = why;
  byId("gradient-refusal").hidden = !why;
  byId("gradients").hidden = byId("gradient-words").hidden = Boolean(why);
}

const write = (value) => (value === 0 || value >= 0.005 ? value.toFixed(2) : value.toExponential(0));
