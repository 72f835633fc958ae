/**
 * Work on the newest input only: one piece of work at a time; what comes meanwhile waits, and the newest replaces it.
 * A stroke thus never floods the server, and its last state is always answered.
 */
export class Latest {
  /**
   * @param {(input: any) => Promise<void>} work must not throw
   * @param {number} gapMs least time between two beginnings
   */
  constructor(work, gapMs = 0) {
    this.work = work;
    this.gapMs = gapMs;
    this.busy = false;
    this.waiting = [];
  }

  /** Do the work on this input as soon as may be. @param {any} input */
  submit(input) {
    this.waiting = [input];
    if (!this.busy) this.#run();
  }

  /** Forget what waits. */
  clear() {
    this.waiting = [];
  }

  async #run() {
    this.busy = true;
    try {
      while (this.waiting.length) {
        const began = performance.now();
        await this.work(this.waiting.pop());
        const rest = this.gapMs - (performance.now() - began);
        if (rest > 0) await new Promise((done) => setTimeout(done, rest));
      }
    } finally {
      this.busy = false;
    }
  }
}
