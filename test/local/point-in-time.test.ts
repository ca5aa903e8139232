// A branch and a read-only endpoint as of a time: what `--at` takes, what it shows, what it refuses.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";
import { withClient } from "../../testing/tpcb.ts";

let cluster: TestCluster;
/** As Postgres prints them, after the first row and after the second. */
const times: string[] = [];

before(async () => {
  cluster = await TestCluster.create({});
  await cluster.ok("endpoint", "create", "main");
  await cluster.startEndpoint();
  await cluster.query("main", "create table t (n int)");
  for (let n = 1; n <= 3; n++) {
    await cluster.query("main", `insert into t values (${n})`);
    // Some transactions end without a row to see.
    await cluster.query("main", "begin; insert into t values (-1); rollback");
    const [row] = await cluster.query("main", "select clock_timestamp()::text as now");
    times.push(`${row!["now"]}`);
  }
});

after(() => cluster?.[Symbol.asyncDispose]());

async function rowsOf(endpoint: string): Promise<number[]> {
  const rows = await cluster.query(endpoint, "select n from t order by n");
  return rows.map((row) => Number(row["n"]));
}

/** As people write it, in the zone of the process: without one. */
function localTime(text: string): string {
  const date = new Date(text.replace(" ", "T").replace(/(?<=[+-]\d\d)$/, ":00"));
  const two = (value: number) => `${value}`.padStart(2, "0");
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-");
  const micros = /\.(\d+)/.exec(text)?.[1] ?? "0";
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
  return `${day} ${time}.${micros}`;
}

test("branch create --at a time: what had committed by then", async () => {
  await cluster.ok("branch", "create", "first", "--at", times[0]!, "--start");
  assert.deepEqual(await rowsOf("first"), [1]);
  const { code, stdout, stderr } = await cluster.cli(
    "branch",
    "create",
    "second",
    "--at",
    localTime(times[1]!),
  );
  assert.equal(code, 0, stdout + stderr);
  assert.match(stderr, /has no time zone and is taken as local time: \d{4}-\d\d-\d\dT[\d:.]+Z/);
  await cluster.ok("endpoint", "create", "second", "--branch-name", "second");
  await cluster.startEndpoint("second");
  assert.deepEqual(await rowsOf("second"), [1, 2]);
  // Nothing has committed since, and now is not in the future.
  await cluster.ok("branch", "create", "now", "--at", times[2]!, "--start");
  assert.deepEqual(await rowsOf("now"), [1, 2, 3]);
});

test("endpoint create --at: read-only as of a time, or of an LSN", async () => {
  await cluster.ok("endpoint", "create", "past", "--at", times[1]!);
  await cluster.startEndpoint("past");
  assert.deepEqual(await rowsOf("past"), [1, 2]);
  const list = (await cluster.json("endpoint", "list")) as { id: string; lsn: string | null }[];
  const { lsn } = list.find(({ id }) => id === "past")!;
  await cluster.ok("endpoint", "create", "same", "--lsn", lsn!);
  assert.match(
    await cluster.fails("endpoint", "create", "both", "--lsn", lsn!, "--at", times[1]!),
    /--lsn.*cannot be used with.*--at/,
  );
});

test("--at an LSN in the middle of a record, as Postgres tells it: the state before that record", async () => {
  await withClient(cluster.url("main"), async (client) => {
    await client.query("create table filled (filler text)");
    await client.query("begin");
    await client.query("insert into filled select repeat('x', 700) from generate_series(1, 45)");
    // Of an open transaction the WAL writer flushes whole pages, and leaves the last one: but for the list of running transactions,
    // which Postgres writes at times of its own (LogStandbySnapshot), and flushes to its end. Then it takes some more rows.
    const inside = await eventually("a flush up to the last page", async () => {
      const { rows } = await client.query(
        `select f::text lsn, f = page as "isPageEnd", f > page as "isBehind" from pg_current_wal_insert_lsn() i,
           pg_current_wal_flush_lsn() f, lateral (select i - (i - '0/0'::pg_lsn) % 8192 as page) p`,
      );
      const [{ lsn, isPageEnd, isBehind }] = rows as [
        { lsn: string; isPageEnd: boolean; isBehind: boolean },
      ];
      if (isBehind) {
        await client.query(
          "insert into filled select repeat('x', 700) from generate_series(1, 45)",
        );
      }
      return isPageEnd && lsn;
    });
    await cluster.ok("branch", "create", "inside", "--at", inside, "--start");
    await cluster.ok("endpoint", "create", "inside-past", "--at", inside);
    await cluster.startEndpoint("inside-past");
    assert.equal((await rowsOf("inside")).length, 3);
    assert.equal((await rowsOf("inside-past")).length, 3);
    const { rows } = await client.query("select (pg_current_wal_insert_lsn() + 8192)::text lsn");
    assert.match(
      await cluster.fails("branch", "create", "later", "--at", rows[0].lsn),
      /LSN 0\/[0-9A-F]+ is in the future: the newest of branch 'main' is 0\/[0-9A-F]+$/,
    );
    await client.query("rollback");
  });
});

test("--at: times that are not known are refused, with those that are", async () => {
  const refused = async (at: string, why: RegExp, parent = "main") =>
    assert.match(await cluster.fails("branch", "create", "x", "--parent", parent, "--at", at), why);
  const time = String.raw`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z`;
  await refused(
    "2001-02-03 04:05:06+00",
    new RegExp(
      `2001-02-03T04:05:06.000000Z is before the first commit on branch 'main' that is known: give a time from ${time} to now; its last commit was at ${time}$`,
    ),
  );
  await refused(
    "2999-01-01T00:00:00Z",
    new RegExp(
      `2999-01-01T00:00:00.000000Z is in the future: the last commit on branch 'main' was at ${time}$`,
    ),
  );
  await refused("yesterday", /'yesterday' is no LSN, such as 0\/16F9A00, and no time, such as /);
  await refused(
    times[0]!,
    /, LSN 0\/[0-9A-F]+, is before branch 'second' begins, at 0\/[0-9A-F]+; before that its history is that of 'main'$/,
    "second",
  );
});
