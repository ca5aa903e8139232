// Keeps every timeline's layers small in the background: compaction all the time, collection of old history now and then.

import { monotonicMs, nowMs, sleep } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { formatLsn, type Lsn, maxLsn, minLsn, toLsn } from "../base/lsn.ts";
import { LSN_LEASE_MS } from "./api.ts";
import { findLsnByTimestamp } from "./lsn-by-timestamp.ts";
import type { TenantManager } from "./storage/tenant-manager.ts";
import type { Timeline } from "./storage/timeline.ts";

/** Postgres counts from 2000-01-01. */
const POSTGRES_EPOCH_MS = Date.UTC(2000, 0, 1);
/** A timeline whose compaction fails is left alone for so long, at first and at most. */
const RETRY_MS = 10_000;
const MAX_RETRY_MS = 600_000;

export interface UpkeepSettings {
  readonly compactionPeriodMs: number;
  readonly gcPeriodMs: number;
  /** History of this age stays readable. 0: only `gcHorizonBytes` counts. */
  readonly pitrIntervalMs: number;
  /** Without a PITR interval, so many bytes of WAL stay readable. */
  readonly gcHorizonBytes: number;
}

/** Neon's; compaction looks every 20 s. */
export const DEFAULT_UPKEEP: UpkeepSettings = {
  compactionPeriodMs: 20_000,
  gcPeriodMs: 3_600_000,
  pitrIntervalMs: 7 * 86_400_000,
  gcHorizonBytes: 64 << 20,
};

/**
 * The LSN below which history may go: the newest that is older than the PITR interval. Where no time is known that is
 * before all there is, nothing may go.
 */
export async function collectionCutoff(
  timeline: Timeline,
  { pitrIntervalMs, gcHorizonBytes }: UpkeepSettings,
): Promise<Lsn> {
  const { lastRecordLsn, gcCutoffLsn } = timeline;
  if (pitrIntervalMs === 0) {
    return maxLsn(gcCutoffLsn, toLsn(Math.max(0, lastRecordLsn - gcHorizonBytes)));
  }
  const timeUs = (nowMs() - pitrIntervalMs - POSTGRES_EPOCH_MS) * 1000;
  const { kind, lsn } = await findLsnByTimestamp(timeline, timeUs);
  return kind === "present" || kind === "future" ? maxLsn(gcCutoffLsn, lsn) : gcCutoffLsn;
}

export class LayerUpkeep {
  readonly #tenants: TenantManager;
  readonly #settings: UpkeepSettings;
  readonly #logger: Logger;
  readonly #closing = new AbortController();
  readonly #loops: Promise<void>[];
  /** When a timeline may be compacted again, and how often it has failed. */
  readonly #failed = new WeakMap<
    Timeline,
    { readonly retryAtMs: number; readonly times: number }
  >();

  constructor(tenants: TenantManager, settings: Partial<UpkeepSettings>, logger: Logger) {
    this.#tenants = tenants;
    this.#settings = { ...DEFAULT_UPKEEP, ...settings };
    this.#logger = logger;
    const { compactionPeriodMs, gcPeriodMs } = this.#settings;
    this.#loops = [
      this.#repeat(compactionPeriodMs, compactionPeriodMs, (timeline) => this.#compact(timeline)),
      // Computes that ran on must have renewed their leases first: those are in memory.
      this.#repeat(LSN_LEASE_MS, gcPeriodMs, (timeline) => this.collect(timeline)),
    ];
  }

  async #repeat(
    firstMs: number,
    periodMs: number,
    work: (timeline: Timeline) => Promise<void>,
  ): Promise<void> {
    const { signal } = this.#closing;
    for (let waitMs = firstMs; !signal.aborted; waitMs = periodMs) {
      await sleep(waitMs, signal).catch(() => undefined);
      for (const tenant of this.#tenants.tenants) {
        for (const timeline of tenant.timelines) {
          if (!signal.aborted) {
            await work(timeline);
          }
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
    // An index that cannot be read may be of a branch: then nobody knows where it begins.
    if (this.#tenants.tenant(tenantId).brokenTimelines.size > 0) {
      this.#logger.warn({ tenant: tenantId }, "no history is collected: a timeline does not load");
      return;
    }
    try {
      const before = timeline.gcCutoffLsn;
      const cutoff = minLsn(
        await collectionCutoff(timeline, this.#settings),
        timeline.diskConsistentLsn,
      );
      if (cutoff > before) {
        await timeline.advanceGcCutoff(cutoff);
        this.#logger.info(
          { tenant: tenantId, timeline: timelineId, cutoff: formatLsn(cutoff) },
          "history below the cutoff may go",
        );
      }
    } catch (error) {
      if (!isEnd(error)) {
        this.#logger.error({ tenant: tenantId, timeline: timelineId, error }, "collection failed");
      }
    }
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
