/** Which pixels one value of a layer needs: parts of the input are hidden one after the other. */
import { valuesOf } from "./api.js";
import { byId } from "./dom.js";
import { CALL_IMAGES, hideParts, STEP } from "./occlusion.js";
import { paintOver } from "./pixels.js";
import { session } from "./session.js";

const INVITATION = "Hides one part of 5×5 pixels after the other, and shows where this value falls.";
let wanted = null;

/** Set it up. */
export function startHiding() {
  byId("hiding-run").addEventListener("click", measure);
}

/**
 * Another value is shown: what was measured is forgotten.
 * @param {{place: object, layer: object}} shown
 * @param {number} unit its place in the layer's shape
 */
export function offerHiding({ place, layer }, unit) {
  wanted = { place, unit };
  byId("hiding").hidden = layer.kind === "input";
  byId("hiding-map").hidden = true;
  byId("hiding-run").disabled = !session.answer;
  byId("hiding-words").textContent = INVITATION;
}

async function measure() {
  const asked = wanted;
  const { answer, page } = session;
  byId("hiding-words").textContent = "Measuring…";
  try {
    const { inputs, columns } = hideParts(answer.pixels, answer.shape);
    const most = Math.min(CALL_IMAGES, page.most_images);
    const [whole, ...hidden] = await valuesOf(asked.place, asked.unit, [answer.pixels, ...inputs], most);
    if (wanted === asked) show(whole, hidden, columns.length, answer);
  } catch (failure) {
    if (!failure.kind) throw failure;
    if (wanted === asked) byId("hiding-words").textContent = failure.message;
  }
}

function show(whole, hidden, width, answer) {
  const losses = hidden.map((value) => whole - value);
  const most = losses.indexOf(Math.max(...losses));
  paintOver(byId("hiding-map"), answer, { values: losses, width, step: STEP });
  byId("hiding-map").hidden = false;
  const place = `row ${Math.floor(most / width) * STEP + 1}, column ${(most % width) * STEP + 1}`;
  byId("hiding-words").textContent =
    losses[most] > 0
      ? `Hiding the part around ${place} of the input costs most: ${whole.toFixed(2)} falls to ${hidden[most].toFixed(2)}. Blue: the value falls; orange: it rises.`
      : "Whatever part is hidden, this value does not fall.";
}
