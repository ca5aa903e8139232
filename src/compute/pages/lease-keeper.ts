// Keeps the state at a compute's start LSN readable as long as the compute runs.

import { sleep } from "../../base/clock.ts";
import { errorMessage } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { formatLsn, type Lsn } from "../../base/lsn.ts";
import { LSN_LEASE_MS } from "../../pageserver/client.ts";

/** Four tries fit into what is left when one has failed. */
const RENEW_MS = LSN_LEASE_MS / 5;
const RETRY_MS = 10_000;

/** The pageserver gave the first lease with what the compute started from (`compute_state`). */
export class LeaseKeeper {
  readonly #renew: (lsn: Lsn) => Promise<void>;
  readonly #logger: Logger;
  readonly #closing = new AbortController();

  /** `renew` asks the pageserver for a lease of LSN_LEASE_MS. */
  constructor(renew: (lsn: Lsn) => Promise<void>, logger: Logger) {
    this.#renew = renew;
    this.#logger = logger;
  }

  start(lsn: Lsn): void {
    void this.#run(lsn);
  }

  async #run(lsn: Lsn): Promise<void> {
    const { signal } = this.#closing;
    let waitMs = RENEW_MS;
    while (!signal.aborted) {
      await sleep(waitMs, signal).catch(() => undefined);
      if (signal.aborted) {
        return;
      }
      try {
        await this.#renew(lsn);
        waitMs = RENEW_MS;
      } catch (error) {
        this.#logger.warn(
          { lsn: formatLsn(lsn), error: errorMessage(error) },
          "the lease of the LSN that this compute reads at is not renewed, trying again",
        );
        waitMs = RETRY_MS;
      }
    }
  }

  close(): void {
    this.#closing.abort();
  }
}
