// Replicas through kill -9 of everything around them, behind what safekeepers still have, and equal to their primary afterwards.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { after, before, test } from "node:test";
import { sleep } from "../../src/base/clock.ts";
import { parseLsn, WAL_SEGMENT_SIZE } from "../../src/base/lsn.ts";
import { programOf } from "../../src/base/program-files.mjs";
import { maskPage, pageKindOf } from "../../src/wal-verify/page-masks.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";
import { connect } from "../../testing/tpcb.ts";

const MAIN_FORK = 0;
let cluster: TestCluster;

before(async () => {
  cluster = await TestCluster.create({
    safekeepers: 3,
    safekeeperOptions: { "partial-backup-timeout-ms": "500" },
  });
  // It would change pages while they are compared.
  await cluster.ok("endpoint", "create", "main", "-c", "autovacuum=off");
  await cluster.startEndpoint();
  await cluster.query(
    "main",
    "create extension amcheck",
    "create extension pageinspect",
    "create table accounts (id int primary key, balance int not null, filler text) with (fillfactor = 80)",
    "create index on accounts (balance)",
    "create table notes (id bigserial primary key, words text[], at timestamptz default now())",
    "create index on notes using gin (words)",
    "insert into accounts select g, 0, repeat('x', 100) from generate_series(1, 5000) g",
  );
  await cluster.ok("endpoint", "create", "r1", "--replica");
  await cluster.startEndpoint("r1");
});

after(() => cluster?.[Symbol.asyncDispose]());

async function one(endpoint: string, sql: string): Promise<string> {
  const [row] = await cluster.query(endpoint, sql);
  return `${Object.values(row!)[0]}`;
}

async function caughtUp(replica = "r1", primary = "main"): Promise<void> {
  const at = parseLsn(await one(primary, "select pg_current_wal_flush_lsn()"))!;
  await eventually(`${replica} to catch up`, async () => {
    const replayed = await one(replica, "select pg_last_wal_replay_lsn()").catch(() => "0/0");
    return parseLsn(replayed)! >= at;
  });
}

/** Updates, inserts, deletes, rollbacks, vacuums and DDL until it is told to stop, whatever breaks meanwhile. */
async function load(seed: number, signal: AbortSignal): Promise<void> {
  for (let n = seed; !signal.aborted; ) {
    try {
      const client = await connect(cluster.url());
      try {
        for (; !signal.aborted; n += 7) {
          await client.query(
            `update accounts set balance = balance + 1 where id between ${n % 4900} and ${(n % 4900) + 20}`,
          );
          await client.query(
            `insert into notes (words) select array['w${n % 50}', 'v' || g] from generate_series(1, 10) g`,
          );
          await client.query(`begin; delete from notes where id % 97 = ${n % 97}; rollback`);
          await client.query(`delete from notes where id % 89 = ${n % 89}`);
          if (n % 5 === 0) {
            await client.query("vacuum accounts");
            await client.query(`create table if not exists made_${n % 10} as select 1 as n`);
            await client.query(`drop table if exists made_${(n + 5) % 10}`);
          }
        }
      } finally {
        await client.end().catch(() => undefined);
      }
    } catch {
      await sleep(50);
    }
  }
}

/**
 * What is compared of each page: all but what a standby may have otherwise. That is also pages of zeros: where clients wait for one
 * another to extend a relation Postgres makes some ahead (RelationAddBlocks in hio.c), and no WAL tells of them until they are used.
 */
async function pages(endpoint: string): Promise<Map<string, string>> {
  const rows = await cluster.query(
    endpoint,
    `select c.relname || ' ' || b as place, get_raw_page(c.relname, b::int) as page
       from pg_class c, generate_series(0, pg_relation_size(c.oid) / 8192 - 1) b
      where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'i')`,
  );
  const used = rows.filter(({ page }) => (page as Buffer).some((byte) => byte !== 0));
  return new Map(
    used.map(({ place, page }) => {
      const bytes = Uint8Array.from(page as Buffer);
      const view = new DataView(bytes.buffer);
      const blkno = Number(`${place}`.split(" ").at(-1));
      maskPage(bytes, view, pageKindOf(view, MAIN_FORK, blkno), blkno);
      return [`${place}`, Buffer.from(bytes).toString("base64")];
    }),
  );
}

