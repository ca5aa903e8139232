// What a branch keeps in the storage: its layers, to be drawn, and what it costs. Nothing is woken for it.

import type { z } from "zod";
import { errorKind } from "../../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { formatLsn, type Lsn, parseLsn, toLsn } from "../../base/lsn.ts";
import { type Route, route } from "../../http/route.ts";
import { controllerOf } from "../../local/controller.ts";
import { keyWords } from "../../storage-controller/layers/key-words.ts";
import {
  type BranchLayer,
  type BranchLayers,
  END_KEY,
  groupLayers,
  isLevel0,
  keyAxis,
  type LayerGroup,
  readBranchLayers,
} from "../../storage-controller/layers/layer-map.ts";
import { findBranch, type Parts, type ProjectBranch } from "../api-v2/lookup.ts";
import { branchParams } from "../api-v2/schemas.ts";
import type { ProjectRow } from "../state/tables.ts";
import { costsAnswer, costsQuery, layersAnswer } from "./schemas.ts";

/** Of one answer. Above it those of the same LSNs are one, and then the oldest are left out. */
const MAX_LAYERS = 2000;
/** Named in one answer. */
const MAX_HOLDERS = 100;

export function storageRoutes(parts: Parts): Route[] {
  return [
    route(
      {
        method: "GET",
        path: "/console/projects/{project_id}/branches/{branch_id}/layers",
        summary: "The layers that a branch reads, its own and inherited ones, and their sums.",
        scope: "tenant",
        params: branchParams,
        answer: layersAnswer,
      },
      async ({ params }) => readLayers(parts, await findBranch(parts, params)),
    ),
    route(
      {
        method: "GET",
        path: "/console/projects/{project_id}/branches/{branch_id}/costs",
        summary: "How large a branch is, and what its deletion or a shorter history would free.",
        scope: "tenant",
        params: branchParams,
        query: costsQuery,
        answer: costsAnswer,
      },
      async ({ params, query }) =>
        readCosts(parts, await findBranch(parts, params), query.history_seconds),
    ),
  ];
}

async function readLayers(parts: Parts, { project, branch }: ProjectBranch) {
  const controller = controllerOf(parts.home);
  const tenantId = parseTenantId(project.tenant_id);
  const timelineId = parseTimelineId(branch.timeline_id);
  // One that is archived is in no listing: this says so.
  await controller.timeline(tenantId, timelineId);
  const names = await branchNamesOf(parts, project);
  const map = await readBranchLayers(controller, tenantId, timelineId);
  return layersView(map, (id) => names.get(id) ?? id);
}

async function readCosts(
  parts: Parts,
  { project, branch }: ProjectBranch,
  historySeconds = project.history_retention_seconds,
): Promise<z.infer<typeof costsAnswer>> {
  const controller = controllerOf(parts.home);
  const tenantId = parseTenantId(project.tenant_id);
  const timelineId = parseTimelineId(branch.timeline_id);
  const info = await controller.timeline(tenantId, timelineId, { withSizes: true });
  const timeOf = async (lsn: string) => {
    try {
      return await controller.timestampOfLsn(tenantId, timelineId, lsnOf(lsn));
    } catch (error) {
      if (errorKind(error) !== "not-found" && errorKind(error) !== "invalid") {
        throw error;
      }
      return null;
    }
  };
  const plan = await controller.collectGarbage(tenantId, timelineId, {
    dryRun: true,
    force: false,
    pitrInterval: `${historySeconds}s`,
  });
  const names = await branchNamesOf(parts, project);
  const head = lsnOf(info.last_record_lsn);
  const since = (lsn: string) => Math.max(0, head - lsnOf(lsn));
  return {
    logical_bytes: info.current_logical_size,
    delete_frees_bytes: info.exclusive_size,
    head_lsn: info.last_record_lsn,
    head_time: await timeOf(info.last_record_lsn),
    readable_lsn: info.min_readable_lsn,
    readable_time: await timeOf(info.min_readable_lsn),
    history_wal_bytes: since(info.min_readable_lsn),
    own_wal_bytes: info.ancestor_timeline_id === null ? null : since(info.start_lsn),
    unflushed_wal_bytes: since(info.disk_consistent_lsn),
    kept_seconds: project.history_retention_seconds,
    window: {
      history_seconds: historySeconds,
      cutoff_lsn: plan.gc_cutoff_lsn,
      cutoff_time: plan.gc_cutoff_time,
      frees: plan.freed,
      rewritten: plan.rewritten,
      held_by: plan.held.slice(0, MAX_HOLDERS).map(
        ({ kind, timeline_id }) =>
          ({
            branch: `branch ${names.get(timeline_id ?? "") ?? timeline_id}`,
            lease: "a lease",
            subscriptions: "subscriptions that the first start of an endpoint detaches",
          })[kind],
      ),
    },
  };
}

