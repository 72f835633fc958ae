/** A closer look at one unit of a layer: its map, one of its values, what that listens to, what excites it most. */
import { byId } from "./dom.js";
import { paintMap, strongestOf } from "./pixels.js";
import { showExcited } from "./unit_excited.js";
import { showGradients } from "./unit_gradients.js";
import { offerHiding, startHiding } from "./unit_hiding.js";

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/** The layer that is shown: its place, its values, cut into [maps, height, width], and names of classes or null. */
let shown = null;
/** Which map, and which of its values. */
let map = 0;
let at = 0;

/** Set the dialog up. */
export function startUnit() {
  const dialog = byId("enlarged");
  byId("enlarged-before").addEventListener("click", () => step(-1));
  byId("enlarged-after").addEventListener("click", () => step(1));
  byId("enlarged-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    const [down, right] = STEPS[event.key] ?? [0, 0];
    if (event.target === byId("enlarged-map")) move(event, down, right);
    else if (right) step(right);
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  byId("enlarged-map").addEventListener("click", choose);
  startHiding();
}

/** Another layer, or new values of the same, are shown from now on. */
export function refreshUnit(layer) {
  shown = layer;
  if (byId("enlarged").open) show();
}

/**
 * Look closer at a map, at its strongest value; or at one value of a layer that has no maps.
 * @param {{map?: number, value?: number}} unit
 */
export function openUnit({ map: chosen = 0, value }) {
  map = chosen;
  at = value ?? strongestIn(valuesOf(map));
  byId("enlarged").showModal();
  show();
}

/** Whether the layer's units are maps, and not the values of the one that is drawn. */
const hasMaps = () => shown.layer.shape.length === 3;

function valuesOf(index) {
  const size = shown.cut[1] * shown.cut[2];
  return shown.values.subarray(index * size, (index + 1) * size);
}

const strongestIn = (values) => values.indexOf(Math.max(...values));

function step(by) {
  const around = (value, count) => (value + by + count) % count;
  if (hasMaps()) {
    map = around(map, shown.cut[0]);
    at = strongestIn(valuesOf(map));
  } else {
    at = around(at, shown.values.length);
  }
  show();
}

function move(event, down, right) {
  if (!down && !right) return;
  event.preventDefault();
  const [, height, width] = shown.cut;
  const row = Math.min(height - 1, Math.max(0, Math.floor(at / width) + down));
  const column = Math.min(width - 1, Math.max(0, (at % width) + right));
  at = row * width + column;
  show();
}

function choose(event) {
  const [, height, width] = shown.cut;
  const box = event.currentTarget.getBoundingClientRect();
  const row = Math.min(height - 1, Math.floor(((event.clientY - box.top) / box.height) * height));
  const column = Math.min(width - 1, Math.floor(((event.clientX - box.left) / box.width) * width));
  at = row * width + column;
  show();
}

function show() {
  const [count, height, width] = shown.cut;
  if (map >= count) map = 0;
  const values = valuesOf(map);
  if (at >= values.length) at = 0;
  paintMap(byId("enlarged-map"), values, height, width, strongestOf(values));
  byId("enlarged-title").textContent = titleOf(count);
  byId("enlarged-words").textContent = wordsOf(values);
  byId("enlarged-value").textContent = valueInWords(values[at], width);
  markAt(height, width);
  const unit = map * values.length + at;
  showGradients(shown, unit);
  offerHiding(shown, unit);
  showExcited(shown, hasMaps() ? map : at);
}

function titleOf(count) {
  const { layer, names } = shown;
  if (hasMaps()) return count === 1 ? layer.title : `${layer.title}, map ${map + 1} of ${count}`;
  return names ? `${layer.title}, class ${names[at]}` : `${layer.title}, unit ${at + 1} of ${shown.values.length}`;
}

function wordsOf(values) {
  const above = values.filter((value) => value > 0).length / values.length;
  const range = `From ${Math.min(...values).toFixed(2)} to ${Math.max(...values).toFixed(2)}; ${(above * 100).toFixed(0)} % above 0.`;
  const whose = hasMaps() ? "Here the scale is this map’s own." : "These are all units of the layer, row by row.";
  return `${range} ${whose} A click, or arrow keys on the picture, choose another value.`;
}

function valueInWords(value, width) {
  const size = Math.abs(value) >= 0.005 || value === 0 ? value.toFixed(2) : value.toExponential(1);
  return hasMaps()
    ? `${size} at row ${Math.floor(at / width) + 1}, column ${(at % width) + 1}.`
    : `${size}, the value of this unit.`;
}

function markAt(height, width) {
  Object.assign(byId("enlarged-at").style, {
    left: `${((at % width) / width) * 100}%`,
    top: `${(Math.floor(at / width) / height) * 100}%`,
    width: `${100 / width}%`,
    height: `${100 / height}%`,
  });
}
