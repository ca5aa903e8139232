// What `branch list` and `branch info` show.

import { errorKind } from "../../base/errors.ts";
import { parseLsn } from "../../base/lsn.ts";
import { branchNames, resolveBranch, resolveTenant } from "../../local/branches.ts";
import { controllerOf } from "../../local/controller.ts";
import { type Endpoint, endpointState, listEndpoints } from "../../local/endpoints.ts";
import type { StrataHome } from "../../local/home.ts";
import type { OffloadedTimelineInfo, TimelineInfo } from "../../pageserver/api.ts";
import { print, printJson } from "../cli.ts";
import { formatBytes, formatTable } from "../output.ts";

/** One row of the list. Sizes are null where nobody could tell. */
function describeBranch(
  info: TimelineInfo,
  names: ReadonlyMap<string, string>,
  endpoints: readonly Endpoint[],
) {
  const parent = info.ancestor_timeline_id;
  return {
    name: names.get(info.timeline_id)!,
    timeline_id: info.timeline_id,
    parent: parent === null ? null : (names.get(parent) ?? parent),
    parent_lsn: parent === null ? null : info.ancestor_lsn,
    archived_at: null,
    last_record_lsn: info.last_record_lsn,
    pg_version: info.pg_version,
    logical_size: info.current_logical_size ?? null,
    physical_size: info.current_physical_size,
    exclusive_size: info.exclusive_size ?? null,
    endpoints: endpoints
      .filter(({ spec }) => spec.timelineId === info.timeline_id)
      .map((endpoint) => ({ id: endpoint.id, status: endpointState(endpoint).state })),
  };
}

/** Of an archived one no more is known: it is in the object store only. */
function describeArchived(info: OffloadedTimelineInfo, names: ReadonlyMap<string, string>) {
  const parent = info.ancestor_timeline_id;
  return {
    name: names.get(info.timeline_id)!,
    timeline_id: info.timeline_id,
    parent: parent === null ? null : (names.get(parent) ?? parent),
    parent_lsn: info.ancestor_retain_lsn,
    archived_at: info.archived_at,
    last_record_lsn: null,
    pg_version: null,
    logical_size: null,
    physical_size: null,
    exclusive_size: null,
    endpoints: [],
  };
}

const bytesOf = (size: number | null) => (size === null ? "---" : formatBytes(size));

export async function listBranches(
  home: StrataHome,
  givenTenant: string | undefined,
  json: boolean,
): Promise<void> {
  const config = home.config();
  const tenantId = resolveTenant(config, givenTenant);
  const names = branchNames(config, tenantId);
  const endpoints = listEndpoints(home);
  const all = await controllerOf(home).timelinesAndOffloaded(tenantId, { withSizes: true });
  const isNamed = (info: { readonly timeline_id: string }) => names.has(info.timeline_id);
  const rows = [
    ...all.timelines.filter(isNamed).map((info) => describeBranch(info, names, endpoints)),
    ...all.offloaded.filter(isNamed).map((info) => describeArchived(info, names)),
  ].toSorted((a, b) => a.name.localeCompare(b.name, "en"));
  if (json) {
    printJson(rows);
    return;
  }
  print(
    formatTable(
      ["BRANCH", "TIMELINE", "PARENT", "PARENT LSN", "LAST LSN", "PG", "SIZE", "OWN", "ENDPOINTS"],
      rows.map((row) => [
        row.name,
        row.timeline_id,
        row.parent ?? "---",
        row.parent_lsn ?? "---",
        row.last_record_lsn ?? "---",
        `${row.pg_version ?? "---"}`,
        bytesOf(row.logical_size),
        bytesOf(row.exclusive_size),
        row.archived_at !== null
          ? `archived ${row.archived_at}`
          : row.endpoints.map((one) => `${one.id} (${one.status})`).join(", ") || "---",
      ]),
    ),
  );
}

export async function showBranch(
  home: StrataHome,
  name: string,
  options: { tenantId?: string; json?: boolean },
): Promise<void> {
  const config = home.config();
  const tenantId = resolveTenant(config, options.tenantId);
  const timelineId = resolveBranch(config, tenantId, name);
  const controller = controllerOf(home);
  const info = await controller.timeline(tenantId, timelineId, { withSizes: true });
  const timeOf = async (lsn: string) => {
    try {
      return await controller.timestampOfLsn(tenantId, timelineId, parseLsn(lsn)!);
    } catch (error) {
      if (errorKind(error) !== "not-found") {
        throw error;
      }
      return null;
    }
  };
  const branch = {
    ...describeBranch(info, branchNames(config, tenantId), listEndpoints(home)),
    last_commit_time: await timeOf(info.last_record_lsn),
    min_readable_lsn: info.min_readable_lsn,
    min_readable_time: await timeOf(info.min_readable_lsn),
  };
  if (options.json === true) {
    printJson(branch);
    return;
  }
  const at = (lsn: string, time: string | null) => (time === null ? lsn : `${lsn}, of ${time}`);
  const rows: [string, string][] = [
    ["branch", branch.name],
    ["timeline", branch.timeline_id],
    ["parent", branch.parent === null ? "---" : `${branch.parent} at ${branch.parent_lsn}`],
    ["PostgreSQL", `${branch.pg_version}`],
    ["newest", at(branch.last_record_lsn, branch.last_commit_time)],
    ["oldest readable", at(branch.min_readable_lsn, branch.min_readable_time)],
    ["logical size", `${bytesOf(branch.logical_size)} in all relations`],
    ["physical size", `${bytesOf(branch.physical_size)} in layers that it made`],
    ["exclusive size", `${bytesOf(branch.exclusive_size)} in layers that no other branch can read`],
    ["endpoints", branch.endpoints.map((one) => `${one.id} (${one.status})`).join(", ") || "---"],
  ];
  for (const [what, value] of rows) {
    print(`${`${what}:`.padEnd(17)}${value}`);
  }
}
