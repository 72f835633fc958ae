/** Layer by layer: what each layer of a member makes of the input. */
import { activations, listLayers } from "./api.js";
import { byId, make, makeChoice, sentence } from "./dom.js";
import { Latest } from "./latest.js";
import { factsOf, meaningOf, placeOf } from "./layer_words.js";
import { showMaps } from "./maps.js";
import { floatsFromBase64, paintInput, paintMap, strongestOf } from "./pixels.js";
import { session } from "./session.js";
import { isOpen } from "./tabs.js";

let member = 1;
let layers = [];
let at = 0;
let loaded = "";
const looking = new Latest(look);

/** Set the view up. */
export function startLayersView() {
  byId("layer-list").addEventListener("keydown", (event) => {
    const step = {
      ArrowDown: 1,
      ArrowRight: 1,
      ArrowUp: -1,
      ArrowLeft: -1,
      Home: -layers.length,
      End: layers.length,
    }[event.key];
    if (step === undefined || !layers.length) return;
    event.preventDefault();
    go(Math.min(layers.length - 1, Math.max(0, at + step)));
  });
  session.addEventListener("model", () => {
    member = 1;
    makeChoice(
      byId("layer-members"),
      "member",
      session.model.members.map((_, index) => String(index + 1)),
      (index) => {
        member = index + 1;
        refreshLayers();
      },
    );
  });
  for (const event of ["answer", "back"]) session.addEventListener(event, refreshLayers);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refreshLayers);
}

/** Show the member's layers for the input of now, if the view is open. */
export function refreshLayers() {
  if (isOpen("layers") && session.model) looking.submit();
}

async function look() {
  await session.attempt(async () => {
    try {
      await loadLayers();
      await (session.answer ? showLayer() : invite());
    } catch (failure) {
      if (failure.kind) empty(failure.message);
      if (failure.kind !== "request") throw failure; // what cannot be had is not asked for again
    }
  });
}

function empty(why) {
  loaded = "";
  byId("layer-words").textContent = why;
  for (const id of ["maps", "layer-list", "filters"]) byId(id).replaceChildren();
  byId("layer-scale").hidden = true;
}

async function loadLayers() {
  const { name, version } = session.answering;
  const wanted = `${name}/${version}/${member}`;
  if (loaded === wanted) return;
  const reply = await listLayers({ name, version }, member);
  layers = reply.layers;
  at = Math.min(at || 1, layers.length - 1);
  byId("layer-list").replaceChildren(...layers.map(makeOption));
  showFilters(reply.filters);
  loaded = wanted;
  mark();
}

function makeOption(layer, index) {
  const option = make(
    "div",
    { role: "option", id: `layer-${index}` },
    make("span", {}, layer.title),
    make("small", {}, placeOf(layer.shape)),
  );
  option.addEventListener("click", () => go(index));
  return option;
}

function go(index) {
  at = index;
  mark();
  refreshLayers();
}

function mark() {
  const list = byId("layer-list");
  [...list.children].forEach((option, index) => option.setAttribute("aria-selected", String(index === at)));
  list.setAttribute("aria-activedescendant", `layer-${at}`);
  const chosen = list.children[at];
  if (list.scrollHeight > list.clientHeight)
    list.scrollTop = chosen.offsetTop - list.offsetTop - list.clientHeight / 2;
}

function invite() {
  byId("layer-title").textContent = sentence(layers[at].title);
  byId("layer-words").textContent = "Draw a digit first, under Draw; its way through the layers is shown here.";
  byId("layer-facts").textContent = factsOf(layers[at]);
  byId("layer-proof").textContent = "";
  byId("maps").replaceChildren();
  byId("layer-scale").hidden = true;
}

async function showLayer() {
  const { answer, model } = session;
  const layer = layers[at];
  const place = { ...session.answering, member, layer: at }; // while it is asked, another may be chosen
  const reply = await activations(place, place.member, place.layer, answer.pixels);
  paintInput(byId("layer-input"), answer.pixels, answer.shape);
  byId("layer-title").textContent = sentence(layer.title);
  byId("layer-words").textContent = meaningOf(layer, layers, model.shape);
  byId("layer-facts").textContent = factsOf(layer);
  showMaps(place, layer, floatsFromBase64(reply.values.float32), model.labels);
  byId("layer-proof").textContent = proofInWords(reply.probabilities, answer.verdict.members[place.member - 1]);
}

/** Whether the graph that is looked into is the one that the server runs: their probabilities must be the same. */
function proofInWords(ours, servers) {
  if (!servers) return "The server stopped before this member, so its answer cannot be compared.";
  const apart = Math.max(...ours.map((share, index) => Math.abs(share - servers[index])));
  return apart < 1e-4
    ? `Computed from the bundle’s own file. Its probabilities are the server’s, to ${apart < 1e-7 ? "the last digit" : apart.toExponential(0)}.`
    : `Its probabilities differ from the server’s by up to ${apart.toFixed(3)}: the bundle here may not be the one that is served.`;
}

function showFilters(filters) {
  const place = byId("filters");
  if (!filters) {
    byId("filters-words").textContent = "This network has no convolution whose weights are plain numbers.";
    place.replaceChildren();
    return;
  }
  const [count, channels, rows, columns] = filters.shape;
  const values = floatsFromBase64(filters.float32);
  const strongest = strongestOf(values);
  const size = rows * columns;
  const each = Array.from({ length: count * channels }, (_, index) => {
    const canvas = make("canvas", { role: "img", "aria-label": `Filter ${index + 1}` });
    paintMap(canvas, values.subarray(index * size, (index + 1) * size), rows, columns, strongest);
    return canvas;
  });
  place.replaceChildren(...each);
  const of = channels === 1 ? "" : `, one picture for each of their ${channels} channels`;
  byId("filters-words").textContent =
    `${count} filters of ${rows}×${columns} weights${of}, from −${strongest.toFixed(2)} to ${strongest.toFixed(2)}. Each gives one map of convolution 1.`;
}
