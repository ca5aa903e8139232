// Roles and databases that SQL made, changed or dropped, as a branch's running Postgres has them.

import { errorMessage, StorageError } from "../../base/errors.ts";
import type { ComputeClient } from "../../compute/client.ts";
import { type PostgresObjects, readObjects, readVerifier } from "../computes/postgres-objects.ts";
import { newNumber } from "../context.ts";
import { nowText } from "../inventory.ts";
import { type Database, serialized } from "../state/database.ts";
import type { BranchRow, EndpointRow, RoleRow } from "../state/tables.ts";
import { type Parts, writerOf } from "./lookup.ts";

/** Nothing while its Postgres sleeps: what was there when it fell asleep is what there is. */
export async function seeObjects(parts: Parts, branch: BranchRow): Promise<void> {
  const endpoint = await writerOf(parts, branch);
  const { provider } = parts.computes;
  if (endpoint === undefined || branch.needs_configure === 1 || !provider.isRunning(endpoint.id)) {
    return;
  }
  let objects: PostgresObjects;
  try {
    objects = await readObjects(provider.agent(endpoint.id));
  } catch (error) {
    // It is just being stopped, say.
    parts.logger.info({ endpoint: endpoint.id, reason: errorMessage(error) }, "roles not seen");
    return;
  }
  await noteObjects(parts, branch, objects);
}

/**
 * Before it falls asleep: resolves when all that it has is noted, and rejects where anything is not. Who takes it for noted
 * wakes nobody for a role that is not there.
 */
export async function seeObjectsOf(parts: Parts, endpoint: EndpointRow): Promise<void> {
  const branch = await parts.db
    .selectFrom("branches")
    .selectAll()
    .where("id", "=", endpoint.branch_id)
    .executeTakeFirst();
  if (branch === undefined || endpoint.type !== "read_write") {
    return;
  }
  if (branch.needs_configure === 1) {
    // What is noted is what it is to have, not what it has.
    const message = `roles and databases of branch ${branch.name} are not brought in yet`;
    throw new StorageError("conflict", "not-configured", message);
  }
  const agent = parts.computes.provider.agent(endpoint.id);
  await noteObjects(parts, branch, await readObjects(agent));
  await noteVerifiers(parts, branch, agent);
}

function noteObjects(parts: Parts, branch: BranchRow, objects: PostgresObjects): Promise<void> {
  return serialized(parts.db, async (db) => {
    await noteRoles(db, branch, objects);
    await noteDatabases(db, branch, objects);
  });
}

async function noteRoles(db: Database, branch: BranchRow, seen: PostgresObjects): Promise<void> {
  const rows = await db
    .selectFrom("roles")
    .selectAll()
    .where("branch_id", "=", branch.id)
    .execute();
  for (const { name } of rows.filter((row) => !seen.roles.includes(row.name))) {
    await db
      .deleteFrom("roles")
      .where("branch_id", "=", branch.id)
      .where("name", "=", name)
      .execute();
  }
  const now = nowText();
  for (const name of seen.roles.filter((one) => !rows.some((row) => row.name === one))) {
    await db
      .insertInto("roles")
      .values({
        branch_id: branch.id,
        name,
        sealed_password: null,
        verifier: null,
        no_login: 0,
        created_at: now,
        updated_at: now,
      })
      .execute();
  }
}

/** What its Postgres checks passwords against, for the time in which it cannot be asked. */
async function noteVerifiers(parts: Parts, branch: BranchRow, agent: ComputeClient): Promise<void> {
  const rows = await parts.db
    .selectFrom("roles")
    .selectAll()
    .where("branch_id", "=", branch.id)
    .execute();
  for (const row of rows) {
    await noteVerifier(parts, row, await readVerifier(agent, row.name));
  }
}

async function noteVerifier(
  { db }: Parts,
  row: RoleRow,
  verifier: string | null,
): Promise<RoleRow> {
  if (verifier === row.verifier) {
    return row;
  }
  // SQL gave it another password: the one that was sealed is none any more.
  const isOther = verifier !== null && row.verifier !== null;
  const sealed_password = isOther ? null : row.sealed_password;
  const changed = { ...row, verifier, sealed_password, updated_at: nowText() };
  await db
    .updateTable("roles")
    .set(changed)
    .where("branch_id", "=", row.branch_id)
    .where("name", "=", row.name)
    .execute();
  return changed;
}

/** The role with what its running Postgres has; as it is known while that sleeps. */
export async function seeRole(parts: Parts, branch: BranchRow, row: RoleRow): Promise<RoleRow> {
  const endpoint = await writerOf(parts, branch);
  const { provider } = parts.computes;
  if (endpoint === undefined || branch.needs_configure === 1 || !provider.isRunning(endpoint.id)) {
    return row;
  }
  try {
    return await noteVerifier(
      parts,
      row,
      await readVerifier(provider.agent(endpoint.id), row.name),
    );
  } catch (error) {
    parts.logger.info({ endpoint: endpoint.id, reason: errorMessage(error) }, "role not seen");
    return row;
  }
}

async function noteDatabases(db: Database, branch: BranchRow, seen: PostgresObjects) {
  const rows = await db
    .selectFrom("databases")
    .selectAll()
    .where("branch_id", "=", branch.id)
    .execute();
  const now = nowText();
  for (const row of rows) {
    const one = seen.databases.find(({ name }) => name === row.name);
    if (one === undefined) {
      await db.deleteFrom("databases").where("id", "=", row.id).execute();
    } else if (one.owner !== row.owner_name) {
      const values = { owner_name: one.owner, updated_at: now };
      await db.updateTable("databases").set(values).where("id", "=", row.id).execute();
    }
  }
  for (const { name, owner } of seen.databases) {
    if (!rows.some((row) => row.name === name)) {
      await db
        .insertInto("databases")
        .values({
          id: newNumber(),
          branch_id: branch.id,
          name,
          owner_name: owner,
          created_at: now,
          updated_at: now,
        })
        .execute();
    }
  }
}
