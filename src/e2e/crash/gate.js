// Tells the writers when the server is up, and the round when all writers stand still.

export class Gate {
  #isOpen = false;
  #waiting = [];
  #watchers = [];

  /** Times that it was opened: a request that began under another count may have met a dying server. */
  generation = 0;

  open() {
    this.#isOpen = true;
    this.generation += 1;
    for (const go of this.#waiting.splice(0)) go();
  }

  close() {
    this.#isOpen = false;
  }

  /** Resolves when the gate is open. */
  async pass() {
    while (!this.#isOpen) {
      const opened = new Promise((resolve) => this.#waiting.push(resolve));
      this.#look();
      await opened;
    }
  }

  /** Resolves when `count` parties wait at the closed gate. */
  async gathered(count) {
    if (!this.#isOpen && this.#waiting.length >= count) return;
    await new Promise((resolve) => this.#watchers.push({ count, resolve }));
  }

  #look() {
    this.#watchers = this.#watchers.filter(({ count, resolve }) => {
      if (this.#waiting.length < count) return true;
      resolve();
      return false;
    });
  }
}
