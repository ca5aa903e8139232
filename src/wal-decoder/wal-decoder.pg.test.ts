// Judges the WAL decoder by Postgres's own: pg_walinspect over a mixed workload.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { prepareMixedWorkload, runMixedWorkload } from "../../testing/mixed-workload.ts";
import { StockCluster } from "../../testing/stock-cluster.ts";
import { readWalFiles } from "../../testing/wal-files.ts";
import { formatLsn, type Lsn, parseLsn } from "../base/lsn.ts";
import { SeededRandom } from "../base/random.ts";
import { encodeCheckPoint } from "../postgres/checkpoint.ts";
import { decodeControlFile } from "../postgres/control-file.ts";
import { restoreImage } from "../postgres/fpi.ts";
import { PAGE_SIZE } from "../postgres/page.ts";
import { decodeRelationMap } from "../postgres/relation-map.ts";
import { rmgrName } from "../postgres/rmgr.ts";
import { PG_VERSIONS } from "../postgres/versions.ts";
import { interpretRecord } from "./interpret-record.ts";
import type { RecordSink } from "./record-sink.ts";
import { WalStream } from "./wal-stream.ts";

const { pageMagic } = PG_VERSIONS[17];
const SAMPLES = join(import.meta.dirname, "testdata", "records-17.hex.txt");
const MAX_SAMPLE = 600;

interface RecordInfo {
  readonly start_lsn: string;
  readonly end_lsn: string;
  readonly prev_lsn: string;
  readonly xid: string;
  readonly resource_manager: string;
  readonly record_length: number;
  readonly main_data_length: number;
}

let cluster: StockCluster;
let startLsn: Lsn;
let endLsn: Lsn;
let infos: RecordInfo[];
let blocks: string[];

before(async () => {
  cluster = await StockCluster.create({ settings: { wal_compression: "pglz" } });
  await cluster.start();
  const client = await cluster.connect();
  await client.query("CREATE EXTENSION pg_walinspect");
  const first = await client.query<{ lsn: string }>(
    "SELECT pg_current_wal_flush_lsn()::text AS lsn",
  );
  startLsn = parseLsn(first.rows[0]!.lsn)!;
  await prepareMixedWorkload(client);
  await runMixedWorkload(cluster, { scale: 0.3 });
  await client.query("SELECT pg_switch_wal()");
  await client.query("CREATE TABLE after_switch AS SELECT 1");
  // A record of many pages, and one of several megabytes.
  for (const bytes of [9_000, 100_000, 20_000_000]) {
    await client.query("SELECT pg_logical_emit_message(true, 'test', repeat('m', $1))", [bytes]);
  }
  // More object ids than one NEXTOID record hands out.
  await client.query("SELECT lo_create(0) FROM generate_series(1, 9000)");
  await client.query("CHECKPOINT");
  await client.query("CREATE TABLE after_checkpoint AS SELECT g FROM generate_series(1, 1000) g");
  const last = await client.query<{ lsn: string }>(
    "SELECT pg_current_wal_flush_lsn()::text AS lsn",
  );
  endLsn = parseLsn(last.rows[0]!.lsn)!;
  const range = [formatLsn(startLsn), formatLsn(endLsn)];
  infos = (
    await client.query<RecordInfo>(
      `SELECT start_lsn::text, end_lsn::text, prev_lsn::text, xid::text, resource_manager,
         record_length, main_data_length FROM pg_get_wal_records_info($1, $2)`,
      range,
    )
  ).rows;
  blocks = (
    await client.query<{ block: string }>(
      `SELECT concat_ws(' ', start_lsn, block_id, reltablespace, reldatabase, relfilenode,
         relforknumber, relblocknumber, md5(coalesce(block_data, '')), block_fpi_length,
         md5(coalesce(block_fpi_data, ''))) AS block
       FROM pg_get_wal_block_info($1, $2, true) ORDER BY start_lsn, block_id`,
      range,
    )
  ).rows.map((row) => row.block);
  await cluster.stop();
});

after(async () => {
  await cluster?.destroy();
});

