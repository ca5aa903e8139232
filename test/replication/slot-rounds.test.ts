// Replication slots over rounds of stops and kills: nothing that they tell of is lost, nothing comes twice but what stock Postgres says twice,
// and what they take in storage does not grow.

import assert from "node:assert/strict";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { parseTenantId, parseTimelineId } from "../../src/base/ids.ts";
import { createLogger } from "../../src/base/log.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { KEYSPACE_AUX_FILE } from "../../src/pageserver/layers/key.ts";
import { TenantManager } from "../../src/pageserver/storage/tenant-manager.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";
import { connect, withClient } from "../../testing/tpcb.ts";

/** `npm run test:slots -- --rounds N --seed S`. */
const ROUNDS = Number(process.env["STRATA_SLOT_ROUNDS"] ?? 4);
const SEED = Number(process.env["STRATA_SLOT_SEED"] ?? 1);
/** Two slots, and snapshots behind the older restart_lsn. */
const MOST_AUX_FILES = 12;
const PATIENCE = { timeoutMs: 180_000 };

const random = new SeededRandom(SEED);
let cluster: TestCluster;
/** What `moves` has told of so far, up to which number. */
let told = 0;
let toldTwice = 0;

before(async () => {
  cluster = await TestCluster.create();
  await cluster.ok("endpoint", "create", "main", "-c", "wal_level=logical");
  await cluster.ok("endpoint", "start", "main");
  await cluster.query("main", "create table u (n int primary key, v text)");
  for (const slot of ["moves", "lags", "peeks"]) {
    await cluster.query(
      "main",
      `select pg_create_logical_replication_slot('${slot}', 'test_decoding')`,
    );
  }
});

after(async () => {
  await cluster?.[Symbol.asyncDispose]();
});

const STOPS = {
  fast: () => stop("fast"),
  "fast ": () => stop("fast"),
  immediate: () => stop("immediate"),
  "kill -9 of Postgres": () => cluster.kill9("postgres-main"),
  "kill -9 of the agent": async () => {
    await cluster.kill9("agent-main");
    await start();
  },
} as const;

async function stop(mode: "fast" | "immediate"): Promise<void> {
  await cluster.ok("endpoint", "stop", "main", "--mode", mode);
  await start();
}

/** Postgres ends with its agent, but a moment later, and has its port until then. */
async function start(): Promise<void> {
  await eventually(
    "main to start",
    async () => (await cluster.cli("endpoint", "start", "main")).code === 0,
    PATIENCE,
  );
}

async function highest(): Promise<number> {
  const rows = await eventually(
    "main to answer",
    () => cluster.query("main", "select count(*)::int n, coalesce(max(n), 0)::int last from u"),
    PATIENCE,
  );
  const { n, last } = rows[0] as { n: number; last: number };
  assert.equal(n, last, "a row that was committed is gone");
  return last;
}

/** Rows one by one, with what else makes WAL of catalogs and snapshots, until it is told to stop or broken off. */
async function write(isDone: (written: number) => boolean): Promise<number> {
  let n = await highest();
  await withClient(cluster.url(), async (client) => {
    for (let written = 0; !isDone(written); written++) {
      await client.query("insert into u values ($1, $2)", [n + 1, "x".repeat(random.int(2000))]);
      n++;
      const more = random.int(12);
      if (more === 0) {
        await client.query("checkpoint");
      } else if (more === 1) {
        await client.query("alter table u alter v set statistics 100");
      } else if (more === 2) {
        await client.query(
          "begin; create table gone (n int); insert into gone values (1); drop table gone; commit",
        );
      } else if (more === 3) {
        await client.query("select pg_switch_wal()");
      }
    }
  }).catch((error: unknown) => {
    if (error instanceof assert.AssertionError) {
      throw error;
    }
  });
  return n;
}

/** Of inserts into `u`. */
async function numbers(call: string): Promise<number[]> {
  const rows = await cluster.query(
    "main",
    `select substring(data from '^table public.u: INSERT: n\\[integer\\]:(\\d+)')::int n
       from ${call} where data like 'table public.u: INSERT%'`,
  );
  return rows.map(({ n }) => n as number);
}

