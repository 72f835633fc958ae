/** Uncertainty: what happens to the members' opinions as the input changes, and far from digits. */
import { classifyMany } from "./api.js";
import { lineChart } from "./chart.js";
import { byId, make, makeChoice, percent } from "./dom.js";
import { Latest } from "./latest.js";
import { paintInput } from "./pixels.js";
import { session } from "./session.js";
import { makeStrangers } from "./strangers.js";
import { SWEEPS } from "./sweeps.js";
import { isOpen } from "./tabs.js";
import { votesInWords } from "./words.js";

const FILM_PICTURES = 13;
const SURE_NATS = 0.1;
let chosen = 0;
let strangersOf = null;
const sweeping = new Latest(sweep, 100);

/** Set the view up. */
export function startUncertaintyView() {
  makeChoice(
    byId("sweep-choice"),
    "sweep",
    SWEEPS.map((one) => one.title),
    (index) => {
      chosen = index;
      refreshUncertainty();
    },
  );
  session.addEventListener("answer", refreshUncertainty);
  session.addEventListener("back", refreshUncertainty);
}

/** Ask about everything that the view shows, if it is open. */
export function refreshUncertainty() {
  if (isOpen("uncertainty") && session.model) sweeping.submit();
}

async function sweep() {
  const { answer, model } = session;
  const one = SWEEPS[chosen];
  if (!answer) {
    byId("sweep-words").textContent = "Draw a digit first, under Draw; it is changed here step by step.";
    for (const id of ["sweep-pictures", "sweep-chart", "sweep-doubt"]) byId(id).replaceChildren();
  } else {
    await session.attempt(async () => {
      const inputs = one.steps.map((step) => one.apply(answer, step));
      const verdicts = await classifyMany(session.answering, inputs, session.page.most_images);
      if (session.answer === answer && SWEEPS[chosen] === one) show(one, inputs, verdicts, answer);
    });
  }
  if (strangersOf !== model) await session.attempt(() => showStrangers(model));
}

function show(one, inputs, verdicts, { verdict, shape }) {
  const { labels } = session.model;
  const top = labels.indexOf(verdict.label);
  const doubts = verdicts.map((each) => each.mutual_information);
  const hardest = doubts.indexOf(Math.max(...doubts));
  const mark = doubts[hardest] > 0.01 ? one.steps[hardest] : undefined;
  const shared = {
    x: one.steps,
    axis: one.axis,
    writeX: one.write,
    mark,
    width: Math.max(300, byId("sweep-chart").clientWidth),
  };
  const members = verdict.members[0]
    ? session.model.members.map((_, index) => ({ values: verdicts.map((each) => each.members[index][top]) }))
    : [];
  const average = { values: verdicts.map((each) => each.probabilities[top]), main: true };
  byId("sweep-words").textContent = inWords(one, verdicts, hardest, verdict.label, labels);
  byId("sweep-pictures").replaceChildren(...filmOf(inputs, shape));
  byId("sweep-chart").replaceChildren(
    lineChart({
      ...shared,
      curves: [...members, average],
      most: 1,
      title: `Probability of ${verdict.label}: average (thick), each member (thin)`,
      writeY: (y) => `${y * 100} %`,
    }),
  );
  byId("sweep-doubt").replaceChildren(
    lineChart({
      ...shared,
      height: 150,
      curves: [{ values: doubts, main: true }],
      most: Math.max(0.2, ...doubts),
      title: "Disagreement: mutual information, in nats",
      writeY: (y) => y.toFixed(2),
    }),
  );
}

function inWords(one, verdicts, hardest, label, labels) {
  const turned = verdicts.filter((each) => each.label !== label).length;
  const kept = `${verdicts.length - turned} of ${verdicts.length} are still read as ${label}.`;
  if (verdicts[hardest].mutual_information <= 0.01) return `${kept} The members agree all the way.`;
  const votes = votesInWords(verdicts[hardest].members, labels);
  return `${kept} The members disagree most at ${one.write(one.steps[hardest])}: ${votes.charAt(0).toLowerCase()}${votes.slice(1)}`;
}

function filmOf(inputs, shape) {
  const every = (inputs.length - 1) / (FILM_PICTURES - 1);
  return Array.from({ length: FILM_PICTURES }, (_, index) => {
    const canvas = make("canvas", { "aria-hidden": "true" });
    paintInput(canvas, inputs[Math.round(index * every)], shape);
    return canvas;
  });
}

async function showStrangers(model) {
  const groups = makeStrangers(model.shape);
  const all = groups.flatMap((group) => group.inputs);
  const verdicts = await classifyMany(
    session.answering,
    all.map((input) => input.pixels),
    session.page.most_images,
  );
  const cards = groups.flatMap((group) => [
    make("h3", {}, group.title),
    ...group.inputs.map((input) => makeCard(input, verdicts[all.indexOf(input)], model, group.digits)),
  ]);
  byId("strangers").replaceChildren(...cards);
  strangersOf = model;
}

function makeCard({ name, pixels }, verdict, model, isDigit) {
  const canvas = make("canvas", { role: "img", "aria-label": name });
  paintInput(canvas, pixels, model.shape);
  const agreeing = Math.round(verdict.agreement * verdict.members_run);
  const facts = [
    `${name} · ${agreeing} of ${verdict.members_run} agree`,
    `entropy ${verdict.entropy.toFixed(2)}, mutual ${verdict.mutual_information.toFixed(2)}`,
  ];
  const text = make(
    "div",
    {},
    make("strong", {}, `${verdict.label} · ${percent(verdict.probability)}`),
    ...facts.map((fact) => make("span", {}, fact)),
  );
  if (verdict.entropy < SURE_NATS && !isDigit)
    text.append(make("span", { className: "sure" }, "sure all the same"));
  return make("div", { className: "stranger" }, canvas, text);
}
