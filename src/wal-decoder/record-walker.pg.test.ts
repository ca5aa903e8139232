import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { StockCluster } from "../../testing/stock-cluster.ts";
import { readWalFiles } from "../../testing/wal-files.ts";
import { type Lsn, parseLsn, toLsn, WAL_SEGMENT_SIZE } from "../base/lsn.ts";
import { RecordWalker } from "./record-walker.ts";

test("RecordWalker: every record end is the one Postgres reports, over segment switches", async (t) => {
  const cluster = await StockCluster.create();
  t.after(() => cluster.destroy());
  await cluster.start();
  const client = await cluster.connect();
  await client.query("CREATE EXTENSION pg_walinspect");
  await client.query("CREATE TABLE t (id int PRIMARY KEY, body text)");
  await client.query(
    "INSERT INTO t SELECT i, repeat('x', i % 3000) FROM generate_series(1, 3000) i",
  );
  await client.query("SELECT pg_switch_wal()");
  await client.query("CREATE INDEX ON t (body text_pattern_ops) WHERE length(body) < 1000");
  // One record of several MB, over a segment's end.
  await client.query("SELECT pg_logical_emit_message(false, 'p', repeat('y', 18 * 1024 * 1024))");
  await client.query("UPDATE t SET body = body || 'z' WHERE id % 3 = 0");
  await client.query("SELECT pg_switch_wal()");
  await client.query("CHECKPOINT");
  const first = toLsn(WAL_SEGMENT_SIZE);
  const answer = await client.query<{ start: string; end: string }>(
    `SELECT start_lsn::text AS start, end_lsn::text AS end
       FROM pg_get_wal_records_info('0/1000028', pg_current_wal_flush_lsn())`,
  );
  const records = answer.rows.map(({ end }) => parseLsn(end) as Lsn);
  assert.ok(records.length > 20_000, `only ${records.length} records`);
  await cluster.stop("immediate");
  const last = records.at(-1)!;
  const walker = new RecordWalker({ startLsn: first, segmentSize: WAL_SEGMENT_SIZE });
  let next = 0;
  for (const chunk of readWalFiles(join(cluster.dataDir, "pg_wal"), first, last, 65_536)) {
    let at = 0;
    while (at < chunk.length) {
      // Up to one byte before each record's end, then up to it: whole exactly there.
      const end = Math.min(chunk.length, at + (records[next] ?? last) - walker.position);
      if (end - at > 1) {
        walker.feed(chunk.subarray(at, end - 1));
        at = end - 1;
        assert.equal(walker.recordEndLsn, next === 0 ? first : records[next - 1]);
      }
      walker.feed(chunk.subarray(at, end));
      at = end;
      if (walker.position === records[next]) {
        assert.equal(walker.recordEndLsn, records[next]);
        next += 1;
      }
    }
  }
  assert.equal(next, records.length);
});
