/** Numbers as pictures. */

let ramp = readRamp();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (ramp = readRamp()));

/** Bytes from base64. @param {string} text @returns {Uint8Array} */
export const fromBase64 = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

/** float32 numbers from base64. @param {string} text @returns {Float32Array} */
export const floatsFromBase64 = (text) => new Float32Array(fromBase64(text).buffer);

/**
 * Paint an input as it is: grey, or red, green and blue.
 * @param {HTMLCanvasElement} canvas takes the input's size
 * @param {Uint8Array} pixels channels x height x width
 * @param {number[]} shape channels, height, width
 */
export function paintInput(canvas, pixels, [channels, height, width]) {
  const area = height * width;
  paint(canvas, height, width, (index) =>
    channels === 3
      ? [pixels[index], pixels[index + area], pixels[index + 2 * area]]
      : Array(3).fill(pixels[index]),
  );
}

/**
 * Paint numbers: 0 as ground, above in one colour, below in another.
 * @param {HTMLCanvasElement} canvas takes the map's size
 * @param {ArrayLike<number>} values height x width
 * @param {number} height
 * @param {number} width
 * @param {number} strongest the magnitude that gets the full colour
 */
export function paintMap(canvas, values, height, width, strongest) {
  paint(canvas, height, width, (index) => colourOf(values[index], strongest));
}

/**
 * Paint numbers over a faint input: one number stands for a square of pixels.
 * @param {HTMLCanvasElement} canvas takes the input's size
 * @param {{pixels: Uint8Array, shape: number[]}} input its first channel is shown
 * @param {{values: number[], width: number, step: number}} grid numbers row by row, and how many pixels lie between two
 */
export function paintOver(canvas, { pixels, shape: [, height, width] }, grid) {
  const strongest = strongestOf(grid.values);
  const rows = grid.values.length / grid.width;
  const nearest = (at, most) => Math.min(most - 1, Math.round(at / grid.step));
  paint(canvas, height, width, (index) => {
    const value =
      grid.values[nearest(Math.floor(index / width), rows) * grid.width + nearest(index % width, grid.width)];
    const faint = (pixels[index] / 255) * 0.45;
    const ground = ramp.zero.map((zero) => zero + ((zero > 128 ? 0 : 255) - zero) * faint);
    const share = Math.sqrt(Math.abs(value) / strongest) * 0.85;
    const colour = value < 0 ? ramp.minus : ramp.plus;
    return ground.map((level, channel) => level + (colour[channel] - level) * share);
  });
}

/** Paint the scale that `paintMap` uses, from -strongest to strongest. @param {HTMLCanvasElement} canvas */
export function paintScale(canvas) {
  paint(canvas, 1, 101, (index) => colourOf(index - 50, 50));
}

/** Largest magnitude, never 0. @param {ArrayLike<number>} values */
export function strongestOf(values) {
  let most = 1e-12;
  for (let index = 0; index < values.length; index++) most = Math.max(most, Math.abs(values[index]));
  return most;
}

function colourOf(value, strongest) {
  const share = Math.min(1, Math.abs(value) / strongest);
  const end = value < 0 ? ramp.minus : ramp.plus;
  return ramp.zero.map((zero, channel) => zero + (end[channel] - zero) * share);
}

function paint(canvas, height, width, colour) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let index = 0; index < height * width; index++) {
    const [red, green, blue] = colour(index);
    image.data.set([red, green, blue, 255], index * 4);
  }
  context.putImageData(image, 0, 0);
}

function readRamp() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => {
    const hex = style.getPropertyValue(name).trim().slice(1);
    return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
  };
  return { zero: read("--zero"), plus: read("--plus"), minus: read("--minus") };
}
