import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { run } from "../../testing/fuzz/wal-decoder.fuzz.ts";
import { type BlockSpec, recordWithBlocks } from "../../testing/redo/record-bytes.ts";
import { recordingSink } from "../../testing/redo/recording-sink.ts";
import { toLsn } from "../base/lsn.ts";
import {
  RM_BRIN_ID,
  RM_GIN_ID,
  RM_HEAP_ID,
  RM_HEAP2_ID,
  RM_LOGICALMSG_ID,
  RM_XLOG_ID,
  rmgrName,
} from "../postgres/rmgr.ts";
import { MAJORS, PG_VERSIONS } from "../postgres/versions.ts";
import { XLogRecord } from "../postgres/xlog-record.ts";
import { interpretRecord } from "./interpret-record.ts";
import {
  AUX_FILE_PREFIX,
  encodeAuxFileMessage,
  encodeStatisticsMessage,
  STATISTICS_PREFIX,
  SUBSCRIPTIONS_DETACHED_PREFIX,
} from "./logical-message-records.ts";

const START = toLsn(0x2000028);
const TRANSCRIPT = join(import.meta.dirname, "testdata", "interpret-17.txt");
const SAMPLES = readFileSync(join(import.meta.dirname, "testdata", "records-17.hex.txt"), "latin1")
  .trim()
  .split("\n")
  .map((hex) => Uint8Array.from(Buffer.from(hex, "hex")));

function recordOf(bytes: Uint8Array, pageMagic = PG_VERSIONS[17].pageMagic): XLogRecord {
  const record = new XLogRecord();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  record.setHeader(bytes, view, 0, START, toLsn(START + 4096), pageMagic);
  return record;
}

function interpret(bytes: Uint8Array, pageMagic?: number): string[] {
  const lines: string[] = [];
  interpretRecord(recordOf(bytes, pageMagic), recordingSink(lines));
  return lines;
}

test("interpretRecord: what each kind of record is taken to mean", () => {
  const transcript = SAMPLES.map((bytes) => {
    const record = recordOf(bytes);
    const info = record.info.toString(16).padStart(2, "0");
    return [`${rmgrName(record.rmid)} 0x${info}`, ...interpret(bytes)].join("\n  ");
  }).join("\n");
  if (process.env["UPDATE"] === "1") {
    writeFileSync(TRANSCRIPT, `${transcript}\n`);
  }
  assert.equal(`${transcript}\n`, readFileSync(TRANSCRIPT, "utf8"));
});

const HEAP_BLOCK: BlockSpec = { id: 0, spcOid: 1663, dbOid: 5, relNumber: 16384, blkno: 7 };

/** Main data with `flags` behind `before` zero bytes. */
function flagsAfter(before: number, flags: number): Uint8Array {
  return Uint8Array.from([...new Array<number>(before).fill(0), flags, 0, 0, 0, 0, 0, 0]);
}

function clears(rmid: number, info: number, main: Uint8Array, blocks: readonly BlockSpec[]) {
  return interpret(recordWithBlocks({ rmid, info, xid: 800, blocks, main }))
    .filter((line) => line.startsWith("visibilityMapClear"))
    .map((line) => line.slice("visibilityMapClear 1663/5/16384.0 ".length));
}

test("heap records: visibility-map bits are cleared by implication", () => {
  const old: BlockSpec = { ...HEAP_BLOCK, id: 1, blkno: 3 };
  for (const [rmid, info, before, bits] of [
    [RM_HEAP_ID, 0x00, 2, 3],
    [RM_HEAP_ID, 0x80, 2, 3],
    [RM_HEAP_ID, 0x10, 7, 3],
    [RM_HEAP_ID, 0x60, 7, 2],
    [RM_HEAP2_ID, 0x50, 0, 3],
    [RM_HEAP2_ID, 0xd0, 0, 3],
    [RM_HEAP2_ID, 0x60, 7, 2],
  ] as const) {
    assert.deepEqual(clears(rmid, info, flagsAfter(before, 0xff), [HEAP_BLOCK]), [`7 ${bits}`]);
    assert.deepEqual(clears(rmid, info, flagsAfter(before, 0xfe), [HEAP_BLOCK]), []);
  }
  for (const info of [0x20, 0xa0, 0x40, 0xc0]) {
    const update = (flags: number, blocks: readonly BlockSpec[]) =>
      clears(RM_HEAP_ID, info, flagsAfter(7, flags), blocks);
    assert.deepEqual(update(1, [HEAP_BLOCK, old]), ["3 3"]);
    assert.deepEqual(update(2, [HEAP_BLOCK, old]), ["7 3"]);
    assert.deepEqual(update(3, [HEAP_BLOCK, old]), ["3 3", "7 3"]);
    assert.deepEqual(update(1, [HEAP_BLOCK]), ["7 3"]);
    assert.deepEqual(update(0xfc, [HEAP_BLOCK, old]), []);
  }
});

