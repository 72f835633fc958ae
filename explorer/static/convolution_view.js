/** How a convolution works, on the digit that was drawn. */
import { KERNELS, convolve, coveredBy, maxPool, pad, relu } from "./convolution.js";
import { byId, make } from "./dom.js";
import { paintMap, strongestOf } from "./pixels.js";
import { session } from "./session.js";
import { isOpen } from "./tabs.js";

const LARGE = 280;
const FRAME_MS = 30;
let kernel = [...Object.values(KERNELS)[0]];
let place = { row: 5, column: 14 };
let playing = 0;

/** Set the view up. */
export function startConvolutionView() {
  byId("kernel-choice").append(
    ...Object.keys(KERNELS).map((name) => make("option", {}, name)),
    make("option", { hidden: true }, "my own"),
  );
  byId("kernel-choice").addEventListener("change", (event) => {
    kernel = [...KERNELS[event.target.value]];
    showKernel();
    refreshConvolution();
  });
  byId("padding").addEventListener("change", refreshConvolution);
  byId("pool-size").addEventListener("change", refreshConvolution);
  byId("conv-play").addEventListener("click", () => (playing ? stop() : play()));
  byId("conv-in").addEventListener("pointermove", point);
  byId("conv-in").addEventListener("pointerdown", point);
  byId("conv-in").addEventListener("keydown", (event) => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    go(place.row + move[0], place.column + move[1]);
  });
  session.addEventListener("answer", refreshConvolution);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refreshConvolution);
  showKernel();
}

/** Draw everything anew, if the view is open. */
export function refreshConvolution() {
  if (!isOpen("convolution")) return stop();
  const picture = input();
  const result = convolve(picture, kernel);
  go(place.row, place.column);
  const pooled = maxPool(relu(result), Number(byId("pool-size").value));
  paintScaled("pool-in", relu(result), 140);
  paintScaled("pool-out", pooled, 140);
  byId("pool-in-words").textContent = `After ReLU: ${sizeOf(result)}`;
  byId("pool-out-words").textContent = `After pooling: ${sizeOf(pooled)}`;
  byId("conv-in-words").textContent =
    `Input, ${sizeOf(picture)}${byId("padding").checked ? ", with its border of zeros" : ""}`;
  byId("conv-out-words").textContent = `Result, ${sizeOf(result)}`;
  byId("padding-words").textContent = byId("padding").checked
    ? "With padding, a border of zeros is laid around the picture: the result is as large as the input."
    : "Without padding, the kernel must lie inside the picture: one row and column are lost on each side, at every layer.";
}

/** First channel of the drawing, 0 to 1; black where nothing is drawn. */
function input() {
  const [, height, width] = session.answer?.shape ?? session.model?.shape ?? [1, 28, 28];
  const pixels = session.answer?.pixels ?? new Uint8Array(height * width);
  const picture = {
    values: Float32Array.from(pixels.subarray(0, height * width), (value) => value / 255),
    height,
    width,
  };
  return byId("padding").checked ? pad(picture) : picture;
}

function go(row, column) {
  const picture = input();
  const result = convolve(picture, kernel);
  place = {
    row: Math.min(result.height - 1, Math.max(0, row)),
    column: Math.min(result.width - 1, Math.max(0, column)),
  };
  paintScaled("conv-in", picture, LARGE);
  outline("conv-in", picture, place, 3);
  paintScaled("conv-out", result, LARGE);
  outline("conv-out", result, place, 1);
  const pixels = coveredBy(picture, place.row, place.column);
  const terms = pixels.map((pixel, index) => [pixel, kernel[index]]).filter(([pixel, weight]) => pixel && weight);
  const sum = terms.reduce((total, [pixel, weight]) => total + pixel * weight, 0);
  const written =
    terms.map(([pixel, weight]) => `${pixel.toFixed(2)}×${weight < 0 ? `(${weight})` : weight}`).join(" + ") ||
    "all nine products are 0";
  byId("conv-sum").replaceChildren(written, make("b", {}, `= ${sum.toFixed(2)}`));
}

function point(event) {
  const box = event.target.getBoundingClientRect();
  const picture = input();
  const row = Math.floor(((event.clientY - box.top) / box.height) * picture.height);
  const column = Math.floor(((event.clientX - box.left) / box.width) * picture.width);
  if (!playing) go(row - 1, column - 1);
}

function play() {
  place = { row: 0, column: 0 };
  byId("conv-play").textContent = "Stop";
  byId("conv-sum").setAttribute("role", "presentation"); // or a screen reader would read out every step
  playing = setInterval(() => {
    const { height, width } = convolve(input(), kernel);
    const next = place.row * width + place.column + 1;
    if (next >= height * width) stop();
    else go(Math.floor(next / width), next % width);
  }, FRAME_MS);
}

function stop() {
  clearInterval(playing);
  playing = 0;
  byId("conv-play").textContent = "Slide";
  byId("conv-sum").setAttribute("role", "status");
}

function showKernel() {
  const inputs = kernel.map((weight, index) => {
    const field = make("input", {
      type: "number",
      step: "0.5",
      value: String(weight),
      "aria-label": `Weight, row ${Math.floor(index / 3) + 1}, column ${(index % 3) + 1}`,
    });
    field.addEventListener("input", () => {
      kernel[index] = Number.isFinite(field.valueAsNumber) ? field.valueAsNumber : 0;
      byId("kernel-choice").value = "my own";
      refreshConvolution();
    });
    return field;
  });
  byId("kernel").replaceChildren(...inputs);
}

function paintScaled(id, picture, side) {
  const small = document.createElement("canvas");
  paintMap(small, picture.values, picture.height, picture.width, strongestOf(picture.values));
  const canvas = byId(id);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, side, side);
}

function outline(id, picture, { row, column }, size) {
  const canvas = byId(id);
  const [high, wide] = [canvas.height / picture.height, canvas.width / picture.width];
  const context = canvas.getContext("2d");
  context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--minus");
  context.lineWidth = 2.5;
  context.strokeRect(column * wide, row * high, size * wide, size * high);
}

const sizeOf = ({ height, width }) => `${height}×${width}`;
