/** Feature maps as a grid of pictures, or a layer's few numbers as bars; each leads to a closer look at its unit. */
import { byId, make } from "./dom.js";
import { paintMap, paintScale, strongestOf } from "./pixels.js";
import { openUnit, refreshUnit } from "./unit.js";
import { showBars } from "./verdict.js";

const BAR_MOST = 20;

/**
 * Show what a layer gave.
 * @param {{name: string, version: number, member: number, layer: number}} place where the layer is
 * @param {object} layer
 * @param {Float32Array} values of the layer's shape
 * @param {string[]} labels of the classes
 */
export function showMaps(place, layer, values, labels) {
  const inBars = layer.shape.length === 1 && layer.shape[0] <= BAR_MOST;
  const cut = layer.shape.length === 3 ? layer.shape : [1, ...squarest(layer.shape[0])];
  const names = labels.length === values.length ? labels : null;
  refreshUnit({ place, layer, values, cut, names });
  byId("layer-scale").hidden = inBars;
  if (inBars) {
    showNumbers(byId("maps"), layer, values, names);
  } else {
    fill(byId("maps"), values, cut);
    showScale(strongestOf(values));
  }
}

function fill(place, values, [count, height, width]) {
  place.className = count <= 3 ? "maps few" : "maps";
  if (place.querySelectorAll("button").length !== count || place.querySelector(".bars")) {
    place.replaceChildren(...Array.from({ length: count }, (_, index) => makeButton(index)));
  }
  const strongest = strongestOf(values);
  const size = height * width;
  place
    .querySelectorAll("canvas")
    .forEach((canvas, index) =>
      paintMap(canvas, values.subarray(index * size, (index + 1) * size), height, width, strongest),
    );
}

function makeButton(index) {
  const button = make("button", { type: "button", "aria-label": `Enlarge map ${index + 1}` }, make("canvas"));
  button.addEventListener("click", () => openUnit({ map: index }));
  return button;
}

function showNumbers(place, layer, values, classes) {
  const numbers = [...values];
  const names = classes ?? numbers.map((_, index) => String(index + 1));
  place.className = "maps numbers";
  if (place.dataset.units !== names.join("\n") || !place.querySelector(".bars")) {
    place.dataset.units = names.join("\n");
    place.replaceChildren(make("div", { className: "bars" }), makeUnitButtons(names));
  }
  const bars = place.querySelector(".bars");
  const strongest = strongestOf(numbers);
  showBars(
    bars,
    names,
    layer.kind === "softmax" ? numbers : numbers.map((value) => Math.max(0, value) / strongest),
  );
  if (layer.kind === "softmax") return;
  bars.querySelectorAll(".value").forEach((cell, index) => (cell.textContent = numbers[index].toFixed(2)));
}

function makeUnitButtons(names) {
  const buttons = names.map((name, index) => {
    const button = make("button", { type: "button", "aria-label": `Look closer at ${name}` }, name);
    button.addEventListener("click", () => openUnit({ value: index }));
    return button;
  });
  return make("div", { className: "unit-buttons" }, make("span", { className: "soft small" }, "Look closer at"), ...buttons);
}

function showScale(strongest) {
  const canvas = make("canvas", { "aria-hidden": "true" });
  paintScale(canvas);
  byId("layer-scale").replaceChildren(`−${strongest.toFixed(2)}`, canvas, strongest.toFixed(2));
}

/** Rows and columns of the squarest rectangle of so many cells. */
function squarest(count) {
  let rows = Math.floor(Math.sqrt(count));
  while (count % rows) rows--;
  return [rows, count / rows];
}
