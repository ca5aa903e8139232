// Operations on projects and branches: what is made, moved and removed in the storage.

import {
  generateTimelineId,
  parseTenantId,
  parseTimelineId,
  type TenantId,
} from "../../base/ids.ts";
import { parseLsn } from "../../base/lsn.ts";
import { switchBranch } from "../../local/branches/branch-switch.ts";
import { createTenant } from "../../local/branches/create-branch.ts";
import {
  branchNames,
  createTimeline,
  deleteBranch,
  deleteTenant,
  removeUnfinished,
} from "../../local/branches.ts";
import { controllerOf } from "../../local/controller.ts";
import { allEndpoints, listEndpoints } from "../../local/endpoints.ts";
import { withHomeLocked, withHomeShared } from "../../local/lock.ts";
import { type AccessAnswers, accessHolds } from "../access-answers.ts";
import type { Computes } from "../computes/computes.ts";
import { type Context, newNumber } from "../context.ts";
import { type Inventory, nowText } from "../inventory.ts";
import { serialized } from "../state/database.ts";
import type { KeepArgs, OperationKind, Step } from "./state-machine.ts";

const silent = () => {};

export interface CreateProjectArgs {
  readonly projectId: string;
  readonly branchId: string;
  readonly tenantId: string;
  readonly timelineId: string;
  readonly branchName: string;
  readonly pgVersion: number;
  readonly retentionSeconds: number;
}

export interface CreateBranchArgs {
  readonly branchId: string;
  readonly tenantId: string;
  readonly timelineId: string;
  readonly name: string;
  readonly parent: { readonly timelineId: string; readonly lsn: string };
}

export interface DeleteBranchArgs {
  readonly branchId: string;
  readonly tenantId: string;
  readonly timelineId: string;
}

export interface RestoreBranchArgs {
  readonly branchId: string;
  readonly tenantId: string;
  readonly name: string;
  /** What the name stands for before. */
  readonly fromTimelineId: string;
  /** The branch that the state is taken from; it may be the same. */
  readonly sourceBranchId: string;
  readonly source: { readonly timelineId: string; readonly lsn: string };
  readonly preserveUnder: string | null;
}

export interface StorageKinds {
  readonly createProject: OperationKind<CreateProjectArgs>;
  readonly createBranch: OperationKind<CreateBranchArgs>;
  readonly deleteBranch: OperationKind<DeleteBranchArgs>;
  readonly restoreBranch: OperationKind<RestoreBranchArgs>;
}

export interface StorageParts extends Context {
  readonly computes: Computes;
  readonly inventory: Inventory;
  readonly access: AccessAnswers;
}

export function storageKinds(parts: StorageParts): StorageKinds {
  return {
    createProject: createProjectKind(parts),
    createBranch: createBranchKind(parts),
    deleteBranch: deleteBranchKind(parts),
    restoreBranch: restoreBranchKind(parts),
  };
}

function createProjectKind(parts: StorageParts): OperationKind<CreateProjectArgs> {
  const { home, db } = parts;
  return {
    name: "create_project",
    steps: [
      timelineStep(parts, async ({ tenantId, timelineId, pgVersion, branchName }) => {
        await createTenant(home, { tenantId, timelineId, pgVersion, branchName }, silent);
      }),
      {
        name: "retention",
        run: (args) => setRetention(parts, parseTenantId(args.tenantId), args.retentionSeconds),
      },
      {
        name: "rows",
        run: async ({ projectId, branchId }) => {
          await made(db, "projects", projectId);
          await made(db, "branches", branchId);
        },
      },
    ],
    undo: async ({ tenantId, projectId }) => {
      await withHomeLocked(home, () => deleteTenant(home, parseTenantId(tenantId)));
      await db.deleteFrom("projects").where("id", "=", projectId).execute();
    },
  };
}

function createBranchKind(parts: StorageParts): OperationKind<CreateBranchArgs> {
  const { home, db } = parts;
  return {
    name: "create_branch",
    steps: [
      timelineStep(parts, async ({ tenantId, timelineId, name, parent }) => {
        const info = await createTimeline(home, {
          tenantId: parseTenantId(tenantId),
          timelineId: parseTimelineId(timelineId),
          // The operation's own choice, of which `timelineStep` has seen that nothing is left.
          isNewId: true,
          branchName: name,
          ancestor: {
            timelineId: parseTimelineId(parent.timelineId),
            lsn: parseLsn(parent.lsn)!,
          },
          asked: () => parts.computes.prepared.make(timelineId),
        });
        parts.computes.provider.noteMajor(info);
        await parts.computes.prepared.start(timelineId);
      }),
      { name: "rows", run: ({ branchId }) => made(db, "branches", branchId) },
    ],
    undo: async (args) => {
      await endpointsGone(parts, args);
      await removeTimeline(parts, args);
      await db.deleteFrom("branches").where("id", "=", args.branchId).execute();
    },
  };
}