/** One line a record, as `expected` below makes them of Postgres's answers. */
function walk(options: { chunkBytes: number; random?: SeededRandom }): string[] {
  const stream = new WalStream({ startLsn, pageMagic });
  const lines: string[] = [];
  for (const bytes of readWalFiles(join(cluster.dataDir, "pg_wal"), startLsn, endLsn)) {
    for (let at = 0; at < bytes.length; ) {
      const size = options.random?.int(options.chunkBytes) ?? options.chunkBytes;
      const end = Math.min(bytes.length, at + Math.max(1, size));
      stream.feed(bytes, at, end);
      at = end;
      while (stream.next()) {
        const { record } = stream;
        record.decode();
        lines.push(
          [
            formatLsn(record.startLsn),
            formatLsn(record.endLsn),
            formatLsn(record.prevLsn),
            record.xid,
            rmgrName(record.rmid),
            record.length,
            record.mainLength,
          ].join(" "),
        );
      }
    }
  }
  assert.equal(stream.stop, "more");
  assert.equal(stream.recordEndLsn, endLsn);
  return lines;
}

function expected(): string[] {
  return infos.map((info) =>
    [
      info.start_lsn,
      info.end_lsn,
      info.prev_lsn,
      info.xid,
      info.resource_manager,
      info.record_length,
      info.main_data_length,
    ].join(" "),
  );
}

test("WalStream: finds the records that pg_walinspect finds, whatever the chunks", () => {
  const want = expected();
  assert.ok(want.length > 20_000, `${want.length} records`);
  assert.deepEqual(walk({ chunkBytes: 128 * 1024 }), want);
  assert.deepEqual(walk({ chunkBytes: 3 * 1024 * 1024 }), want);
  assert.deepEqual(walk({ chunkBytes: 20_000, random: new SeededRandom(7) }), want);
  assert.deepEqual(walk({ chunkBytes: 37 }), want);
});

test("WalStream: starts at the end of any record", () => {
  const ends = infos.map((info) => parseLsn(info.end_lsn)!);
  const random = new SeededRandom(3);
  for (let i = 0; i < 200; i++) {
    const index = random.int(ends.length - 2);
    const stream = new WalStream({
      startLsn: ends[index]!,
      prevLsn: parseLsn(infos[index]!.start_lsn)!,
      pageMagic,
    });
    const bytes = readWalFiles(join(cluster.dataDir, "pg_wal"), ends[index]!, endLsn);
    while (!stream.next()) {
      stream.feed(bytes.next().value as Uint8Array);
    }
    assert.equal(formatLsn(stream.record.startLsn), infos[index + 1]!.start_lsn);
    assert.equal(formatLsn(stream.record.endLsn), infos[index + 1]!.end_lsn);
  }
});

test("XLogRecord.decode and restoreImage: the block references, data and images of pg_walinspect", () => {
  const found: string[] = [];
  const page = new Uint8Array(PAGE_SIZE);
  const md5 = (bytes: Uint8Array) => createHash("md5").update(bytes).digest("hex");
  eachRecord(({ record }) => {
    record.decode();
    for (let i = 0; i < record.blockCount; i++) {
      const hasImage = record.imageLength[i]! > 0;
      if (hasImage) {
        restoreImage(record, i, page);
      }
      const dataFrom = record.dataOffset[i]!;
      found.push(
        [
          formatLsn(record.startLsn),
          record.blockId[i],
          record.blockSpc[i],
          record.blockDb[i],
          record.blockRel[i],
          record.blockFork[i],
          record.blockNumber[i],
          md5(record.bytes.subarray(dataFrom, dataFrom + record.dataLength[i]!)),
          record.imageLength[i],
          md5(hasImage ? page : new Uint8Array(0)),
        ].join(" "),
      );
    }
  });
  assert.deepEqual(found, blocks);
});

