// /projects/{project_id}/endpoints: Postgres on a branch, made, changed, started and suspended.

import type { Updateable } from "kysely";
import { StorageError } from "../../base/errors.ts";
import { type Route, route } from "../../http/route.ts";
import { nowText } from "../inventory.ts";
import { type PlannedOperation, planned } from "../operations/state-machine.ts";
import type { EndpointRow } from "../state/tables.ts";
import { newEndpoint, plannedEndpoint } from "./branches.ts";
import { postgresSettings } from "./endpoint-settings.ts";
import {
  findBranch,
  findEndpointRow,
  findProject,
  operationsOf,
  type Parts,
  writerOf,
} from "./lookup.ts";
import { readEndpoint, readEndpoints } from "./read.ts";
import {
  branchParams,
  endpointAnswer,
  endpointCreateBody,
  endpointOperationsAnswer,
  endpointParams,
  endpointsAnswer,
  endpointUpdateBody,
  projectParams,
} from "./schemas.ts";
import { endpointView } from "./views.ts";

const BASE = "/api/v2/projects/{project_id}/endpoints";
const ONE = `${BASE}/{endpoint_id}`;

export function endpointRoutes(parts: Parts): Route[] {
  return [...listRoutes(parts), ...changeRoutes(parts), ...powerRoutes(parts)];
}

function listRoutes(parts: Parts): Route[] {
  const { db, computes, front } = parts;
  return [
    route(
      {
        method: "GET",
        path: BASE,
        summary: "Endpoints of a project.",
        scope: "tenant",
        params: projectParams,
        answer: endpointsAnswer,
      },
      async ({ params }) => {
        const project = await findProject(parts, params.project_id);
        const rows = await db
          .selectFrom("endpoints")
          .selectAll()
          .where("project_id", "=", project.id)
          .where("ephemeral", "=", 0)
          .orderBy("created_at")
          .orderBy("id")
          .execute();
        return {
          endpoints: rows.map((row) => endpointView(row, computes.stateOf(row.id), front)),
        };
      },
    ),
    route(
      {
        method: "GET",
        path: "/api/v2/projects/{project_id}/branches/{branch_id}/endpoints",
        summary: "Endpoints of a branch.",
        scope: "tenant",
        params: branchParams,
        answer: endpointsAnswer,
      },
      async ({ params }) => {
        const { branch } = await findBranch(parts, params);
        return { endpoints: await readEndpoints(parts, branch.id) };
      },
    ),
    route(
      {
        method: "GET",
        path: ONE,
        summary: "One endpoint.",
        scope: "tenant",
        params: endpointParams,
        answer: endpointAnswer,
      },
      async ({ params }) => {
        const { endpoint } = await findEndpointRow(parts, params);
        return { endpoint: await readEndpoint(parts, endpoint.id) };
      },
    ),
  ];
}

function changeRoutes(parts: Parts): Route[] {
  return [
    route(
      {
        method: "POST",
        path: BASE,
        summary: "Makes an endpoint, and starts it.",
        scope: "tenant",
        status: 201,
        params: projectParams,
        body: endpointCreateBody,
        answer: endpointOperationsAnswer,
      },
      async ({ params, body }) => {
        const wanted = body.endpoint;
        const of = { project_id: params.project_id, branch_id: wanted.branch_id };
        const { project, branch } = await findBranch(parts, of);
        if (wanted.type === "read_write" && (await writerOf(parts, branch)) !== undefined) {
          const message = `branch ${branch.id} already has a read-write endpoint`;
          throw new StorageError("conflict", "second-primary", message);
        }
        const endpoint = newEndpoint(project, branch, wanted);
        const operation = plannedEndpoint(parts, project, endpoint);
        const job = await parts.operations.submit(project.id, [operation], async (db) => {
          await db.insertInto("endpoints").values(endpoint).execute();
        });
        const operations = await operationsOf(parts, job);
        return { endpoint: await readEndpoint(parts, endpoint.id), operations };
      },
    ),
    route(
      {
        method: "PATCH",
        path: ONE,
        summary: "Changes its settings; those of Postgres count from its next start.",
        scope: "tenant",
        params: endpointParams,
        body: endpointUpdateBody,
        answer: endpointOperationsAnswer,
      },
      async ({ params, body }) => {
        const { endpoint } = await findEndpointRow(parts, params);
        await updateEndpoint(parts, endpoint, body.endpoint);
        return { endpoint: await readEndpoint(parts, endpoint.id), operations: [] };
      },
    ),
    route(
      {
        method: "DELETE",
        path: ONE,
        summary: "Stops and removes it; the data is the branch's.",
        scope: "tenant",
        params: endpointParams,
        answer: endpointOperationsAnswer,
      },
      async ({ params }) => {
        const { project, endpoint } = await findEndpointRow(parts, params);
        const view = await readEndpoint(parts, endpoint.id);
        const operation = planned(parts.kinds.deleteEndpoint, {
          action: "suspend_compute",
          branchId: endpoint.branch_id,
          endpointId: endpoint.id,
          args: { endpointId: endpoint.id },
        });
        const job = await parts.operations.submit(project.id, [operation]);
        return { endpoint: view, operations: await operationsOf(parts, job) };
      },
    ),
  ];
}

