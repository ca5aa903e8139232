// The only source of randomness, so that a simulation can replace it by a seeded one.

/** Not imported: loading it takes 10 ms, and a compute starts without. */
function crypto() {
  return process.getBuiltinModule("node:crypto");
}

export function randomBytes(size: number): Buffer {
  return crypto().randomBytes(size);
}

/** A whole number in [0, limit); limit at most 2^48 - 1. */
export function randomInt(limit: number): number {
  return crypto().randomInt(limit);
}

/** Seeded generator (mulberry32) for tests, fuzzers and simulations: the same seed, the same run. */
export class SeededRandom {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** In [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number in [0, limit). */
  int(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  bool(probability = 0.5): boolean {
    return this.next() < probability;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.int(items.length)]!;
  }
}
