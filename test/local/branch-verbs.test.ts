// Branches as people use them: reset, restore, delete with children, on endpoints that run, and killed half-way.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { sleep } from "../../src/base/clock.ts";
import { StrataHome } from "../../src/local/home.ts";
import { TestCluster } from "../../testing/cluster.ts";

let cluster: TestCluster;

before(async () => {
  cluster = await TestCluster.create({});
  await cluster.startEndpoint();
  await cluster.query("main", "create table t (n int)", "insert into t values (1)");
  await cluster.ok("branch", "create", "dev", "--start");
});

after(() => cluster?.[Symbol.asyncDispose]());

async function rowsOf(endpoint: string): Promise<number[]> {
  const rows = await cluster.query(endpoint, "select n from t order by n");
  return rows.map((row) => Number(row["n"]));
}

interface Branch {
  readonly name: string;
  readonly timeline_id: string;
  readonly parent: string | null;
}

async function branches(): Promise<ReadonlyMap<string, Branch>> {
  const list = (await cluster.json("branch", "list")) as Branch[];
  return new Map(list.map((one) => [one.name, one]));
}

async function now(endpoint: string): Promise<string> {
  const [row] = await cluster.query(endpoint, "select clock_timestamp()::text as now");
  return `${row!["now"]}`;
}

