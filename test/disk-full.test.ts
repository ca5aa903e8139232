// No disk space on a storage node: commits wait or the request says so, nothing acknowledged is lost, it goes on by itself.

import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { sleep } from "../src/base/clock.ts";
import { TestCluster } from "../testing/cluster.ts";
import { request } from "../testing/damage.ts";
import { eventually } from "../testing/eventually.ts";
import { fillDisk, mountSmallDisk, unmountSmallDisk } from "../testing/small-disk.ts";
import { connect } from "../testing/tpcb.ts";

const DISK_BYTES = 96 * 1024 * 1024;

let cluster: TestCluster;
let disks: string[] = [];
let skip: string | undefined;

before(async () => {
  cluster = await TestCluster.create({ start: false });
  const { home } = cluster;
  disks = [join(home, "pageserver_1"), join(home, "safekeepers", "sk1")];
  for (const disk of disks) {
    skip ??= mountSmallDisk(disk, DISK_BYTES);
  }
  if (skip === undefined) {
    await cluster.ok("start");
    await cluster.ok("tenant", "create", "--set-default");
    await cluster.startEndpoint("main");
    await cluster.query("main", "create table t(i int primary key, pad text)");
  }
});
after(async () => {
  if (cluster !== undefined) {
    await cluster.cli("stop", "--mode", "immediate");
    for (const disk of disks) {
      unmountSmallDisk(disk);
    }
    await cluster[Symbol.asyncDispose]();
  }
});

/** Every acknowledged row is there after all processes died, and none has half a value. */
async function checkRows(acknowledged: readonly number[]): Promise<void> {
  const rows = await cluster.query("main", "select i, length(pad) as n from t");
  const present = new Set(rows.map((row) => row["i"]));
  assert.deepEqual(
    acknowledged.filter((i) => !present.has(i)),
    [],
    "acknowledged rows are lost",
  );
  assert.ok(rows.every((row) => row["n"] === 32_000));
}

/** Inserts one row a statement, from `first` on, until told to stop; the numbers that were acknowledged. */
function insertRows(first: number) {
  const acknowledged: number[] = [];
  let stopped = false;
  const done = (async () => {
    const client = await connect(cluster.url());
    for (let i = first; !stopped; i++) {
      // Not compressible, so that each commit is 32 kB of WAL.
      const pad = "(select string_agg(md5(random()::text), '') from generate_series(1, 1000))";
      await client.query(`insert into t values ($1, ${pad})`, [i]);
      acknowledged.push(i);
    }
    await client.end();
  })();
  done.catch(() => {});
  return {
    acknowledged,
    stop: () => {
      stopped = true;
      return done;
    },
  };
}

test("a safekeeper without space: commits wait, none is lost, it goes on once there is space", async (t) => {
  if (skip !== undefined) {
    t.skip(skip);
    return;
  }
  const load = insertRows(0);
  await eventually("first commits", () => load.acknowledged.length > 20);
  const giveBack = fillDisk(join(cluster.home, "safekeepers", "sk1"));
  try {
    // What was allocated ahead is used up; then nothing is acknowledged any more, and not because the machine has other things to do.
    await eventually("commits to wait, and the safekeeper to say why", async () => {
      const before = load.acknowledged.length;
      await sleep(1500);
      return (
        load.acknowledged.length === before &&
        /"(msg|message|reason)":"[^"]*write WAL: no space left on device/.test(
          cluster.log("safekeepers/sk1/safekeeper.log"),
        )
      );
    });
  } finally {
    giveBack();
  }
  const stuckAt = load.acknowledged.length;
  await eventually("commits go on", () => load.acknowledged.length > stuckAt + 20);
  await load.stop();
  await checkRows(load.acknowledged);
  await cluster.kill9("safekeeper-1");
  await cluster.kill9("agent-main");
  await cluster.ok("safekeeper", "start", "1");
  await cluster.ok("endpoint", "start", "main");
  await checkRows(load.acknowledged);
});

test("a pageserver without space: a checkpoint says so, reads and commits go on, later it succeeds", async (t) => {
  if (skip !== undefined) {
    t.skip(skip);
    return;
  }
  const { tenantId, timelineId } = cluster.endpointSpec();
  const http = cluster.config().pageservers[0]!.listenHttpAddr;
  const checkpoint = () =>
    request(http, "PUT", `/v1/tenant/${tenantId}/timeline/${timelineId}/checkpoint`);
  const giveBack = fillDisk(join(cluster.home, "pageserver_1"));
  const load = insertRows(1_000_000);
  try {
    await eventually("commits", () => load.acknowledged.length > 50);
    const answer = await checkpoint();
    assert.equal(answer.status, 503);
    assert.match(answer.msg, /no space left on device/);
    const soFar = load.acknowledged.length;
    await eventually("commits go on", () => load.acknowledged.length > soFar);
    assert.match(
      await cluster.fails("timeline", "branch", "--branch-name", "full"),
      /^command failed: (?:pageserver .*: )?write .*\/index_part\.json: no space left on device$/,
    );
  } finally {
    giveBack();
    await load.stop();
  }
  await eventually("a checkpoint succeeds", async () => (await checkpoint()).status === 200);
  await cluster.ok("timeline", "branch", "--branch-name", "full");
  await cluster.ok("endpoint", "stop", "main");
  await cluster.kill9("pageserver");
  await cluster.ok("pageserver", "start");
  await cluster.ok("endpoint", "start", "main");
  await checkRows(load.acknowledged);
});
