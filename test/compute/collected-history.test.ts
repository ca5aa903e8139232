// Computes beside a pageserver that keeps no history: garbage collection at horizon 0 and compaction, again and again, while they read.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type Lsn, parseLsn } from "../../src/base/lsn.ts";
import { LOCAL_CACHE } from "../../src/compute/api.ts";
import { type ComputeEndpoint, ComputeWorld } from "../../testing/compute/compute-world.ts";
import { eventually } from "../../testing/eventually.ts";

/** 15 MB, of which the first update makes another. */
const ROWS = 20_000;
const SETTINGS = { [LOCAL_CACHE]: "16MB", shared_buffers: "2MB", autovacuum: "off" };
const SUMS = `SELECT count(*), sum(n), min(round), max(round),
  bool_and(pad = repeat(n || ':' || round || ' ', 100)) FROM big`;
const BY_INDEX = "SET enable_seqscan = off; SELECT count(*) FROM big WHERE n > 0";

let world: ComputeWorld;

before(async () => {
  world = await ComputeWorld.start(1);
  await world.pages().patchTenantConfig(world.tenantId, { pitr_interval: "0s", gc_horizon: 0 });
});

after(() => world.remove());

const sumsOf = (round: number) => [
  [`${ROWS}`, `${(ROWS * (ROWS + 1)) / 2}`, `${round}`, `${round}`, "t"],
];

/** Of `big`, on a branch of its own. */
async function primary(): Promise<{ endpoint: ComputeEndpoint; timelineId: string }> {
  const { timeline_id: timelineId } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timelineId, { settings: SETTINGS });
  await endpoint.start();
  await endpoint.query(
    `CREATE TABLE big AS SELECT n, 0 AS round, repeat(n || ':0 ', 100) AS pad FROM generate_series(1, ${ROWS}) n`,
  );
  await endpoint.query("CREATE INDEX big_n ON big (n)");
  return { endpoint, timelineId };
}

/**
 * What the endpoint has written is history, but for its last records: nothing below is
 * readable but what somebody holds. Gives where what is readable begins.
 */
async function collect(timelineId: string, endpoint?: ComputeEndpoint): Promise<Lsn> {
  if (endpoint !== undefined) {
    await endpoint.query("CHECKPOINT");
    await endpoint.query("CHECKPOINT");
    await takenIn(endpoint, timelineId);
  }
  const pages = world.pages();
  await pages.checkpoint(world.tenantId, timelineId);
  const request = { dryRun: false, force: true };
  const { gc_cutoff_lsn } = await pages.doGc(world.tenantId, timelineId, request);
  await pages.compact(world.tenantId, timelineId);
  return parseLsn(gc_cutoff_lsn)!;
}

async function lsnOf(endpoint: ComputeEndpoint): Promise<string> {
  return (await endpoint.query("SELECT pg_current_wal_flush_lsn()"))[0]![0]!;
}

/** Storage has taken in all that the endpoint has committed. */
async function takenIn(endpoint: ComputeEndpoint, timelineId: string): Promise<void> {
  const lsn = parseLsn(await lsnOf(endpoint))!;
  await eventually("storage to have it", async () => {
    const { last_record_lsn } = await world.pages().getTimeline(world.tenantId, timelineId);
    return parseLsn(last_record_lsn)! >= lsn;
  });
}

/** Bytes that the endpoint had written and has given back to the disk. */
async function writtenAndGone(endpoint: ComputeEndpoint): Promise<number> {
  const metrics = await fetch(`http://127.0.0.1:${endpoint.spec.internalHttpPort}/metrics`);
  return Number(/written_evicted_bytes (\d+)/.exec(await metrics.text())![1]);
}

async function replayed(replica: ComputeEndpoint, of: ComputeEndpoint): Promise<void> {
  const lsn = parseLsn(await lsnOf(of))!;
  await eventually("the replica to have it", async () => {
    const [[at]] = (await replica.query("SELECT pg_last_wal_replay_lsn()")) as [[string]];
    return parseLsn(at)! >= lsn;
  });
}

test("gc at horizon 0: what a compute has given back of its own writes comes again, and after a suspend", async () => {
  const { endpoint, timelineId } = await primary();
  const rounds = 2;
  for (let round = 1; round <= rounds; round++) {
    const before = parseLsn(await lsnOf(endpoint))!;
    const gone = await writtenAndGone(endpoint);
    await endpoint.query(`UPDATE big SET round = ${round}, pad = repeat(n || ':${round} ', 100)`);
    await endpoint.query("VACUUM (TRUNCATE off) big");
    await endpoint.query("CHECKPOINT");
    await eventually("what was written is given back", async () => {
      await endpoint.query("SELECT 1");
      return (await writtenAndGone(endpoint)) > gone + 2 ** 20;
    });
    const [cutoff, ...sums] = await Promise.all([
      collect(timelineId, endpoint),
      endpoint.query(SUMS),
      endpoint.query(SUMS),
    ]);
    assert.ok(cutoff > before, "what was read before is not readable any more");
    sums.push(await endpoint.query(SUMS));
    assert.deepEqual(sums, [sumsOf(round), sumsOf(round), sumsOf(round)]);
    assert.deepEqual(await endpoint.query(BY_INDEX), [[`${ROWS}`]]);
  }

  // Of a life that is over nothing is held: the next one begins at the head, or is told so.
  await endpoint.daemon.kill("SIGTERM");
  await collect(timelineId);
  await endpoint.start();
  await collect(timelineId);
  assert.deepEqual(await endpoint.query(SUMS), sumsOf(rounds));
  assert.deepEqual(await endpoint.query(BY_INDEX), [[`${ROWS}`]]);
  await endpoint.daemon.kill("SIGTERM");
});

test("gc at horizon 0: a static endpoint and a replica go on, and begin behind it", async () => {
  const { endpoint, timelineId } = await primary();
  await takenIn(endpoint, timelineId);
  const past = await world.createEndpoint(timelineId, {
    mode: { static: await lsnOf(endpoint) },
    settings: SETTINGS,
  });
  const replica = await world.createEndpoint(timelineId, { mode: "replica", settings: SETTINGS });
  await Promise.all([past.start(), replica.start()]);
  // All that either has not read yet is of before what is collected now.
  for (const round of [1, 2]) {
    await endpoint.query(`UPDATE big SET round = ${round}, pad = repeat(n || ':${round} ', 100)`);
    const cutoff = await collect(timelineId, endpoint);
    assert.ok(cutoff > parseLsn((past.spec.mode as { static: string }).static)!);
    assert.deepEqual(await past.query(SUMS), sumsOf(0));
    await replayed(replica, endpoint);
    assert.deepEqual(await replica.query(SUMS), sumsOf(round));
  }
  await past.daemon.kill("SIGTERM");
  await replica.daemon.kill("SIGTERM");
  // Nothing of where it begins is above the cutoff.
  await endpoint.daemon.kill("SIGTERM");
  await collect(timelineId);
  await replica.start();
  assert.deepEqual(await replica.query(SUMS), sumsOf(2));
  await collect(timelineId);
  assert.deepEqual(await replica.query(BY_INDEX), [[`${ROWS}`]]);
  await replica.daemon.kill("SIGTERM");
});
