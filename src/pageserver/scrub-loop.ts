// Removes now and then what deaths have left in the object store: nothing that nobody names stays for ever.

import { sleep } from "../base/clock.ts";
import { errorMessage } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { Tenant } from "./storage/tenant.ts";
import type { TenantManager } from "./storage/tenant-manager.ts";

export interface ScrubLoopSettings {
  /** 0: only when it is asked for. */
  readonly periodMs: number;
  /** Younger objects are left alone. */
  readonly minAgeMs: number;
}

const DAY_MS = 86_400_000;

export const DEFAULT_SCRUB_LOOP: ScrubLoopSettings = { periodMs: DAY_MS, minAgeMs: DAY_MS };

/** One tenant after the other, spread over the period: listing a store costs. */
export class ScrubLoop {
  readonly #tenants: TenantManager;
  readonly #settings: ScrubLoopSettings;
  readonly #logger: Logger;
  readonly #closing = new AbortController();
  readonly #loop: Promise<void>;

  constructor(tenants: TenantManager, settings: Partial<ScrubLoopSettings>, logger: Logger) {
    this.#tenants = tenants;
    this.#settings = { ...DEFAULT_SCRUB_LOOP, ...settings };
    this.#logger = logger;
    this.#loop = this.#settings.periodMs > 0 ? this.#run() : Promise.resolve();
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing;
    const { periodMs } = this.#settings;
    while (!signal.aborted) {
      const { tenants } = this.#tenants;
      await this.#removeStrayObjects();
      if (tenants.length === 0) {
        await sleep(periodMs, signal).catch(() => undefined);
      }
      for (const tenant of tenants) {
        await sleep(periodMs / tenants.length, signal).catch(() => undefined);
        if (!signal.aborted) {
          await this.#scrub(tenant);
        }
      }
    }
  }

  async #removeStrayObjects(): Promise<void> {
    try {
      await this.#tenants.removeStrayObjects();
    } catch (error) {
      if (!this.#closing.signal.aborted) {
        this.#logger.warn({ reason: errorMessage(error) }, "deleted tenants are not looked for");
      }
    }
  }

  async #scrub(tenant: Tenant): Promise<void> {
    const { minAgeMs } = this.#settings;
    try {
      const { report, putAgain } = await tenant.scrub({ fix: true, minAgeMs });
      const { deleted, missing, differing, damaged } = report;
      const counts = {
        tenant: tenant.tenantId,
        deleted: deleted.length,
        missing: missing.length,
        differing: differing.length,
        damaged: damaged.size,
        putAgain: putAgain.length,
      };
      if (missing.length + differing.length + damaged.size > 0) {
        this.#logger.error(
          counts,
          "the object store lacks what its indexes name: see strata scrub",
        );
      } else {
        this.#logger.info(counts, "object store scrubbed");
      }
    } catch (error) {
      if (!this.#closing.signal.aborted) {
        const { tenantId } = tenant;
        const reason = errorMessage(error);
        this.#logger.warn({ tenant: tenantId, reason }, "the object store is not scrubbed");
      }
    }
  }

  /** Resolves when calls of the store that are under way have ended: whoever closes the tenants ends them. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#loop;
  }
}
