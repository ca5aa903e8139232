// Keeps every timeline's layers small in the background: compaction all the time, collection of old history now and then.

import { monotonicMs, sleep } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { formatLsn } from "../../base/lsn.ts";
import type { GcResult } from "../api.ts";
import type { Tenant } from "../storage/tenant.ts";
import type { TenantManager } from "../storage/tenant-manager.ts";
import type { Timeline } from "../storage/timeline.ts";
import { type CollectionRequest, collectionCutoff, collectTimeline } from "./collection.ts";
import { LSN_LEASE_MS } from "./lsn-lease.ts";
import { DEFAULT_UPKEEP, type UpkeepSettings, upkeepOf } from "./tenant-config.ts";

/** A timeline whose compaction fails is left alone for so long, at first and at most. */
const RETRY_MS = 10_000;
const MAX_RETRY_MS = 600_000;

/** Soon, for a process that is often started may never be old; after what is read and written at a start. */
const FIRST_COLLECTION_MS = 60_000;

/** What is done for every timeline of a tenant, now and then. */
interface Chore {
  /** 0: never. */
  readonly periodMs: (settings: UpkeepSettings) => number;
  /** After the process's start. */
  readonly firstMs: (settings: UpkeepSettings, tenant: Tenant) => number;
  /** Whether a timeline's turn has come before the period is over. */
  readonly isEarly: (timeline: Timeline) => boolean;
  readonly work: (timeline: Timeline) => Promise<void>;
}

/** A tenant's settings may change at any time: so often it is looked whose turn has come. */
const MAX_TICK_MS = 1000;

export class LayerUpkeep {
  readonly #tenants: TenantManager;
  readonly #defaults: UpkeepSettings;
  readonly #logger: Logger;
  readonly #startedMs = monotonicMs();
  readonly #closing = new AbortController();
  readonly #loops: Promise<void>[];
  /** When a timeline may be compacted again, and how often it has failed. */
  readonly #failed = new WeakMap<
    Timeline,
    { readonly retryAtMs: number; readonly times: number }
  >();