async function same(replica = "r1"): Promise<void> {
  await caughtUp(replica);
  const [here, there] = [await pages("main"), await pages(replica)];
  assert.deepEqual([...there.keys()].sort(), [...here.keys()].sort());
  const different = [...here].filter(([place, page]) => there.get(place) !== page);
  assert.deepEqual(
    different.map(([place]) => place),
    [],
  );
  const indexes = "pg_class where relam = (select oid from pg_am where amname = 'btree')";
  await cluster.query(
    replica,
    `select bt_index_check(oid, true) from ${indexes} and relnamespace = 'public'::regnamespace`,
  );
}

test("a replica through kill -9 of itself, its primary and a safekeeper, under load: page by page its primary", async () => {
  const stop = new AbortController();
  const loads = [1, 2, 3].map((seed) => load(seed, stop.signal));
  await sleep(2000);
  await cluster.kill9("postgres-r1");
  await sleep(1000);
  await cluster.kill9("safekeeper-1");
  await sleep(1000);
  await cluster.kill9("postgres-main");
  await cluster.ok("safekeeper", "start", "1");
  await sleep(2000);
  await cluster.kill9("agent-r1");
  await sleep(500);
  await cluster.startEndpoint("r1");
  await cluster.kill9("agent-main");
  await cluster.startEndpoint();
  await cluster.kill9("pageserver");
  await sleep(500);
  await cluster.ok("pageserver", "start");
  await sleep(2000);
  stop.abort();
  await Promise.all(loads);
  await same();
});

test("a replica far behind goes on from the object store", async () => {
  const client = await connect(cluster.url());
  const replicaAgent = cluster.pid("agent-r1");
  process.kill(replicaAgent, "SIGSTOP");
  try {
    for (let segment = 0; segment < 6; segment++) {
      await client.query(
        "insert into notes (words) select array[md5(g::text)] from generate_series(1, 20000) g",
      );
      await client.query("select pg_switch_wal()");
    }
    const { tenantId, timelineId } = cluster.endpointSpec();
    const behind = parseLsn(await one("main", "select pg_current_wal_flush_lsn()"))!;
    const { listenHttpAddr } = cluster.config().pageservers[0]!;
    const timeline = `http://${listenHttpAddr}/v1/tenant/${tenantId}/timeline/${timelineId}`;
    await eventually("the pageserver to have all of it", async () => {
      const detail = (await (await fetch(timeline)).json()) as { last_record_lsn: string };
      return parseLsn(detail.last_record_lsn)! >= behind;
    });
    // WAL stays on their disks for a reader that is connected; they are not asked by this one any more. Nor by the pageserver,
    // which needs nothing from them, but has news for them.
    for (const id of [1, 2, 3]) {
      await cluster.kill9(`safekeeper-${id}`);
      await cluster.ok("safekeeper", "start", `${id}`);
    }
    const checkpoint = await fetch(`${timeline}/checkpoint`, {
      method: "PUT",
      headers: { "content-type": "application/json" },
    });
    assert.equal(checkpoint.status, 200, await checkpoint.text());
    await eventually("WAL to leave the safekeepers' disks", async () => {
      const starts = await Promise.all(
        cluster.config().safekeepers.map(async ({ listenHttpAddr: address }) => {
          const url = `http://${address}/v1/tenant/${tenantId}/timeline/${timelineId}`;
          const status = (await (await fetch(url)).json()) as { local_wal_start_lsn: string };
          return parseLsn(status.local_wal_start_lsn)!;
        }),
      );
      return starts.every((start) => start > behind - 2 * WAL_SEGMENT_SIZE);
    });
  } finally {
    process.kill(replicaAgent, "SIGCONT");
    await client.end();
  }
  await caughtUp();
  assert.equal(
    await one("r1", "select count(*) from notes"),
    await one("main", "select count(*) from notes"),
  );
});

