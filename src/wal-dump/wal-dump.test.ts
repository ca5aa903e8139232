import assert from "node:assert/strict";
import fs, {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough, Writable } from "node:stream";
import { test } from "node:test";
import { recordWithBlocks } from "../../testing/redo/record-bytes.ts";
import { WalBuilder } from "../../testing/wal-builder.ts";
import { StorageError } from "../base/errors.ts";
import { addLsn, formatLsn, type Lsn, parseWalFileName, toLsn, walFileName } from "../base/lsn.ts";
import { PG_VERSIONS } from "../postgres/versions.ts";
import { encodeRecord } from "../postgres/xlog-record.ts";
import { encodeStoredSegment, type SegmentBytes } from "../wal-decoder/stored-segment.ts";
import { LineOutput } from "./line-output.ts";
import { openSegmentFiles, type SegmentFilesOptions } from "./segment-files.ts";
import { dumpWal, type WalDumpOptions } from "./wal-dump.ts";
import { WalStats } from "./wal-stats.ts";

const SEGMENT = 1024 * 1024;

function inDirectory(body: (directory: string) => Promise<void>): () => Promise<void> {
  return async () => {
    const directory = mkdtempSync(join(tmpdir(), "strata-wal-dump-"));
    try {
      await body(directory);
    } finally {
      rmSync(directory, { recursive: true });
    }
  };
}

function segmentPath(directory: string, segno: number, timeline = 1): string {
  return join(directory, walFileName(segno, timeline, SEGMENT));
}

/** Writes WAL that begins at a segment's start; the last segment is filled up with zeros. */
function writeSegments(directory: string, wal: WalBuilder, timeline = 1): void {
  const { bytes, startLsn } = wal;
  const before = startLsn % SEGMENT;
  const all = new Uint8Array(Math.ceil((before + bytes.length) / SEGMENT) * SEGMENT);
  all.set(bytes, before);
  for (let at = 0; at < all.length; at += SEGMENT) {
    const segno = Math.floor(startLsn / SEGMENT) + at / SEGMENT;
    writeFileSync(segmentPath(directory, segno, timeline), all.subarray(at, at + SEGMENT));
  }
}

function storedSegment(segment: SegmentBytes): Uint8Array {
  const steps = encodeStoredSegment(segment);
  for (let step = steps.next(); ; step = steps.next()) {
    if (step.done === true) {
      return step.value;
    }
  }
}

function message(length: number, xid = 7): Uint8Array {
  const mainData = new Uint8Array(24 + 4 + length);
  mainData.set([4], 8);
  const view = new DataView(mainData.buffer);
  view.setUint32(16, length, true);
  mainData.set(Buffer.from("abc\0"), 24);
  return encodeRecord({ rmid: 21, info: 0, xid, prevLsn: toLsn(0), mainData });
}

function insertInto(relNumber: number, blkno: number, image?: Uint8Array): Uint8Array {
  return recordWithBlocks({
    rmid: 10,
    info: 0,
    xid: 8,
    main: Uint8Array.from([1, 0, 0]),
    blocks: [
      {
        id: 0,
        spcOid: 1663,
        dbOid: 5,
        relNumber,
        blkno,
        ...(image === undefined
          ? { data: Uint8Array.from([1, 2, 3]) }
          : { image, imageInfo: 1, holeOffset: 24 }),
      },
    ],
  });
}

/** Three segments: messages of a few hundred bytes, one of 9000, inserts. */
function someWal(): WalBuilder {
  const wal = new WalBuilder({ startLsn: toLsn(2 * SEGMENT), segmentSize: SEGMENT });
  for (let i = 0; wal.endLsn < 4 * SEGMENT + 50_000; i++) {
    wal.append(i % 50 === 7 ? message(9000) : i % 5 === 3 ? insertInto(16384, i) : message(300));
  }
  return wal;
}

interface Dumped {
  readonly lines: string[];
  readonly notices: string[];
  readonly error: StorageError | undefined;
}

async function dump(
  path: string,
  options: Partial<WalDumpOptions> & Pick<SegmentFilesOptions, "timeline"> = {},
): Promise<Dumped> {
  const stream = new PassThrough({ highWaterMark: 1024 });
  const chunks: Buffer[] = [];
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  const notices: string[] = [];
  let error: StorageError | undefined;
  const output = new LineOutput(stream);
  try {
    const { startLsn, timeline } = options;
    const source = openSegmentFiles(path, { startLsn, timeline });
    const notice = (text: string) => notices.push(text);
    await dumpWal(source, { filter: {}, format: "text", notice, ...options }, output);
  } catch (caught) {
    assert.ok(caught instanceof StorageError, String(caught));
    error = caught;
  }
  await output.close();
  const text = Buffer.concat(chunks).toString();
  return { lines: text.split("\n").slice(0, -1), notices, error };
}

