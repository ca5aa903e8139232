// testdata/records-<major>.txt: real records of stock clusters, each below the line that pg_waldump of
// its major prints for it (14: what ours printed; 16: by pg_walinspect), with UTC as the time zone.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { concat, pack } from "../../testing/redo/delta-builder.ts";
import { recordWithBlocks } from "../../testing/redo/record-bytes.ts";
import { addLsn, type Lsn, parseLsn, toLsn } from "../base/lsn.ts";
import { MAJORS, PG_VERSIONS, type PgMajor } from "../postgres/versions.ts";
import { encodeRecord, XLogRecord } from "../postgres/xlog-record.ts";
import { describeRecord, recordJson, recordLine, recordName } from "./record-text.ts";

interface Sample {
  readonly line: string;
  readonly record: XLogRecord;
}

function decoded(bytes: Uint8Array, major: PgMajor, lsn: Lsn): XLogRecord {
  const record = new XLogRecord();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  record.setHeader(bytes, view, 0, lsn, addLsn(lsn, bytes.length), PG_VERSIONS[major].pageMagic);
  record.decode();
  return record;
}

function samples(major: PgMajor): Sample[] {
  const path = join(import.meta.dirname, "testdata", `records-${major}.txt`);
  const lines = readFileSync(path, "utf8").trim().split("\n");
  return Array.from({ length: lines.length / 2 }, (_, i) => {
    const line = lines[2 * i]!;
    const lsn = parseLsn(/lsn: ([0-9A-F]+\/[0-9A-F]+)/.exec(line)![1]!)!;
    return {
      line,
      record: decoded(Uint8Array.from(Buffer.from(lines[2 * i + 1]!, "hex")), major, lsn),
    };
  });
}

for (const major of MAJORS) {
  test(`recordLine: ${major}: real records as pg_waldump prints them`, () => {
    const all = samples(major);
    assert.ok(all.length >= 10);
    for (const { line, record } of all) {
      assert.equal(recordLine(record, false), line);
    }
  });
}

test("describeRecord: a record cut short says so and nothing else happens", () => {
  for (const major of MAJORS) {
    let malformed = 0;
    for (const { record } of samples(major)) {
      const before = describeRecord(record);
      for (let length = 0; length < record.mainLength; length++) {
        const cut = decoded(record.bytes, major, record.startLsn);
        cut.mainLength = length;
        const text = describeRecord(cut);
        malformed += text.startsWith("(malformed: WAL at ") ? 1 : 0;
        assert.ok(text.length <= before.length + 200, text);
      }
    }
    assert.ok(malformed > 100, `${malformed} malformed`);
  }
});

/** Kinds that no workload writes. The text is what the rmgrdesc source says. */
const RARE: readonly [PgMajor, number, number, Uint8Array, string][] = [
  [
    17,
    3,
    0x10,
    pack(["u32", 7], ["u32", 0], ["u32", 730], ["u32", 1]),
    "TRUNCATE page 7; oldestXact 730",
  ],
  [16, 3, 0x10, pack(["u32", 7], ["u32", 730], ["u32", 1]), "TRUNCATE page 7; oldestXact 730"],
  [17, 18, 0x10, pack(["u32", 5], ["u32", 0], ["u32", 731]), "TRUNCATE pageno 5, oldestXid 731"],
  [15, 18, 0x10, pack(["u32", 5], ["u32", 731]), "TRUNCATE pageno 5, oldestXid 731"],
  [
    17,
    6,
    0x30,
    pack(["u32", 1], ["u32", 2], ["u32", 3], ["u32", 4], ["u32", 5]),
    "TRUNCATE_ID offsets [2, 3), members [4, 5)",
  ],
  [17, 0, 0x50, pack(["u32", 0x28], ["u32", 1]), "BACKUP_END 1/28"],
  [17, 0, 0x20, new Uint8Array(0), "NOOP "],
  [
    17,
    0,
    0x90,
    pack(["u32", 1_000_000], ["u32", 0], ["u32", 2], ["u32", 1], ["u32", 2]),
    "END_OF_RECOVERY tli 2; prev tli 1; time 2000-01-01 00:00:01.000000 UTC; wal_level logical",
  ],
  [
    16,
    0,
    0x90,
    pack(["u32", 1_000_000], ["u32", 0], ["u32", 2], ["u32", 1]),
    "END_OF_RECOVERY tli 2; prev tli 1; time 2000-01-01 00:00:01.000000 UTC",
  ],
  [
    17,
    0,
    0xd0,
    pack(["u32", 0xff8], ["u32", 0], ["u32", 1], ["u32", 0]),
    "OVERWRITE_CONTRECORD lsn 0/FF8; time 2000-01-01 00:00:00.000001 UTC",
  ],
  [
    18,
    8,
    0x20,
    concat(
      pack(["u32", 5], ["u32", 1663], ["u32", 1], ["u32", 3]),
      pack(["u8", 0xfe], ["u8", 0], ["u16", 0], ["u32", 5], ["u32", 1259], ["u32", 0]),
      pack(["u8", 0xfa], ["u8", 0], ["u16", 0], ["u32", 5], ["u32", 77], ["u32", 0]),
      pack(["u8", 0x80], ["u8", 0], ["u16", 0], ["u32", 5], ["u32", 0], ["u32", 0]),
    ),
    "INVALIDATIONS ; relcache init file inval dbid 5 tsid 1663; " +
      "inval msgs: relcache 1259 relsync 77 unrecognized id -128",
  ],
  [
    15,
    10,
    0x30,
    pack(["u32", 5], ["u32", 2], ["u32", 3], ["u32", 16384], ["u32", 16390]),
    "TRUNCATE cascade restart_seqs nrelids 2 relids 16384 16390",
  ],
  [
    17,
    10,
    0x30,
    pack(["u32", 5], ["u32", 2], ["u32", 3], ["u32", 16384], ["u32", 16390]),
    "TRUNCATE flags: [CASCADE, RESTART_SEQS], nrelids: 2, relids: [16384, 16390]",
  ],
  [17, 128, 0x30, pack(["u32", 1]), "UNKNOWN (30) rmid: 128"],
  [17, 13, 0xb0, pack(["u16", 1], ["u8", 2]), "UNKNOWN (b0) "],
];