  /** `defaults`: of tenants that have not set it. */
  constructor(tenants: TenantManager, defaults: Partial<UpkeepSettings>, logger: Logger) {
    this.#tenants = tenants;
    this.#defaults = { ...DEFAULT_UPKEEP, ...defaults };
    this.#logger = logger;
    this.#loops = [
      this.#repeat({
        periodMs: ({ compactionPeriodMs }) => compactionPeriodMs,
        firstMs: ({ compactionPeriodMs }) => compactionPeriodMs,
        // Bulk WAL fills many layers in a period.
        isEarly: ({ hasNewLayer }) => hasNewLayer,
        work: (timeline) => this.#compact(timeline),
      }),
      this.#repeat({
        periodMs: ({ gcPeriodMs }) => gcPeriodMs,
        // Where another machine has had the tenant before, computes must have renewed the leases that it gave.
        firstMs: ({ gcPeriodMs }, { mayLackLeases }) =>
          mayLackLeases ? LSN_LEASE_MS : Math.min(gcPeriodMs, FIRST_COLLECTION_MS),
        isEarly: () => false,
        work: (timeline) => this.collect(timeline),
      }),
    ];
  }

  /** Of a tenant whose settings cannot be read: `defaults`, but that its history is not collected. */
  settingsOf(tenant: Tenant): UpkeepSettings {
    try {
      return upkeepOf(tenant.settings.config, this.#defaults);
    } catch {
      return { ...this.#defaults, gcPeriodMs: 0 };
    }
  }

  async #repeat(chore: Chore): Promise<void> {
    const { signal } = this.#closing;
    const lastMs = new WeakMap<Tenant, number>();
    const tickMs = Math.min(MAX_TICK_MS, chore.periodMs(this.#defaults) || MAX_TICK_MS);
    while (!signal.aborted) {
      await sleep(tickMs, signal).catch(() => undefined);
      for (const tenant of this.#tenants.tenants) {
        const settings = this.settingsOf(tenant);
        const periodMs = chore.periodMs(settings);
        const before = lastMs.get(tenant);
        const dueMs =
          before === undefined
            ? this.#startedMs + chore.firstMs(settings, tenant)
            : before + periodMs;
        const isDue = monotonicMs() >= dueMs;
        for (const timeline of periodMs === 0 ? [] : tenant.timelines) {
          if (!signal.aborted && (isDue || chore.isEarly(timeline))) {
            await chore.work(timeline);
          }
        }
        if (isDue) {
          lastMs.set(tenant, monotonicMs());
        }
      }
    }
  }

  async #compact(timeline: Timeline): Promise<void> {
    const failed = this.#failed.get(timeline);
    if (failed !== undefined && monotonicMs() < failed.retryAtMs) {
      return;
    }
    try {
      while (!this.#closing.signal.aborted && (await timeline.compact())) {
        // A step may make the next one possible.
      }
      this.#failed.delete(timeline);
    } catch (error) {
      if (isEnd(error)) {
        return;
      }
      const times = (failed?.times ?? 0) + 1;
      const waitMs = Math.min(MAX_RETRY_MS, RETRY_MS * 2 ** (times - 1));
      this.#failed.set(timeline, { retryAtMs: monotonicMs() + waitMs, times });
      const { tenantId: tenant, timelineId } = timeline;
      this.#logger.error({ tenant, timeline: timelineId, error, times }, "compaction failed");
    }
  }

  /** Moves the cutoff on; what that makes superfluous goes with the next compactions. Never rejects. */
  async collect(timeline: Timeline): Promise<void> {
    const { tenantId, timelineId } = timeline;
    const tenant = this.#tenants.tenants.find((one) => one.tenantId === tenantId);
    if (tenant === undefined) {
      // Deleted since it was looked for.
      return;
    }
    try {
      tenant.requireWhole();
    } catch (error) {
      this.#logger.warn({ tenant: tenantId, error }, "no history is collected");
      return;
    }
    try {
      const before = timeline.gcCutoffLsn;
      await timeline.advanceGcCutoff(await collectionCutoff(timeline, this.settingsOf(tenant)));
      if (timeline.gcCutoffLsn > before) {
        this.#logger.info(
          { tenant: tenantId, timeline: timelineId, cutoff: formatLsn(timeline.gcCutoffLsn) },
          "history below the cutoff may go",
        );
      }
    } catch (error) {
      if (!isEnd(error)) {
        this.#logger.error({ tenant: tenantId, timeline: timelineId, error }, "collection failed");
      }
    }
  }

  /**
   * Collects what may go of a timeline, all of it and now; or says what that would do. `unavailable` while leases that
   * another machine gave may not have been renewed, `conflict` where a timeline of the tenant does not load, `corrupt` where
   * its settings are damaged.
   */
  async collectNow(timeline: Timeline, request: CollectionRequest): Promise<GcResult> {
    const tenant = this.#tenants.tenant(timeline.tenantId);
    const leftMs = tenant.mayLackLeases ? this.#startedMs + LSN_LEASE_MS - monotonicMs() : 0;
    if (!request.dryRun && !request.force && leftMs > 0) {
      const message =
        `the pageserver has just taken the tenant over: for ${Math.ceil(leftMs / 1000)} s more, computes that run ` +
        "have yet to renew their leases on what they read ('force' does not wait for them)";
      throw new StorageError("unavailable", "leases-not-renewed", message);
    }
    tenant.requireWhole();
    const settings = upkeepOf(tenant.settings.config, this.#defaults);
    return await collectTimeline(tenant, timeline, settings, request);
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.all(this.#loops);
  }
}

/** The timeline, or the process, is going away. */
function isEnd(error: unknown): boolean {
  return error instanceof StorageError && error.code === "shutting-down";
}
