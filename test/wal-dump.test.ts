// `strata wal dump` on a running home: LSNs of a branch, a safekeeper's directory, and what it refuses.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { globSync } from "node:fs";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { formatLsn, parseLsn } from "../src/base/lsn.ts";
import { TestCluster } from "../testing/cluster.ts";
import { withClient } from "../testing/tpcb.ts";

const MAIN = join(import.meta.dirname, "..", "src", "cli", "main.ts");

let cluster: TestCluster;
let range: { start: string; end: string };

before(async () => {
  cluster = await TestCluster.create();
  await cluster.startEndpoint();
  range = await withClient(cluster.url(), async (client) => {
    const now = async () =>
      (await client.query<{ lsn: string }>("select pg_current_wal_flush_lsn()::text as lsn"))
        .rows[0]!.lsn;
    const start = await now();
    await client.query("create table dumped(id int primary key, filler text)");
    await client.query(
      "insert into dumped select i, repeat('x', 500) from generate_series(1, 20000) i",
    );
    return { start, end: await now() };
  });
});
after(() => cluster?.[Symbol.asyncDispose]());

function records(text: string): { lsn: string; prev_lsn: string; type: string; rmgr: string }[] {
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
}

test("LSNs of a branch: every record between them, each the successor of the one before", async () => {
  const all = records(await cluster.ok("wal", "dump", "--json", `${range.start}..${range.end}`));
  assert.equal(all[0]!.lsn, range.start);
  for (let i = 1; i < all.length; i++) {
    assert.equal(all[i]!.prev_lsn, all[i - 1]!.lsn);
  }
  assert.ok(
    all.filter(({ rmgr, type }) => rmgr === "Heap" && /^INSERT/.test(type)).length >= 20_000,
  );
  const lines = (await cluster.ok("wal", "dump", `${range.start}..`, "-r", "heap", "-n", "7"))
    .trim()
    .split("\n");
  assert.equal(lines.length, 7);
  assert.match(
    lines[0]!,
    /^rmgr: Heap {8}len \(rec\/tot\): +\d+\/ +\d+, tx: +\d+, lsn: 0\/[0-9A-F]{8}, /,
  );
});

test("a safekeeper's directory has the same, and the WAL from before the first compute", async () => {
  const [segment] = globSync("safekeepers/**/00000001????????????????", { cwd: cluster.home });
  const directory = join(cluster.home, dirname(segment!));
  const both = await Promise.all([
    cluster.ok("wal", "dump", directory, "-s", range.start, "-e", range.end),
    cluster.ok("wal", "dump", `${range.start}..${range.end}`),
  ]);
  assert.equal(both[0], both[1]);
  assert.match(await cluster.ok("wal", "dump", directory, "-n", "1"), /^rmgr: XLOG .*CHECKPOINT/);
});

test("output to a pipe that closes ends quietly; trouble is one line and exit code 1", async () => {
  const node = process.execPath;
  const line = `"${node}" "${MAIN}" wal dump ${range.start}..${range.end} | head -n 1; echo $PIPESTATUS`;
  const answer = execFileSync("bash", ["-c", line], {
    encoding: "utf8",
    env: { ...process.env, STRATA_HOME: cluster.home },
    stdio: ["ignore", "pipe", "inherit"],
  });
  assert.match(answer, /^rmgr: .*\n0\n$/);
  const refused = async (want: RegExp, ...args: string[]) => {
    const { code, stderr, stdout } = await cluster.cli("wal", "dump", ...args);
    assert.equal(code, 1);
    assert.equal(stdout, "");
    assert.match(stderr, want);
    assert.equal(stderr.split("\n").length, 2, stderr);
  };
  const future = formatLsn((parseLsn(range.end)! + 2 ** 30) as never);
  await refused(/^command failed: WAL from .* is wanted; the safekeepers have/, `${future}..`);
  await refused(/is not behind/, `${range.end}..${range.start}`);
  await refused(/is not on this safekeeper/, "--timeline-id", "0".repeat(32), `${range.start}..`);
  await refused(/\/etc\/passwd is not WAL of Postgres 14 to 18/, "/etc/passwd");
  await refused(/--block requires --relation/, "--block", "1", `${range.start}..`);
  await refused(/resource manager/, "-r", "nope", `${range.start}..`);
});
