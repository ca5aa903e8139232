// Long work in turns: after each, what else waits goes first, so that the page answers.

/** A frame at 60 Hz has 16 ms, and others need some of it. */
const TURN_MS = 8;

export class Turns {
  #begin = performance.now();

  /** Resolves at once while the turn lasts. */
  async next(): Promise<void> {
    if (performance.now() - this.#begin >= TURN_MS) {
      await afterOthers();
      this.#begin = performance.now();
    }
  }
}

/** Not by a timer: those of a page that nobody looks at fire once a second. */
function afterOthers(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(undefined);
  });
}
