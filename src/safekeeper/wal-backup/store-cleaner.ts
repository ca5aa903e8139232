// Removes the objects of deleted timelines, over restarts and failures of the store.

import { rmSync } from "node:fs";
import { sleep } from "../../base/clock.ts";
import { errorMessage } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { deleteAll, type ObjectStore } from "../../object-store/object-store.ts";
import { timelinePrefix } from "./stored-wal.ts";

const FIRST_RETRY_MS = 200;
const MAX_RETRY_MS = 30_000;
/** An upload that was on its way when the timeline was deleted has ended by then. */
const SETTLE_MS = 500;

export class StoreCleaner {
  readonly #store: ObjectStore;
  readonly #logger: Logger;
  readonly #stopping = new AbortController();
  readonly #pending = new Map<string, Promise<void>>();

  constructor(store: ObjectStore, logger: Logger) {
    this.#store = store;
    this.#logger = logger;
  }

  isPending(tenantId: TenantId, timelineId: TimelineId): boolean {
    return this.#pending.has(`${tenantId}/${timelineId}`);
  }

  /**
   * Removes every object of the timeline, then `directory`, whose name says that this is to be done: as
   * long as it is there, it is begun again after a restart.
   */
  remove(tenantId: TenantId, timelineId: TimelineId, directory: string): void {
    const key = `${tenantId}/${timelineId}`;
    if (!this.#pending.has(key)) {
      const run = this.#run(tenantId, timelineId, directory).finally(() => {
        this.#pending.delete(key);
      });
      this.#pending.set(key, run);
    }
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await Promise.allSettled(this.#pending.values());
  }

  async #run(tenantId: TenantId, timelineId: TimelineId, directory: string): Promise<void> {
    const { signal } = this.#stopping;
    let delayMs = FIRST_RETRY_MS;
    await sleep(SETTLE_MS, signal).catch(() => undefined);
    while (!signal.aborted) {
      try {
        await deleteAll(this.#store, timelinePrefix(tenantId, timelineId), signal);
        rmSync(directory, { recursive: true, force: true });
        this.#logger.info({ tenantId, timelineId }, "removed a deleted timeline's objects");
        return;
      } catch (error) {
        if (!signal.aborted && delayMs === FIRST_RETRY_MS) {
          const fields = { tenantId, timelineId, reason: errorMessage(error) };
          this.#logger.warn(fields, "objects of a deleted timeline remain; tried again later");
        }
      }
      await sleep(delayMs, signal).catch(() => undefined);
      delayMs = Math.min(delayMs * 2, MAX_RETRY_MS);
    }
  }
}
