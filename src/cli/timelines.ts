// Tenants, timelines and the branch names that the home's configuration gives them.

import { errorKind, errorMessage, StorageError } from "../base/errors.ts";
import {
  generateTimelineId,
  parseTenantId,
  parseTimelineId,
  type TenantId,
  type TimelineId,
} from "../base/ids.ts";
import { formatLsn, type Lsn, maxLsn, parseLsn, toLsn } from "../base/lsn.ts";
import { pgBinOf, type StrataConfig } from "../local/config.ts";
import { runningCommitLsn } from "../local/endpoints.ts";
import type { StrataHome } from "../local/home.ts";
import { findNode } from "../local/services.ts";
import type { TimelineCreateRequest, TimelineInfo } from "../pageserver/api.ts";
import { PageserverHttpClient } from "../pageserver/client.ts";
import { findInstallation } from "../postgres/installation.ts";
import {
  createOnSafekeepers,
  deleteFromSafekeepers,
  FIRST_GENERATION,
  newestCommitLsn,
} from "./safekeepers.ts";

export const DEFAULT_BRANCH_NAME = "main";

export function pageserverClient(config: StrataConfig): PageserverHttpClient {
  return new PageserverHttpClient(config.pageservers[0]!.listenHttpAddr);
}

/** Major of a timeline. StorageError `unavailable` where no pageserver is there to tell. */
export async function majorOf(
  config: StrataConfig,
  tenantId: TenantId,
  timelineId: TimelineId,
): Promise<number> {
  try {
    return (await pageserverClient(config).getTimeline(tenantId, timelineId)).pg_version;
  } catch (error) {
    if (errorKind(error) !== "unavailable") {
      throw error;
    }
    throw new StorageError(
      "unavailable",
      "storage-not-running",
      "the pageserver does not answer: run 'strata start' first",
      { cause: error },
    );
  }
}

/** The given tenant, else the default one. */
export function resolveTenant(config: StrataConfig, given: string | undefined): TenantId {
  const id = given ?? config.defaultTenantId;
  if (id === undefined) {
    throw new StorageError(
      "invalid",
      "no-tenant",
      "No tenant id. Use --tenant-id, or set a default tenant",
    );
  }
  return parseTenantId(id);
}

export function branchNames(config: StrataConfig, tenantId: string): Map<string, string> {
  const mapping = config.branchNameMappings[tenantId] ?? {};
  return new Map(Object.entries(mapping).map(([name, timelineId]) => [timelineId, name]));
}

export function resolveBranch(config: StrataConfig, tenantId: TenantId, name: string): TimelineId {
  const mapping = config.branchNameMappings[tenantId] ?? {};
  const id = Object.hasOwn(mapping, name) ? mapping[name] : undefined;
  if (id === undefined) {
    throw new StorageError(
      "not-found",
      "no-branch",
      `Found no timeline id for branch name '${name}'`,
    );
  }
  return parseTimelineId(id);
}

/** Names can hold slashes but nothing that a shell, `name@lsn` or a listing would stumble over. */
export function checkBranchName(name: string): void {
  if (!/^[A-Za-z0-9_][A-Za-z0-9_./-]{0,62}$/.test(name)) {
    throw new StorageError(
      "invalid",
      "bad-branch-name",
      `branch name '${name}': letters, digits and _ . / - only, at most 63, not starting with . / -`,
    );
  }
}

export function requireFreeBranchName(config: StrataConfig, tenantId: string, name: string): void {
  checkBranchName(name);
  if (Object.hasOwn(config.branchNameMappings[tenantId] ?? {}, name)) {
    throw new StorageError("conflict", "branch-exists", `branch '${name}' already exists`);
  }
}

export function parseLsnArgument(text: string): Lsn {
  const lsn = parseLsn(text);
  if (lsn === undefined || lsn === 0) {
    throw new StorageError(
      "invalid",
      "bad-lsn",
      `'${text}' is not an LSN; one looks like 0/16F9A00`,
    );
  }
  return lsn;
}

/** The newest LSN of a timeline that anyone running knows to be committed. */
export async function newestLsn(
  home: StrataHome,
  config: StrataConfig,
  tenantId: TenantId,
  timelineId: TimelineId,
): Promise<Lsn> {
  const [info, committed, running] = await Promise.all([
    pageserverClient(config).getTimeline(tenantId, timelineId),
    newestCommitLsn(config, tenantId, timelineId),
    runningCommitLsn(home, tenantId, timelineId),
  ]);
  const ingested = parseLsn(info.last_record_lsn) ?? toLsn(0);
  return maxLsn(ingested, maxLsn(committed, running));
}

export interface NewTimeline {
  readonly tenantId: TenantId;
  readonly timelineId?: TimelineId | undefined;
  readonly branchName: string;
  /** Absent: a root timeline, made by initdb. */
  readonly ancestor?: { readonly timelineId: TimelineId; readonly lsn: Lsn };
  /** Major of a root timeline; absent: the home's. A branch has its ancestor's. */
  readonly pgVersion?: number | undefined;
  /** Of a root timeline; absent: off. */
  readonly dataChecksums?: boolean | undefined;
  /** Ids of the safekeepers that are to have it; absent: all. */
  readonly safekeepers?: readonly number[] | undefined;
}

/**
 * Creates a timeline on the pageserver, then on every safekeeper, then names it; call with the home
 * locked. What a crash leaves behind in between has no name and is removed by the next creation.
 */
