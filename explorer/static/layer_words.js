/** What a layer is and does, in plain words. */

const MEANINGS = {
  input:
    "What the first layer gets: ground brought to 0, the strongest stroke to full, then the data set’s mean and spread taken out. The graph does this itself.",
  convolution:
    "Each map comes from one filter that slides over all maps before it. Bright where it finds its pattern.",
  activation: "What was negative is gone: only patterns that were found are passed on.",
  "batch normalization":
    "Each map is shifted and scaled by what was measured in training, so that maps are alike in size.",
  pooling: "Of each block, one value stays. The maps shrink; where exactly a pattern was matters less.",
  dense: "Every number is a weighted sum of all that comes before.",
  softmax: "The numbers of the last layer as probabilities: all positive, together 1.",
};
const NAMES = {
  Relu: "ReLU",
  MaxPool: "max pooling",
  AveragePool: "average pooling",
  GlobalAveragePool: "global average pooling",
};

/**
 * What a layer does, and what it means for this network.
 * @param {object} layer
 * @param {object[]} layers all of the member's
 * @param {number[]} input channels, height, width
 */
export function meaningOf(layer, layers, input) {
  const meaning =
    layer === layers.at(-2) && layer.kind === "dense"
      ? "One number a class, the logits: the larger, the more likely."
      : MEANINGS[layer.kind];
  return [meaning, batchnormNote(layer, layers), sightOf(layer, input)].filter(Boolean).join(" ");
}

/** Operator, kernel and shape. @param {object} layer */
export function factsOf(layer) {
  const operator = layer.operator ? (NAMES[layer.operator] ?? layer.operator) : "";
  const kernel = layer.kernel.length
    ? `${layer.kernel.join("×")}, ${layer.padding ? "with" : "without"} padding`
    : "";
  const shape =
    layer.shape.length === 3
      ? `${layer.shape[0]} maps of ${layer.shape[1]}×${layer.shape[2]}`
      : `${layer.shape[0]} numbers`;
  return [operator, kernel, layer.shape[0] === 1 ? shape.replace("maps", "map") : shape]
    .filter(Boolean)
    .join(" · ");
}

/** A shape in short. @param {number[]} shape */
export const placeOf = (shape) => shape.join("×");

function batchnormNote(layer, layers) {
  if (layer.kind !== "convolution" || layers.some((other) => other.kind === "batch normalization")) return "";
  return "This graph has no batch normalization of its own: it was trained without, or its export folded it into the layers after it.";
}

function sightOf(layer, [, height, width]) {
  const [rows, columns] = layer.field;
  if (rows === null) return "Each sees the whole picture.";
  if (rows === 1) return "";
  const capped = `${Math.min(rows, height)}×${Math.min(columns, width)}`;
  return `Each value sees ${capped} pixels of the input.`;
}
