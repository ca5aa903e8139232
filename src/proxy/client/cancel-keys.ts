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
  /** Undefined where there is nothing to cancel at the moment. */
  readonly target: () => CancelTarget | undefined;
}

export class CancelKeys {
  readonly #entries = new Map<number, Entry>();

  /** For as long as the client's connection lasts. `target` is asked when somebody cancels. */
  issue(target: () => CancelTarget | undefined): CancelKey {
    let pid: number;
    do {
      pid = 1 + randomInt(2 ** 31 - 1);
    } while (this.#entries.has(pid));
    const key = randomBytes(KEY_BYTES);
    this.#entries.set(pid, { key, target });
    return { pid, key };
  }

  revoke(pid: number): void {
    this.#entries.delete(pid);
  }

  /** `unknown`: nobody has this key. */
  find(pid: number, key: Uint8Array): CancelTarget | undefined | "unknown" {
    const entry = this.#entries.get(pid);
    const { timingSafeEqual } = process.getBuiltinModule("node:crypto");
    return entry !== undefined && key.length === KEY_BYTES && timingSafeEqual(entry.key, key)
      ? entry.target()
      : "unknown";
  }
}
