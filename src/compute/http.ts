// The agent's HTTP routes: status, metrics, termination. Schemas are loaded only when they are asked for.

import { StorageError } from "../base/errors.ts";
import type { HttpRequest, Route, RouteSchemas } from "../http/route.ts";
import type { ComputeStatus, StartMetrics, TerminateAnswer, TerminateMode } from "./api.ts";
import type { ComputeRoute } from "./http-schemas.ts";

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

/** Checks are written out by hand: loading zod costs each endpoint 18 MB and 45 ms (docs/decisions). */
export function computeRoutes(control: ComputeControl): Route[] {
  const shared = { status: 200, mediaType: undefined };
  return [
    {
      ...shared,
      method: "GET",
      path: "/status",
      summary: "How the compute stands.",
      scope: "public",
      schemas: () => schemasOf("status"),
      handle: () => control.status(),
    },
    {
      ...shared,
      method: "GET",
      path: "/metrics.json",
      summary: "How long the parts of the last start took.",
      scope: "public",
      schemas: () => schemasOf("metricsJson"),
      handle: () => {
        const metrics = control.startMetrics();
        if (metrics === undefined) {
          throw new StorageError("unavailable", "not-started", "this compute has not started yet");
        }
        return metrics;
      },
    },
    {
      ...shared,
      method: "POST",
      path: "/terminate",
      summary: "Stops Postgres, then the agent; answers when Postgres has ended.",
      scope: "admin",
      schemas: () => schemasOf("terminate"),
      handle: (request) => control.terminate(terminateMode(request)),
    },
  ];
}

function terminateMode(request: HttpRequest): TerminateMode {
  const { mode = "fast" } = request.query as { mode?: string };
  if (mode !== "fast" && mode !== "immediate") {
    throw new StorageError("invalid", "bad-mode", `mode must be fast or immediate, got '${mode}'`);
  }
  return mode;
}

async function schemasOf(route: ComputeRoute): Promise<RouteSchemas> {
  const { COMPUTE_SCHEMAS } = await import("./http-schemas.ts");
  return COMPUTE_SCHEMAS[route];
}
