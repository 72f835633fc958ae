/** Which pixels matter: a patch hides one part of the input after the other, and the server is asked each time. */
import { classifyMany } from "./api.js";
import { byId, make, percent } from "./dom.js";
import { paintOver } from "./pixels.js";
import { session } from "./session.js";

const PATCH = 5;
/** Pixels between two patches. */
export const STEP = 2;
/** Inputs in one request: few enough that a busy server answers within the deadline. */
export const CALL_IMAGES = 32;

/** Set it up. */
export function startOcclusion() {
  session.addEventListener("model", () => {
    const members = session.model.members.map((_, index) =>
      make("option", { value: index }, `member ${index + 1}`),
    );
    byId("occlusion-of").replaceChildren(make("option", { value: "" }, "the ensemble"), ...members);
  });
  session.addEventListener("answer", forget);
  byId("occlusion-run").addEventListener("click", measure);
  forget();
}

/**
 * Inputs with one part hidden each.
 * @param {Uint8Array} pixels
 * @param {number[]} shape channels, height, width
 * @returns {{inputs: Uint8Array[], columns: number[]}} row by row, and where the patches of each row begin
 */
export function hideParts(pixels, [channels, height, width]) {
  const rows = range(-Math.floor(PATCH / 2), height - Math.ceil(PATCH / 2) + 1, STEP);
  const columns = range(-Math.floor(PATCH / 2), width - Math.ceil(PATCH / 2) + 1, STEP);
  const hide = (top, left) => {
    const hidden = pixels.slice();
    for (let channel = 0; channel < channels; channel++) {
      for (let row = Math.max(0, top); row < Math.min(height, top + PATCH); row++) {
        const start = (channel * height + row) * width;
        hidden.fill(
          pixels[channel * height * width],
          start + Math.max(0, left),
          start + Math.min(width, left + PATCH),
        );
      }
    }
    return hidden;
  };
  return { inputs: rows.flatMap((top) => columns.map((left) => hide(top, left))), columns };
}

async function measure() {
  const { answer, page } = session;
  if (!answer) return;
  const button = byId("occlusion-run");
  button.disabled = true;
  button.textContent = "Measuring…";
  await session.attempt(async () => {
    const { inputs, columns } = hideParts(answer.pixels, answer.shape);
    const [whole, ...hidden] = await classifyMany(
      session.answering,
      [answer.pixels, ...inputs],
      Math.min(CALL_IMAGES, page.most_images),
    );
    if (session.answer === answer) show(whole, hidden, columns.length);
  });
  button.textContent = "Measure";
  button.disabled = !session.answer;
}

function show(whole, hidden, width) {
  const member = byId("occlusion-of").value;
  const sharesOf = (verdict) => (member === "" ? verdict.probabilities : verdict.members[Number(member)]);
  const before = sharesOf(whole);
  const top = before.indexOf(Math.max(...before));
  const losses = hidden.map((verdict) => before[top] - sharesOf(verdict)[top]);
  const canvas = byId("occlusion");
  paintOver(canvas, session.answer, { values: losses, width, step: STEP });
  canvas.hidden = false;
  byId("occlusion-words").textContent = inWords(losses, width, sharesOf, hidden, before, top);
}

function inWords(losses, width, sharesOf, hidden, before, top) {
  const most = losses.indexOf(Math.max(...losses));
  const label = session.model.labels[top];
  if (losses[most] < 0.01)
    return `No single patch matters: whatever part is hidden, ${label} stays above ${percent(before[top] - losses[most])}.`;
  const after = sharesOf(hidden[most]);
  const instead = session.model.labels[after.indexOf(Math.max(...after))];
  const [row, column] = [Math.floor(most / width) * STEP + 1, (most % width) * STEP + 1];
  const turned = instead === label ? "" : ` It then reads ${instead}.`;
  return `Hiding the pixels around row ${row}, column ${column} costs most: ${label} falls from ${percent(before[top])} to ${percent(after[top])}.${turned}`;
}

function forget() {
  byId("occlusion").hidden = true;
  byId("occlusion-run").disabled = !session.answer;
  byId("occlusion-words").textContent = "";
}

function range(first, end, step) {
  return Array.from({ length: Math.ceil((end - first) / step) }, (_, index) => first + index * step);
}
