// Several majors end to end in one home: load, a branch in the past, kill -9, restart; then all at once.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { sleep } from "../src/base/clock.ts";
import { TestCluster } from "../testing/cluster.ts";
import { EACH_MAJOR } from "../testing/each-major.ts";
import { eventually } from "../testing/eventually.ts";
import {
  checkConsistency,
  checkTpcb,
  initializeTpcb,
  TpcbLoad,
  withClient,
} from "../testing/tpcb.ts";

const LOAD_MS = 1000;

let cluster: TestCluster;
before(async () => {
  cluster = await TestCluster.create({ start: false });
  await cluster.ok("start");
});
after(() => cluster?.[Symbol.asyncDispose]());

/** A tenant id that says its major. */
function tenantOf(major: number): string {
  return `${major}`.padStart(32, "0");
}

/** One table, an index of each method on it, and what only this index can answer quickly. */
const INDEXES: readonly (readonly [method: string, definition: string, condition: string])[] = [
  ["btree", "using btree (id)", "id between 100 and 700"],
  ["hash", "using hash (word)", "word = 'w42'"],
  ["gin", "using gin (tags)", "tags @> array[7]"],
  ["gist", "using gist (span)", "span && int4range(500, 520)"],
  ["spgist", "using spgist (place)", "place <@ box '(0,0),(20,20)'"],
  ["brin", "using brin (id) with (pages_per_range = 4)", "id between 1000 and 1100"],
  ["bloom", "using bloom (a, b)", "a = 3 and b = 13"],
];

async function createIndexed(url: string): Promise<void> {
  await withClient(url, async (client) => {
    await client.query("create extension bloom");
    await client.query(
      "create table indexed(id int, word text, tags int[], span int4range, place point, a int, b int)",
    );
    for (const [method, definition] of INDEXES) {
      await client.query(`create index indexed_${method} on indexed ${definition}`);
    }
    // The first half is inserted into the indexes, then all are built anew from the whole.
    const insert = `insert into indexed select i, 'w' || i % 100, array[i % 10, i % 17],
      int4range(i, i + 10), point(i % 50, i % 70), i % 10, i % 20 from generate_series`;
    await client.query(`${insert}(1, 1500) i`);
    await client.query("delete from indexed where id % 3 = 0");
    await client.query("vacuum indexed");
    await client.query(`${insert}(1501, 3000) i`);
    await client.query("reindex index indexed_gist");
  });
}

/** What differs between majors outside of pages: relation maps, databases, prepared transactions. */
async function createOthers(url: string, other: string, major: number): Promise<void> {
  await withClient(url, async (client) => {
    await client.query("create database wal_logged");
    // Before 15 all were copied file by file.
    await client.query(`create database copied${major >= 15 ? " strategy file_copy" : ""}`);
    await client.query("vacuum full pg_class");
    await client.query("vacuum full pg_database");
    await client.query("create unlogged table scratch as select 1 as n");
    await client.query("create table undecided(n int)");
    await client.query("begin; insert into undecided values (1); prepare transaction 'undecided'");
  });
  await withClient(other, (client) =>
    client.query("create table elsewhere as select generate_series(1, 1000) n"),
  );
}

async function checkOthers(id: string, rows: { undecided: number }): Promise<void> {
  const elsewhere = await withClient(cluster.url(id, "copied"), (client) =>
    client.query("select sum(n)::int s from elsewhere"),
  );
  assert.deepEqual(elsewhere.rows, [{ s: 500_500 }]);
  const counts = await cluster.query(
    id,
    `select (select count(*)::int from undecided) undecided, (select count(*)::int from scratch) scratch,
       (select count(*)::int from pg_prepared_xacts) prepared`,
  );
  assert.deepEqual(counts, [{ ...rows, scratch: 0, prepared: 1 - rows.undecided }]);
}

/** What each index answers; it must be what a scan of the whole table answers. */
async function answers(url: string): Promise<Record<string, number>> {
  return withClient(url, async (client) => {
    const found: Record<string, number> = {};
    for (const [method, , condition] of INDEXES) {
      const count = async (indexed: boolean) => {
        await client.query(`set enable_seqscan = ${indexed ? "off" : "on"};
          set enable_indexscan = ${indexed}; set enable_bitmapscan = ${indexed};
          set enable_indexonlyscan = ${indexed}`);
        const result = await client.query(`select count(*)::int n from indexed where ${condition}`);
        return (result.rows[0] as { n: number }).n;
      };
      found[method] = await count(true);
      assert.equal(found[method], await count(false), `index and table differ: ${method}`);
      assert.ok(found[method] > 0, `${method} finds nothing`);
    }
    return found;
  });
}