test("heap records: nothing is implied where the map's page is a reference (17.11, 18.6)", () => {
  const map = (id: number): BlockSpec => ({ ...HEAP_BLOCK, id, fork: 2, blkno: 0 });
  const old: BlockSpec = { ...HEAP_BLOCK, id: 1, blkno: 3 };
  for (const [rmid, info, before] of [
    [RM_HEAP_ID, 0x00, 2],
    [RM_HEAP_ID, 0x10, 7],
    [RM_HEAP_ID, 0x60, 7],
    [RM_HEAP2_ID, 0x50, 0],
    [RM_HEAP2_ID, 0x60, 7],
  ] as const) {
    assert.deepEqual(clears(rmid, info, flagsAfter(before, 0xff), [HEAP_BLOCK, map(1)]), []);
  }
  for (const maps of [[map(2)], [map(3)], [map(2), map(3)]]) {
    const blocks = [HEAP_BLOCK, old, ...maps];
    assert.deepEqual(clears(RM_HEAP_ID, 0x20, flagsAfter(7, 3), blocks), []);
  }
});

/** xl_logical_message; it brings only `length` bytes of it. */
function logicalMessage(prefix: string, message: string, length?: number, dbOid = 5): string[] {
  const head = Buffer.alloc(24);
  head.writeUInt32LE(dbOid, 0);
  head.writeBigUInt64LE(BigInt(prefix.length + 1), 8);
  head.writeBigUInt64LE(BigInt(message.length), 16);
  const whole = Buffer.concat([head, Buffer.from(`${prefix}\0${message}`, "latin1")]);
  const main = whole.subarray(0, length);
  return interpret(recordWithBlocks({ rmid: RM_LOGICALMSG_ID, info: 0, xid: 0, blocks: [], main }));
}

test("logical messages: only a compute's own means something, and users may write any", () => {
  const id = "0123456789abcdef0123456789abcdef";
  const prefix = SUBSCRIPTIONS_DETACHED_PREFIX;
  assert.deepEqual(logicalMessage(prefix, id), [`subscriptionsDetached "${id}"`]);
  for (const [other, message] of [
    ["strata_subscriptions_detachee", id],
    [`${prefix}s`, id],
    ["", ""],
    [prefix, ""],
    [prefix, id.toUpperCase()],
    [prefix, `${id.slice(1)}\n`],
    [prefix, `${id}0`],
  ] as const) {
    assert.deepEqual(logicalMessage(other, message), [], JSON.stringify([other, message]));
  }
  // It says that it brings more than there is.
  for (const length of [1, 23, 24, 24 + prefix.length, 24 + prefix.length + id.length]) {
    assert.throws(() => logicalMessage(prefix, id, length), { kind: "corrupt" });
  }
});

test("logical messages: statistics come from no session, so from database 0 only", () => {
  const prefix = STATISTICS_PREFIX;
  const [line] = logicalMessage(prefix, "files", undefined, 0);
  assert.match(line!, /^statistics /);
  assert.deepEqual(logicalMessage(prefix, "files"), []);
  assert.deepEqual(logicalMessage(`${prefix}s`, "files", undefined, 0), []);
  for (const length of [1, 23, 24, 24 + prefix.length, 24 + prefix.length + 3]) {
    assert.throws(() => logicalMessage(prefix, "files", length, 0), { kind: "corrupt" });
  }
  const record = {
    ...{ rmid: RM_LOGICALMSG_ID, info: 0, xid: 0, blocks: [] },
    main: encodeStatisticsMessage(Buffer.from("files")),
  };
  assert.deepEqual(interpret(recordWithBlocks(record)), [line]);
});

