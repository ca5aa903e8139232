// The WAL receivers of all timelines, fed by one subscription to the storage broker.

import type { TenantId, TimelineId } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import type { IngestMetrics } from "./metrics.ts";
import type { SafekeeperCandidate } from "./safekeeper-choice.ts";
import type { ServedTimeline } from "./served-timeline.ts";
import { WalReceiver } from "./wal-receiver.ts";

export class WalReceivers {
  readonly #metrics: IngestMetrics;
  readonly #logger: Logger;
  readonly #receivers = new Map<string, WalReceiver>();
  #closed = false;

  constructor(metrics: IngestMetrics, logger: Logger) {
    this.#metrics = metrics;
    this.#logger = logger;
  }

  /** Idempotent. */
  start(timeline: ServedTimeline): void {
    const key = keyOf(timeline.tenantId, timeline.timelineId);
    if (!this.#receivers.has(key) && !this.#closed) {
      this.#receivers.set(key, new WalReceiver(timeline, this.#metrics, this.#logger));
    }
  }

  get(timeline: ServedTimeline): WalReceiver | undefined {
    return this.#receivers.get(keyOf(timeline.tenantId, timeline.timelineId));
  }

  /** What the broker tells; about a timeline that is not here it is ignored. */
  update(tenantId: TenantId, timelineId: TimelineId, candidate: SafekeeperCandidate): void {
    this.#receivers.get(keyOf(tenantId, timelineId))?.update(candidate);
  }

  async stop(tenantId: TenantId, timelineId: TimelineId): Promise<void> {
    const key = keyOf(tenantId, timelineId);
    const receiver = this.#receivers.get(key);
    this.#receivers.delete(key);
    await receiver?.stop();
  }

  async close(): Promise<void> {
    this.#closed = true;
    const receivers = [...this.#receivers.values()];
    this.#receivers.clear();
    await Promise.all(receivers.map((receiver) => receiver.stop()));
  }
}

function keyOf(tenantId: TenantId, timelineId: TimelineId): string {
  return `${tenantId}/${timelineId}`;
}
