// So much at once, in the order in which it came. For work by the thousand that nobody waits for: to wait costs next to nothing.

export class Turns {
  readonly #limit: number;
  #running = 0;
  readonly #waiting = new Set<() => void>();

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** As the work does, when its turn has come. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#running < this.#limit) {
      this.#running++;
    } else {
      await new Promise<void>((resolve) => this.#waiting.add(resolve));
    }
    try {
      return await work();
    } finally {
      const [next] = this.#waiting;
      if (next === undefined) {
        this.#running--;
      } else {
        // Its place is handed on.
        this.#waiting.delete(next);
        next();
      }
    }
  }
}