test("logical messages: auxiliary files come from no session, so from database 0 only", () => {
  const path = "pg_replslot/s/state";
  const prefix = `${AUX_FILE_PREFIX}${path}`;
  const [line] = logicalMessage(prefix, "state", undefined, 0);
  assert.match(line!, /^auxFile "pg_replslot\/s\/state" 0 \[5 bytes/);
  assert.deepEqual(logicalMessage(prefix, "", undefined, 0), [`auxFileGone "${path}"`]);
  assert.deepEqual(logicalMessage(prefix, "state"), []);
  assert.deepEqual(logicalMessage(`x${prefix}`, "state", undefined, 0), []);
  assert.deepEqual(logicalMessage(prefix.padEnd(300, "s"), "state", undefined, 0), []);
  for (const length of [1, 23, 24, 24 + prefix.length, 24 + prefix.length + 3]) {
    assert.throws(() => logicalMessage(prefix, "state", length, 0), { kind: "corrupt" });
  }
  const record = {
    ...{ rmid: RM_LOGICALMSG_ID, info: 0, xid: 0, blocks: [] },
    main: encodeAuxFileMessage(path, Buffer.from("state")),
  };
  assert.deepEqual(interpret(recordWithBlocks(record)), [line]);
});

test("heap records: a rewrite of a catalog brings a piece of a mapping's file", () => {
  const head = Buffer.alloc(40);
  [0x2ea, 5, 1259].forEach((value, i) => {
    head.writeUInt32LE(value, 4 * i);
  });
  head.writeBigUInt64LE(72n, 16);
  head.writeUInt32LE(2, 24);
  head.writeBigUInt64LE(0x1_0a00_0028n, 32);
  const main = Buffer.concat([head, Buffer.alloc(72, 7)]);
  const rewrite = { rmid: RM_HEAP2_ID, info: 0, xid: 0x2f0, blocks: [], main };
  const [, line] = interpret(recordWithBlocks(rewrite));
  assert.match(line!, /^auxFile "pg_logical\/mappings\/map-5-4eb-1_A000028-2ea-2f0" 72 \[72 bytes/);
  for (const length of [0, 39, 40, 111]) {
    const cut = { ...rewrite, main: main.subarray(0, length) };
    assert.throws(() => interpret(recordWithBlocks(cut)), { kind: "corrupt" });
  }
});

test("interpretRecord: what redo cannot apply is refused, named, and not told", () => {
  for (const [rmid, info, name] of [
    [RM_GIN_ID, 0xa0, "Gin"],
    [RM_BRIN_ID, 0x60, "BRIN"],
    [RM_HEAP_ID, 0x90, "Heap"],
    [RM_XLOG_ID, 0xc0, "XLOG"],
    [RM_LOGICALMSG_ID, 0x10, "LogicalMessage"],
    [200, 0x00, "custom200"],
  ] as const) {
    const lines: string[] = [];
    const bytes = recordWithBlocks({
      rmid,
      info,
      xid: 0,
      blocks: [HEAP_BLOCK],
      main: flagsAfter(9, 0),
    });
    assert.throws(() => interpretRecord(recordOf(bytes), recordingSink(lines)), {
      kind: "unsupported",
      code: "unsupported-wal-record",
      fields: { rmgr: name, info: `0x${info.toString(16).padStart(2, "0")}`, lsn: "0/2000028" },
    });
    assert.deepEqual(lines, []);
  }
});

test("interpretRecord: a record of any manager is taken where all its pages are images", () => {
  const image = new Uint8Array(8192).fill(9);
  const blocks = [
    { ...HEAP_BLOCK, image },
    { ...HEAP_BLOCK, id: 1, blkno: 8, image },
  ];
  const main = flagsAfter(3, 0);
  const names = (rmid: number, list: readonly BlockSpec[]) =>
    interpret(recordWithBlocks({ rmid, info: 0, xid: 0, blocks: list, main })).map(
      (line) => line.split(" ")[0],
    );
  assert.deepEqual(names(RM_GIN_ID, blocks), ["blockImage", "blockImage"]);
  assert.throws(() => names(RM_GIN_ID, [...blocks, { ...HEAP_BLOCK, id: 2 }]), {
    kind: "unsupported",
  });
});

test("interpretRecord: XLOG_CHECKPOINT_REDO exists from 17 on", () => {
  const bytes = recordWithBlocks({
    rmid: RM_XLOG_ID,
    info: 0xe0,
    xid: 0,
    blocks: [],
    main: Uint8Array.of(2, 0, 0, 0),
  });
  for (const major of MAJORS) {
    const { pageMagic } = PG_VERSIONS[major];
    if (major >= 17) {
      assert.deepEqual(interpret(bytes, pageMagic), ["walLevel 2"]);
    } else {
      assert.throws(() => interpret(bytes, pageMagic), { kind: "unsupported" });
    }
  }
});

test("hostile WAL: corrupt or unsupported, never anything else (wal-decoder.fuzz.ts)", () => {
  for (let seed = 1; seed <= 20; seed++) {
    const { records, refused } = run(seed, 50);
    assert.ok(
      records > 100 && refused > 20,
      `seed ${seed}: ${records} records, ${refused} refused`,
    );
  }
});
