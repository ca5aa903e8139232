// Tenants, timelines and the branch names that the home's state gives them.

import { errorKind, errorMessage, StorageError } from "../base/errors.ts";
import {
  generateTimelineId,
  parseTenantId,
  parseTimelineId,
  type TenantId,
  type TimelineId,
} from "../base/ids.ts";
import type { Lsn } from "../base/lsn.ts";
import type { TimelineInfo } from "../pageserver/api.ts";
import { findInstallation } from "../postgres/installation.ts";
import { findNode } from "../storage-controller/storage-controller.ts";
import { requireNotDeleted } from "./branches/deleted-tenants.ts";
import { type HomeSettings, pgBinOf } from "./config.ts";
import { controllerOf } from "./controller.ts";
import type { StrataHome } from "./home.ts";
import { ifUnlocked, withLock } from "./lock.ts";
import {
  forgetUnfinished,
  type HomeState,
  type HomeStateDraft,
  nameBranch,
  noteUnfinished,
  recordSwitch,
} from "./state/home-state.ts";
import { strataCommand } from "./strata-command.ts";

export const DEFAULT_BRANCH_NAME = "main";

/** Major of a timeline. StorageError `unavailable` where no pageserver is there to tell. */
export async function majorOf(
  home: StrataHome,
  tenantId: TenantId,
  timelineId: TimelineId,
): Promise<number> {
  try {
    return (await controllerOf(home).timeline(tenantId, timelineId)).pg_version;
  } catch (error) {
    if (errorKind(error) !== "unavailable") {
      throw error;
    }
    throw new StorageError(
      "unavailable",
      "storage-not-running",
      `the pageserver does not answer: run '${strataCommand()} start' first`,
      { cause: error },
    );
  }
}

/** The given tenant, else the default one. StorageError `not-found` for one that is deleted. */
export function resolveTenant(config: HomeState, given: string | undefined): TenantId {
  const id = given ?? config.defaultTenantId;
  if (id === undefined) {
    throw new StorageError(
      "invalid",
      "no-tenant",
      "No tenant id. Use --tenant-id, or set a default tenant",
    );
  }
  const tenantId = parseTenantId(id);
  requireNotDeleted(config, tenantId);
  return tenantId;
}

export function branchNames(config: HomeState, tenantId: string): Map<string, string> {
  const mapping = config.branchNameMappings.get(tenantId) ?? [];
  return new Map([...mapping].map(([name, timelineId]) => [timelineId, name]));
}

export function resolveBranch(config: HomeState, tenantId: TenantId, name: string): TimelineId {
  const id = config.branchNameMappings.get(tenantId)?.get(name);
  if (id === undefined) {
    throw new StorageError(
      "not-found",
      "no-branch",
      `Found no timeline id for branch name '${name}'`,
    );
  }
  return parseTimelineId(id);
}