function lsns({ lines }: Dumped): string[] {
  return lines.map((line) => /lsn: [0-9A-F]+\/0*([0-9A-F]+)/.exec(line)![1]!);
}

function starts(wal: WalBuilder, from = 0, to = Number.POSITIVE_INFINITY): string[] {
  return wal.records
    .filter(({ startLsn, endLsn }) => startLsn >= from && endLsn <= to)
    .map(({ startLsn }) => formatLsn(startLsn).slice(2));
}

test(
  "dumpWal: all records of a directory, of its pg_wal, and of one file",
  inDirectory(async (directory) => {
    const wal = someWal();
    const inside = join(directory, "pg_wal");
    mkdirSync(inside);
    writeSegments(inside, wal);
    const whole = await dump(directory);
    assert.equal(whole.error, undefined);
    assert.deepEqual(lsns(whole), starts(wal));
    assert.deepEqual(await dump(inside), whole);
    // The record that crosses into the file is not its own, the one that leaves it is not whole.
    const one = await dump(segmentPath(inside, 3));
    assert.equal(one.error, undefined);
    assert.deepEqual(lsns(one), starts(wal, 3 * SEGMENT, 4 * SEGMENT));
  }),
);

test(
  "dumpWal: segments as the object store keeps them, whole and partial",
  inDirectory(async (directory) => {
    const wal = someWal();
    writeSegments(directory, wal);
    const whole = await dump(directory);
    const first = Math.floor(wal.startLsn / SEGMENT);
    for (const name of fs.readdirSync(directory)) {
      const path = join(directory, name);
      const startLsn = toLsn(parseWalFileName(name, SEGMENT)! * SEGMENT);
      const bytes = readFileSync(path);
      writeFileSync(path, storedSegment({ startLsn, segmentSize: SEGMENT, begin: 0, bytes }));
    }
    assert.deepEqual(await dump(directory), whole);
    assert.deepEqual(
      lsns(await dump(segmentPath(directory, 3))),
      starts(wal, 3 * SEGMENT, 4 * SEGMENT),
    );
    // Begins and ends in the middle, and its name says neither.
    const [from, to] = [wal.records[20]!.startLsn, wal.records[70]!.endLsn];
    const startLsn = toLsn(first * SEGMENT);
    const bytes = new Uint8Array(to - startLsn);
    bytes.set(wal.read(from, to), from - startLsn);
    const partial = join(directory, "partial");
    const begin = from - startLsn;
    writeFileSync(partial, storedSegment({ startLsn, segmentSize: SEGMENT, begin, bytes }));
    assert.deepEqual(lsns(await dump(partial)), starts(wal, from, to));
    const damaged = readFileSync(partial);
    damaged[damaged.length - 5]! ^= 1;
    writeFileSync(partial, damaged);
    assert.equal((await dump(partial)).error?.code, "stored-wal-damaged");
  }),
);

test(
  "dumpWal: from an LSN inside a record to an LSN inside a record, and a limit",
  inDirectory(async (directory) => {
    const wal = someWal();
    writeSegments(directory, wal);
    const long = wal.records.findIndex(({ bytes }) => bytes.length > 9000);
    const [begin, end] = [wal.records[long]!, wal.records[long + 60]!];
    const from = addLsn(begin.startLsn, 5000);
    const to = addLsn(end.startLsn, 8);
    const part = await dump(directory, { startLsn: from, endLsn: to });
    assert.equal(part.error, undefined);
    assert.deepEqual(lsns(part), starts(wal, from, to));
    assert.equal(part.lines.length, 59);
    const skipped = begin.endLsn - from;
    const at = `at ${formatLsn(begin.endLsn)}, skipping over ${skipped} bytes`;
    assert.deepEqual(part.notices, [`first record is after ${formatLsn(from)}, ${at}`]);
    const exact = await dump(directory, { startLsn: begin.startLsn, endLsn: begin.endLsn });
    assert.deepEqual([exact.lines.length, exact.notices], [1, []]);
    const limited = await dump(directory, { limit: 3 });
    assert.deepEqual(lsns(limited), starts(wal).slice(0, 3));
  }),
);

