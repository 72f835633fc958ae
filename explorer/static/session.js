/**
 * What all views share: the model that is asked, the last answer, and whether the server answers at all.
 *
 * Events: "model" (another model or version answers from now on), "models" (the server has others than before),
 * "answer" (`answer` is new, or null), "back" (the server answers again: what failed is asked anew).
 */
import { describeModel, listModels } from "./api.js";

const CALM_MS = 5000;
const ANXIOUS_MS = 1000;
const SLOW_MS = 1000;
const NOTICE_MS = 6000;

class Session extends EventTarget {
  /** What is asked for; version 0 follows the default one. @type {import("./api.js").ModelKey} */
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

  /** The model that answers, by its version: where none is named, a canary may answer. */
  get answering() {
    return { name: this.model.name, version: this.model.version };
  }

  /** Ask another model or version. @param {import("./api.js").ModelKey} key */
  async choose(key) {
    this.chosen = key;
    await this.attempt(() => this.#followChosen());
  }

  /** A new answer, or null for none. */
  setAnswer(answer) {
    this.answer = answer;
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
      if (!this.#failed && this.#saysBad) this.#hideNotice();
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
    let done = false;
    try {
      done = await this.attempt(async () => {
        const listed = await listModels();
        const changed = JSON.stringify(listed.models) !== JSON.stringify(this.models);
        this.models = listed.models;
        if (!this.chosen.name) this.chosen = { name: listed.default.name, version: 0 };
        const before = this.model;
        const followed = await this.#followChosen();
        if (before && followed)
          this.say(`The server changed: ${this.model.name} version ${this.model.version} answers now.`);
        if (changed) this.dispatchEvent(new Event("models"));
      });
      if (done) this.#recovered();
    } finally {
      this.#watchIn(done ? CALM_MS : ANXIOUS_MS);
    }
  }

  #watchIn(milliseconds) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#watch(), milliseconds);
  }

  /**
   * Describe what answers, if it changed; leave a version that the server no longer has.
   * @returns {Promise<boolean>} whether it changed
   */
  async #followChosen() {
    const ours = this.models.filter((model) => model.name === this.chosen.name);
    const gone = this.chosen.version !== 0 && !ours.some((model) => model.version === this.chosen.version);
    if (!ours.length) this.chosen = { name: this.models[0].name, version: 0 };
    else if (gone) this.chosen = { name: this.chosen.name, version: 0 };
    const now = this.models.find(
      (model) =>
        model.name === this.chosen.name &&
        (this.chosen.version ? model.version === this.chosen.version : model.default),
    );
    if (this.#isAnswering(now)) return false;
    const { chosen } = this;
    const model = await describeModel({ name: now.name, version: now.version });
    if (this.chosen !== chosen || this.#isAnswering(model)) return false; // chosen, or described, meanwhile
    this.model = model;
    this.dispatchEvent(new Event("model"));
    return true;
  }

  #fail(failure) {
    if (failure.kind === "refused" || failure.kind === "request") {
      this.say(failure.message);
      return;
    }
    const anew = !this.#failed;
    this.#failed = failure.kind;
    if (anew) this.#watchIn(ANXIOUS_MS);
    if (failure.kind === "gone") {
      this.say(failure.message); // what answers instead, the watch finds out
      return;
    }
    const where = failure.kind === "down" ? ` (${this.page.target})` : "";
    this.#say(
      `${failure.message.replace(/\.$/, "")}${where}. Trying again every second; your drawing is kept.`,
      true,
    );
  }

  /** Only the watch says so, so that a question that still fails is asked once a second, and not without a pause. */
  #recovered() {
    if (!this.#failed) return;
    this.#failed = "";
    if (this.#saysBad) this.say("The server answers again.");
    this.dispatchEvent(new Event("back"));
  }

  get #saysBad() {
    return document.getElementById("notice").classList.contains("bad");
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
