// A branch of a database that has subscriptions: its parent keeps every slot, and loses nothing.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type pg from "pg";
import { sleep } from "../../src/base/clock.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";
import { STOCK_USER, StockCluster } from "../../testing/stock-cluster.ts";
import { connect } from "../../testing/tpcb.ts";

/** Until when a statement that has nobody to wait for must be done, on a slow machine too: who waits for a publisher does so for ever. */
const AT_ONCE = "set statement_timeout = '20s'";
const SUBSCRIPTIONS = "select subname::text, subenabled, subslotname::text from pg_subscription";

let publisher: StockCluster;
let atPublisher: pg.Client;
let cluster: TestCluster;

before(async () => {
  publisher = await StockCluster.create({
    settings: { wal_level: "logical", log_replication_commands: "on" },
  });
  await publisher.start();
  atPublisher = await publisher.connect();
  await atPublisher.query("create table t (n int primary key)");
  await atPublisher.query("insert into t select generate_series(1, 100)");
  await atPublisher.query("create publication p for table t");
  cluster = await TestCluster.create();
  await cluster.startEndpoint();
  await cluster.query("main", "create table t (n int primary key)", subscribe("s", "p"));
  await rows("main", 100);
  await eventually("the first copy to be complete", async () => {
    const states = await cluster.query(
      "main",
      "select srsubstate::text s from pg_subscription_rel",
    );
    return states.every(({ s }) => s === "r");
  });
});

after(async () => {
  await cluster?.[Symbol.asyncDispose]();
  await publisher?.destroy();
});

function subscribe(name: string, publication: string, options = ""): string {
  const to = `host=${publisher.workdir} port=5432 user=${STOCK_USER} dbname=postgres`;
  return `create subscription ${name} connection '${to}' publication ${publication} ${options}`;
}

async function rows(id: string, count: number, table = "t"): Promise<void> {
  await eventually(`${count} rows of ${table} on ${id}`, async () => {
    const [row] = await cluster.query(id, `select count(*)::int n from ${table}`);
    return row!["n"] === count;
  });
}

/** Adds `count` rows at the publisher; how many it has then. */
async function publish(count = 1): Promise<number> {
  await atPublisher.query(
    `insert into t select m + i from (select max(n) m from t) t, generate_series(1, ${count}) i`,
  );
  const answer = await atPublisher.query("select count(*)::int n from t");
  return answer.rows[0].n;
}

async function slots(): Promise<string[]> {
  const answer = await atPublisher.query("select slot_name from pg_replication_slots order by 1");
  return answer.rows.map(({ slot_name }) => String(slot_name));
}

/** How often somebody began to stream from `slot`. */
function streams(slot: string): number {
  const log = readFileSync(join(publisher.workdir, "log"), "utf8");
  return log.split(`START_REPLICATION SLOT "${slot}"`).length - 1;
}

/** With all that its parent shows: workers of subscriptions commit without waiting for their WAL. */
async function branch(name: string, parent = "main"): Promise<void> {
  await cluster.query(parent, "checkpoint");
  await cluster.ok("branch", "create", name, "--parent", parent);
}

test("main gets what was published while only its branch ran", async () => {
  await branch("dev");
  await cluster.ok("endpoint", "stop", "main");
  const before = streams("s");
  await cluster.startEndpoint("dev", "dev");
  const published = await publish(1000);
  assert.deepEqual(await cluster.query("dev", SUBSCRIPTIONS), [
    { subname: "s", subenabled: false, subslotname: null },
  ]);
  assert.match(cluster.log("endpoints/dev/compute.log"), /disabled here and have no slot/);
  await sleep(1000);
  assert.equal(streams("s"), before);

  await cluster.ok("endpoint", "start", "main");
  await rows("main", published);
  assert.deepEqual(await cluster.query("dev", "select count(*)::int n from t"), [{ n: 100 }]);
});

test("DROP SUBSCRIPTION on the branch is done at once, and the slot stays", async () => {
  await cluster.query("dev", AT_ONCE, "drop subscription s");
  assert.deepEqual(await slots(), ["s"]);
  await rows("main", await publish());
});

test("a subscription made on the branch works after a stop and after kill -9; its branch does not use it", async () => {
  await cluster.query("dev", "truncate t", subscribe("own", "p", "with (slot_name = 'of_dev')"));
  await rows("dev", await publish());
  await cluster.ok("endpoint", "stop", "dev");
  await cluster.ok("endpoint", "start", "dev");
  await rows("dev", await publish());
  await cluster.kill9("agent-dev");
  await startAfterKill("dev");
  await rows("dev", await publish());

  await branch("child", "dev");
  await cluster.ok("endpoint", "stop", "dev");
  const before = streams("of_dev");
  await cluster.startEndpoint("child", "child");
  const published = await publish();
  assert.deepEqual(await cluster.query("child", SUBSCRIPTIONS), [
    { subname: "own", subenabled: false, subslotname: null },
  ]);
  // Again on, with a slot of its own: what a person decides on the branch stays so.
  await atPublisher.query("select pg_copy_logical_replication_slot('of_dev', 'of_child')");
  await cluster.query(
    "child",
    "alter subscription own set (slot_name = 'of_child')",
    "alter subscription own enable",
  );
  await rows("child", published);
  await cluster.ok("endpoint", "stop", "child");
  await cluster.ok("endpoint", "start", "child");
  await rows("child", await publish());
  assert.equal(streams("of_dev"), before);
  await cluster.ok("endpoint", "start", "dev");
  const all = await publish();
  await rows("dev", all);
  await rows("main", all);
});

