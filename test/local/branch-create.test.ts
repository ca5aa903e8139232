// branch create: the control plane makes the branch where one runs; the command itself where none does, or where it hangs.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { createHere } from "../../src/cli/branches/create-branch-here.ts";
import { StrataHome } from "../../src/local/home.ts";
import { TestCluster } from "../../testing/cluster.ts";

let cluster: TestCluster;
before(async () => {
  cluster = await TestCluster.create();
});
after(() => cluster?.[Symbol.asyncDispose]());

const PARENT = { tenant_id: undefined, parent: "main" };

/** How many branches the control plane has made for commands. */
async function madeByControlPlane(): Promise<number> {
  const { controlPlane } = new StrataHome(cluster.home).settings();
  const response = await fetch(`http://${controlPlane!.listenAddr}/metrics`);
  const line = /route="\/home\/branches",status="201"\} (\d+)/.exec(await response.text());
  return Number(line?.[1] ?? 0);
}

async function names(): Promise<string[]> {
  const list = (await cluster.json("branch", "list")) as { name: string }[];
  return list.map(({ name }) => name);
}

test("where the control plane runs it makes the branch, and starts an endpoint on it", async () => {
  const lines = await cluster.ok("branch", "create", "one");
  assert.match(
    lines,
    /^Created branch 'one' of 'main' at \S+ \[[0-9a-f]{32}\]\nStart Postgres on it: /,
  );
  const started = await cluster.ok("branch", "create", "two", "--start");
  assert.match(started, /\nEndpoint two: postgresql:\/\/cloud_admin:/);
  assert.equal(await madeByControlPlane(), 2);
  assert.deepEqual(await cluster.query("two", "select 1 as one"), [{ one: 1 }]);
  assert.match(await cluster.fails("branch", "create", "one"), /branch 'one' already exists$/);
  assert.match(
    await cluster.fails("branch", "create", "x", "-p", "nosuch"),
    /Found no timeline id/,
  );
  await cluster.ok("endpoint", "stop", "two", "--destroy");
});

test("an answer that was lost: the command goes on with what the control plane has made, and starts no second endpoint", async () => {
  const home = new StrataHome(cluster.home).identify();
  const [, id] = /\[([0-9a-f]{32})\]/.exec(
    await cluster.ok("branch", "create", "lost", "--start"),
  )!;
  const request = { ...PARENT, name: "lost", timeline_id: id!, start: true };
  const made = await createHere(home, request);
  assert.deepEqual([made.timeline_id, made.endpoint_id], [id, "lost"]);
  // Another one of that name is another one.
  const other = { ...request, timeline_id: "0".repeat(32) };
  await assert.rejects(createHere(home, other), { code: "branch-exists" });
  await cluster.ok("endpoint", "stop", "lost", "--destroy");
});

test("one that hangs, or is another's, or has gone: the command makes the branch itself", async () => {
  const pid = cluster.pid("control_plane");
  const before = await madeByControlPlane();
  process.kill(pid, "SIGSTOP");
  try {
    await cluster.ok("branch", "create", "hangs");
  } finally {
    process.kill(pid, "SIGCONT");
  }
  const keyFile = new StrataHome(cluster.home).controlPlaneKeyFile();
  const key = readFileSync(keyFile, "utf8");
  writeFileSync(
    keyFile,
    key.replace(/.$/m, (last) => (last === "0" ? "1" : "0")),
  );
  await cluster.ok("branch", "create", "other");
  writeFileSync(keyFile, key);
  assert.equal(await madeByControlPlane(), before);
  await cluster.kill9("control_plane");
  await cluster.ok("branch", "create", "gone", "--start");
  assert.deepEqual(await cluster.query("gone", "select 1 as one"), [{ one: 1 }]);
  const there = new Set(await names());
  assert.ok(["hangs", "other", "gone"].every((name) => there.has(name)));
});