test(
  "dumpWal: filters by manager, transaction, relation, block and image; statistics",
  inDirectory(async (directory) => {
    const wal = new WalBuilder({ startLsn: toLsn(2 * SEGMENT), segmentSize: SEGMENT });
    for (let i = 0; i < 20; i++) {
      wal.append(insertInto(16384 + (i % 2), i));
      wal.append(message(10, 100 + i));
    }
    wal.append(insertInto(20000, 3, new Uint8Array(1000)));
    writeSegments(directory, wal);
    const count = async (filter: WalDumpOptions["filter"]) =>
      (await dump(directory, { filter })).lines.length;
    const relation = { spcOid: 1663, dbOid: 5, relNumber: 16385 };
    assert.equal(await count({ rmids: new Set([21]) }), 20);
    assert.equal(await count({ rmids: new Set([10, 21]) }), 41);
    assert.equal(await count({ xid: 104 }), 1);
    assert.equal(await count({ relation }), 10);
    assert.equal(await count({ relation, block: 7 }), 1);
    assert.equal(await count({ relation, block: 6 }), 0);
    assert.equal(await count({ fork: 0 }), 21);
    assert.equal(await count({ fork: 2 }), 0);
    assert.equal(await count({ fullPage: true }), 1);

    const stats = new WalStats(true);
    const counted = await dump(directory, { stats, filter: { xid: 8 } });
    assert.deepEqual(counted, { lines: [], notices: [], error: undefined });
    const [row] = stats.rows();
    assert.deepEqual(row, { ...row!, type: "Heap/INSERT", count: 21, imageSize: 1000 });
    const table = stats.table()!.split("\n");
    assert.equal(table[0], `WAL statistics between 0/200028 and ${formatLsn(wal.endLsn)}:`);
    assert.match(
      table[3]!,
      /^Heap\/INSERT {16} {19}21 \(100\.00\) +\d+ \(100\.00\) +1000 \(100\.00\)/,
    );
    const json = await dump(directory, { format: "json", limit: 1 });
    assert.equal(JSON.parse(json.lines[0]!).rmgr, "Heap");
    assert.deepEqual((await dump(directory, { format: "none" })).lines, []);
    assert.equal(new WalStats(false).table(), undefined);
  }),
);

test("openSegmentFiles: a directory of more files than a call takes arguments", (t) => {
  const directory = mkdtempSync(join(tmpdir(), "strata-wal-dump-"));
  t.after(() => {
    rmSync(directory, { recursive: true });
    t.mock.restoreAll();
    syncBuiltinESMExports();
  });
  const wal = someWal();
  writeSegments(directory, wal);
  const names = Array.from({ length: 130_000 }, (_, i) => walFileName(2 + i, 1, SEGMENT));
  t.mock.method(fs, "readdirSync", () => names);
  syncBuiltinESMExports();
  assert.equal(openSegmentFiles(directory).startLsn, wal.startLsn);
});

test(
  "openSegmentFiles: what is not WAL, or not the WAL asked for, is told in one line",
  inDirectory(async (directory) => {
    const wal = someWal();
    writeSegments(directory, wal);
    const refused = async (path: string, options: Parameters<typeof dump>[1], code: string) => {
      const { error, lines } = await dump(path, options);
      assert.equal(error?.code, code, error?.message ?? "no error");
      assert.doesNotMatch(error!.message, /\n/);
      return { message: error!.message, lines };
    };
    const other = join(directory, "notes.txt");
    writeFileSync(other, "no WAL at all, but longer than the header of a page");
    await refused(other, {}, "not-wal");
    writeFileSync(other, "short");
    await refused(other, {}, "not-wal");
    await refused(join(directory, "missing"), {}, "no-wal-file");
    mkdirSync(join(directory, "empty"));
    await refused(join(directory, "empty"), {}, "no-wal-file");
    await refused(directory, { startLsn: toLsn(9 * SEGMENT) }, "missing-segment");
    await refused(segmentPath(directory, 3), { startLsn: toLsn(2 * SEGMENT) }, "lsn-not-here");
    await refused(directory, { startLsn: wal.endLsn }, "no-wal-record");

    writeSegments(directory, someWal(), 2);
    const switched = await refused(directory, {}, "timeline-switch");
    assert.match(switched.message, /timelines 1, 2: choose one with --timeline$/);
    assert.deepEqual(lsns(await dump(directory, { timeline: 2 })), starts(wal));
    await refused(directory, { timeline: 3 }, "no-wal-file");
  }),
);

