// The agent's HTTP routes: status, metrics, termination, hot blocks, what sessions do. Schemas are loaded only when they are asked for.

import { StorageError } from "../base/errors.ts";
import type { HttpRequest, Route } from "../http/route.ts";
import type { TerminateMode } from "./api.ts";
import type { ComputeControl } from "./compute-control.ts";
import { schemasOf, sessionRoutes } from "./http-sessions.ts";

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
      handle: (request) => control.status({ activity: asksForActivity(request) }),
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
    ...sessionRoutes(control),
    ...hotBlocksRoutes(control),
  ];
}

/** Neon's routes of its local file cache; what is read in here are blocks that Postgres had in memory. */
function hotBlocksRoutes(control: ComputeControl): Route[] {
  const shared = { mediaType: undefined, scope: "admin" } as const;
  const prewarm = { ...shared, path: "/lfc/prewarm", schemas: () => schemasOf("prewarm") };
  const offload = { ...shared, path: "/lfc/offload", schemas: () => schemasOf("offload") };
  return [
    {
      ...prewarm,
      method: "GET",
      status: 200,
      summary: "How far the list of hot blocks has been read in.",
      handle: async () => (await control.hotBlocks()).prewarmState,
    },
    {
      ...prewarm,
      method: "POST",
      status: 202,
      summary: "Begins to read in what the list of hot blocks names.",
      handle: async (request) => {
        refuseFromEndpoint(request);
        return (await control.hotBlocks()).prewarm(control.postgresAddress());
      },
    },
    {
      ...prewarm,
      method: "DELETE",
      status: 202,
      summary: "Ends the reading of hot blocks.",
      handle: async () => (await control.hotBlocks()).cancelPrewarm(),
    },
    {
      ...offload,
      method: "GET",
      status: 200,
      summary: "How the last writing of the list of hot blocks went.",
      handle: async () => (await control.hotBlocks()).offloadState,
    },
    {
      ...offload,
      method: "POST",
      status: 202,
      summary: "Begins to write the list of hot blocks.",
      handle: async () => (await control.hotBlocks()).offload(control.postgresAddress()),
    },
  ];
}

/** Neon's parameter: an agent does not know where another endpoint's list is. */
function refuseFromEndpoint(request: HttpRequest): void {
  if ((request.query as Readonly<Record<string, unknown>>)["from_endpoint"] !== undefined) {
    const message = "from_endpoint: a new endpoint of a branch begins with the list of its branch";
    throw new StorageError("unsupported", "from-endpoint", message);
  }
}

function asksForActivity({ query }: HttpRequest): boolean {
  const { activity = "true" } = query as { activity?: string };
  if (activity !== "true" && activity !== "false") {
    const message = `activity must be true or false, got '${activity}'`;
    throw new StorageError("invalid", "bad-activity", message);
  }
  return activity === "true";
}

function terminateMode(request: HttpRequest): TerminateMode {
  const { mode = "fast" } = request.query as { mode?: string };
  if (mode !== "fast" && mode !== "immediate") {
    throw new StorageError("invalid", "bad-mode", `mode must be fast or immediate, got '${mode}'`);
  }
  return mode;
}
