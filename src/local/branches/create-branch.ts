// Makes tenants with their first branch, and branches of branches: what the command line and the control plane share.

import { StorageError } from "../../base/errors.ts";
import { generateTenantId, parseTenantId, parseTimelineId, type TenantId } from "../../base/ids.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { TimelineInfo } from "../../pageserver/api.ts";
import { findInstallation } from "../../postgres/installation.ts";
import {
  createTimeline,
  DEFAULT_BRANCH_NAME,
  requireFreeBranchName,
  requireNew,
  resolveBranch,
  resolveTenant,
} from "../branches.ts";
import { pgBinOf } from "../config.ts";
import { controllerOf } from "../controller.ts";
import type { Print } from "../daemon.ts";
import type { StrataHome } from "../home.ts";
import { requireNotDeleted } from "./deleted-tenants.ts";
import { type NamedBranch, newestLsn, requireOnBranch, resolvePoint } from "./point-in-time.ts";

/** Call with the home locked or shared. */
export function setDefaultTenant(home: StrataHome, tenantId: TenantId, say: Print): void {
  home.update((config) => {
    requireNotDeleted(config, tenantId);
    config.defaultTenantId = tenantId;
  });
  say(`Setting tenant ${tenantId} as a default one`);
}

export interface TenantCreateOptions {
  tenantId?: string;
  timelineId?: string;
  pgVersion?: number;
  dataChecksums?: boolean;
  skSet?: number[];
  setDefault?: boolean;
  /** Default: main. */
  branchName?: string;
}

/** A tenant with its first branch, `main`; call with the home locked or shared. */
export async function createTenant(
  home: StrataHome,
  options: TenantCreateOptions,
  say: Print,
): Promise<TenantId> {
  const { pgVersion } = options;
  const config = home.config();
  const major = pgVersion ?? config.pgVersion;
  // Before the tenant exists: a wrong major leaves none without branches.
  findInstallation(major, { pgBin: pgBinOf(config, major) });
  const controller = controllerOf(home);
  const tenantId =
    options.tenantId === undefined ? generateTenantId() : parseTenantId(options.tenantId);
  const branchName = options.branchName ?? DEFAULT_BRANCH_NAME;
  if (options.tenantId !== undefined) {
    const tenants = await controller.tenants();
    // One without branches is a creation that was cut short: this finishes it.
    const branches = config.branchNameMappings.get(tenantId)?.size ?? 0;
    if (tenants.some((info) => info.id === tenantId) && branches > 0) {
      throw new StorageError("conflict", "tenant-exists", `tenant ${tenantId} already exists`);
    }
  }
  await controller.createTenant(tenantId);
  say(`tenant ${tenantId} successfully created on the pageserver`);
  const info = await createRootTimeline(home, tenantId, branchName, options);
  say(`Created an initial timeline '${info.timeline_id}' for tenant: ${tenantId}`);
  if (options.setDefault === true) {
    setDefaultTenant(home, tenantId, say);
  }
  return tenantId;
}

export type RootTimelineOptions = Pick<
  TenantCreateOptions,
  "timelineId" | "pgVersion" | "dataChecksums" | "skSet"
>;

/** An empty cluster, as initdb leaves it; call with the home locked or shared. */
export function createRootTimeline(
  home: StrataHome,
  tenantId: TenantId,
  branchName: string,
  { timelineId, pgVersion, dataChecksums, skSet }: RootTimelineOptions,
): Promise<TimelineInfo> {
  return createTimeline(home, {
    tenantId,
    timelineId: timelineId === undefined ? undefined : parseTimelineId(timelineId),
    branchName,
    pgVersion,
    dataChecksums,
    safekeepers: skSet,
  });
}

export interface BranchCreateOptions {
  tenantId?: string | undefined;
  timelineId?: string | undefined;
  ancestorBranchName?: string | undefined;
  ancestorStartLsn?: string | undefined;
  skSet?: number[] | undefined;
}

/** A branch at an LSN or a time, by default at the newest commit; call with the home locked or shared. */
export async function createBranch(
  home: StrataHome,
  branchName: string,
  options: BranchCreateOptions,
  say: Print,
): Promise<TimelineInfo> {
  const config = home.config();
  const tenantId = resolveTenant(config, options.tenantId);
  requireFreeBranchName(config, tenantId, branchName);
  const ancestorName = options.ancestorBranchName ?? DEFAULT_BRANCH_NAME;
  const ancestor = resolveBranch(config, tenantId, ancestorName);
  const timelineId =
    options.timelineId === undefined ? undefined : parseTimelineId(options.timelineId);
  const parent = { tenantId, timelineId: ancestor, name: ancestorName };
  const [lsn] = await Promise.all([
    branchLsn(home, parent, options.ancestorStartLsn, say),
    timelineId === undefined ? undefined : requireNew(home, tenantId, timelineId),
  ]);
  return createTimeline(home, {
    tenantId,
    branchName,
    timelineId,
    isNewId: true,
    ancestor: { timelineId: ancestor, lsn },
    safekeepers: options.skSet,
  });
}

async function branchLsn(
  home: StrataHome,
  ancestor: NamedBranch,
  at: string | undefined,
  say: Print,
): Promise<Lsn> {
  if (at === undefined) {
    return await newestLsn(home, ancestor);
  }
  const lsn = await resolvePoint(home, ancestor, at, say);
  await requireOnBranch(home, ancestor, lsn, at);
  return lsn;
}
