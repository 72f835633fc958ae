/** Softmax with its inputs: the logits of the first member, which may be changed. */
import { activations, listLayers } from "./api.js";
import { softmax } from "./convolution.js";
import { byId, make, percent } from "./dom.js";
import { Latest } from "./latest.js";
import { floatsFromBase64 } from "./pixels.js";
import { session } from "./session.js";
import { isOpen } from "./tabs.js";

let logits = [];
const fetching = new Latest(fetchLogits);

/** Set it up. */
export function startSoftmaxView() {
  byId("softmax-reset").addEventListener("click", refreshSoftmax);
  session.addEventListener("answer", refreshSoftmax);
}

/** Fetch the logits of the drawing, if the view is open. */
export function refreshSoftmax() {
  if (isOpen("convolution") && session.model) fetching.submit();
}

async function fetchLogits() {
  const { model, answer } = session;
  byId("softmax-words").textContent = "";
  try {
    logits = answer ? await logitsOf(answer) : model.labels.map(() => 0);
  } catch (failure) {
    if (!failure.kind) throw failure;
    byId("softmax-words").textContent = failure.message;
    logits = model.labels.map(() => 0);
  }
  show(model.labels);
}

async function logitsOf(answer) {
  const { layers } = await listLayers(session.answering, 1);
  const last = layers.length - 2; // the softmax is the last
  const reply = await activations(session.answering, 1, last, answer.pixels);
  return [...floatsFromBase64(reply.values.float32)].map((logit) => Number(logit.toFixed(2)));
}

function show(labels) {
  const head = make(
    "tr",
    {},
    ...["class", "number z", "e to the z", "share"].map((title) => make("th", { scope: "col" }, title)),
  );
  const rows = labels.map((label, index) => {
    const field = make("input", {
      type: "number",
      step: "0.5",
      value: String(logits[index]),
      "aria-label": `Number of class ${label}`,
    });
    field.addEventListener("input", () => {
      logits[index] = Number.isFinite(field.valueAsNumber) ? field.valueAsNumber : 0;
      fillShares();
    });
    const cells = [
      make("td", {}, label),
      make("td", {}, field),
      make("td", { className: "power" }),
      make("td", { className: "share" }),
    ];
    return make("tr", {}, ...cells);
  });
  byId("softmax").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
  fillShares();
}

function fillShares() {
  const shares = softmax(logits);
  byId("softmax")
    .querySelectorAll("tbody tr")
    .forEach((row, index) => {
      row.querySelector(".power").textContent = readable(Math.exp(logits[index]));
      row.querySelector(".share").textContent = percent(shares[index]);
    });
}

const readable = (value) =>
  value >= 1e5 || (value < 0.001 && value > 0) ? value.toExponential(1) : value.toFixed(3);
