// Counts failed logins by address and endpoint, so that passwords cannot be tried at leisure.

import { monotonicMs } from "../../base/clock.ts";
import { clientError } from "./postgres-errors.ts";

const WINDOW_MS = 60_000;
/** The oldest are forgotten: who has that many addresses is not stopped by counting. */
const MAX_ENTRIES = 10_000;

export class FailedLogins {
  readonly #most: number;
  /** In the order of `since`. */
  readonly #entries = new Map<string, { count: number; readonly since: number }>();

  /** `most` a minute. */
  constructor(most: number) {
    this.#most = most;
  }

  /** Throws StorageError with SQLSTATE 53300 where there were too many. */
  check(address: string, endpoint: string): void {
    const entry = this.#entries.get(`${endpoint}\n${address}`);
    const left = entry === undefined ? 0 : entry.since + WINDOW_MS - monotonicMs();
    if (entry !== undefined && entry.count >= this.#most && left > 0) {
      throw clientError(
        "53300",
        "too-many-failed-logins",
        `too many failed logins from ${address} to this endpoint`,
        { hint: `Try again in ${Math.ceil(left / 1000)} seconds.` },
      );
    }
  }

  count(address: string, endpoint: string): void {
    const key = `${endpoint}\n${address}`;
    const now = monotonicMs();
    const entry = this.#entries.get(key);
    if (entry !== undefined && now < entry.since + WINDOW_MS) {
      entry.count++;
      return;
    }
    this.#entries.delete(key);
    this.#entries.set(key, { count: 1, since: now });
    if (this.#entries.size > MAX_ENTRIES) {
      this.#entries.delete(this.#entries.keys().next().value!);
    }
  }
}