for (const major of EACH_MAJOR) {
  test(`PostgreSQL ${major}: load, a branch in the past, kill -9, clean restart`, async () => {
    const id = `pg${major}`;
    const branch = `past${major}`;
    const tenant = ["--tenant-id", tenantOf(major)];
    // Postgres then refuses any page whose checksum storage did not make right.
    const checksums = major % 2 === 0;
    await cluster.ok(
      ...["tenant", "create", ...tenant, "--pg-version", `${major}`],
      ...(checksums ? ["--data-checksums"] : []),
    );
    await cluster.ok("endpoint", "create", id, ...tenant, "-c", "autovacuum_naptime=1s");
    await cluster.ok("endpoint", "start", id);
    const url = cluster.url(id);
    await createIndexed(url);
    await createOthers(url, cluster.url(id, "copied"), major);
    const expected = await answers(url);
    await initializeTpcb(url);

    const load = new TpcbLoad(url, { clients: 4, seed: major });
    let early: readonly string[];
    try {
      await sleep(LOAD_MS / 2);
      early = [...load.acknowledged];
      // An LSN after those commits and in the middle of others.
      const [{ lsn }] = (await cluster.query(id, "select pg_current_wal_lsn()::text lsn")) as [
        { lsn: string },
      ];
      await sleep(LOAD_MS / 2);
      await cluster.ok(
        ...["timeline", "branch", ...tenant, "--branch-name", branch],
        ...["--ancestor-start-lsn", lsn],
      );
      await cluster.kill9(`postgres-${id}`);
      await eventually(`${id} comes back`, () => cluster.query(id, "select 1"));
      await load.progress(20);
    } finally {
      await load.stop();
    }
    const rows = await checkTpcb(url, load.acknowledged);
    assert.deepEqual(await answers(url), expected);
    await checkOthers(id, { undecided: 0 });
    await cluster.query(id, "commit prepared 'undecided'");
    await checkConsistency(url);

    await cluster.ok("endpoint", "create", branch, ...tenant, "--branch-name", branch);
    await cluster.ok("endpoint", "start", branch);
    const past = await checkTpcb(cluster.url(branch), early);
    assert.ok(past < rows, `the branch has ${past} of ${rows} transactions`);
    assert.deepEqual(await answers(cluster.url(branch)), expected);
    await checkOthers(branch, { undecided: 0 });
    await checkConsistency(cluster.url(branch));
    await cluster.ok("endpoint", "stop", branch);

    // A shutdown checkpoint, and a start from what it left.
    await cluster.ok("endpoint", "stop", id);
    await cluster.ok("endpoint", "start", id);
    assert.equal(await checkTpcb(url, load.acknowledged), rows);
    assert.deepEqual(await answers(url), expected);
    await checkOthers(id, { undecided: 1 });
    const [settings] = await cluster.query(
      id,
      `select current_setting('server_version_num')::int / 10000 as major,
         current_setting('data_checksums') as checksums,
         (select coalesce(sum(checksum_failures), 0)::int from pg_stat_database) as failures`,
    );
    assert.deepEqual(settings, { major, checksums: checksums ? "on" : "off", failures: 0 });
    await cluster.ok("endpoint", "stop", id);
  });
}

test("all majors at once, each listed with its own; an endpoint of another major is refused", async () => {
  const listed = (await cluster.ok("tenant", "list")).trim().split("\n").sort();
  assert.deepEqual(
    listed,
    EACH_MAJOR.map((major) => `${tenantOf(major)} Active`),
  );
  await Promise.all(EACH_MAJOR.map((major) => cluster.ok("endpoint", "start", `pg${major}`)));
  for (const major of EACH_MAJOR) {
    const tenant = ["--tenant-id", tenantOf(major)];
    const [row] = await cluster.query(`pg${major}`, "show server_version");
    assert.match(String(row!["server_version"]), new RegExp(`^${major}\\.`));
    for (const listing of ["branch", "endpoint"]) {
      const rows = (await cluster.json(listing, "list", ...tenant)) as { pg_version: number }[];
      assert.deepEqual(
        rows.map((one) => one.pg_version),
        [major, major],
        listing,
      );
    }
  }
  const spec = cluster.endpointSpec("past14");
  const path = join(cluster.home, "endpoints", "past14", "endpoint.json");
  writeFileSync(path, JSON.stringify({ ...spec, pgVersion: 15 }));
  assert.match(
    await cluster.fails("endpoint", "start", "past14"),
    /the timeline is of PostgreSQL 14, the endpoint of 15/,
  );
});
