/** The ensemble's record: versions, figures, members, and the server's own metrics as they come. */
import { getMetrics } from "./api.js";
import { lineChart } from "./chart.js";
import { byId, make, percent } from "./dom.js";
import { between } from "./live.js";
import { session } from "./session.js";
import { isOpen } from "./tabs.js";
import { makeFigure } from "./verdict.js";

const LOOK_MS = 2000;
const KEPT = 60;
let last = null;
let history = [];
let timer = 0;

/** Set the view up. */
export function startRecordView() {
  session.addEventListener("model", () => {
    showVersions();
    showFigures(session.model);
    showMembers(session.model);
  });
  session.addEventListener("models", showVersions);
  byId("report").replaceChildren(
    ...(session.page.report
      ? [
          make("a", { href: "/report", target: "_blank", rel: "noopener" }, "Report of the run"),
          ": curves, confusion, reliability, worst errors.",
        ]
      : ["No run was named; with --run, its report is linked here."]),
  );
}

/** Look at the metrics from now on, as long as the view is open. */
export function refreshRecord() {
  clearTimeout(timer);
  if (!isOpen("record")) return;
  if (session.models.length) showVersions();
  look();
}

async function look() {
  clearTimeout(timer);
  try {
    take(await getMetrics());
    byId("live-words").textContent = history.length
      ? "Between two looks, 2 seconds apart; the calls of this page are among them."
      : "Looking…";
  } catch (failure) {
    if (!failure.kind) throw failure;
    last = null;
    byId("live-words").textContent = failure.message;
  }
  if (isOpen("record")) timer = setTimeout(look, LOOK_MS);
}

function take(counts) {
  const at = performance.now();
  if (last && at - last.at < 3 * LOOK_MS) history.push(between(last.counts, counts, (at - last.at) / 1000));
  history = history.slice(-KEPT);
  last = { counts, at };
  if (!history.length) return;
  showLive("live-rate", "rate", (rate) => rate.toFixed(rate < 10 ? 1 : 0));
  showLive("live-median", "median", milliseconds);
  showLive("live-slow", "slow", milliseconds);
}

function showLive(id, name, write) {
  const now = history.at(-1)[name];
  byId(id).textContent = now === null ? "no calls" : write(now);
  const values = history.map((one) => one[name] ?? 0);
  const x = values.map((_, index) => (index - values.length + 1) * (LOOK_MS / 1000));
  const chart = {
    x,
    curves: [{ values, main: true }],
    most: Math.max(...values) || 1,
    title: "",
    name: byId(id).previousElementSibling.textContent, // its heading
    axis: `last ${Math.max(2, -x[0])} seconds`,
    writeY: write,
  };
  byId(`${id}-chart`).replaceChildren(lineChart({ ...chart, width: 340, height: 130 }));
}

function showVersions() {
  const rows = session.models.map((model) => {
    const answers = model.name === session.model.name && model.version === session.model.version;
    const use = make(
      "button",
      { type: "button", "aria-label": `Use ${model.name} version ${model.version}` },
      "Use",
    );
    use.addEventListener("click", () =>
      session.choose({ name: model.name, version: model.default ? 0 : model.version }),
    );
    const title = make(
      "span",
      {},
      make("b", {}, model.name),
      ` version ${model.version}`,
      make("span", { className: "soft" }, model.default ? " · default" : ""),
    );
    return make("li", {}, title, answers ? make("span", { className: "soft" }, "answers now") : use);
  });
  const list = byId("versions");
  const focused = list.contains(document.activeElement) && document.activeElement.ariaLabel;
  list.replaceChildren(...rows);
  if (!focused) return;
  const same = [...list.querySelectorAll("button")].find((button) => button.ariaLabel === focused);
  (same ?? byId("versions-title")).focus();
}

function showFigures({ name, version, test, held_out: heldOut, temperature, provider, labels, shape }) {
  byId("record-title").textContent = `Figures of ${name}, version ${version}`;
  const accuracy = (title, { accuracy: share, interval, count }) =>
    makeFigure(
      title,
      percent(share),
      `${percent(interval[0])} to ${percent(interval[1])}, on ${count.toLocaleString("en")}`,
    );
  byId("record-figures").replaceChildren(
    accuracy("Test accuracy", test),
    accuracy("Held-out accuracy", heldOut),
    makeFigure("Test NLL", `${test.nll.toFixed(4)} nats`, "surprise at the right class, on average"),
    makeFigure("Test calibration error", percent(test.ece), "between said and true shares"),
    makeFigure("Temperature", temperature.toFixed(3), "above 1 softens the average"),
    makeFigure("Runs on", provider, `${labels.length} classes of ${shape[1]}×${shape[2]} pixels`),
  );
}

function showMembers({ members }) {
  const titles = ["member", "architecture", "seed", "parameters", "multiply-adds", "held-out accuracy"];
  const rows = members.map((member, index) => [
    String(index + 1),
    member.architecture,
    String(member.seed),
    member.parameters.toLocaleString("en"),
    member.multiply_adds.toLocaleString("en"),
    percent(member.held_out_accuracy),
  ]);
  byId("record-members").replaceChildren(
    make("thead", {}, make("tr", {}, ...titles.map((title) => make("th", { scope: "col" }, title)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, cell))))),
  );
}

const milliseconds = (seconds) => (seconds === 0 ? "0" : `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`);
