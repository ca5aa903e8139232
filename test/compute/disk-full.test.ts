// No disk space for a compute's data directory: statements say so, nothing acknowledged is lost, it goes on once there is space.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { monotonicMs } from "../../src/base/clock.ts";
import { errnoCode, errorMessage } from "../../src/base/errors.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";
import { fillDisk, mountSmallDisk, unmountSmallDisk } from "../../testing/small-disk.ts";
import { connect } from "../../testing/tpcb.ts";

const DISK_BYTES = 256 * 1024 * 1024;
const ROW_BYTES = 32_000;
const COLD_ROWS = 20_000;
/**
 * The second is what Postgres says where a part of a block found room (mdextend, md.c), the rest what clients hear where it was WAL that
 * found none: whoever panics, also the WAL writer between two statements, takes all sessions with it, and for a while refuses new ones.
 */
const NO_SPACE =
  /No space left on device|wrote only \d+ of|Connection terminated|ECONNRESET|EPIPE|57P0[23]/;

let cluster: TestCluster;
let disk = "";
let skip: string | undefined;

before(async () => {
  cluster = await TestCluster.create();
  await cluster.startEndpoint("main");
  await cluster.query(
    "main",
    "create table t (i int primary key, pad text)",
    // Not compressed, so that each row takes pages and WAL.
    "alter table t alter pad set storage external",
    "create table cold (i int, pad text)",
    `insert into cold select i, repeat('x', 500) from generate_series(1, ${COLD_ROWS}) i`,
    "vacuum freeze cold",
  );
  // Where the data directory really lies: not below the home where Postgres's user may not enter that.
  disk = dirname(readlinkSync(`/proc/${cluster.pid("postgres-main")}/cwd`));
  await cluster.ok("endpoint", "stop", "main");
  const aside = join(cluster.home, "..", "aside");
  mkdirSync(aside);
  execFileSync("cp", ["-a", `${disk}/.`, aside]);
  skip = mountSmallDisk(disk, DISK_BYTES);
  if (skip === undefined) {
    execFileSync("cp", ["-a", `${aside}/.`, disk]);
    execFileSync("chmod", ["--reference", aside, disk]);
    await cluster.ok("endpoint", "start", "main");
  }
});
after(async () => {
  if (cluster !== undefined) {
    await cluster.cli("stop", "--mode", "immediate");
    if (disk !== "" && skip === undefined) {
      unmountSmallDisk(disk);
    }
    await cluster[Symbol.asyncDispose]();
  }
});

/** What the statement fails with; undefined where it succeeds. */
async function failure(sql: string): Promise<string | undefined> {
  try {
    const client = await connect(cluster.url());
    try {
      await client.query(sql);
    } finally {
      await client.end().catch(() => undefined);
    }
    return undefined;
  } catch (error) {
    return `${errnoCode(error)} ${errorMessage(error)}`;
  }
}

test("a cold table that finds no space to be read into: an error that says so, of that query only", async (t) => {
  if (skip !== undefined) {
    t.skip(skip);
    return;
  }
  assert.equal(await failure("select count(*) from t"), undefined);
  assert.equal(await failure("explain select count(*) from cold"), undefined);
  const giveBack = fillDisk(disk);
  try {
    assert.match(
      (await failure("select count(pad) from cold")) ?? "no failure",
      /^53100 could not read blocks? .*: No space left on device/,
    );
    assert.equal(await failure("select count(*) from t"), undefined);
  } finally {
    giveBack();
  }
  const rows = await cluster.query(
    "main",
    "select count(*)::int as n, sum(i)::int as s, min(length(pad)) as l from cold",
  );
  assert.deepEqual(rows, [{ n: COLD_ROWS, s: (COLD_ROWS * (COLD_ROWS + 1)) / 2, l: 500 }]);
});

test("writes without space fail; what was acknowledged is there, later and after a restart", async (t) => {
  if (skip !== undefined) {
    t.skip(skip);
    return;
  }
  const acknowledged: number[] = [];
  const failures: string[] = [];
  let next = 0;
  const insertUntil = async (enough: () => boolean, beforeEach?: () => void) => {
    const deadline = monotonicMs() + 60_000;
    while (!enough()) {
      assert.ok(monotonicMs() < deadline, failures.slice(-3).join("\n"));
      beforeEach?.();
      const i = next++;
      const failed = await failure(
        `insert into t select ${i}, string_agg(md5(random()::text), '') from generate_series(1, ${ROW_BYTES / 32})`,
      );
      if (failed === undefined) {
        acknowledged.push(i);
      } else {
        failures.push(failed);
      }
    }
  };
  const check = async () => {
    const rows = await cluster.query("main", "select i, length(pad) as n from t");
    const present = new Set(rows.map((row) => row["i"]));
    assert.deepEqual(
      acknowledged.filter((i) => !present.has(i)),
      [],
      "acknowledged rows are lost",
    );
    assert.ok(rows.every((row) => row["n"] === ROW_BYTES));
  };
  await insertUntil(() => acknowledged.length >= 20);
  const giveBack = fillDisk(disk);
  try {
    // A checkpoint may have given WAL back.
    await insertUntil(
      () => failures.length >= 3,
      () => fillDisk(disk),
    );
    assert.match(failures[0]!, NO_SPACE);
  } finally {
    giveBack();
  }
  // The same Postgres goes on; or where it was WAL that found no space, which is a panic, a new one.
  const soFar = acknowledged.length;
  await eventually("queries go on", async () => (await failure("select 1")) === undefined);
  await insertUntil(() => acknowledged.length >= soFar + 20);
  await check();
  await cluster.kill9("postgres-main");
  await cluster.kill9("agent-main");
  await cluster.ok("endpoint", "start", "main");
  await check();
});
