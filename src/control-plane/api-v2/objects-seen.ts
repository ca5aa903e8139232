// Roles and databases that SQL made, changed or dropped, as a branch's running Postgres has them.

import { errorMessage } from "../../base/errors.ts";
import { type PostgresObjects, readObjects } from "../computes/postgres-objects.ts";
import { newNumber } from "../context.ts";
import { nowText } from "../inventory.ts";
import type { Database } from "../state/database.ts";
import type { BranchRow, EndpointRow } from "../state/tables.ts";
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
    objects = await readObjects(provider.socket(endpoint.id));
  } catch (error) {
    // It is just being stopped, say.
    parts.logger.info({ endpoint: endpoint.id, reason: errorMessage(error) }, "roles not seen");
    return;
  }
  await parts.db.transaction().execute(async (db) => {
    await noteRoles(db, branch, objects);
    await noteDatabases(db, branch, objects);
  });
}

/** Before it falls asleep. */
export async function seeObjectsOf(parts: Parts, endpoint: EndpointRow): Promise<void> {
  const branch = await parts.db
    .selectFrom("branches")
    .selectAll()
    .where("id", "=", endpoint.branch_id)
    .executeTakeFirst();
  if (branch !== undefined && endpoint.type === "read_write") {
    await seeObjects(parts, branch);
  }
}

async function noteRoles(db: Database, branch: BranchRow, seen: PostgresObjects): Promise<void> {
  const rows = await db
    .selectFrom("roles")
    .selectAll()
    .where("branch_id", "=", branch.id)
    .execute();
  for (const { name } of rows.filter((row) => !seen.roles.some((one) => one.name === row.name))) {
    await db
      .deleteFrom("roles")
      .where("branch_id", "=", branch.id)
      .where("name", "=", name)
      .execute();
  }
  const now = nowText();
  for (const { name, canLogin, verifier } of seen.roles) {
    const row = rows.find((one) => one.name === name);
    const values = { verifier, no_login: canLogin ? 0 : 1, updated_at: now };
    if (row === undefined) {
      await db
        .insertInto("roles")
        .values({ branch_id: branch.id, name, sealed_password: null, ...values, created_at: now })
        .execute();
    } else if (row.verifier !== verifier || row.no_login !== values.no_login) {
      // SQL gave it another password: the one that was sealed is none any more.
      const sealed = row.verifier === verifier ? {} : { sealed_password: null };
      await db
        .updateTable("roles")
        .set({ ...values, ...sealed })
        .where("branch_id", "=", branch.id)
        .where("name", "=", name)
        .execute();
    }
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
