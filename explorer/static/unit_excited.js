/** What excites a unit most: training images, and an input made for it, found beforehand beside the run. */
import { excited, picturesOf } from "./api.js";
import { byId, make, sentence } from "./dom.js";
import { Latest } from "./latest.js";

const asking = new Latest(ask);
let asked = "";

/**
 * Show what excites a unit; nothing is asked again for the one that is shown.
 * @param {{place: object, layer: object}} shown
 * @param {number} channel which of the layer's units
 */
export function showExcited({ place, layer }, channel) {
  const wanted = JSON.stringify([place, channel]);
  if (wanted === asked) return;
  asked = wanted;
  const isInput = layer.kind === "input";
  byId("excited-title").hidden = byId("excited").hidden = byId("excited-words").hidden = isInput;
  byId("excited-how").hidden = true;
  if (isInput) {
    asking.clear();
    refuse("");
  } else {
    asking.submit({ place, channel });
  }
}

async function ask({ place, channel }, isWanted) {
  try {
    const { found, why } = await excited(place, channel);
    const sheet = found ? await load(picturesOf(place, channel)) : null;
    if (!isWanted()) return;
    if (!found) refuse(why);
    else if (!sheet) refuse("The pictures of this unit cannot be had; write them again with python -m training.inspect.");
    else show(found, sheet);
  } catch (failure) {
    if (!failure.kind) throw failure;
    if (!isWanted()) return;
    asked = "";
    refuse(failure.message);
  }
}

/** The picture at an address, or null where there is none. */
async function load(address) {
  const picture = make("img", { src: address });
  return picture.decode().then(
    () => picture,
    () => null,
  );
}

function show(found, sheet) {
  refuse("");
  const images = found.labels.map((label, index) =>
    makeFigure(sheet, found.tile, index, `${label} · ${write(found.values[index])}`),
  );
  const last = sheet.naturalWidth / found.tile[1] - 1;
  const made = makeFigure(sheet, found.tile, last, `made for it · ${write(found.maximised)}`);
  byId("excited").replaceChildren(make("div", { className: "nine" }, ...images), made);
  const unit = found.title.startsWith("convolution") ? "filter" : "unit";
  byId("excited-words").textContent =
    `${sentence(unit)} ${found.unit + 1} of ${found.title}: ${found.labels.length} of ${found.images.toLocaleString("en")} training images, with class and value, and an input made for it.`;
  byId("excited-rules").textContent = `${found.selection} Data: ${found.data}. The input made for it: ${found.regularisation}`;
  byId("excited-how").hidden = false;
}

function makeFigure(sheet, [height, width], index, words) {
  const canvas = make("canvas", { width, height, role: "img", "aria-label": words });
  canvas.getContext("2d").drawImage(sheet, index * width, 0, width, height, 0, 0, width, height);
  return make("figure", {}, canvas, make("figcaption", {}, words));
}

function refuse(why) {
  byId("excited-refusal").textContent = why;
  byId("excited-refusal").hidden = !why;
  if (!why) return;
  byId("excited").replaceChildren();
  byId("excited-words").textContent = "";
}

const write = (value) => (value === null ? "no number" : value.toFixed(Math.abs(value) < 10 ? 2 : 1));
