// A map from key prefixes by their fields: the same fields find the same value, whichever object has them.

import { type KeyPrefix, samePrefix } from "./key.ts";

interface Entry<V> {
  readonly prefix: KeyPrefix;
  value: V;
  /** Another prefix of the same hash. */
  next: Entry<V> | undefined;
}

/** Keyed by the prefix's hash, as a small integer is ten times as fast a key as a string. */
export class PrefixMap<V> {
  readonly #entries = new Map<number, Entry<V>>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get(prefix: KeyPrefix): V | undefined {
    let entry = this.#entries.get(prefix.hash);
    while (entry !== undefined && !samePrefix(entry.prefix, prefix)) {
      entry = entry.next;
    }
    return entry?.value;
  }

  /** Adds the prefix or replaces its value. */
  set(prefix: KeyPrefix, value: V): void {
    const first = this.#entries.get(prefix.hash);
    for (let entry = first; entry !== undefined; entry = entry.next) {
      if (samePrefix(entry.prefix, prefix)) {
        entry.value = value;
        return;
      }
    }
    this.#entries.set(prefix.hash, { prefix, value, next: first });
    this.#size++;
  }

  clear(): void {
    this.#entries.clear();
    this.#size = 0;
  }

  /** In no order. */
  *[Symbol.iterator](): Generator<readonly [prefix: KeyPrefix, value: V]> {
    for (const first of this.#entries.values()) {
      for (let entry: Entry<V> | undefined = first; entry !== undefined; entry = entry.next) {
        yield [entry.prefix, entry.value];
      }
    }
  }
}
