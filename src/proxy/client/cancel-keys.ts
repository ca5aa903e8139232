// Keys by which clients cancel: ours, because the process numbers of many computes are often the same.

import { randomBytes, randomInt } from "../../base/random.ts";

const KEY_BYTES = 4;

/** What Postgres told us at the login. */
export interface CancelTarget {
  readonly host: string;
  readonly port: number;
  readonly pid: number;
  readonly key: Uint8Array;
}

export interface CancelKey {
  readonly pid: number;
  readonly key: Buffer;
}

interface Entry {
  readonly key: Buffer;
  readonly cancel: () => Promise<void>;
}

export class CancelKeys {
  readonly #entries = new Map<number, Entry>();

  /** For as long as the client's connection lasts. `cancel` stops what is under way for it, if anything. */
  issue(cancel: () => Promise<void>): CancelKey {
    let pid: number;
    do {
      pid = 1 + randomInt(2 ** 31 - 1);
    } while (this.#entries.has(pid));
    const key = randomBytes(KEY_BYTES);
    this.#entries.set(pid, { key, cancel });
    return { pid, key };
  }

  revoke(pid: number): void {
    this.#entries.delete(pid);
  }

  /** Undefined: nobody has this key. */
  find(pid: number, key: Uint8Array): (() => Promise<void>) | undefined {
    const entry = this.#entries.get(pid);
    const { timingSafeEqual } = process.getBuiltinModule("node:crypto");
    return entry !== undefined && key.length === KEY_BYTES && timingSafeEqual(entry.key, key)
      ? entry.cancel
      : undefined;
  }
}
