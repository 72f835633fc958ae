/** Feature maps as a grid of pictures; one can be enlarged. */
import { byId, make } from "./dom.js";
import { paintMap, paintScale, strongestOf } from "./pixels.js";
import { showBars } from "./verdict.js";

const BAR_MOST = 20;
let shown = { title: "", maps: [], height: 0, width: 0, strongest: 1 };
let enlarged = 0;

/**
 * Show what a layer gave.
 * @param {object} layer
 * @param {Float32Array} values of the layer's shape
 * @param {string[]} labels of the classes
 */
export function showMaps(layer, values, labels) {
  const place = byId("maps");
  const strongest = strongestOf(values);
  byId("layer-scale").hidden = false;
  if (layer.shape.length === 1 && layer.shape[0] <= BAR_MOST) {
    byId("layer-scale").hidden = true;
    showNumbers(place, layer, values, labels);
  } else {
    const cut = layer.shape.length === 3 ? layer.shape : [1, ...squarest(layer.shape[0])];
    shown = { title: layer.title, strongest, ...cutMaps(values, cut) };
    place.className = cut[0] <= 3 ? "maps few" : "maps";
    fill(place);
    showScale(strongest);
  }
}

/** Set up the dialog in which a map is enlarged. */
export function startEnlarging() {
  const dialog = byId("enlarged");
  byId("enlarged-before").addEventListener("click", () => enlarge(enlarged - 1));
  byId("enlarged-after").addEventListener("click", () => enlarge(enlarged + 1));
  byId("enlarged-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) enlarge(enlarged + step);
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}

function cutMaps(values, [count, height, width]) {
  const size = height * width;
  return {
    height,
    width,
    maps: Array.from({ length: count }, (_, index) => values.subarray(index * size, (index + 1) * size)),
  };
}

function fill(place) {
  if (place.querySelectorAll("button").length !== shown.maps.length) {
    place.replaceChildren(...shown.maps.map((_, index) => makeButton(index)));
  }
  place
    .querySelectorAll("canvas")
    .forEach((canvas, index) => paintMap(canvas, shown.maps[index], shown.height, shown.width, shown.strongest));
}

function makeButton(index) {
  const button = make("button", { type: "button", "aria-label": `Enlarge map ${index + 1}` }, make("canvas"));
  button.addEventListener("click", () => {
    byId("enlarged").showModal();
    enlarge(index);
  });
  return button;
}

function enlarge(index) {
  const count = shown.maps.length;
  enlarged = (index + count) % count;
  const map = shown.maps[enlarged];
  paintMap(byId("enlarged-map"), map, shown.height, shown.width, strongestOf(map));
  byId("enlarged-title").textContent =
    count === 1 ? shown.title : `${shown.title}, map ${enlarged + 1} of ${count}`;
  const above = map.filter((value) => value > 0).length / map.length;
  byId("enlarged-words").textContent =
    `From ${Math.min(...map).toFixed(2)} to ${Math.max(...map).toFixed(2)}; ${(above * 100).toFixed(0)} % above 0. Here the scale is this map’s own.`;
}

function showNumbers(place, layer, values, labels) {
  place.className = "maps few";
  const numbers = [...values];
  const bars = make("div", { className: "bars" });
  place.replaceChildren(bars);
  const names = labels.length === numbers.length ? labels : numbers.map((_, index) => String(index + 1));
  const strongest = strongestOf(numbers);
  showBars(
    bars,
    names,
    layer.kind === "softmax" ? numbers : numbers.map((value) => Math.max(0, value) / strongest),
  );
  if (layer.kind === "softmax") return;
  bars.querySelectorAll(".value").forEach((cell, index) => (cell.textContent = numbers[index].toFixed(2)));
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
