// The agent's HTTP interface, on the loopback address: status, metrics, termination.

import { createServer, type Server, type ServerResponse } from "node:http";
import { errorKind, errorMessage, HTTP_STATUS, StorageError } from "../base/errors.ts";
import type { ComputeStatus, StartMetrics, TerminateAnswer, TerminateMode } from "./api.ts";

/** What the routes show and do; the supervisor implements it. */
export interface ComputeControl {
  status(): ComputeStatus;
  /** Undefined before the first start has succeeded. */
  startMetrics(): StartMetrics | undefined;
  /** Prometheus text format. */
  metricsText(): string;
  /** Resolves when Postgres has ended. */
  terminate(mode: TerminateMode): Promise<TerminateAnswer>;
}

/** A server for `control` that does not listen itself: hand it connections (`connection` events). */
export function createHttpServer(control: ComputeControl): Server {
  return createServer((request, response) => {
    request.resume();
    const url = new URL(request.url ?? "/", "http://compute");
    answer(control, request.method ?? "GET", url, response).catch((error: unknown) => {
      sendJson(response, HTTP_STATUS[errorKind(error)], { msg: errorMessage(error) });
    });
  });
}

async function answer(
  control: ComputeControl,
  method: string,
  url: URL,
  response: ServerResponse,
): Promise<void> {
  const route = `${method} ${url.pathname}`;
  switch (route) {
    case "GET /status":
      sendJson(response, 200, control.status());
      return;
    case "GET /metrics.json": {
      const metrics = control.startMetrics();
      if (metrics === undefined) {
        throw new StorageError("unavailable", "not-started", "this compute has not started yet");
      }
      sendJson(response, 200, metrics);
      return;
    }
    case "GET /metrics":
      response.writeHead(200, { "content-type": "text/plain; version=0.0.4; charset=utf-8" });
      response.end(control.metricsText());
      return;
    case "POST /terminate": {
      const mode = url.searchParams.get("mode") ?? "fast";
      if (mode !== "fast" && mode !== "immediate") {
        throw new StorageError(
          "invalid",
          "bad-mode",
          `mode must be fast or immediate, got '${mode}'`,
        );
      }
      sendJson(response, 200, await control.terminate(mode));
      return;
    }
    default:
      throw new StorageError("not-found", "no-route", `no route ${route}`);
  }
}

function sendJson(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(body));
}
