/** The arithmetic of a convolutional network, for one channel. Pictures are {values, height, width}. */

/** @typedef {{values: Float32Array, height: number, width: number}} Picture */

/** Kernels worth knowing, by name; weights row by row. */
export const KERNELS = {
  "vertical edges": [-1, 0, 1, -1, 0, 1, -1, 0, 1],
  "horizontal edges": [-1, -1, -1, 0, 0, 0, 1, 1, 1],
  "diagonal edges": [0, 1, 1, -1, 0, 1, -1, -1, 0],
  outline: [-1, -1, -1, -1, 8, -1, -1, -1, -1],
  blur: [0.11, 0.11, 0.11, 0.11, 0.11, 0.11, 0.11, 0.11, 0.11],
  sharpen: [0, -1, 0, -1, 5, -1, 0, -1, 0],
  "nothing changes": [0, 0, 0, 0, 1, 0, 0, 0, 0],
};

/** With a border of one 0 on each side. @param {Picture} picture @returns {Picture} */
export function pad({ values, height, width }) {
  const padded = { values: new Float32Array((height + 2) * (width + 2)), height: height + 2, width: width + 2 };
  for (let row = 0; row < height; row++) {
    padded.values.set(values.subarray(row * width, (row + 1) * width), (row + 1) * padded.width + 1);
  }
  return padded;
}

/** The nine pixels that a 3x3 kernel covers. @param {Picture} picture @param {number} top @param {number} left */
export const coveredBy = ({ values, width }, top, left) =>
  Array.from({ length: 9 }, (_, index) => values[(top + Math.floor(index / 3)) * width + left + (index % 3)]);

/** Slide a 3x3 kernel over a picture. @param {Picture} picture @param {number[]} kernel @returns {Picture} */
export function convolve(picture, kernel) {
  const [height, width] = [picture.height - 2, picture.width - 2];
  const values = new Float32Array(height * width);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      values[row * width + column] = coveredBy(picture, row, column).reduce(
        (sum, pixel, index) => sum + pixel * kernel[index],
        0,
      );
    }
  }
  return { values, height, width };
}

/** What is negative becomes 0. @param {Picture} picture @returns {Picture} */
export const relu = (picture) => ({ ...picture, values: picture.values.map((value) => Math.max(0, value)) });

/**
 * The largest of each block; what does not fill a block is left out.
 * @param {Picture} picture
 * @param {number} size
 * @returns {Picture}
 */
export function maxPool({ values, height, width }, size) {
  const pooled = { height: Math.floor(height / size), width: Math.floor(width / size) };
  const largest = (row, column) => {
    let most = -Infinity;
    for (let down = 0; down < size; down++) {
      for (let right = 0; right < size; right++)
        most = Math.max(most, values[(row * size + down) * width + column * size + right]);
    }
    return most;
  };
  const places = Array.from({ length: pooled.height * pooled.width }, (_, index) => [
    Math.floor(index / pooled.width),
    index % pooled.width,
  ]);
  return { ...pooled, values: Float32Array.from(places, ([row, column]) => largest(row, column)) };
}

/** Numbers as shares that sum to 1. @param {number[]} logits */
export function softmax(logits) {
  const most = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - most));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}
