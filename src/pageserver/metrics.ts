// The pageserver's Prometheus metrics. Names follow Neon's where they mean the same.

import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import { monotonicMs } from "../base/clock.ts";
import { errorKind } from "../base/errors.ts";

const REQUEST_NAMES = ["exists", "nblocks", "get_page", "db_size", "get_slru_segment"] as const;

/** Counters for the page service; hot ones are resolved to their child once. */
export class PageServiceMetrics {
  readonly connections: Gauge;
  readonly #requests: { inc(): void }[];
  readonly #errors: Counter<"kind">;
  readonly #waitSeconds: Histogram;

  constructor(registry: Registry) {
    const registers = [registry];
    this.connections = new Gauge({
      name: "pageserver_pagestream_connections",
      help: "Open pagestream connections",
      registers,
    });
    const requests = new Counter({
      name: "pageserver_pagestream_requests_total",
      help: "Pagestream requests answered without an error",
      labelNames: ["request"],
      registers,
    });
    this.#requests = REQUEST_NAMES.map((request) => requests.labels(request));
    this.#errors = new Counter({
      name: "pageserver_pagestream_errors_total",
      help: "Pagestream requests answered with an error, by its kind",
      labelNames: ["kind"],
      registers,
    });
    this.#waitSeconds = new Histogram({
      name: "pageserver_wait_lsn_seconds",
      help: "Time that requests waited for WAL to be ingested",
      buckets: [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, 300],
      registers,
    });
  }

  countRequest(tag: number): void {
    this.#requests[tag]?.inc();
  }

  countError(error: unknown): void {
    this.#errors.labels(errorKind(error)).inc();
  }

  async timeWait<T>(wait: Promise<T>): Promise<T> {
    const start = monotonicMs();
    try {
      return await wait;
    } finally {
      this.#waitSeconds.observe((monotonicMs() - start) / 1000);
    }
  }
}

/** Counters of WAL ingest, over all timelines. */
export class IngestMetrics {
  readonly records: Counter;
  readonly bytes: Counter;
  readonly batchSeconds: Histogram;
  readonly failures: Counter<"code">;
  readonly reconnects: Counter;

  constructor(registry: Registry) {
    const registers = [registry];
    this.records = new Counter({
      name: "pageserver_wal_ingest_records_total",
      help: "WAL records ingested",
      registers,
    });
    this.bytes = new Counter({
      name: "pageserver_wal_ingest_bytes_total",
      help: "WAL bytes received from safekeepers",
      registers,
    });
    this.batchSeconds = new Histogram({
      name: "pageserver_wal_ingest_batch_seconds",
      help: "Time to ingest the WAL that one read of a socket brought",
      buckets: [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1],
      registers,
    });
    this.failures = new Counter({
      name: "pageserver_wal_ingest_failures_total",
      help: "Timelines that stopped taking in WAL, by reason",
      labelNames: ["code"],
      registers,
    });
    this.reconnects = new Counter({
      name: "pageserver_walreceiver_reconnects_total",
      help: "Connections to safekeepers that ended",
      registers,
    });
  }
}

export function createRegistry(): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  return registry;
}
