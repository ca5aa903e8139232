// `strata.prewarm`: Postgres has in memory after a start what it had before, through the whole of storage.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type ComputeEndpoint, ComputeWorld } from "../../../testing/compute/compute-world.ts";
import { eventually } from "../../../testing/eventually.ts";
import { PREWARM } from "../api.ts";

let world: ComputeWorld;

before(async () => {
  world = await ComputeWorld.start(1);
});

after(() => world.remove());

/** Nine of its rows fill a page. */
const PAGES = 1000;

async function makeTable(endpoint: ComputeEndpoint, name: string): Promise<void> {
  await endpoint.query(
    `CREATE TABLE ${name} AS SELECT n, repeat('x', 800) AS pad FROM generate_series(1, ${PAGES * 9}) n`,
  );
  await endpoint.query(`SELECT count(*) FROM ${name} WHERE pad > ''`);
}

/** Whether all of a table is in Postgres's buffers; a look reads nothing of it. */
async function isHot(endpoint: ComputeEndpoint, name: string): Promise<boolean> {
  const [row] = await endpoint.query(
    `SELECT count(*) FROM pg_buffercache WHERE relfilenode = pg_relation_filenode('${name}')`,
  );
  return Number(row![0]) >= PAGES;
}

test("prewarm: after a stop, and after kill -9, what was in memory is there again before anybody reads it", async () => {
  const { timeline_id } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id, {
    // A scan of a larger part of them would go through a few buffers only.
    settings: { [PREWARM]: "on", shared_buffers: "64MB" },
  });
  await endpoint.start();
  await endpoint.query("CREATE EXTENSION pg_buffercache; CREATE EXTENSION pg_prewarm");
  await makeTable(endpoint, "hot");
  assert.ok(await isHot(endpoint, "hot"));
  await endpoint.daemon.kill("SIGTERM");
  assert.equal(endpoint.daemon.exitCode, 0, endpoint.daemon.log);
  await endpoint.start();
  await eventually("it is in memory", () => isHot(endpoint, "hot"));

  await makeTable(endpoint, "newer");
  await endpoint.query("SELECT autoprewarm_dump_now()");
  const postmaster = (await endpoint.client.status()).postgresPid!;
  process.kill(postmaster, "SIGKILL");
  await endpoint.running(1);
  await eventually("the newer one is after a crash", () => isHot(endpoint, "newer"));
  await endpoint.daemon.kill("SIGTERM");
});

test("prewarm: off where it is not asked for, and what is no boolean ends a start with its reason", async () => {
  const { timeline_id } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id, {});
  await endpoint.start();
  assert.deepEqual(await endpoint.query("SHOW shared_preload_libraries"), [[""]]);
  await endpoint.daemon.kill("SIGTERM");
  const wrong = await world.createEndpoint(timeline_id, { settings: { [PREWARM]: "maybe" } });
  wrong.daemon.start();
  await wrong.daemon.exited();
  assert.match(wrong.daemon.log, /fatal: .*strata.prewarm must be on or off, not 'maybe'/);
});