function powerRoutes(parts: Parts): Route[] {
  const start = (id: string, branchId: string) =>
    planned(parts.kinds.startEndpoint, {
      action: "start_compute",
      branchId,
      endpointId: id,
      args: { endpointId: id },
    });
  const suspend = (id: string, branchId: string) =>
    planned(parts.kinds.suspendEndpoint, {
      action: "suspend_compute",
      branchId,
      endpointId: id,
      args: { endpointId: id },
    });
  const power = (
    verb: string,
    summary: string,
    plan: (id: string, branchId: string) => PlannedOperation[],
  ) =>
    route(
      {
        method: "POST",
        path: `${ONE}/${verb}`,
        summary,
        scope: "tenant",
        params: endpointParams,
        answer: endpointOperationsAnswer,
      },
      async ({ params }) => {
        const { project, endpoint } = await findEndpointRow(parts, params);
        const operations = plan(endpoint.id, endpoint.branch_id);
        const job = await parts.operations.submit(project.id, operations);
        const done = await operationsOf(parts, job);
        return { endpoint: await readEndpoint(parts, endpoint.id), operations: done };
      },
    );
  return [
    power("start", "Starts it.", (id, branch) => [start(id, branch)]),
    power("suspend", "Stops it; the next connection starts it again.", (id, branch) => [
      suspend(id, branch),
    ]),
    power("restart", "Stops and starts it.", (id, branch) => [
      suspend(id, branch),
      start(id, branch),
    ]),
  ];
}

async function updateEndpoint(
  parts: Parts,
  row: EndpointRow,
  change: {
    readonly settings?: Record<string, unknown> | undefined;
    readonly autoscaling_limit_min_cu?: number | undefined;
    readonly autoscaling_limit_max_cu?: number | undefined;
    readonly suspend_timeout_seconds?: number | undefined;
    readonly name?: string | undefined;
    readonly disabled?: boolean | undefined;
  },
): Promise<void> {
  const update = (values: Updateable<EndpointRow>) =>
    parts.db.updateTable("endpoints").set(values).where("id", "=", row.id).execute();
  const { settings } = change;
  if (settings !== undefined) {
    await parts.computes.provider.changeSettings(row.id, async (set) => {
      const of = { project_id: row.project_id, endpoint_id: row.id };
      const now = await findEndpointRow(parts, of);
      const merged = JSON.stringify({ ...JSON.parse(now.endpoint.settings), ...settings });
      set(postgresSettings(merged, now.project));
      await update({ settings: merged });
    });
  }
  await update({
    // Kysely leaves out what is undefined: a change that is made at the same time is not taken back.
    name: change.name,
    disabled: change.disabled === undefined ? undefined : Number(change.disabled),
    suspend_timeout_seconds: change.suspend_timeout_seconds,
    autoscaling_limit_min_cu: change.autoscaling_limit_min_cu,
    autoscaling_limit_max_cu: change.autoscaling_limit_max_cu,
    updated_at: nowText(),
  });
  if (change.disabled === true) {
    await parts.computes.suspend(row.id);
  }
}
