// Talks to a compute agent over HTTP.

import { HttpClient } from "../http/client.ts";
import type { ComputeStatus, StartMetrics, TerminateAnswer, TerminateMode } from "./api.ts";

const QUICK_TIMEOUT_MS = 5000;
/** A fast stop waits for a checkpoint and, before that, for a quorum. */
const TERMINATE_TIMEOUT_MS = 60_000;

/** Every call throws StorageError: `unavailable` where no agent answers, else what it said. */
export class ComputeClient {
  readonly #http: HttpClient;

  /** `address`: `host:port` of the agent's HTTP listener. */
  constructor(address: string) {
    this.#http = new HttpClient({ component: "compute", address, timeoutMs: QUICK_TIMEOUT_MS });
  }

  status(timeoutMs = QUICK_TIMEOUT_MS): Promise<ComputeStatus> {
    return this.#http.call("GET", "/status", { timeoutMs });
  }

  /** `unavailable` until the first start has succeeded. */
  startMetrics(timeoutMs = QUICK_TIMEOUT_MS): Promise<StartMetrics> {
    return this.#http.call("GET", "/metrics.json", { timeoutMs });
  }

  /** Returns when Postgres has ended; the agent then ends by itself. */
  terminate(mode: TerminateMode, timeoutMs = TERMINATE_TIMEOUT_MS): Promise<TerminateAnswer> {
    return this.#http.call("POST", `/terminate?mode=${mode}`, { timeoutMs });
  }
}
