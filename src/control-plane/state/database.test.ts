import assert from "node:assert/strict";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Kysely } from "kysely";
import { migrate, openDatabase, type VersionedDatabase } from "./database.ts";
import { MIGRATIONS } from "./migrations.ts";
import { sqliteDialect } from "./node-sqlite.ts";

function scratch(t: { after(body: () => void): void }): string {
  const directory = mkdtempSync(join(tmpdir(), "strata-state-"));
  t.after(() => rmSync(directory, { recursive: true }));
  return join(directory, "state.db");
}

const PROJECT = {
  ...{ id: "p", tenant_id: "t", name: "n", pg_version: 17, history_retention_seconds: 1 },
  ...{ settings: "{}", default_endpoint_settings: "{}", creating: 0 },
  ...{ created_at: "2026-11-28T00:00:00Z", updated_at: "2026-11-28T00:00:00Z" },
};

for (const from of MIGRATIONS.keys()) {
  test(`openDatabase: a state of version ${from} is brought to this one, and keeps what it has`, async (t) => {
    const path = scratch(t);
    const old: VersionedDatabase = new Kysely({ dialect: sqliteDialect(path) });
    await migrate(old, from);
    if (from > 0) {
      await old.insertInto("projects").values(PROJECT).execute();
    }
    await old.destroy();
    const db = await openDatabase(sqliteDialect(path));
    const projects = await db.selectFrom("projects").selectAll().execute();
    assert.deepEqual(
      projects.map((row) => ({ ...row })),
      from > 0 ? [PROJECT] : [],
    );
    for (const table of [
      "branches",
      "endpoints",
      "roles",
      "databases",
      "operations",
      "api_keys",
      "console_links",
      "console_sessions",
      "consumption",
      "meter",
      "meter_endpoints",
      "meter_timelines",
    ]) {
      assert.deepEqual(
        await db
          .selectFrom(table as "roles")
          .selectAll()
          .execute(),
        [],
      );
    }
    await db.destroy();
    assert.equal(statSync(path).mode & 0o077, 0);
  });
}

test("openDatabase: one that a newer version has used is refused", async (t) => {
  const path = scratch(t);
  const db = await openDatabase(sqliteDialect(path));
  await (db as unknown as VersionedDatabase)
    .updateTable("strata_schema_version")
    .set({ version: MIGRATIONS.length + 1 })
    .execute();
  await db.destroy();
  await assert.rejects(openDatabase(sqliteDialect(path)), { code: "newer-state" });
});

test("migrate: a migration that fails leaves the version before, whole", async (t) => {
  const path = scratch(t);
  const db: VersionedDatabase = new Kysely({ dialect: sqliteDialect(path) });
  await migrate(db, 1);
  // Version 2 makes `roles`, then `databases`: this one is in its way.
  await db.schema.createTable("databases").addColumn("id", "integer").execute();
  await assert.rejects(migrate(db, 2), /databases/);
  const tables = (await db.introspection.getTables()).map(({ name }) => name);
  assert.ok(!tables.includes("roles"));
  await db.schema.dropTable("databases").execute();
  await migrate(db, MIGRATIONS.length);
  await db.destroy();
});