test("a start replays seconds of WAL, not all since the branch began", async () => {
  await cluster.ok("endpoint", "stop", "r1");
  await cluster.query(
    "main",
    "insert into notes (words) select array[md5(g::text)] from generate_series(1, 50000) g",
    "checkpoint",
    "insert into accounts values (5001, 1, '')",
    "checkpoint",
  );
  await cluster.startEndpoint("r1");
  const agent = `http://127.0.0.1:${cluster.endpointSpec("r1").internalHttpPort}`;
  const { startLsn } = (await (await fetch(`${agent}/status`)).json()) as { startLsn: string };
  const head = parseLsn(await one("main", "select pg_current_wal_flush_lsn()"))!;
  assert.ok(head - parseLsn(startLsn)! < 64 * 1024, startLsn);
  assert.equal(await one("r1", "select balance from accounts where id = 5001"), "1");
});

/** Starts the command and leaves it to itself. */
function strata(...args: string[]) {
  return spawn(process.execPath, [programOf("cli/main.ts"), ...args], {
    env: { ...process.env, STRATA_HOME: cluster.home },
    stdio: "ignore",
  });
}

async function kinds(): Promise<Record<string, string>> {
  const list = (await cluster.json("endpoint", "list")) as { id: string; kind: string }[];
  return Object.fromEntries(list.map(({ id, kind }) => [id, kind]));
}

test("endpoint promote: killed anywhere, the same command goes on, and never are there two primaries", async () => {
  for (const [round, waitMs] of [100, 400, 800, 1500, 2500].entries()) {
    const before = await kinds();
    const wanted = before["r1"] === "replica" ? "r1" : "main";
    const other = wanted === "r1" ? "main" : "r1";
    await cluster.query(other, `insert into accounts values (${6000 + round}, ${round}, '')`);
    const killed = strata("endpoint", "promote", wanted);
    await sleep(waitMs);
    killed.kill("SIGKILL");
    const now = await kinds();
    assert.ok(now["main"] !== "primary" || now["r1"] !== "primary", JSON.stringify(now));
    await cluster.ok("endpoint", "promote", wanted);
    assert.deepEqual(await kinds(), { main: "replica", r1: "replica", [wanted]: "primary" });
    const found = await one(wanted, `select balance from accounts where id = ${6000 + round}`);
    assert.equal(found, `${round}`);
    await cluster.startEndpoint(other);
  }
});

test("endpoint promote: two at once, one after the other; and over a primary that hangs", async () => {
  await cluster.ok("endpoint", "create", "r2", "--replica");
  await Promise.all([
    cluster.ok("endpoint", "promote", "r2"),
    cluster.ok("endpoint", "promote", "main"),
  ]);
  const after = await kinds();
  const primaries = Object.keys(after).filter((id) => after[id] === "primary");
  assert.equal(primaries.length, 1);
  const [primary] = primaries as [string];
  const next = primary === "r2" ? "main" : "r2";
  await cluster.query(primary, "insert into accounts values (7000, 7, '')");
  process.kill(cluster.pid(`agent-${primary}`), "SIGSTOP");
  const told = await cluster.ok("endpoint", "promote", next);
  assert.match(told, new RegExp(`endpoint ${primary} does not answer, and is ended`));
  assert.equal(await one(next, "select balance from accounts where id = 7000"), "7");
  await cluster.query(next, "insert into accounts values (7001, 7, '')");
});

test("a replica's branch is not deleted under it, and goes with it", async () => {
  await cluster.ok("branch", "create", "dev", "--start");
  await cluster.ok("endpoint", "create", "reads", "--branch-name", "dev", "--replica");
  await cluster.startEndpoint("reads", "dev");
  assert.match(await cluster.fails("branch", "delete", "dev"), /dev, reads|reads, dev/);
  await cluster.ok("branch", "delete", "dev", "--force");
  assert.match(await cluster.fails("endpoint", "start", "reads"), /endpoint reads is not found/);
});
