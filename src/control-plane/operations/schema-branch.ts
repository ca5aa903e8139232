// The operation that makes a root branch with the schema of another one, at a point of it, and none of its rows.
//
// A read-only endpoint at the point says what there is; an endpoint of the new branch, for that time only, takes it in. What
// a crash leaves in it half done is dropped and made again.

import { createHash } from "node:crypto";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { createRootTimeline } from "../../local/branches/create-branch.ts";
import { ensurePointEndpoint } from "../computes/point-in-time.ts";
import { applyChanges, readObjects, USERS_GROUP } from "../computes/postgres-objects.ts";
import { newEndpointRow } from "../inventory.ts";
import type { BranchRow } from "../state/tables.ts";
import type { OperationKind } from "./state-machine.ts";
import { made, removeTimeline, type StorageParts, timelineStep } from "./storage-kinds.ts";

export interface CreateSchemaBranchArgs {
  readonly projectId: string;
  readonly branchId: string;
  readonly tenantId: string;
  readonly timelineId: string;
  readonly name: string;
  readonly pgVersion: number;
  readonly source: { readonly branchId: string; readonly lsn: string };
}

export interface SchemaKinds {
  readonly createSchemaBranch: OperationKind<CreateSchemaBranchArgs>;
}

/** Roles are the whole cluster's: any database is the right one to make them in. */
const ROLES_DATABASE = "postgres";
const NEVER_SUSPENDED = -1;
/** What the superuser makes, users may use; a schema says by itself what its users may, these privileges at its end. */
const WITHOUT_DEFAULT_PRIVILEGES = ["tables", "sequences"]
  .map(
    (kind) =>
      `alter default privileges in schema public revoke all on ${kind} from ${USERS_GROUP};\n`,
  )
  .join("");

export function schemaKinds(parts: StorageParts): SchemaKinds {
  const { home, db } = parts;
  const createSchemaBranch: OperationKind<CreateSchemaBranchArgs> = {
    name: "create_schema_branch",
    steps: [
      timelineStep(parts, async ({ tenantId, timelineId, name, pgVersion }) => {
        await createRootTimeline(home, parseTenantId(tenantId), name, { timelineId, pgVersion });
      }),
      { name: "rows", run: ({ branchId }) => made(db, "branches", branchId) },
      { name: "schema", run: (args) => bringIn(parts, args) },
      { name: "endpoint", run: (args) => removeLoader(parts, args) },
    ],
    undo: async (args) => {
      await removeLoader(parts, args);
      await removeTimeline(parts, args);
      await db.deleteFrom("branches").where("id", "=", args.branchId).execute();
    },
  };
  return { createSchemaBranch };
}

async function bringIn(parts: StorageParts, args: CreateSchemaBranchArgs): Promise<void> {
  const { computes, db } = parts;
  const { provider } = computes;
  const pastId = await pastEndpoint(parts, args);
  await computes.wake(pastId);
  const loaderId = await ensureLoader(parts, args);
  await computes.wake(loaderId);
  const [past, loader] = [provider.agent(pastId), provider.agent(loaderId)];
  const { databases } = await readObjects(past);
  await applyChanges(loader, { droppedDatabases: databases.map(({ name }) => name) });
  await loader.loadSchema(ROLES_DATABASE, await past.roleDefinitions());
  await applyChanges(loader, { databases });
  for (const { name } of databases) {
    const schema = await past.databaseSchema(name);
    await loader.loadSchema(name, `${WITHOUT_DEFAULT_PRIVILEGES}${schema}`);
  }
  // The next start gives roles the passwords that they have on the source now.
  await db
    .updateTable("branches")
    .set({ needs_configure: 1 })
    .where("id", "=", args.branchId)
    .execute();
}

async function pastEndpoint(parts: StorageParts, args: CreateSchemaBranchArgs): Promise<string> {
  const { db, computes } = parts;
  const project = await db
    .selectFrom("projects")
    .selectAll()
    .where("id", "=", args.projectId)
    .executeTakeFirstOrThrow();
  const branch = await branchRow(parts, args.source.branchId);
  return ensurePointEndpoint(parts, computes, { project, branch, lsn: args.source.lsn });
}

/** Shown to nobody. */
async function ensureLoader(parts: StorageParts, args: CreateSchemaBranchArgs): Promise<string> {
  const { db, computes } = parts;
  const id = loaderOf(args);
  const branch = await branchRow(parts, args.branchId);
  const row = {
    ...newEndpointRow(id, branch, "read_write"),
    ephemeral: 1,
    creating: 1,
    suspend_timeout_seconds: NEVER_SUSPENDED,
  };
  await db
    .insertInto("endpoints")
    .values(row)
    .onConflict((conflict) => conflict.column("id").doNothing())
    .execute();
  await computes.provider.create({
    id,
    tenantId: parseTenantId(args.tenantId),
    timelineId: parseTimelineId(branch.timeline_id),
    settings: {},
  });
  return id;
}

/** All that it wrote is on a quorum then. */
async function removeLoader(
  { db, computes }: StorageParts,
  args: CreateSchemaBranchArgs,
): Promise<void> {
  const id = loaderOf(args);
  await computes.suspend(id, { isNoted: true });
  await computes.destroy(id);
  await db.deleteFrom("endpoints").where("id", "=", id).execute();
}

function loaderOf({ branchId }: CreateSchemaBranchArgs): string {
  return `ep-schema-${createHash("sha256").update(branchId).digest("hex").slice(0, 16)}`;
}

function branchRow({ db }: StorageParts, id: string): Promise<BranchRow> {
  return db.selectFrom("branches").selectAll().where("id", "=", id).executeTakeFirstOrThrow();
}