test("a branch of one without subscriptions may have its own from its first start on", async () => {
  await cluster.ok("timeline", "create", "--branch-name", "other");
  await cluster.ok("branch", "create", "fresh", "--parent", "other");
  await cluster.startEndpoint("fresh", "fresh");
  await cluster.query("fresh", "create table t (n int primary key)");
  await cluster.query("fresh", subscribe("s", "p", "with (slot_name = 'of_fresh')"));
  await rows("fresh", await publish());
  await cluster.ok("endpoint", "stop", "fresh");
  await cluster.ok("endpoint", "start", "fresh");
  await rows("fresh", await publish());
  await cluster.ok("endpoint", "stop", "fresh", "--mode", "immediate");
});

/** Postgres ends with its agent, but a moment later, and has its port until then. */
async function startAfterKill(id: string): Promise<void> {
  await eventually(
    `${id} to start`,
    async () => (await cluster.cli("endpoint", "start", id)).code === 0,
  );
}

function startKilled(): ChildProcess {
  return spawn(
    process.execPath,
    [join(import.meta.dirname, "../../src/cli/main.ts"), "endpoint", "start", "killed"],
    { env: { ...process.env, STRATA_HOME: cluster.home }, stdio: "ignore" },
  );
}

test("killed at any moment of its first start, the branch never streams from the parent's slot", async () => {
  await branch("killed");
  await cluster.ok("endpoint", "create", "killed", "--branch-name", "killed");
  await cluster.ok("endpoint", "stop", "main");
  const before = streams("s");
  let last = 0;
  for (let delayMs = 150; delayMs <= 1500; delayMs += 150) {
    let start = startKilled();
    await eventually("the agent to start", () => {
      if (cluster.pid("agent-killed") !== last) {
        return true;
      }
      if (start.exitCode !== null) {
        // The Postgres of the last one was still there, on its port.
        start = startKilled();
      }
      return false;
    });
    const ended = start.exitCode ?? new Promise((resolve) => start.once("exit", resolve));
    await sleep(delayMs);
    last = cluster.pid("agent-killed");
    await cluster.kill9("agent-killed");
    await ended;
  }
  await startAfterKill("killed");
  assert.deepEqual(await cluster.query("killed", SUBSCRIPTIONS), [
    { subname: "s", subenabled: false, subslotname: null },
  ]);
  assert.equal(streams("s"), before);
  await cluster.ok("endpoint", "start", "main");
  await cluster.ok("endpoint", "stop", "killed");
});

test("a table whose first copy is under way: the branch leaves the publisher's slot of it alone", async () => {
  await atPublisher.query("create table late (n int primary key)");
  await atPublisher.query("insert into late select generate_series(1, 10)");
  await atPublisher.query("create publication of_late for table late");
  const holder = await connect(cluster.url());
  await holder.query("select pg_advisory_lock(7)");
  await cluster.query(
    "main",
    "create table late (n int primary key)",
    `create function held() returns trigger language plpgsql as
       'begin perform pg_advisory_xact_lock_shared(7); return new; end'`,
    "create trigger held before insert on late for each row execute function held()",
    "alter table late enable always trigger held",
    subscribe("s_late", "of_late"),
  );
  const isCopySlot = (name: string) => name.includes("_sync_");
  await eventually("the copy to begin", async () => (await slots()).some(isCopySlot));

  await branch("copying");
  await cluster.startEndpoint("copying", "copying");
  const left = "select count(*)::int n from pg_subscription_rel where srrelid = 'late'::regclass";
  assert.deepEqual(await cluster.query("copying", left), [{ n: 0 }]);
  await cluster.query("copying", AT_ONCE, "drop subscription s_late", "drop subscription s");
  assert.ok((await slots()).some(isCopySlot));
  assert.deepEqual(await cluster.query("copying", "select roname from pg_replication_origin"), []);
  await holder.end();
  await rows("main", 10, "late");
  await cluster.query("main", "drop subscription s_late");
  await cluster.ok("endpoint", "stop", "copying");
});

test("a prepared transaction that holds a subscription: the branch starts, and no subscription works until a start can detach it", async () => {
  await cluster.query(
    "main",
    "begin",
    "alter subscription s set (synchronous_commit = on)",
    "prepare transaction 'holds'",
  );
  await branch("held");
  await cluster.query("main", "rollback prepared 'holds'");
  await cluster.ok("endpoint", "stop", "main");
  const before = streams("s");
  await cluster.startEndpoint("held", "held");
  assert.match(cluster.log("endpoints/held/compute.log"), /cannot be detached/);
  const published = await publish();
  await cluster.query("held", "rollback prepared 'holds'");
  await sleep(500);
  assert.equal(streams("s"), before);
  await cluster.ok("endpoint", "stop", "held");
  await cluster.ok("endpoint", "start", "held");
  assert.deepEqual(await cluster.query("held", SUBSCRIPTIONS), [
    { subname: "s", subenabled: false, subslotname: null },
  ]);
  await cluster.ok("endpoint", "start", "main");
  await rows("main", published);
});

test("a read-only endpoint has no worker, also once somebody promotes it", async () => {
  const [at] = await cluster.query("main", "select pg_current_wal_flush_lsn()::text lsn");
  await cluster.ok("endpoint", "create", "past", "--branch-name", "main", "--lsn", `${at!["lsn"]}`);
  await cluster.ok("endpoint", "start", "past");
  assert.deepEqual(await cluster.query("past", "show max_logical_replication_workers"), [
    { max_logical_replication_workers: "0" },
  ]);
});
