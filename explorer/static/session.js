/**
 * What all views share: the model that is asked, the last answer, and whether the server answers at all.
 *
 * Events: "model" (another model or version answers from now on), "answer" (`answer` is new, or null), "back" (the
 * server answers again).
 */
import { describeModel, listModels } from "./api.js";

const CALM_MS = 5000;
const ANXIOUS_MS = 1000;
const SLOW_MS = 1000;
const NOTICE_MS = 6000;

class Session extends EventTarget {
  /** What is asked for; version 0 follows the latest. @type {import("./api.js").ModelKey} */
  chosen = { name: "", version: 0 };
  /** The model that answers, described. */
  model = null;
  /** Every version on the server. */
  models = [];
  /** The last answer of `classify`, or null. */
  answer = null;
  /** What the explorer offers. */
  page = { examples: [], report: false, most_images: 1, target: "" };

  #failed = "";
  #timer = 0;
  #hide = 0;

  /** Begin to watch the server. */
  async start() {
    await this.#watch();
  }

  /** The model that answered last, for questions that must be about the same one. */
  get answering() {
    return { name: this.model.name, version: this.model.version };
  }

  /** Ask another model or version. @param {import("./api.js").ModelKey} key */
  async choose(key) {
    this.chosen = key;
    await this.attempt(() => this.#describe());
  }

  /** A new answer, or null for none. */
  async setAnswer(answer) {
    this.answer = answer;
    if (answer && !this.#isAnswering(answer.model)) {
      const before = this.model;
      await this.#describe();
      this.say(
        `${this.model.name} version ${this.model.version} answers now; it was ${before.name} version ${before.version}.`,
      );
    }
    this.dispatchEvent(new Event("answer"));
  }

  /**
   * Do something that needs the server; say so if it fails or is slow.
   * @param {() => Promise<any>} work
   * @returns {Promise<boolean>} whether it was done
   */
  async attempt(work) {
    const slow = setTimeout(() => this.#say("Still waiting for the server…", true), SLOW_MS);
    try {
      await work();
      this.#recovered();
      return true;
    } catch (failure) {
      if (failure.kind === undefined) throw failure;
      this.#fail(failure);
      return false;
    } finally {
      clearTimeout(slow);
    }
  }

  /** Say something in passing. @param {string} sentence */
  say(sentence) {
    this.#say(sentence, false);
    this.#hide = setTimeout(() => this.#hideNotice(), NOTICE_MS);
  }

  #isAnswering(key) {
    return this.model !== null && key.name === this.model.name && key.version === this.model.version;
  }

  async #watch() {
    clearTimeout(this.#timer);
    const was = this.#failed;
    const done = await this.attempt(async () => {
      const listed = await listModels();
      this.models = listed.models;
      if (!this.chosen.name) this.chosen = { name: listed.default.name, version: 0 };
      await this.#followChosen();
    });
    if (done && was) this.dispatchEvent(new Event("back"));
    this.#timer = setTimeout(() => this.#watch(), done ? CALM_MS : ANXIOUS_MS);
  }

  /** Describe what answers, if it changed; leave a version that the server no longer has. */
  async #followChosen() {
    const ours = this.models.filter((model) => model.name === this.chosen.name);
    const gone = this.chosen.version !== 0 && !ours.some((model) => model.version === this.chosen.version);
    if (!ours.length) this.chosen = { name: this.models[0].name, version: 0 };
    else if (gone) this.chosen = { name: this.chosen.name, version: 0 };
    const now = this.models.find(
      (model) =>
        model.name === this.chosen.name &&
        (this.chosen.version ? model.version === this.chosen.version : model.latest),
    );
    if (this.#isAnswering(now)) return;
    const before = this.model;
    await this.#describe();
    if (before) this.say(`The server changed: ${now.name} version ${now.version} answers now.`);
  }

  async #describe() {
    this.model = await describeModel(this.chosen);
    this.dispatchEvent(new Event("model"));
  }

  #fail(failure) {
    if (failure.kind === "gone") {
      this.say(failure.message);
      this.chosen = { name: "", version: 0 };
      this.#timer = setTimeout(() => this.#watch(), 0);
      return;
    }
    if (failure.kind === "refused" || failure.kind === "request") {
      this.say(failure.message);
      return;
    }
    const anew = !this.#failed;
    this.#failed = failure.kind;
    const where = failure.kind === "down" ? ` (${this.page.target})` : "";
    this.#say(
      `${failure.message.replace(/\.$/, "")}${where}. Trying again every second; your drawing is kept.`,
      true,
    );
    if (anew) {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#watch(), ANXIOUS_MS);
    }
  }

  #recovered() {
    if (this.#failed) this.say("The server answers again.");
    else if (document.getElementById("notice").classList.contains("bad")) this.#hideNotice();
    this.#failed = "";
  }

  #say(sentence, bad) {
    clearTimeout(this.#hide);
    const notice = document.getElementById("notice");
    notice.textContent = sentence;
    notice.classList.toggle("bad", bad);
    notice.hidden = false;
  }

  #hideNotice() {
    document.getElementById("notice").hidden = true;
  }
}

/** The one session of this page. */
export const session = new Session();