function deleteBranchKind(parts: StorageParts): OperationKind<DeleteBranchArgs> {
  return {
    name: "delete_branch",
    steps: [
      {
        name: "endpoints",
        run: ({ tenantId, timelineId }) => destroyEndpoints(parts, tenantId, timelineId),
      },
      { name: "timeline", run: (args) => removeTimeline(parts, args) },
      {
        name: "rows",
        run: async ({ branchId }) => {
          await parts.db.deleteFrom("branches").where("id", "=", branchId).execute();
        },
      },
    ],
  };
}

function restoreBranchKind(parts: StorageParts): OperationKind<RestoreBranchArgs> {
  const { db, inventory } = parts;
  return {
    name: "restore_branch",
    steps: [
      { name: "switch", run: (args) => switchOver(parts, args) },
      {
        name: "rows",
        run: async ({ branchId, sourceBranchId }) => {
          // Only now its row is of the new timeline, and the old one may have another.
          await inventory.refresh();
          const { timeline_id: timelineId } = await db
            .selectFrom("branches")
            .select("timeline_id")
            .where("id", "=", branchId)
            .executeTakeFirstOrThrow();
          await db
            .updateTable("branches")
            .set({ last_reset_at: nowText(), updated_at: nowText(), needs_configure: 1 })
            .where("id", "=", branchId)
            .execute();
          if (sourceBranchId !== branchId) {
            await takeOver(parts, sourceBranchId, branchId);
          }
          await configureRunning(parts, branchId, timelineId);
          await accessHolds(parts, { branchId });
        },
      },
    ],
  };
}

export interface MadeTimeline {
  readonly tenantId: string;
  readonly timelineId: string;
  readonly branchId: string;
}

/** Makes a timeline that has a name then; nothing where it has one already. */
export function timelineStep<A extends MadeTimeline>(
  parts: StorageParts,
  make: (args: A) => Promise<void>,
): Step<A> {
  return {
    name: "timeline",
    isSeen: true,
    run: (given, keep) =>
      withHomeShared(parts.home, async () => {
        if (!isNamed(parts, given)) {
          await make(await freshTimeline(parts, given, keep));
        }
      }),
  };
}

/** What a crash left behind under an id is removed, and ids are never used again. */
async function freshTimeline<A extends MadeTimeline>(
  parts: StorageParts,
  args: A,
  keep: KeepArgs<A>,
): Promise<A> {
  const { home, db } = parts;
  const left = home.config().unfinishedTimelines.get(args.tenantId)?.has(args.timelineId);
  if (left !== true) {
    return args;
  }
  // While it can still be told whose they are.
  await endpointsGone(parts, args);
  const fresh = { ...args, timelineId: generateTimelineId() };
  await keep(fresh);
  await db
    .updateTable("branches")
    .set({ timeline_id: fresh.timelineId })
    .where("id", "=", args.branchId)
    .execute();
  return fresh;
}

/** Those that were made for a timeline which does not come to be. */
async function endpointsGone(
  parts: StorageParts,
  { tenantId, timelineId }: MadeTimeline,
): Promise<void> {
  await parts.computes.prepared.forget(timelineId);
  await destroyEndpoints(parts, tenantId, timelineId);
}

function isNamed({ home }: StorageParts, of: { tenantId: string; timelineId: string }): boolean {
  return branchNames(home.config(), of.tenantId).has(of.timelineId);
}

/** From its name on; nothing where it has none. */
export function removeTimeline(
  { home }: StorageParts,
  { tenantId, timelineId }: { tenantId: string; timelineId: string },
): Promise<void> {
  return withHomeLocked(home, async () => {
    const name = branchNames(home.config(), tenantId).get(timelineId);
    if (name === undefined) {
      await removeUnfinished(home);
      return;
    }
    await deleteBranch(home, parseTenantId(tenantId), name);
  });
}