test("recordLine: kinds that need rare circumstances", () => {
  for (const [major, rmid, info, mainData, want] of RARE) {
    const bytes = encodeRecord({ rmid, info, xid: 0, prevLsn: toLsn(0), mainData });
    const line = recordLine(decoded(bytes, major, toLsn(0x1000028)), false);
    assert.equal(line.slice(line.indexOf("desc: ") + 6), want);
  }
});

test("describeRecord: counts that a fuzzer made negative", () => {
  // xl_running_xacts: xcnt, subxcnt, bool, nextXid, oldest, latest, xids.
  const xacts = pack(["u32", 2 ** 32 - 1000], ["u32", 1], ["u32", 0], ["u32", 9], ["u32", 9]);
  const mainData = concat(xacts, pack(["u32", 9], ["u32", 9]));
  const bytes = encodeRecord({ rmid: 8, info: 0x10, xid: 0, prevLsn: toLsn(0), mainData });
  const text = describeRecord(decoded(bytes, 17, toLsn(0x1000028)));
  assert.match(text, /^\(malformed: WAL at 0\/1000028: 1 items of 4 bytes at -3976 of 28 bytes/);
});

test("recordLine, recordJson: block references with images", () => {
  const bytes = recordWithBlocks({
    rmid: 10,
    info: 0x80,
    xid: 9,
    main: pack(["u16", 1], ["u8", 0]),
    blocks: [
      {
        id: 0,
        spcOid: 1663,
        dbOid: 5,
        relNumber: 16384,
        blkno: 7,
        image: new Uint8Array(100),
        imageInfo: 0x04 | 0x01,
        holeOffset: 40,
        holeLength: 4096,
      },
      { id: 3, spcOid: 1664, dbOid: 0, relNumber: 1260, fork: 2, blkno: 0, data: pack(["u8", 1]) },
    ],
  });
  const record = decoded(bytes, 17, toLsn(0x1000028));
  const total = bytes.length;
  const head =
    `rmgr: Heap        len (rec/tot): ${`${total - 100}`.padStart(6)}/${`${total}`.padStart(6)}, ` +
    "tx:          9, lsn: 0/01000028, prev 0/00000000, desc: INSERT+INIT off: 1, flags: 0x00";
  assert.equal(
    recordLine(record, false),
    `${head}, blkref #0: rel 1663/5/16384 blk 7 FPW, blkref #3: rel 1664/0/1260 fork vm blk 0`,
  );
  assert.equal(
    recordLine(record, true),
    `${head}\n\tblkref #0: rel 1663/5/16384 fork main blk 7 (FPW); ` +
      "hole: offset: 40, length: 4096, compression saved: 3996, method: pglz" +
      "\n\tblkref #3: rel 1664/0/1260 fork vm blk 0",
  );
  assert.deepEqual(JSON.parse(recordJson(record)), {
    lsn: "0/1000028",
    end_lsn: `0/${(0x1000028 + total).toString(16).toUpperCase()}`,
    prev_lsn: "0/0",
    xid: 9,
    rmgr: "Heap",
    type: "INSERT+INIT",
    info: 0x80,
    length: total - 100,
    total_length: total,
    description: "off: 1, flags: 0x00",
    blocks: [
      {
        id: 0,
        rel: "1663/5/16384",
        fork: "main",
        block: 7,
        data_length: 0,
        image: {
          length: 100,
          hole_offset: 40,
          hole_length: 4096,
          compression: "pglz",
          apply: true,
        },
      },
      { id: 3, rel: "1664/0/1260", fork: "vm", block: 0, data_length: 1 },
    ],
  });
});

test("recordName: as the major calls it", () => {
  const names = MAJORS.map((major) => recordName(PG_VERSIONS[major], 9, 0x10));
  assert.deepEqual(names, ["PRUNE", "PRUNE", "PRUNE", "PRUNE_ON_ACCESS", "PRUNE_ON_ACCESS"]);
  assert.equal(recordName(PG_VERSIONS[14], 4, 0x10), "DROP");
  assert.equal(recordName(PG_VERSIONS[15], 4, 0x10), "CREATE_WAL_LOG");
  assert.equal(recordName(PG_VERSIONS[17], 1, 0x80), "COMMIT");
  assert.equal(recordName(PG_VERSIONS[17], 22, 0), "UNKNOWN (0)");
});
