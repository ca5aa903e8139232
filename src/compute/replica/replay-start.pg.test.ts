// Stock recovery begins at what synthesizeReplayStart() lays out, wherever on its pages R and the record before it are.

import assert from "node:assert/strict";
import { readFileSync, rmSync } from "node:fs";
import { after, before, test } from "node:test";
import { StoppedCluster, startPostgres } from "../../../testing/synthesized-cluster.ts";
import { addLsn, alignLsn, formatLsn, parseLsn } from "../../base/lsn.ts";

let cluster: StoppedCluster;

before(async () => {
  cluster = await StoppedCluster.create();
});

after(() => cluster.remove());

const BASE = parseLsn("0/5000000")!;
const PAGE = 8192;
const SEGMENT = 16 * 1024 * 1024;

/** Where the record before R begins, and R. */
const PLACES: readonly [string, number, number][] = [
  ["in the middle of a page", PAGE + 1000, PAGE + 1056],
  ["behind a record of the least length", PAGE + 1000, PAGE + 1024],
  ["behind one a little longer", PAGE + 1000, PAGE + 1032],
  ["behind one with a long header", PAGE + 1000, PAGE + 1000 + 288],
  ["behind one that goes over pages", PAGE + 1000, 4 * PAGE + 504],
  ["at a page's end", PAGE + 8000, 2 * PAGE],
  ["behind the first record of a page", PAGE + 24, PAGE + 80],
  ["behind the second record of a page", PAGE + 80, PAGE + 136],
  ["behind the first record of a segment", 40, 96],
  ["behind one that goes over a segment's end", SEGMENT - 40, SEGMENT + 200],
  ["at a segment's end", SEGMENT - 120, SEGMENT],
];

for (const [name, prevOffset, offset] of PLACES) {
  test(`writeDataDirectory: recovery goes on ${name}`, async () => {
    const lsn = addLsn(BASE, offset);
    const { path, args } = await cluster.synthesize(`replay-${prevOffset}-${offset}`, lsn, {
      standby: true,
      replay: { running: undefined, consistentLsn: lsn },
      prevRecordLsn: addLsn(BASE, prevOffset),
    });
    const run = await startPostgres(path, [...args, "-c", "fsync=off"]);
    try {
      const sql = await run.connect();
      const { rows } = await sql.query(
        "SELECT pg_last_wal_replay_lsn(), count(*), pg_is_in_recovery() FROM numbers",
      );
      assert.deepEqual(rows, [[formatLsn(alignLsn(lsn)), "1000", "t"]]);
      sql.close();
    } finally {
      await run.process.stop("immediate");
      rmSync(path, { recursive: true, force: true });
    }
  });
}

test("writeDataDirectory: where transactions run, recovery opens for nobody before it knows them", async () => {
  const lsn = addLsn(BASE, PAGE + 1056);
  const directory = await cluster.synthesize("replay-running", lsn, {
    standby: true,
    replay: { running: { oldestXid: 740, nextXid: 745 }, consistentLsn: lsn },
    prevRecordLsn: addLsn(BASE, PAGE + 1000),
  });
  const { path, args } = directory;
  await assert.rejects(startPostgres(path, [...args, "-c", "fsync=off"]));
  const log = readFileSync(`${path}.log`, "utf8");
  assert.match(log, /consistent recovery state reached/);
  assert.doesNotMatch(log, /ready to accept/);
});
