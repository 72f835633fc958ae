/** One call's time, split in stages. */
import { byId, make } from "./dom.js";

/**
 * The stages of an answer, in milliseconds and in order.
 * @param {{prepare: number, call: number, server: Record<string, number>}} timing in seconds
 * @param {number} totalMs from the stroke to the answer, as the page saw it
 * @returns {[string, number][]}
 */
export function stagesOf(timing, totalMs) {
  const { decode, queue, inference, total } = timing.server;
  const ms = (seconds) => Math.max(0, seconds * 1000);
  return [
    ["browser, and its request", Math.max(0, totalMs - ms(timing.prepare + timing.call))],
    ["preparing the picture", ms(timing.prepare)],
    ["gRPC, there and back", ms(timing.call - total)],
    ["server: decode and reply", ms(total - queue - inference)],
    ["server: waiting", ms(queue)],
    ["server: all members", ms(inference)],
  ].map(([name, value]) =>
    name === "server: decode and reply" ? [name, Math.max(value, ms(decode))] : [name, value],
  );
}

/** Draw them. @param {[string, number][]} stages @param {number} totalMs */
export function showStages(stages, totalMs) {
  const stack = make("div", { className: "stack", "aria-hidden": "true" });
  const list = make("dl");
  stages.forEach(([name, value], index) => {
    const part = make("i", { className: `stage-${index}` });
    part.style.flexGrow = String(value);
    stack.append(part);
    list.append(
      make(
        "div",
        {},
        make("dt", {}, make("i", { className: `key stage-${index}` }), name),
        make("dd", {}, `${value.toFixed(1)} ms`),
      ),
    );
  });
  list.append(
    make(
      "div",
      { className: "total" },
      make("dt", {}, "from stroke to answer"),
      make("dd", {}, `${totalMs.toFixed(0)} ms`),
    ),
  );
  byId("time").replaceChildren(stack, list);
}