export async function createTimeline(home: StrataHome, wanted: NewTimeline): Promise<TimelineInfo> {
  const { tenantId, branchName } = wanted;
  let config = home.config();
  requireFreeBranchName(config, tenantId, branchName);
  const nodes =
    wanted.safekeepers?.map((id) => findNode(config.safekeepers, id, "safekeeper")) ??
    config.safekeepers;
  const pgVersion = wanted.pgVersion ?? config.pgVersion;
  if (wanted.ancestor === undefined) {
    // Before anything is made that a missing or unknown Postgres would leave unfinished.
    findInstallation(pgVersion, { pgBin: pgBinOf(config, pgVersion) });
  }
  await removeUnfinished(home);
  const timelineId = wanted.timelineId ?? generateTimelineId();
  for (const [name, id] of Object.entries(config.branchNameMappings[tenantId] ?? {})) {
    if (id === timelineId) {
      throw new StorageError(
        "conflict",
        "timeline-exists",
        `timeline ${timelineId} already exists as branch '${name}'`,
      );
    }
  }
  config = home.update((draft) => {
    draft.unfinishedTimelines[tenantId] ??= {};
    draft.unfinishedTimelines[tenantId][branchName] = timelineId;
  });
  const request: TimelineCreateRequest = {
    new_timeline_id: timelineId,
    ...(wanted.ancestor === undefined
      ? { pg_version: pgVersion, data_checksums: wanted.dataChecksums ?? false }
      : {
          ancestor_timeline_id: wanted.ancestor.timelineId,
          ancestor_start_lsn: formatLsn(wanted.ancestor.lsn),
        }),
  };
  const info = await pageserverClient(config).createTimeline(tenantId, request);
  await createOnSafekeepers(nodes, info, versionNumber(config, info.pg_version));
  home.update((draft) => {
    draft.branchNameMappings[tenantId] ??= {};
    draft.branchNameMappings[tenantId][branchName] = timelineId;
    if (wanted.safekeepers !== undefined) {
      draft.memberships ??= {};
      draft.memberships[tenantId] ??= {};
      draft.memberships[tenantId][timelineId] = {
        generation: FIRST_GENERATION,
        members: [...wanted.safekeepers],
      };
    }
    forgetUnfinished(draft, tenantId, branchName);
  });
  return info;
}

/** Postgres's PG_VERSION_NUM: 17.10 is 170010. */
function versionNumber(config: StrataConfig, pgVersion: number): number {
  const { version } = findInstallation(pgVersion, { pgBin: pgBinOf(config, pgVersion) });
  const [major, minor] = version.split(".");
  return Number(major) * 10_000 + (Number.parseInt(minor ?? "0", 10) || 0);
}

function forgetUnfinished(config: StrataConfig, tenantId: string, name: string): void {
  delete config.unfinishedTimelines[tenantId]?.[name];
  if (Object.keys(config.unfinishedTimelines[tenantId] ?? {}).length === 0) {
    delete config.unfinishedTimelines[tenantId];
  }
}

/** Best effort: what cannot be removed now stays on the list for the next time. */
async function removeUnfinished(home: StrataHome): Promise<void> {
  const config = home.config();
  for (const [tenantId, names] of Object.entries(config.unfinishedTimelines)) {
    for (const [name, timelineId] of Object.entries(names)) {
      try {
        await removeEverywhere(config, tenantId, timelineId);
      } catch {
        continue;
      }
      home.update((draft) => forgetUnfinished(draft, tenantId, name));
    }
  }
}

async function removeEverywhere(
  config: StrataConfig,
  tenantId: string,
  timelineId: string,
): Promise<void> {
  await ignoreMissing(pageserverClient(config).deleteTimeline(tenantId, timelineId));
  await ignoreMissing(
    deleteFromSafekeepers(config, parseTenantId(tenantId), parseTimelineId(timelineId)),
  );
}

async function ignoreMissing(work: Promise<unknown>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!(error instanceof StorageError) || error.kind !== "not-found") {
      throw error;
    }
  }
}

/** `conflict` where other branches start from this one. */
export async function requireNoChildren(
  config: StrataConfig,
  tenantId: TenantId,
  name: string,
): Promise<void> {
  const timelineId = resolveBranch(config, tenantId, name);
  const timelines = await pageserverClient(config).listTimelines(tenantId);
  const children = timelines.filter((info) => info.ancestor_timeline_id === timelineId);
  if (children.length > 0) {
    const names = branchNames(config, tenantId);
    const list = children.map((info) => names.get(info.timeline_id) ?? info.timeline_id).join(", ");
    throw new StorageError(
      "conflict",
      "branch-has-children",
      `branch '${name}' has child branches: ${list}`,
    );
  }
}

/**
 * Deletes a branch that has no children; call with the home locked. The name goes first, so that a
 * crash leaves an unfinished timeline rather than a name without one.
 */
export async function deleteBranch(
  home: StrataHome,
  tenantId: TenantId,
  name: string,
): Promise<TimelineId> {
  const config = home.config();
  const timelineId = resolveBranch(config, tenantId, name);
  await requireNoChildren(config, tenantId, name);
  home.update((draft) => {
    delete draft.branchNameMappings[tenantId]?.[name];
    delete draft.memberships?.[tenantId]?.[timelineId];
    draft.unfinishedTimelines[tenantId] ??= {};
    draft.unfinishedTimelines[tenantId][name] = timelineId;
  });
  try {
    await removeEverywhere(config, tenantId, timelineId);
  } catch (error) {
    throw new StorageError(
      "unavailable",
      "delete-unfinished",
      `branch '${name}' has lost its name, but its data could not be removed yet (the next branch command tries again): ${errorMessage(error)}`,
      { cause: error },
    );
  }
  home.update((draft) => forgetUnfinished(draft, tenantId, name));
  return timelineId;
}
