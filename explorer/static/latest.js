/**
 * Work on the newest input only: one piece of work at a time; what comes meanwhile waits, and the newest replaces it.
 * A stroke thus never floods the server, and its last state is always answered.
 */
export class Latest {
  /**
   * @param {(input: any, isWanted: () => boolean) => Promise<void>} work must not throw; an answer that came late is
   *   told from one that is still wanted, since nothing newer was submitted and nothing cleared
   * @param {number} gapMs least time between two beginnings
   */
  constructor(work, gapMs = 0) {
    this.work = work;
    this.gapMs = gapMs;
    this.busy = false;
    this.wanted = null;
  }

  /** Do the work on this input as soon as may be. @param {any} input */
  submit(input) {
    this.wanted = { input };
    if (!this.busy) this.#run();
  }

  /** Forget what waits; what is worked on is no longer wanted. */
  clear() {
    this.wanted = null;
  }

  async #run() {
    this.busy = true;
    let one = null;
    try {
      while (this.wanted && this.wanted !== one) {
        const began = performance.now();
        one = this.wanted;
        await this.work(one.input, () => this.wanted === one);
        const rest = this.gapMs - (performance.now() - began);
        if (rest > 0) await new Promise((done) => setTimeout(done, rest));
      }
    } finally {
      this.busy = false;
    }
  }
}
