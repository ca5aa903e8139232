// Branches that nobody uses: archived, listed, refused with their name, and brought back with all that they had.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { TestCluster } from "../../testing/cluster.ts";

let cluster: TestCluster;

before(async () => {
  cluster = await TestCluster.create({});
  await cluster.startEndpoint();
  await cluster.query("main", "create table t (n int)", "insert into t values (1)");
});

after(() => cluster?.[Symbol.asyncDispose]());

async function rowsOf(endpoint: string): Promise<number[]> {
  const rows = await cluster.query(endpoint, "select n from t order by n");
  return rows.map((row) => Number(row["n"]));
}

test("branch archive: not while it is used; only its line is left, and unarchive brings it back as it was", async () => {
  await cluster.ok("branch", "create", "attic", "--start");
  await cluster.query("attic", "insert into t values (40)");
  await cluster.ok("branch", "create", "box", "--parent", "attic");
  assert.match(
    await cluster.fails("branch", "archive", "attic"),
    /endpoints run on branch 'attic': attic; stop them first/,
  );
  await cluster.query("attic", "insert into t values (41)");
  await cluster.ok("endpoint", "stop", "attic");
  assert.match(
    await cluster.fails("branch", "archive", "attic"),
    /branches of it are in use: box; archive them first/,
  );
  assert.match(await cluster.fails("branch", "archive", "main"), /'main' is the default one/);
  assert.equal(await cluster.ok("branch", "archive", "box"), "Archived branch 'box'\n");
  await cluster.ok("branch", "archive", "attic");
  await cluster.ok("branch", "archive", "attic");
  const archived = /branch 'attic' is archived: '\S.* branch unarchive attic' brings it back/;
  assert.match(await cluster.fails("endpoint", "start", "attic"), archived);
  assert.match(await cluster.fails("endpoint", "create", "x", "--branch-name", "attic"), archived);
  assert.match(await cluster.fails("branch", "create", "x", "--parent", "attic"), archived);
  assert.match(await cluster.fails("branch", "info", "attic"), archived);
  assert.match(await cluster.fails("branch", "reset", "attic"), archived);
  assert.match(await cluster.fails("layers", "--branch-name", "attic"), archived);
  assert.match(await cluster.ok("branch", "list"), /\n attic .* main .* archived 20\d\d-\S+Z\n/);
  const list = (await cluster.json("branch", "list")) as { name: string; parent: string | null }[];
  assert.deepEqual(
    list.map(({ name, parent }) => [name, parent]),
    [
      ["attic", "main"],
      ["box", "attic"],
      ["main", null],
    ],
  );
  await cluster.ok("stop");
  await cluster.ok("start");
  assert.match(
    await cluster.fails("branch", "unarchive", "box"),
    /its parent 'attic' is archived: unarchive that one first/,
  );
  assert.equal(await cluster.ok("branch", "unarchive", "attic"), "Unarchived branch 'attic'\n");
  await cluster.startEndpoint("attic");
  const before = [1, 40, 41];
  assert.deepEqual(await rowsOf("attic"), before);
  await cluster.query("attic", "insert into t values (42)");
  // Of an archived one too: it is detached.
  const told = await cluster.ok("branch", "delete", "attic", "--force");
  assert.match(told, /\nDetached from it, and as they were: box\n$/);
  await cluster.ok("branch", "unarchive", "box");
  await cluster.ok("endpoint", "create", "box", "--branch-name", "box");
  await cluster.startEndpoint("box");
  assert.deepEqual(await rowsOf("box"), [1, 40]);
  await cluster.ok("endpoint", "stop", "box");
  await cluster.ok("branch", "archive", "box");
  await cluster.ok("branch", "delete", "box", "--force");
  assert.doesNotMatch(await cluster.ok("branch", "list"), /box/);
});