export async function destroyEndpoints(
  parts: StorageParts,
  tenantId: string,
  timelineId?: string,
): Promise<void> {
  for (const id of await endpointsOf(parts, tenantId, timelineId)) {
    await parts.computes.destroy(id);
  }
}

/** Ids of a tenant's endpoints, or of those on a timeline of it. Of those whose endpoint.json cannot be read their rows tell. */
export async function endpointsOf(
  { home, db }: Pick<StorageParts, "home" | "db">,
  tenantId: string,
  timelineId?: string,
): Promise<readonly string[]> {
  const all = allEndpoints(home);
  const theirs = all.flatMap((one) =>
    "spec" in one &&
    one.spec.tenantId === tenantId &&
    (timelineId === undefined || one.spec.timelineId === timelineId)
      ? [one.id]
      : [],
  );
  const damaged = all.flatMap((one) => ("spec" in one ? [] : [one.id]));
  if (damaged.length === 0) {
    return theirs;
  }
  const rows = await db
    .selectFrom("endpoints")
    .innerJoin("branches", "branches.id", "endpoints.branch_id")
    .innerJoin("projects", "projects.id", "endpoints.project_id")
    .select(["endpoints.id", "branches.timeline_id"])
    .where("endpoints.id", "in", damaged)
    .where("projects.tenant_id", "=", tenantId)
    .execute();
  const known = rows.filter((row) => timelineId === undefined || row.timeline_id === timelineId);
  return [...theirs, ...known.map(({ id }) => id)];
}

export async function made(
  db: Context["db"],
  table: "projects" | "branches",
  id: string,
): Promise<void> {
  await db.updateTable(table).set({ creating: 0 }).where("id", "=", id).execute();
}

async function setRetention(
  { home }: StorageParts,
  tenantId: TenantId,
  seconds: number,
): Promise<void> {
  await controllerOf(home).patchTenantConfig(tenantId, { pitr_interval: `${seconds}s` });
}

function switchOver({ home }: StorageParts, args: RestoreBranchArgs): Promise<void> {
  return withHomeLocked(home, async () => {
    const tenantId = parseTenantId(args.tenantId);
    const config = home.config();
    const current = config.branchNameMappings.get(args.tenantId)?.get(args.name);
    const isUnderWay = config.branchSwitches.get(args.tenantId)?.has(args.name) === true;
    if (current !== args.fromTimelineId && !isUnderWay) {
      // All of it was done.
      return;
    }
    const { timelineId, lsn } = args.source;
    const branch = {
      tenantId,
      name: args.name,
      asked: JSON.stringify(["api", args.branchId, timelineId, lsn, args.preserveUnder]),
      preserveUnder: args.preserveUnder ?? undefined,
      restart: true,
    };
    const ancestor = { timelineId: parseTimelineId(timelineId), lsn: parseLsn(lsn)! };
    await switchBranch(home, branch, async () => ({ ancestor }), silent);
  });
}

/** The branch has the other one's roles and databases now; whoever is known in both keeps the password. */
async function takeOver({ db }: StorageParts, from: string, to: string): Promise<void> {
  await serialized(db, async (transaction) => {
    const before = await transaction
      .selectFrom("roles")
      .selectAll()
      .where("branch_id", "=", to)
      .execute();
    for (const table of ["roles", "databases"] as const) {
      await transaction.deleteFrom(table).where("branch_id", "=", to).execute();
    }
    const roles = await transaction
      .selectFrom("roles")
      .selectAll()
      .where("branch_id", "=", from)
      .execute();
    for (const role of roles) {
      const kept = before.find(({ name }) => name === role.name) ?? role;
      await transaction
        .insertInto("roles")
        .values({ ...kept, branch_id: to })
        .execute();
    }
    const databases = await transaction
      .selectFrom("databases")
      .selectAll()
      .where("branch_id", "=", from)
      .execute();
    for (const database of databases) {
      await transaction
        .insertInto("databases")
        .values({ ...database, id: newNumber(), branch_id: to })
        .execute();
    }
  });
}

/** Its endpoint was started again by the switch; one that sleeps is seen to when it wakes. */
async function configureRunning(
  { home, computes }: StorageParts,
  branchId: string,
  timelineId: string,
): Promise<void> {
  const running = listEndpoints(home).find(
    ({ id, spec }) =>
      spec.timelineId === timelineId && spec.mode === "primary" && computes.provider.isRunning(id),
  );
  if (running !== undefined && (await computes.provider.joins(running.id))) {
    await computes.configure(running.id, { id: branchId });
  }
}
