// Places for transfers of the whole process: who is next, so that no tenant waits for another's backlog.

import type { TenantId } from "../../base/ids.ts";

export interface TransferOptions {
  readonly tenantId: TenantId;
  /** Asked when a place is free: someone waits for it, so it goes before all that is in the background. */
  readonly isUrgent: () => boolean;
  /** Ends the wait for a place, not the work. */
  readonly signal: AbortSignal;
}

interface Waiter extends TransferOptions {
  readonly start: () => void;
}

/** Of those who wait, the urgent ones first; then who has the fewest running; then who came first. */
export class TransferSlots {
  readonly #limit: number;
  #running = 0;
  readonly #runningOf = new Map<TenantId, number>();
  readonly #waiting = new Set<Waiter>();

  constructor(limit: number) {
    this.#limit = limit;
  }

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  /** Does the work when there is a place for it. Rejects with the signal's reason, or as the work does. */
  async run<T>(options: TransferOptions, work: () => Promise<T>): Promise<T> {
    await this.#place(options);
    try {
      return await work();
    } finally {
      this.#count(options.tenantId, -1);
      this.#fill();
    }
  }

  #place(options: TransferOptions): Promise<void> {
    return new Promise((resolve, reject) => {
      const { signal } = options;
      signal.throwIfAborted();
      const aborted = () => {
        this.#waiting.delete(waiter);
        reject(signal.reason);
      };
      const start = () => {
        signal.removeEventListener("abort", aborted);
        resolve();
      };
      const waiter: Waiter = { ...options, start };
      signal.addEventListener("abort", aborted, { once: true });
      this.#waiting.add(waiter);
      this.#fill();
    });
  }

  #fill(): void {
    while (this.#running < this.#limit && this.#waiting.size > 0) {
      const next = this.#next();
      this.#waiting.delete(next);
      this.#count(next.tenantId, 1);
      next.start();
    }
  }

  #next(): Waiter {
    let best: Waiter | undefined;
    let bestRank = Number.POSITIVE_INFINITY;
    for (const waiter of this.#waiting) {
      const running = this.#runningOf.get(waiter.tenantId) ?? 0;
      const rank = waiter.isUrgent() ? running : running + this.#limit;
      if (rank < bestRank) {
        best = waiter;
        bestRank = rank;
      }
    }
    return best!;
  }

  #count(tenantId: TenantId, change: 1 | -1): void {
    this.#running += change;
    const running = (this.#runningOf.get(tenantId) ?? 0) + change;
    if (running === 0) {
      this.#runningOf.delete(tenantId);
    } else {
      this.#runningOf.set(tenantId, running);
    }
  }
}