test("branch reset: what the parent has, now and at a time; a running endpoint only with --restart", async () => {
  const parentTime = await now("main");
  await cluster.query("main", "insert into t values (2)");
  await cluster.query("dev", "insert into t values (10)");
  assert.match(
    await cluster.fails("branch", "reset", "dev"),
    /endpoints run on branch 'dev': dev; --restart stops them/,
  );
  assert.deepEqual(await rowsOf("dev"), [1, 10]);
  const old = (await branches()).get("dev")!.timeline_id;
  const told = await cluster.ok("branch", "reset", "dev", "--restart");
  assert.match(told, /^Stopped endpoint dev\nStarted endpoint dev\nBranch 'dev' is now timeline '/);
  assert.deepEqual(await rowsOf("dev"), [1, 2]);
  const reset = (await branches()).get("dev")!;
  assert.notEqual(reset.timeline_id, old);
  assert.equal(reset.parent, "main");
  await cluster.query("dev", "insert into t values (11)");
  await cluster.ok("endpoint", "stop", "dev");
  await cluster.ok("branch", "reset", "dev", "--at", parentTime, "--preserve-under", "kept");
  await cluster.startEndpoint("dev");
  assert.deepEqual(await rowsOf("dev"), [1]);
  await cluster.ok("endpoint", "create", "kept", "--branch-name", "kept");
  await cluster.startEndpoint("kept");
  assert.deepEqual(await rowsOf("kept"), [1, 2, 11]);
  assert.match(await cluster.fails("branch", "reset", "main"), /branch 'main' has no parent/);
  await cluster.ok("branch", "delete", "kept", "--force");
});

test("branch restore: its own past, the present under another name if wanted, and its branches stay", async () => {
  await cluster.query("dev", "insert into t values (20)");
  const time = await now("dev");
  await cluster.query("dev", "insert into t values (21)");
  await cluster.ok("branch", "create", "child", "--parent", "dev", "--start");
  assert.deepEqual(await rowsOf("child"), [1, 20, 21]);
  const restore = ["branch", "restore", "dev", "--restart", "--at", time];
  await cluster.ok(...restore, "--preserve-under", "before");
  assert.deepEqual(await rowsOf("dev"), [1, 20]);
  await cluster.query("dev", "insert into t values (22)");
  assert.deepEqual(await rowsOf("dev"), [1, 20, 22]);
  const tree = await branches();
  assert.equal(tree.get("dev")!.parent, "before");
  assert.equal(tree.get("child")!.parent, "before");
  // Without a name for it the old one goes, and what began there stays.
  const told = await cluster.ok("branch", "restore", "before", "--at", time);
  assert.match(told, /Detached from it, and as they were: child, dev\n/);
  await cluster.ok("endpoint", "create", "before", "--branch-name", "before");
  await cluster.startEndpoint("before");
  assert.deepEqual(await rowsOf("before"), [1, 20]);
  assert.deepEqual(await rowsOf("child"), [1, 20, 21]);
  assert.deepEqual(await rowsOf("dev"), [1, 20, 22]);
  await cluster.ok("endpoint", "stop", "child");
  await cluster.ok("endpoint", "start", "child");
  assert.deepEqual(await rowsOf("child"), [1, 20, 21]);
});

test("branch delete: with children, which are named, and go on", async () => {
  await cluster.ok("branch", "create", "leaf", "--parent", "child", "--start");
  const told = await cluster.ok("branch", "delete", "child", "--force");
  assert.match(told, /\nDetached from it, and as they were: leaf\n$/);
  await cluster.ok("endpoint", "stop", "leaf");
  await cluster.ok("endpoint", "start", "leaf");
  assert.deepEqual(await rowsOf("leaf"), [1, 20, 21]);
  const leaf = (await branches()).get("leaf")!;
  assert.equal(leaf.parent, null);
});

test("branch list, branch info: sizes, and how far back", async () => {
  interface Info {
    readonly logical_size: number;
    readonly physical_size: number;
    readonly exclusive_size: number;
    readonly min_readable_time: string | null;
  }
  const info = async (name: string) => (await cluster.json("branch", "info", name)) as Info;
  const main = await info("main");
  const databases = await cluster.query(
    "main",
    "select sum(pg_database_size(oid))::bigint as bytes from pg_database",
  );
  // Postgres counts files that hold no blocks of relations as well, and shared catalogs not.
  const told = Number(databases[0]!["bytes"]);
  assert.ok(Math.abs(main.logical_size - told) < told / 10, `${main.logical_size} of ${told}`);
  await cluster.ok("branch", "create", "empty");
  const empty = await info("empty");
  assert.equal(empty.exclusive_size, 0);
  assert.equal(empty.physical_size, 0);
  assert.ok(Math.abs(empty.logical_size - main.logical_size) < 1 << 20);
  const shown = await cluster.ok("branch", "info", "leaf");
  assert.match(shown, /^branch: +leaf\ntimeline: +[0-9a-f]{32}\nparent: +---\nPostgreSQL: +17\n/);
  assert.match(shown, /\nnewest: +0\/[0-9A-F]+, of 20\d\d-\S+Z\noldest readable: +0\/[0-9A-F]+/);
  assert.match(shown, /\nlogical size: +\d+(\.\d)?MB in all relations\n/);
  assert.match(
    await cluster.ok("branch", "list"),
    / main +[0-9a-f]{32} .* \d+(\.\d)?MB +\S+ +main/,
  );
  await cluster.ok("branch", "delete", "empty");
  const { size } = (await cluster.json("tenant", "size")) as { size: number };
  assert.ok(size >= main.logical_size, `${size}`);
  assert.match(await cluster.ok("tenant", "size"), /^\d+(\.\d)?MB\n$/);
});

/** Runs the command and kills it after a while; its exit code where it was sooner. */
async function killed(afterMs: number, ...args: string[]): Promise<number | undefined> {
  const main = join(import.meta.dirname, "..", "..", "src", "cli", "main.ts");
  const child = spawn(process.execPath, [main, ...args], {
    env: { ...process.env, STRATA_HOME: cluster.home },
    stdio: "ignore",
  });
  const ended = new Promise<number | undefined>((resolve) =>
    child.on("exit", (code) => resolve(code ?? undefined)),
  );
  await Promise.race([ended, sleep(afterMs)]);
  child.kill("SIGKILL");
  return await ended;
}

/** Whether a reset or restore of the branch is on record as not ended. */
function isSwitching(name: string): boolean {
  const { branchSwitches } = new StrataHome(cluster.home).config();
  return [...branchSwitches.values()].some((ofTenant) => ofTenant.has(name));
}

test("branch restore, killed at any moment: as before or as after; the same again ends it", async () => {
  const time = await now("leaf");
  await cluster.query("leaf", "insert into t values (30)");
  const states = { before: [1, 20, 21, 30], after: [1, 20, 21] };
  // Node alone takes some 200 ms to start on a machine that others use too.
  for (const afterMs of [300, 450, 600, 800, 1000, 1300, 1700]) {
    const name = `kept-${afterMs}`;
    const command = ["branch", "restore", "leaf", "--at", time, "--preserve-under", name];
    const code = await killed(afterMs, ...command, "--restart");
    const found = await branches();
    const isDone = found.has(name);
    if (code === undefined) {
      // Whoever starts it now gets one of the two, as the name says.
      await cluster.ok("endpoint", "start", "leaf");
      assert.deepEqual(await rowsOf("leaf"), isDone ? states.after : states.before);
    }
    // Killed with all of it done, the note of it as well: on its way out.
    const isOver = isDone && !isSwitching("leaf");
    const again = await cluster.cli(...command, "--restart");
    if (isOver) {
      assert.match(again.stderr, /already exists/);
    } else {
      assert.notEqual(code, 0);
      assert.equal(again.code, 0, again.stderr);
    }
    await cluster.ok("endpoint", "start", "leaf");
    assert.deepEqual(await rowsOf("leaf"), states.after, `killed after ${afterMs} ms`);
    const tree = await branches();
    assert.ok(tree.has(name));
    if (isDone) {
      assert.equal(tree.get("leaf")!.timeline_id, found.get("leaf")!.timeline_id);
    }
    await cluster.query("leaf", "insert into t values (30)");
  }
});