test(
  "dumpWal: a truncated tail, a missing segment and a damaged record end it with an error",
  inDirectory(async (directory) => {
    const wal = someWal();
    writeSegments(directory, wal);
    const ended = async (code: string, before: Lsn) => {
      const dumped = await dump(directory);
      assert.equal(dumped.error?.code, code, dumped.error?.message ?? "no error");
      assert.deepEqual(lsns(dumped), starts(wal, 0, before));
      return dumped.error!.message;
    };
    const inside = wal.records.find(({ startLsn }) => startLsn > 2.5 * SEGMENT)!;
    rmSync(segmentPath(directory, 4));
    assert.match(await ended("missing-segment", toLsn(4 * SEGMENT)), /is not whole: segment 0+1/);
    rmSync(segmentPath(directory, 3));
    writeFileSync(segmentPath(directory, 4), new Uint8Array(SEGMENT));
    assert.match(await ended("missing-segment", toLsn(3 * SEGMENT)), /3 \(from 0\/300000 on\)/);
    truncateSync(segmentPath(directory, 2), inside.startLsn - 2 * SEGMENT + 30);
    const at = `the record at ${formatLsn(inside.startLsn)} is not whole`;
    assert.ok((await ended("truncated-wal", inside.startLsn)).startsWith(at));
    writeSegments(directory, wal);
    const { bytes } = wal;
    bytes[inside.startLsn - 2 * SEGMENT + 25]! ^= 1;
    writeFileSync(segmentPath(directory, 2), bytes.subarray(0, SEGMENT));
    assert.match(await ended("corrupt-wal", inside.startLsn), /incorrect record checksum/);
  }),
);

test(
  "dumpWal: WAL of two majors is refused where they meet",
  inDirectory(async (directory) => {
    const wal = someWal();
    writeSegments(directory, wal);
    const { bytes } = someWal();
    new DataView(bytes.buffer).setUint16(SEGMENT, PG_VERSIONS[16].pageMagic, true);
    writeFileSync(segmentPath(directory, 3), bytes.subarray(SEGMENT, 2 * SEGMENT));
    const { error, lines } = await dump(directory);
    assert.match(error!.message, /^WAL at 0\/300000: page magic is d113/);
    assert.equal(lines.length, starts(wal, 0, 3 * SEGMENT).length);
  }),
);

test(
  "dumpWal: a safekeeper's first segment begins with zeros, inside a page",
  inDirectory(async (directory) => {
    for (const offset of [0x3000 + 0x668, 8192 - 64]) {
      const startLsn = toLsn(2 * SEGMENT + offset);
      const wal = new WalBuilder({ startLsn, segmentSize: SEGMENT });
      for (let i = 0; i < 100; i++) {
        wal.append(message(200));
      }
      writeSegments(directory, wal);
      const dumped = await dump(directory);
      assert.equal(dumped.error, undefined);
      assert.deepEqual(lsns(dumped), starts(wal));
    }
  }),
);

test(
  "dumpWal: the older WAL in a recycled segment is no part of it",
  inDirectory(async (directory) => {
    const old = someWal();
    const wal = new WalBuilder({ startLsn: toLsn(8 * SEGMENT), segmentSize: SEGMENT });
    while (wal.endLsn < 8 * SEGMENT + 60 * 1024) {
      wal.append(message(100));
    }
    const bytes = old.bytes.slice(0, SEGMENT);
    bytes.set(wal.bytes);
    // Postgres fills its last page up with zeros.
    const pageEnd = Math.ceil(wal.bytes.length / 8192) * 8192;
    bytes.fill(0, wal.bytes.length, pageEnd);
    writeFileSync(segmentPath(directory, 8), bytes);
    writeFileSync(segmentPath(directory, 9), old.bytes.subarray(0, SEGMENT));
    const dumped = await dump(directory);
    assert.equal(dumped.error, undefined);
    assert.deepEqual(lsns(dumped), starts(wal));
    assert.equal((await dump(segmentPath(directory, 9))).error?.code, "other-wal");
    // Without its last record's end the WAL is cut.
    const last = wal.records.findLast(({ startLsn }) => startLsn < 8 * SEGMENT + pageEnd - 8192)!;
    assert.ok(
      last.endLsn > 8 * SEGMENT + pageEnd - 8192,
      "a record that crosses into the last page",
    );
    bytes.set(old.bytes.subarray(pageEnd - 8192, pageEnd), pageEnd - 8192);
    writeFileSync(segmentPath(directory, 8), bytes);
    assert.equal((await dump(directory)).error?.code, "truncated-wal");
  }),
);

test(
  "dumpWal: a reader that goes away ends it in peace; other trouble with the output does not",
  inDirectory(async (directory) => {
    writeSegments(directory, someWal());
    const failing = async (code: string) => {
      let written = 0;
      const stream = new Writable({
        write(chunk: Buffer, _encoding, done) {
          written += chunk.length;
          done(Object.assign(new Error(code), { code }));
        },
      });
      const output = new LineOutput(stream);
      const source = openSegmentFiles(directory);
      await dumpWal(source, { filter: {}, format: "text", notice: () => {} }, output);
      await output.close();
      return written;
    };
    const written = await failing("EPIPE");
    assert.ok(written > 0 && written < 200_000, `${written} bytes`);
    await assert.rejects(failing("ENOSPC"), /ENOSPC/);
  }),
);
