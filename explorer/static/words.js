/** Figures in plain words. */
import { numberWord, sentence } from "./dom.js";

/**
 * Who says what, such as "Five of six say 3, one says 8."
 * @param {number[][]} members probabilities of the members that ran
 * @param {string[]} labels
 */
export function votesInWords(members, labels) {
  const votes = new Map();
  for (const member of members) votes.set(topOf(member), (votes.get(topOf(member)) ?? 0) + 1);
  const ranked = [...votes].sort((one, other) => other[1] - one[1]);
  const [[first, count], ...others] = ranked;
  const all = numberWord(members.length);
  if (!others.length)
    return members.length === 1
      ? `The one member asked says ${labels[first]}.`
      : `All ${all} say ${labels[first]}.`;
  const rest = others.map(
    ([index, some]) => `${numberWord(some)} ${some === 1 ? "says" : "say"} ${labels[index]}`,
  );
  return sentence(
    `${numberWord(count)} of ${all} ${count === 1 ? "says" : "say"} ${labels[first]}, ${rest.join(", ")}.`,
  );
}

/**
 * How sure, and if not, of which kind the doubt is.
 * @param {import("./api.js").Verdict} verdict
 * @param {number} classes
 */
export function doubtInWords({ entropy, mutual_information: mutual }, classes) {
  const share = entropy / Math.log(classes);
  if (share < 0.02) return "The ensemble is sure.";
  const degree = share < 0.15 ? "a little unsure" : share < 0.65 ? "unsure" : "all but guessing";
  const kind =
    mutual > entropy / 2
      ? "mostly because its members disagree: they have not seen enough like it"
      : mutual > entropy / 5
        ? "partly because its members disagree"
        : "and its members agree that it is ambiguous";
  return `The ensemble is ${degree}, ${kind}.`;
}

/** What early stopping spared. @param {number} ran @param {number} members */
export function earlyStopInWords(ran, members) {
  const left = members - ran;
  if (!left) return "All had to be asked: until the last, the class could still have changed.";
  return `${sentence(numberWord(ran))} of ${numberWord(members)} were asked. Then the class was settled: the ${
    left === 1 ? "last one" : `other ${numberWord(left)}`
  } could not have changed it.`;
}

/** Index of the largest. @param {number[]} values */
export const topOf = (values) => values.indexOf(Math.max(...values));