const lsnOf = (text: string): Lsn => parseLsn(text) ?? toLsn(0);

/** By timeline. */
async function branchNamesOf(
  parts: Parts,
  project: ProjectRow,
): Promise<ReadonlyMap<string, string>> {
  const rows = await parts.db
    .selectFrom("branches")
    .select(["timeline_id", "name"])
    .where("project_id", "=", project.id)
    .execute();
  return new Map(rows.map((row) => [row.timeline_id, row.name]));
}

/** `maxLayers`: for tests. */
export function layersView(
  map: BranchLayers,
  nameOf: (timelineId: string) => string,
  maxLayers = MAX_LAYERS,
): z.infer<typeof layersAnswer> {
  const { layers } = map;
  const groups = groupLayers(layers, layers.length <= maxLayers);
  const shown = groups.slice(0, maxLayers);
  const axis = keyAxis(shown);
  const text = (lsn: Lsn | undefined) => (lsn === undefined ? null : formatLsn(lsn));
  return {
    head_lsn: formatLsn(map.headLsn),
    readable_lsn: formatLsn(map.minReadableLsn),
    begin_lsn: text(map.beginLsn),
    memory_lsn: text(map.memoryFrom),
    branch_points: map.branchPoints.map(({ timelineId, lsn }) => ({
      name: nameOf(timelineId),
      lsn: formatLsn(lsn),
    })),
    keys: axis.bounds.map((key) => (key === END_KEY ? "the last key" : keyWords(key))),
    layers: shown.map((group) => {
      const { from, to } = axis.placeOf(group);
      return { ...groupView(group, nameOf), key_from: from, key_to: to };
    }),
    own: sumOf(layers.filter(({ isOwn }) => isOwn)),
    inherited: sumOf(layers.filter(({ isOwn }) => !isOwn)),
    remote: sumOf(layers.filter(({ isRemote }) => isRemote)),
    left_out: groups
      .slice(maxLayers)
      .reduce(
        (sum, one) => ({ layers: sum.layers + one.count, bytes: sum.bytes + one.sizeBytes }),
        { layers: 0, bytes: 0 },
      ),
  };
}

function groupView(group: LayerGroup, nameOf: (timelineId: string) => string) {
  const { first, keyStart, keyEnd, count, sizeBytes, remote } = group;
  return {
    kind: first.kind === "Delta" ? ("delta" as const) : ("image" as const),
    is_l0: isLevel0(first),
    key_range: `${keyWords(keyStart)} to ${keyWords(keyEnd)}`,
    lsn_start: formatLsn(first.lsnStart),
    lsn_end: formatLsn(first.lsnEnd),
    bytes: sizeBytes,
    count,
    remote,
    branch: nameOf(first.timelineId),
    is_own: first.isOwn,
  };
}

function sumOf(layers: readonly BranchLayer[]): { layers: number; bytes: number } {
  return {
    layers: layers.length,
    bytes: layers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
  };
}
