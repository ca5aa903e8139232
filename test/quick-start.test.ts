// The quick start of the README, word for word, by the real CLI and psql (pg where there is none).

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { after, before, test } from "node:test";
import { TestCluster } from "../testing/cluster.ts";

let cluster: TestCluster;
before(async () => {
  cluster = await TestCluster.create({ start: false });
});
after(() => cluster?.[Symbol.asyncDispose]());

const hasPsql = (() => {
  try {
    execFileSync("psql", ["--version"]);
    return true;
  } catch {
    return false;
  }
})();

/** One statement as a person would run it; unaligned rows. */
async function psql(endpoint: string, sql: string): Promise<string> {
  if (hasPsql) {
    return (await cluster.ok("psql", endpoint, "--", "-XAtc", sql)).trim();
  }
  const rows = await cluster.query(endpoint, sql);
  return rows.map((row) => Object.values(row).join("|")).join("\n");
}

test("quick start: a branch sees the parent's rows and keeps its own, over a restart", async () => {
  assert.match(await cluster.ok("start"), /started and passed status check, pid: \d+/);
  const created = await cluster.ok("tenant", "create", "--set-default");
  assert.match(created, /tenant [0-9a-f]{32} successfully created on the pageserver/);
  assert.match(created, /Created an initial timeline '[0-9a-f]{32}' for tenant: [0-9a-f]{32}/);
  assert.match(created, /Setting tenant [0-9a-f]{32} as a default one/);

  await cluster.ok("endpoint", "create", "main");
  assert.match(
    await cluster.ok("endpoint", "start", "main"),
    /Starting postgres node at 'postgresql:\/\/cloud_admin:\S+@127\.0\.0\.1:\d+\/postgres'/,
  );
  await psql("main", "create table t(key int primary key, value text)");
  await psql("main", "insert into t values (1, 'one')");
  assert.equal(await psql("main", "select * from t"), "1|one");

  assert.match(
    await cluster.ok("timeline", "branch", "--branch-name", "migration_check"),
    /Created timeline '[0-9a-f]{32}' at Lsn [0-9A-F]+\/[0-9A-F]+ for tenant: [0-9a-f]{32}\. Ancestor timeline: 'main'/,
  );
  const tree = (await cluster.ok("timeline", "list")).trim().split("\n");
  assert.match(tree[0]!, /^main \[[0-9a-f]{32}\]$/);
  assert.match(tree[1]!, /^ *┗━ @[0-9A-F]+\/[0-9A-F]+: migration_check \[[0-9a-f]{32}\]$/);

  await cluster.ok("endpoint", "create", "migration_check", "--branch-name", "migration_check");
  await cluster.ok("endpoint", "start", "migration_check");
  assert.equal(await psql("migration_check", "select * from t"), "1|one");
  await psql("migration_check", "insert into t values (2, 'two')");
  assert.equal(await psql("migration_check", "select * from t order by key"), "1|one\n2|two");
  assert.equal(await psql("main", "select * from t"), "1|one");

  await cluster.ok("stop");
  await cluster.ok("start");
  await cluster.ok("endpoint", "start", "main");
  await cluster.ok("endpoint", "start", "migration_check");
  assert.equal(await psql("main", "select * from t"), "1|one");
  assert.equal(await psql("migration_check", "select * from t order by key"), "1|one\n2|two");
  const endpoints = await cluster.ok("endpoint", "list");
  assert.match(endpoints, /ENDPOINT +ADDRESS +TIMELINE +BRANCH NAME +LSN +STATUS/);
  assert.match(endpoints, /main +127\.0\.0\.1:\d+ +[0-9a-f]{32} +main +\S+ +running/);
});
