/** The ensemble's verdict as bars, members and figures. */
import { byId, make, percent } from "./dom.js";
import { doubtInWords, earlyStopInWords, topOf, votesInWords } from "./words.js";

const NOTHING = "–";
const LIGHT_UP_MS = 110;

/**
 * Rows of a label, a bar and a share; the largest stands out.
 * @param {HTMLElement} place
 * @param {string[]} labels
 * @param {number[]} shares 0..1
 */
export function showBars(place, labels, shares) {
  if (place.children.length !== labels.length || place.dataset.labels !== labels.join("\n")) {
    place.dataset.labels = labels.join("\n");
    place.replaceChildren(...labels.map(makeBar));
  }
  const top = shares.length ? topOf(shares) : -1;
  [...place.children].forEach((row, index) => {
    const share = shares[index] ?? 0;
    row.classList.toggle("top", index === top);
    row.querySelector(".fill").style.transform = `scaleX(${share})`;
    row.querySelector(".value").textContent = shares.length ? percent(share) : NOTHING;
  });
}

/** A figure with its name and a note. @param {string} name @param {string} value @param {string} note */
export const makeFigure = (name, value, note) =>
  make("div", {}, make("dt", {}, name), make("dd", {}, value), make("dd", { className: "note" }, note));

/**
 * Everything that the server said of the drawing.
 * @param {import("./api.js").Verdict | null} verdict null where nothing is drawn
 * @param {{labels: string[], members: object[]}} model
 * @param {boolean} early whether the ensemble might stop early
 */
export function showVerdict(verdict, model, early) {
  const answer = byId("answer");
  answer.textContent = verdict ? verdict.label : NOTHING;
  answer.classList.toggle("long", answer.textContent.length > 2);
  byId("words").textContent = verdict
    ? votesInWords(verdict.members, model.labels)
    : "Draw a digit, or choose an example.";
  byId("doubt").textContent = verdict ? doubtInWords(verdict, model.labels.length) : "";
  byId("early-words").textContent =
    verdict && early ? earlyStopInWords(verdict.members_run, model.members.length) : "";
  showBars(byId("bars"), model.labels, verdict ? verdict.probabilities : []);
  byId("figures").replaceChildren(...(verdict ? figuresOf(verdict, model.labels.length) : []));
  showMembers(verdict, model, early);
}

function figuresOf(verdict, classes) {
  const agreeing = Math.round(verdict.agreement * verdict.members_run);
  return [
    makeFigure("Agreement", `${agreeing} of ${verdict.members_run}`, "members whose top class is the ensemble’s"),
    makeFigure(
      "Entropy",
      `${verdict.entropy.toFixed(3)} nats`,
      `0 is sure, ${Math.log(classes).toFixed(1)} no idea`,
    ),
    makeFigure(
      "Mutual information",
      `${verdict.mutual_information.toFixed(3)} nats`,
      "the part that is disagreement",
    ),
  ];
}

function makeBar(label) {
  const track = make("div", { className: "track" }, make("div", { className: "fill" }));
  return make(
    "div",
    { className: "bar" },
    make("span", {}, label),
    track,
    make("span", { className: "value" }, NOTHING),
  );
}

function showMembers(verdict, model, early) {
  const place = byId("members");
  if (place.children.length !== model.members.length || place.dataset.classes !== String(model.labels.length)) {
    place.dataset.classes = String(model.labels.length);
    place.replaceChildren(...model.members.map((_, index) => makeMember(index, model.labels.length)));
  }
  const top = verdict ? model.labels.indexOf(verdict.label) : -1;
  [...place.children].forEach((card, index) => {
    card.style.transitionDelay = early ? `${index * LIGHT_UP_MS}ms` : "0s";
    showMember(card, verdict?.members[index], top, model.labels, verdict !== null);
  });
}

function makeMember(index, classes) {
  const columns = make(
    "div",
    { className: "columns", role: "img" },
    ...Array.from({ length: classes }, () => make("i")),
  );
  const says = make(
    "p",
    { className: "says" },
    make("span", { className: "soft" }, `Member ${index + 1}`),
    make("b"),
  );
  return make("div", { className: "member" }, columns, says);
}

function showMember(card, shares, ensembleTop, labels, isAnswered) {
  const top = shares ? topOf(shares) : -1;
  card.classList.toggle("ran", shares !== undefined || !isAnswered);
  card.classList.toggle("differs", shares !== undefined && top !== ensembleTop);
  const columns = card.querySelector(".columns");
  columns.setAttribute(
    "aria-label",
    shares ? `${labels[top]}: ${percent(shares[top])}` : isAnswered ? "not asked" : "no answer yet",
  );
  [...columns.children].forEach((column, index) => {
    column.style.height = `${(shares?.[index] ?? 0) * 100}%`;
    column.classList.toggle("top", index === top);
  });
  card.querySelector("b").textContent = shares ? labels[top] : isAnswered ? "not asked" : NOTHING;
}