const MAX_BRANCH_NAME = 255;
const BRANCH_NAME = /^[\p{L}\p{N}_@#+][\p{L}\p{M}\p{N}_@#+./=,%-]*$/u;

/** What people name git branches, and nothing that a listing or `name@lsn` would stumble over. */
export function checkBranchName(name: string): void {
  const wrong = (why: string) =>
    new StorageError("invalid", "bad-branch-name", `branch name '${name}': ${why}`);
  if (name.length > MAX_BRANCH_NAME) {
    throw wrong(`longer than ${MAX_BRANCH_NAME} characters`);
  }
  if (!BRANCH_NAME.test(name)) {
    throw wrong("letters, digits and _ @ # + . / = , % - only, not starting with . / = , % -");
  }
  if (splitNameAtLsn(name).lsn !== undefined) {
    throw wrong("its end reads as NAME@LSN");
  }
}

/** `NAME@LSN`, or just a name, which can hold an @ as well. */
export function splitNameAtLsn(text: string): { name: string; lsn?: string } {
  const at = text.lastIndexOf("@");
  const lsn = text.slice(at + 1);
  return at > 0 && /^[0-9A-Fa-f]{1,8}\/[0-9A-Fa-f]{1,8}$/.test(lsn)
    ? { name: text.slice(0, at), lsn }
    : { name: text };
}

export function requireFreeBranchName(config: HomeState, tenantId: string, name: string): void {
  checkBranchName(name);
  if (config.branchNameMappings.get(tenantId)?.has(name) === true) {
    throw new StorageError("conflict", "branch-exists", `branch '${name}' already exists`);
  }
}

export interface NewBranch {
  readonly tenantId: TenantId;
  readonly timelineId?: TimelineId | undefined;
  /** That no timeline has, or had, the id is known: nobody is asked. */
  readonly isNewId?: boolean | undefined;
  readonly branchName: string;
  /** Absent: a root timeline, made by initdb. */
  readonly ancestor?: { readonly timelineId: TimelineId; readonly lsn: Lsn };
  /** Major of a root timeline; absent: the home's. A branch has its ancestor's. */
  readonly pgVersion?: number | undefined;
  /** Of a root timeline; absent: off. */
  readonly dataChecksums?: boolean | undefined;
  /** Ids of the safekeepers that are to have it; absent: all. */
  readonly safekeepers?: readonly number[] | undefined;
  /** Called when the storage is being asked for it: who makes what goes with it has time meanwhile. */
  readonly asked?: (() => void) | undefined;
}

/**
 * Creates a timeline on the pageserver and on every safekeeper, then names it; call with the home
 * locked or shared. What a crash leaves behind in between has no name and is removed by the next creation.
 */
export async function createTimeline(home: StrataHome, wanted: NewBranch): Promise<TimelineInfo> {
  const { tenantId, branchName } = wanted;
  requireFreeBranchName(home.config(), tenantId, branchName);
  const timelineId = wanted.timelineId ?? generateTimelineId();
  // Not while this one's lock is held, which others' leftovers may share.
  await removeUnfinished(home);
  return await withLock(home.path, creationLock(timelineId), async () => {
    const info = await createUnnamed(home, wanted, timelineId);
    try {
      home.update((draft) => {
        // Who else makes branches may have been first.
        requireFreeBranchName(draft, tenantId, branchName);
        nameTimeline(draft, tenantId, branchName, timelineId);
      });
    } catch (error) {
      await removeTimeline(home, tenantId, timelineId).catch(() => undefined);
      throw error;
    }
    return info;
  });
}

/** Held while a timeline of the id is being made: nobody takes it for what a crash left. Their files stay for ever, so they are few. */
const creationLock = (timelineId: string) =>
  `creation ${Number.parseInt(timelineId.slice(0, 2), 16) % CREATION_LOCKS}`;
const CREATION_LOCKS = 64;

/** It is finished then. */
export function nameTimeline(
  draft: HomeStateDraft,
  tenantId: string,
  branchName: string,
  timelineId: string,
): void {
  nameBranch(draft, tenantId, branchName, timelineId);
  forgetUnfinished(draft, tenantId, timelineId);
}

/** StorageError `not-found` where there is no such branch, `conflict` where the new name is taken. Call with the home locked. */
export function renameBranch(
  home: StrataHome,
  tenantId: TenantId,
  name: string,
  newName: string,
): void {
  home.update((draft) => {
    const timelineId = resolveBranch(draft, tenantId, name);
    requireFreeBranchName(draft, tenantId, newName);
    draft.branchNameMappings.get(tenantId)?.delete(name);
    nameBranch(draft, tenantId, newName, timelineId);
    recordSwitch(draft, tenantId, newName, draft.branchSwitches.get(tenantId)?.get(name));
    recordSwitch(draft, tenantId, name, undefined);
  });
}

/** On the list of what is to be removed, until it gets a name. Call with the home locked. */
export async function createUnnamed(
  home: StrataHome,
  wanted: Omit<NewBranch, "branchName">,
  timelineId = wanted.timelineId ?? generateTimelineId(),
): Promise<TimelineInfo> {
  const { tenantId } = wanted;
  const config = home.config();
  for (const id of wanted.safekeepers ?? []) {
    findNode(config.safekeepers, id, "safekeeper");
  }
  const pgVersion = wanted.pgVersion ?? config.pgVersion;
  if (wanted.ancestor === undefined) {
    // Before anything is made that a missing or unknown Postgres would leave unfinished.
    findInstallation(pgVersion, { pgBin: pgBinOf(config, pgVersion) });
  }
  if (wanted.timelineId !== undefined && wanted.isNewId !== true) {
    await requireNew(home, tenantId, wanted.timelineId);
  }
  home.update((draft) => noteUnfinished(draft, tenantId, timelineId));
  const made = controllerOf(home).createTimeline({
    tenantId,
    timelineId,
    ancestor: wanted.ancestor,
    pgVersion,
    dataChecksums: wanted.dataChecksums ?? false,
    safekeepers: wanted.safekeepers,
    versionNumber: (major) => versionNumber(config, major),
  });
  wanted.asked?.();
  return await made;
}

/** Postgres's PG_VERSION_NUM: 17.10 is 170010. */
export function versionNumber(config: HomeSettings, pgVersion: number): number {
  const { version } = findInstallation(pgVersion, { pgBin: pgBinOf(config, pgVersion) });
  const [major, minor] = version.split(".");
  return Number(major) * 10_000 + (Number.parseInt(minor ?? "0", 10) || 0);
}

/**
 * A given id must never have been used: as what a creation left unfinished is deleted by the next one,
 * an id that is in use must not get on that list; and copies of a removed timeline may still be somewhere.
 */
export async function requireNew(
  home: StrataHome,
  tenantId: TenantId,
  timelineId: TimelineId,
): Promise<void> {
  const config = home.config();
  const name = branchNames(config, tenantId).get(timelineId);
  if (name !== undefined) {
    const message = `timeline ${timelineId} already exists as branch '${name}'`;
    throw new StorageError("conflict", "timeline-exists", message);
  }
  if (config.unfinishedTimelines.get(tenantId)?.has(timelineId) === true) {
    const message = `timeline ${timelineId} is still being removed: some of its storage does not answer`;
    throw new StorageError("unavailable", "delete-unfinished", message);
  }
  try {
    await controllerOf(home).timeline(tenantId, timelineId);
  } catch (error) {
    if (errorKind(error) === "not-found") {
      return;
    }
    throw error;
  }
  const message = `timeline ${timelineId} already exists, without a name in this home`;
  throw new StorageError("conflict", "timeline-exists", message);
}

/**
 * Removes what creations and deletions have left behind; call with the home locked or shared. Best effort: what
 * cannot be removed now, or is being made by others, stays on the list for the next time. `kept` is left alone: who calls goes on with it.
 */
export async function removeUnfinished(home: StrataHome, kept?: TimelineId): Promise<void> {
  const isKept = (tenantId: string) =>
    kept !== undefined && home.config().unfinishedTimelines.get(tenantId)?.has(kept) === true;
  for (const tenantId of [...home.config().unfinishedTenants].filter((id) => !isKept(id))) {
    await removeTenant(home, parseTenantId(tenantId)).catch(() => undefined);
  }
  const config = home.config();
  for (const [tenantId, timelineIds] of config.unfinishedTimelines) {
    for (const timelineId of [...timelineIds].filter((id) => id !== kept)) {
      await ifUnlocked(home.path, creationLock(timelineId), async () => {
        // Meanwhile it may have got its name.
        if (home.config().unfinishedTimelines.get(tenantId)?.has(timelineId) === true) {
          await removeTimeline(home, parseTenantId(tenantId), parseTimelineId(timelineId));
        }
      }).catch(() => undefined);
    }
  }
}

async function removeTimeline(
  home: StrataHome,
  tenantId: TenantId,
  timelineId: TimelineId,
): Promise<void> {
  await controllerOf(home).deleteTimeline(tenantId, timelineId);
  home.update((draft) => forgetUnfinished(draft, tenantId, timelineId));
}

/** Of what the home has on record nothing is left when it resolves. */
async function removeTenant(home: StrataHome, tenantId: TenantId): Promise<void> {
  await controllerOf(home).deleteTenant(tenantId);
  home.update((draft) => {
    draft.unfinishedTenants.delete(tenantId);
    draft.unfinishedTimelines.delete(tenantId);
  });
}

/**
 * Deletes a tenant with all its branches, for good. Call with the home locked, and without endpoints on it. Its names go first, so that
 * a crash leaves an unfinished removal rather than names without data.
 */
export async function deleteTenant(home: StrataHome, tenantId: TenantId): Promise<void> {
  home.update((draft) => {
    draft.unfinishedTenants.add(tenantId);
    draft.deletedTenants.delete(tenantId);
    draft.branchNameMappings.delete(tenantId);
    draft.branchSwitches.delete(tenantId);
    if (draft.defaultTenantId === tenantId) {
      draft.defaultTenantId = undefined;
    }
  });
  try {
    await removeTenant(home, tenantId);
  } catch (error) {
    throw new StorageError(
      "unavailable",
      "delete-unfinished",
      `the branches of tenant ${tenantId} have lost their names, but its data could not be removed yet (the same command, starting the storage, and creating or deleting a branch try again): ${errorMessage(error)}`,
      { cause: error },
    );
  }
}

/** Names of the branches that start from this one, ids of those without one. */
export async function childrenOf(
  home: StrataHome,
  tenantId: TenantId,
  timelineId: TimelineId,
): Promise<string[]> {
  const names = branchNames(home.config(), tenantId);
  const { timelines, offloaded } = await controllerOf(home).timelinesAndOffloaded(tenantId);
  return [...timelines, ...offloaded]
    .filter((info) => info.ancestor_timeline_id === timelineId)
    .map((info) => names.get(info.timeline_id) ?? info.timeline_id)
    .toSorted((a, b) => a.localeCompare(b, "en"));
}

/**
 * Deletes a branch; branches of it need it no more then, and stay as they are. Call with the home locked. The name goes first, so
 * that a crash leaves an unfinished timeline rather than a name without one.
 */
export async function deleteBranch(
  home: StrataHome,
  tenantId: TenantId,
  name: string,
): Promise<{ readonly timelineId: TimelineId; readonly detached: readonly string[] }> {
  const config = home.config();
  const timelineId = resolveBranch(config, tenantId, name);
  await removeUnfinished(home);
  const detached = await childrenOf(home, tenantId, timelineId);
  home.update((draft) => {
    draft.branchNameMappings.get(tenantId)?.delete(name);
    recordSwitch(draft, tenantId, name, undefined);
    noteUnfinished(draft, tenantId, timelineId);
  });
  try {
    await controllerOf(home).deleteTimeline(tenantId, timelineId);
  } catch (error) {
    throw new StorageError(
      "unavailable",
      "delete-unfinished",
      `branch '${name}' has lost its name, but its data could not be removed yet (starting the storage, and creating or deleting a branch, tries again): ${errorMessage(error)}`,
      { cause: error },
    );
  }
  home.update((draft) => forgetUnfinished(draft, tenantId, timelineId));
  return { timelineId, detached };
}
