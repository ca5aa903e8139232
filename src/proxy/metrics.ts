// The proxy's Prometheus metrics. Names follow Neon's where they mean the same.

import { Counter, Gauge, Histogram, Registry } from "prom-client";

export class ProxyMetrics {
  readonly registry = new Registry();
  readonly #logins: Counter;
  readonly #refusals: Counter<"code">;
  readonly #connectSeconds: Histogram;
  readonly #sqlRequests: Counter<"code">;

  /** Both are asked when somebody reads the metrics. */
  constructor(counts: { open(): number; halfOpen(): number }) {
    const registers = [this.registry];
    new Gauge({
      name: "proxy_opened_client_connections",
      help: "Connections of clients that are open",
      registers,
      collect() {
        this.set(counts.open());
      },
    });
    new Gauge({
      name: "proxy_half_open_client_connections",
      help: "Of these, those that have not logged in",
      registers,
      collect() {
        this.set(counts.halfOpen());
      },
    });
    this.#logins = new Counter({
      name: "proxy_logins_total",
      help: "Clients that came through to Postgres",
      registers,
    });
    this.#refusals = new Counter({
      name: "proxy_refused_connections_total",
      help: "Connections that ended before, by why",
      labelNames: ["code"],
      registers,
    });
    this.#sqlRequests = new Counter({
      name: "proxy_sql_requests_total",
      help: "Requests to /sql, by how they ended",
      labelNames: ["code"],
      registers,
    });
    this.#connectSeconds = new Histogram({
      name: "proxy_compute_connection_seconds",
      help: "From a client's login to Postgres being ready, wake included",
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 60],
      registers,
    });
  }

  /** A request to /sql that was answered as asked. */
  sqlServed(): void {
    this.#sqlRequests.labels("ok").inc();
  }

  sqlRefused(code: string): void {
    this.#sqlRequests.labels(code).inc();
  }

  loggedIn(connectSeconds: number): void {
    this.#logins.inc();
    this.#connectSeconds.observe(connectSeconds);
  }

  refused(code: string): void {
    this.#refusals.labels(code).inc();
  }
}
