// Keeps the state at a compute's start LSN readable as long as the compute runs.

import { sleep } from "../../base/clock.ts";
import { errorKind, errorMessage, type StorageError, withContext } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { formatLsn, type Lsn } from "../../base/lsn.ts";
import { LSN_LEASE_MS, leaseLsn } from "../../pageserver/client.ts";
import type { EndpointSpec } from "../api.ts";

/** Four tries fit into what is left when one has failed. */
const RENEW_MS = LSN_LEASE_MS / 5;
const RETRY_MS = 10_000;

export interface LeaseKeeperOptions {
  /** Asks the pageserver for a lease of LSN_LEASE_MS. StorageError `invalid` where that state is not kept any more. */
  readonly renew: (lsn: Lsn) => Promise<void>;
  /** Nobody was asked in time: what has not been read yet cannot be read any more. Called once, the last there is. */
  readonly onLost: (error: StorageError) => void;
  readonly logger: Logger;
}

/** The pageserver gave the first lease with what the compute started from (`compute_state`). */
export class LeaseKeeper {
  readonly #options: LeaseKeeperOptions;
  readonly #closing = new AbortController();

  constructor(options: LeaseKeeperOptions) {
    this.#options = options;
  }

  start(lsn: Lsn): void {
    void this.#run(lsn);
  }

  async #run(lsn: Lsn): Promise<void> {
    const { renew, onLost, logger } = this.#options;
    const { signal } = this.#closing;
    let waitMs = RENEW_MS;
    while (!signal.aborted) {
      await sleep(waitMs, signal).catch(() => undefined);
      if (signal.aborted) {
        return;
      }
      try {
        await renew(lsn);
        waitMs = RENEW_MS;
      } catch (error) {
        if (signal.aborted) {
          return;
        }
        if (errorKind(error) === "invalid") {
          onLost(withContext(error, `read on at ${formatLsn(lsn)}`));
          return;
        }
        logger.warn(
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

export interface StartLeaseOptions {
  readonly spec: Pick<EndpointSpec, "mode" | "pageserver" | "tenantId" | "timelineId">;
  readonly renew?: typeof leaseLsn;
  /** Of a compute at the head: there it can begin anew. */
  readonly onStale: (why: string) => void;
  /** Of one that is to be where it is. */
  readonly onFatal: (error: StorageError) => void;
  readonly logger: Logger;
}

/**
 * Of a run that began at `lsn`, at the head or at the LSN that its specification names, until it is closed. Lost: it was stopped, or
 * far from its pageserver, for longer than a lease lasts, and history up to its start is collected. Then each page that it has not
 * read yet is an error, of catalogs too.
 */
export function keepStartLease(lsn: Lsn, options: StartLeaseOptions): LeaseKeeper {
  const { spec, renew = leaseLsn, onStale, onFatal, logger } = options;
  const { mode, pageserver, tenantId, timelineId } = spec;
  const isAtHead = typeof mode === "string";
  const keeper = new LeaseKeeper({
    renew: (at) => renew(pageserver.pgAddr, { tenantId, timelineId }, at),
    onLost: (error) => (isAtHead ? onStale(errorMessage(error)) : onFatal(error)),
    logger,
  });
  keeper.start(lsn);
  return keeper;
}
