/** Requests to the explorer's own address; nothing here speaks to any other host. */

const PATIENCE_MS = 20_000;

/** A request that did not get its answer. `kind` says which: see `explorer/replies.py`, or "explorer". */
export class Failure extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

/**
 * @typedef {{name: string, version: number}} ModelKey  version 0 is the default one.
 * @typedef {{probabilities: number[], label: string, probability: number, entropy: number,
 *   mutual_information: number, agreement: number, members_run: number, members: number[][]}} Verdict
 */

/** What this explorer offers besides the server. */
export const getPage = () => ask("page");

/** All versions of all models, and the one that answers by default. */
export const listModels = () => ask("models");

/** One model, described. @param {ModelKey} model */
export const describeModel = (model) => ask("model", model);

/**
 * Classify one picture.
 * @param {ModelKey} model
 * @param {Blob} file an image file
 * @param {{centre: boolean, early_stop: boolean}} options
 */
export const classify = (model, file, options) =>
  ask("classify", { ...model, centre: Number(options.centre), early_stop: Number(options.early_stop) }, file);

/**
 * Classify many inputs by as few calls as the explorer's limit allows.
 * @param {ModelKey} model
 * @param {Uint8Array[]} inputs pixels of one input each
 * @param {number} most inputs in one call
 * @returns {Promise<Verdict[]>} in the same order
 */
export const classifyMany = (model, inputs, most) =>
  askInParts(inputs, most, async (some) => (await ask("batch", model, some)).verdicts);

/** The layers of a member, and its first filters. @param {ModelKey} model @param {number} member from 1 */
export const listLayers = (model, member) => ask("layers", { ...model, member });

/**
 * What one layer gives for one input.
 * @param {ModelKey} model
 * @param {number} member from 1
 * @param {number} layer from 0
 * @param {Uint8Array} pixels
 */
export const activations = (model, member, layer, pixels) =>
  ask("activations", { ...model, member, layer }, new Blob([pixels]));

/**
 * How one value of a layer changes with the input, plain and guided.
 * @param {{name: string, version: number, member: number, layer: number}} place
 * @param {number} unit which value, from 0 through the layer's shape
 * @param {Uint8Array} pixels
 */
export const gradients = (place, unit, pixels) => ask("gradients", { ...place, unit }, new Blob([pixels]));

/**
 * One value of a layer for many inputs, by requests of no more than so many.
 * @param {{name: string, version: number, member: number, layer: number}} place
 * @param {number} unit which value, from 0 through the layer's shape
 * @param {Uint8Array[]} inputs pixels of one input each
 * @param {number} most inputs in one request
 * @returns {Promise<number[]>} in the same order
 */
export const valuesOf = (place, unit, inputs, most) =>
  askInParts(inputs, most, async (some) => (await ask("values", { ...place, unit }, some)).values);

/**
 * What excites a unit most: `found`, or null and `why`.
 * @param {{name: string, version: number, member: number, layer: number}} place
 * @param {number} channel
 */
export const excited = (place, channel) => ask("excited", { ...place, channel });

/** Address of the pictures of what excites a unit most. */
export const picturesOf = (place, channel) => addressOf("pictures", { ...place, channel });

/** A file that the explorer offers, such as an example. @param {string} address */
export async function fetchFile(address) {
  const reply = await send(address);
  if (!reply.ok) throw new Failure("explorer", `The explorer failed (${reply.status}).`);
  return reply.blob();
}

/** The server's own figures, counted since it started. */
export const getMetrics = () => ask("metrics");

async function askInParts(inputs, most, askSome) {
  const answers = [];
  for (let first = 0; first < inputs.length; first += most)
    answers.push(...(await askSome(new Blob(inputs.slice(first, first + most)))));
  return answers;
}

function addressOf(path, parameters) {
  const query = new URLSearchParams(Object.entries(parameters).map(([key, value]) => [key, String(value)]));
  return `/api/${path}?${query}`;
}

async function ask(path, parameters = {}, body = undefined) {
  const reply = await send(addressOf(path, parameters), body);
  const content = await reply.json().catch(() => null);
  if (reply.ok && content) return content;
  const otherwise = reply.ok ? "The answer did not arrive whole." : `The explorer failed (${reply.status}).`;
  throw new Failure(content?.kind ?? "explorer", content?.message ?? otherwise);
}

async function send(address, body) {
  try {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    return await fetch(address, body === undefined ? { signal } : { method: "POST", body, signal });
  } catch (error) {
    if (error.name === "TimeoutError") throw new Failure("slow", "The answer took too long.");
    throw new Failure("explorer", "The explorer itself does not answer.");
  }
}
