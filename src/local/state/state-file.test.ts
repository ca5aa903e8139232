import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { type TestContext, test } from "node:test";
import { emptyState, nameBranch, noteUnfinished, recordMembership } from "./home-state.ts";
import { StateFile } from "./state-file.ts";
import { HOME_MIGRATIONS } from "./state-tables.ts";

const TENANT = "a".repeat(32);
const DELETED = {
  deletedAtMs: 1_764_000_000_000,
  recoverableUntilMs: 1_764_604_800_000,
  wasDefault: true,
};
const [FIRST, SECOND] = ["1".repeat(32), "2".repeat(32)] as const;

function scratch(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "strata-home-state-"));
  t.after(() => rmSync(directory, { recursive: true }));
  return join(directory, "home.db");
}

test("StateFile: what was changed is there for every other connection, in the order in which it came", (t) => {
  const path = scratch(t);
  const mine = StateFile.create(path, emptyState());
  const other = StateFile.open(path);
  assert.deepEqual(other.read(), emptyState());
  const names = ["main", "__proto__", "größe/1", "constructor"];
  mine.update((draft) => {
    for (const name of names) {
      nameBranch(draft, TENANT, name, FIRST);
    }
    draft.defaultTenantId = TENANT;
    draft.unfinishedTenants.add(TENANT);
    draft.deletedTenants.set(TENANT, DELETED);
    noteUnfinished(draft, TENANT, FIRST);
    recordMembership(draft, TENANT, FIRST, { generation: 1, members: [1, 2], excluding: [3] });
  });
  assert.deepEqual(other.read(), mine.read());
  assert.deepEqual(other.read().deletedTenants, new Map([[TENANT, DELETED]]));
  other.update((draft) => {
    nameBranch(draft, TENANT, "main", SECOND);
    draft.branchNameMappings.get(TENANT)!.delete("constructor");
    draft.defaultTenantId = undefined;
    draft.unfinishedTimelines.clear();
  });
  const { branchNameMappings, unfinishedTimelines, memberships, defaultTenantId } = mine.read();
  assert.deepEqual(
    [...branchNameMappings.get(TENANT)!],
    [
      ["main", SECOND],
      ["__proto__", FIRST],
      ["größe/1", FIRST],
    ],
  );
  assert.equal(unfinishedTimelines.size, 0);
  assert.equal(defaultTenantId, undefined);
  assert.deepEqual(memberships.get(TENANT)?.get(FIRST)?.excluding, [3]);
  assert.equal(statSync(path).mode & 0o077, 0);
  mine.close();
  other.close();
});

test("StateFile.update: nothing of a change that throws, and the file stays usable", (t) => {
  const path = scratch(t);
  const file = StateFile.create(path, emptyState());
  assert.throws(
    () =>
      file.update((draft) => {
        nameBranch(draft, TENANT, "main", FIRST);
        throw new Error("no");
      }),
    /no/,
  );
  assert.deepEqual(file.read(), emptyState());
  // The first of its rows is written by then.
  assert.throws(() =>
    file.update((draft) => {
      nameBranch(draft, TENANT, "main", FIRST);
      nameBranch(draft, TENANT, "dev", undefined as unknown as string);
    }),
  );
  assert.deepEqual(StateFile.open(path).read(), emptyState());
  file.update((draft) => nameBranch(draft, TENANT, "main", FIRST));
  assert.equal(StateFile.open(path).read().branchNameMappings.size, 1);
  file.close();
});

for (const from of HOME_MIGRATIONS.keys()) {
  test(`StateFile.open: a file of version ${from} is brought to this one, and keeps what it has`, (t) => {
    const path = scratch(t);
    const old = new DatabaseSync(path);
    for (const script of HOME_MIGRATIONS.slice(0, from)) {
      old.exec(script);
    }
    old.exec(`pragma user_version = ${from}`);
    if (from > 0) {
      old.exec(`insert into branch_names values ('${TENANT}', 'main', '${FIRST}')`);
    }
    old.close();
    const { branchNameMappings, deletedTenants } = StateFile.open(path).read();
    assert.equal(branchNameMappings.get(TENANT)?.get("main"), from > 0 ? FIRST : undefined);
    assert.equal(deletedTenants.size, 0);
    const now = new DatabaseSync(path);
    assert.deepEqual(
      { ...now.prepare("pragma user_version").get() },
      { user_version: HOME_MIGRATIONS.length },
    );
    now.close();
  });
}

test("StateFile.open: one that is missing, damaged, odd or newer is an error that names it, and is left alone", (t) => {
  const path = scratch(t);
  assert.throws(() => StateFile.open(path), { kind: "corrupt", code: "no-home-state" });
  const file = StateFile.create(path, emptyState());
  file.update((draft) => nameBranch(draft, TENANT, "main", FIRST));
  file.close();
  const change = (sql: string) => {
    const database = new DatabaseSync(path);
    database.exec(`${sql}; pragma wal_checkpoint(truncate)`);
    database.close();
  };
  change("update branch_names set timeline_id = 'x'");
  const wrong = { kind: "corrupt", message: /home\.db: branch_names\.a{32}\.main expected 32 hex/ };
  assert.throws(() => StateFile.open(path).read(), wrong);
  assert.throws(() => StateFile.open(path).update(() => {}), wrong);
  change(`update branch_names set timeline_id = '${FIRST}'`);
  change(`insert into memberships values ('${TENANT}', '${FIRST}', '{')`);
  assert.throws(() => StateFile.open(path).read(), /memberships.* is not JSON/);
  change(
    `delete from memberships; insert into deleted_tenants values ('${TENANT}', '{"deletedAtMs":-1}')`,
  );
  assert.throws(() => StateFile.open(path).read(), /deleted_tenants\.a{32}\.\w+ expected/);
  change("delete from deleted_tenants; insert into home_values values ('typo', 'x')");
  assert.throws(() => StateFile.open(path).read(), /home_values\.typo unrecognized/);
  change(`delete from home_values; pragma user_version = ${HOME_MIGRATIONS.length + 1}`);
  assert.throws(() => StateFile.open(path), { code: "newer-home" });
  change(`pragma user_version = ${HOME_MIGRATIONS.length}`);
  assert.equal(StateFile.open(path).read().branchNameMappings.size, 1);
  const bytes = readFileSync(path);
  writeFileSync(path, bytes.fill(0xff, 0, 4096));
  assert.throws(() => StateFile.open(path), { kind: "corrupt", code: "bad-home-state" });
  assert.deepEqual(readFileSync(path), bytes);
});