test("pg_control and pg_filenode.map: as a real cluster writes them", () => {
  const bytes = readFileSync(join(cluster.dataDir, "global", "pg_control"));
  const control = decodeControlFile(bytes);
  assert.deepEqual([control.version.major, control.state, control.segmentSize], [17, 1, 1 << 24]);
  assert.ok(control.checkPointLsn > endLsn);
  assert.equal(control.checkPoint.redo, control.checkPointLsn);
  const copy = encodeCheckPoint(control.checkPoint, control.version);
  assert.deepEqual(copy, new Uint8Array(bytes.subarray(40, 128)));
  const shared = decodeRelationMap(
    readFileSync(join(cluster.dataDir, "global", "pg_filenode.map")),
  );
  assert.ok(shared.some(({ oid, relNumber }) => oid === 1262 && relNumber === 1262));
});

function eachRecord(handler: (stream: WalStream) => void): void {
  const stream = new WalStream({ startLsn, pageMagic });
  for (const bytes of readWalFiles(join(cluster.dataDir, "pg_wal"), startLsn, endLsn)) {
    stream.feed(bytes);
    while (stream.next()) {
      handler(stream);
    }
  }
}

test("interpretRecord: takes every record of the workload and tells of every kind of change", () => {
  const calls = new Map<string, number>();
  const sink = new Proxy({} as RecordSink, {
    get: (_, name) => () => {
      calls.set(String(name), (calls.get(String(name)) ?? 0) + 1);
    },
  });
  eachRecord((stream) => interpretRecord(stream.record, sink));
  for (const name of [
    "blockDelta",
    "blockImage",
    "visibilityMapClear",
    "relationCreate",
    "relationTruncate",
    "relationDrop",
    "databaseCreateFileCopy",
    "databaseCreateWalLog",
    "databaseDrop",
    "relationMapUpdate",
    "transactionStatus",
    "multixactCreate",
    "twoPhasePrepare",
    "twoPhaseForget",
    "sawXid",
    "nextOid",
    "checkpoint",
    "runningTransactions",
    "walLevel",
    "transactionEnd",
  ]) {
    assert.ok((calls.get(name) ?? 0) > 0, name);
  }
  const total = (calls.get("blockDelta") ?? 0) + (calls.get("blockImage") ?? 0);
  assert.ok(total > 20_000, `${total} block versions`);
});

/**
 * One small record of each shape goes into testdata: interpret-record.test.ts holds what it is taken
 * to mean, and the fuzzer starts from it. UPDATE=1 writes the file anew.
 */
test("testdata: holds every shape of record that the workload writes", () => {
  const samples = new Map<string, Buffer>();
  eachRecord(({ record }) => {
    record.decode();
    const images = record.imageApply.subarray(0, record.blockCount).includes(1) ? "images" : "";
    const shape = `${rmgrName(record.rmid)} ${record.info} ${record.blockId.subarray(0, record.blockCount)} ${images}`;
    const known = samples.get(shape);
    if (record.length <= MAX_SAMPLE && (known === undefined || known.length > record.length)) {
      const { offset, length } = record;
      samples.set(shape, Buffer.from(record.bytes.subarray(offset, offset + length)));
    }
  });
  if (process.env["UPDATE"] === "1") {
    const lines = [...samples.values()].map((bytes) => bytes.toString("hex")).sort(byKind);
    writeFileSync(SAMPLES, `${lines.join("\n")}\n`);
  }
  const kinds = new Set(readFileSync(SAMPLES, "latin1").trim().split("\n").map(kindOf));
  // Which of its rarer shapes a run writes depends on timing; the common kinds must all be there.
  const missing = [...samples.values()]
    .map((bytes) => kindOf(bytes.toString("hex")))
    .filter((kind) => !kinds.has(kind));
  assert.ok(missing.length <= 2, `kinds not in testdata: ${missing.join(" ")}; run with UPDATE=1`);
  assert.ok(kinds.size > 50, `${kinds.size} kinds`);
});

/** xl_rmid and the resource manager's half of xl_info, as hex. */
function kindOf(hex: string): string {
  return `${hex.slice(34, 36)}/${hex.slice(32, 33)}`;
}

function byKind(a: string, b: string): number {
  return kindOf(a) < kindOf(b) || (kindOf(a) === kindOf(b) && a < b) ? -1 : 1;
}
