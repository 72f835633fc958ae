/** An input, changed step by step: turned, pushed aside, covered with noise. Inputs are {pixels, shape}. */

/** @typedef {{pixels: Uint8Array, shape: number[]}} Input */

/**
 * What can be done to an input. Each has its steps, how a step is written, and what makes the input of a step.
 * @type {{title: string, axis: string, steps: number[], write: (step: number) => string,
 *   apply: (input: Input, step: number) => Uint8Array}[]}
 */
export const SWEEPS = [
  {
    title: "Rotation",
    axis: "rotation, in degrees",
    steps: stepsFrom(-90, 90, 7.5),
    write: (step) => `${step}°`,
    apply: rotate,
  },
  {
    title: "Shift",
    axis: "shift to the right, in pixels",
    steps: stepsFrom(-12, 12, 1),
    write: (step) => `${step} px`,
    apply: shift,
  },
  {
    title: "Noise",
    axis: "noise, as a share of full brightness",
    steps: stepsFrom(0, 1.2, 0.05),
    write: (step) => step.toFixed(2),
    apply: addNoise,
  },
];

/** Turn clockwise around the middle, between pixels bilinearly. @param {Input} input @param {number} degrees */
export function rotate({ pixels, shape }, degrees) {
  const [, height, width] = shape;
  const angle = (degrees * Math.PI) / 180;
  const [sine, cosine] = [Math.sin(angle), Math.cos(angle)];
  const [middleRow, middleColumn] = [(height - 1) / 2, (width - 1) / 2];
  return resample(pixels, shape, (row, column) => [
    middleRow + (row - middleRow) * cosine - (column - middleColumn) * sine,
    middleColumn + (row - middleRow) * sine + (column - middleColumn) * cosine,
  ]);
}

/** Push to the right. @param {Input} input @param {number} by in pixels */
export function shift({ pixels, shape }, by) {
  return resample(pixels, shape, (row, column) => [row, column - by]);
}

/**
 * Add Gaussian noise, the same at every call.
 * @param {Input} input
 * @param {number} share its standard deviation / 255
 */
export function addNoise({ pixels }, share) {
  const random = randomNumbers(7);
  return pixels.map((value) => Math.min(255, Math.max(0, Math.round(value + 255 * share * gauss(random)))));
}

/**
 * Numbers in 0..1 that look random and are the same for the same seed (a linear congruential generator).
 * @param {number} seed
 */
export function randomNumbers(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) / 2 ** 24;
  };
}

function gauss(random) {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

function resample(pixels, [channels, height, width], sourceOf) {
  const changed = new Uint8Array(pixels.length);
  for (let index = 0; index < height * width; index++) {
    const [row, column] = sourceOf(Math.floor(index / width), index % width);
    for (let channel = 0; channel < channels; channel++) {
      const plane = pixels.subarray(channel * height * width, (channel + 1) * height * width);
      changed[channel * height * width + index] = Math.round(between(plane, height, width, row, column));
    }
  }
  return changed;
}

/** The value between four pixels; outside is as the first pixel, the ground. */
function between(plane, height, width, row, column) {
  const [top, left] = [Math.floor(row), Math.floor(column)];
  const [down, right] = [row - top, column - left];
  const at = (r, c) => (r >= 0 && r < height && c >= 0 && c < width ? plane[r * width + c] : plane[0]);
  const upper = at(top, left) * (1 - right) + at(top, left + 1) * right;
  const lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right;
  return upper * (1 - down) + lower * down;
}

function stepsFrom(first, last, by) {
  return Array.from({ length: Math.round((last - first) / by) + 1 }, (_, index) =>
    Number((first + index * by).toFixed(4)),
  );
}