/** `last`: the highest number that was committed. */
async function check(last: number, isClean: boolean): Promise<void> {
  const all = await numbers("pg_logical_slot_peek_changes('peeks', null, null)");
  assert.deepEqual(all, upTo(1, last), "what was never confirmed");
  const moved = await numbers("pg_logical_slot_get_changes('moves', null, null)");
  const first = moved[0] ?? last + 1;
  assert.deepEqual(moved, upTo(first, last), "in order and without a gap");
  assert.ok(first <= told + 1, `${told} was the last, and now comes ${first}`);
  if (isClean) {
    assert.equal(first, told + 1, "a clean stop has what was confirmed");
  }
  toldTwice += told + 1 - first;
  told = last;
}

const upTo = (first: number, last: number) =>
  Array.from({ length: last - first + 1 }, (_, i) => first + i);

async function round(number: number): Promise<void> {
  // A transaction that has an xid and never writes is in each list of running ones: a snapshot has to know it.
  const open = await connect(cluster.url());
  await open.query("begin");
  await open.query("select txid_current()");
  const last = await write((written) => written >= 5 + random.int(20));
  if (random.int(2) === 0) {
    await check(last, true);
  }
  const how = random.pick(Object.keys(STOPS) as (keyof typeof STOPS)[]);
  let stopped = false;
  const writing = random.int(2) === 0 ? write(() => stopped) : undefined;
  await STOPS[how]();
  stopped = true;
  await writing;
  await open.end().catch(() => undefined);
  await check(await highest(), how.startsWith("fast"));
  if (number % 10 === 9) {
    await cluster.query("main", "select pg_replication_slot_advance('lags', pg_current_wal_lsn())");
    console.log(`round ${number + 1}: ${told} rows, ${toldTwice} told twice`);
  }
}

/** How many pieces of files of logical decoding the pageserver has for the branch, needed or not. */
async function auxFilesInStorage(): Promise<number> {
  const { tenantId, timelineId } = cluster.endpointSpec();
  await cluster.ok("endpoint", "stop", "main");
  await cluster.ok("pageserver", "stop");
  const copy = mkdtempSync(join(tmpdir(), "strata-slots-"));
  try {
    cpSync(join(cluster.home, "pageserver_1"), copy, { recursive: true });
    const manager = await TenantManager.open({
      workdir: copy,
      logger: createLogger("test", "silent"),
      config: {},
      store: undefined,
    });
    const timeline = manager.timeline(parseTenantId(tenantId), parseTimelineId(timelineId));
    const count = [...timeline.scan([KEYSPACE_AUX_FILE], timeline.lastRecordLsn)].length;
    await manager.close({ flush: false });
    return count;
  } finally {
    rmSync(copy, { recursive: true, force: true });
    await cluster.ok("pageserver", "start");
    await start();
  }
}

test(`${ROUNDS} rounds of stops and kills: slots lose nothing and repeat nothing after a clean stop (seed ${SEED})`, async () => {
  for (let number = 0; number < ROUNDS; number++) {
    try {
      await round(number);
    } catch (error) {
      throw new Error(`round ${number}, seed ${SEED}\n${cluster.logTails()}`, { cause: error });
    }
  }
  const slots = await cluster.query(
    "main",
    "select slot_name::text n from pg_replication_slots order by 1",
  );
  assert.deepEqual(
    slots.map(({ n }) => n),
    ["lags", "moves", "peeks"],
  );
  console.log(`${ROUNDS} rounds: ${told} rows, ${toldTwice} told twice`);
});

test("what slots take in storage is what they need, and nothing once they are dropped", async () => {
  const before = await auxFilesInStorage();
  await cluster.query("main", "select pg_drop_replication_slot('peeks')");
  // restart_lsn follows with the running transactions that a checkpoint writes, once what is behind them was confirmed.
  for (let i = 0; i < 3; i++) {
    await cluster.query("main", "checkpoint");
    for (const slot of ["lags", "moves"]) {
      await cluster.query(
        "main",
        `select pg_replication_slot_advance('${slot}', pg_current_wal_lsn())`,
      );
    }
  }
  await stop("fast");
  const needed = await auxFilesInStorage();
  assert.ok(needed >= 2 && needed <= MOST_AUX_FILES, `${needed} files`);
  await cluster.query(
    "main",
    "select pg_drop_replication_slot('lags'), pg_drop_replication_slot('moves')",
  );
  await stop("immediate");
  assert.equal(await auxFilesInStorage(), 0);
  console.log(`files in storage: ${before} with one that never moves, ${needed}, 0`);
});
