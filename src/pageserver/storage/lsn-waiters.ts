// Callers that wait until an LSN is reached.

import { sleep } from "../../base/clock.ts";
import type { Lsn } from "../../base/lsn.ts";

interface Waiter {
  readonly lsn: Lsn;
  readonly resolve: (reached: boolean) => void;
  readonly reject: (error: unknown) => void;
}

/** `reached` is called for every record, so it costs one comparison while nobody is due. */
export class LsnWaiters {
  /** Made when somebody waits: there may be thousands of timelines. */
  #waiters: Set<Waiter> | undefined;
  #lowest = Number.POSITIVE_INFINITY;

  /** True when `lsn` was reached, false after `timeoutMs` (Infinity: never). Rejects by `fail`. */
  async wait(lsn: Lsn, timeoutMs: number): Promise<boolean> {
    const settled = new AbortController();
    let waiter: Waiter | undefined;
    const reached = new Promise<boolean>((resolve, reject) => {
      waiter = { lsn, resolve, reject };
      this.#waiters ??= new Set();
      this.#waiters.add(waiter);
      this.#lowest = Math.min(this.#lowest, lsn);
    });
    try {
      if (timeoutMs === Number.POSITIVE_INFINITY) {
        return await reached;
      }
      const timedOut = sleep(timeoutMs, settled.signal).then(
        () => false,
        () => false,
      );
      return await Promise.race([reached, timedOut]);
    } finally {
      this.#waiters?.delete(waiter!);
      settled.abort();
    }
  }

  reached(lsn: Lsn): void {
    if (lsn >= this.#lowest) {
      this.#wake(lsn);
    }
  }

  #wake(lsn: Lsn): void {
    this.#lowest = Number.POSITIVE_INFINITY;
    for (const waiter of this.#waiters ?? []) {
      if (waiter.lsn <= lsn) {
        this.#waiters?.delete(waiter);
        waiter.resolve(true);
      } else {
        this.#lowest = Math.min(this.#lowest, waiter.lsn);
      }
    }
  }

  /** Rejects everybody who waits now. */
  fail(error: unknown): void {
    for (const waiter of this.#waiters ?? []) {
      waiter.reject(error);
    }
    this.#waiters = undefined;
    this.#lowest = Number.POSITIVE_INFINITY;
  }
}
