// Talks to a compute agent over HTTP.

import { errorMessage, StorageError } from "../base/errors.ts";
import type { ComputeStatus, StartMetrics, TerminateAnswer, TerminateMode } from "./api.ts";

const QUICK_TIMEOUT_MS = 5000;
/** A fast stop waits for a checkpoint and, before that, for a quorum. */
const TERMINATE_TIMEOUT_MS = 60_000;

/** Every call throws StorageError: `unavailable` where no agent answers, else what it said. */
export class ComputeClient {
  readonly #base: string;

  /** `address`: `host:port` of the agent's HTTP listener. */
  constructor(address: string) {
    this.#base = `http://${address}`;
  }

  async status(timeoutMs = QUICK_TIMEOUT_MS): Promise<ComputeStatus> {
    return (await this.#call("GET", "/status", timeoutMs)) as ComputeStatus;
  }

  /** `unavailable` until the first start has succeeded. */
  async startMetrics(timeoutMs = QUICK_TIMEOUT_MS): Promise<StartMetrics> {
    return (await this.#call("GET", "/metrics.json", timeoutMs)) as StartMetrics;
  }

  /** Returns when Postgres has ended; the agent then ends by itself. */
  async terminate(mode: TerminateMode, timeoutMs = TERMINATE_TIMEOUT_MS): Promise<TerminateAnswer> {
    return (await this.#call("POST", `/terminate?mode=${mode}`, timeoutMs)) as TerminateAnswer;
  }

  async #call(method: string, path: string, timeoutMs: number): Promise<unknown> {
    let response: Response;
    let body: unknown;
    try {
      response = await fetch(this.#base + path, { method, signal: AbortSignal.timeout(timeoutMs) });
      body = await response.json();
    } catch (cause) {
      const reason = cause instanceof Error && cause.cause !== undefined ? cause.cause : cause;
      throw new StorageError(
        "unavailable",
        "compute-unreachable",
        `${method} ${this.#base}${path}: ${errorMessage(reason)}`,
        { cause },
      );
    }
    if (!response.ok) {
      const message = String((body as { msg?: unknown } | null)?.msg ?? response.statusText);
      throw new StorageError(
        response.status === 503 ? "unavailable" : response.status < 500 ? "invalid" : "internal",
        "compute-error",
        `${method} ${path}: ${message}`,
      );
    }
    return body;
  }
}
