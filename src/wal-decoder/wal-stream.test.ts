import assert from "node:assert/strict";
import { test } from "node:test";
import { type BuiltRecord, WalBuilder } from "../../testing/wal-builder.ts";
import { StorageError } from "../base/errors.ts";
import { addLsn, formatLsn, type Lsn, lsnHigh, lsnLow, toLsn } from "../base/lsn.ts";
import { SeededRandom } from "../base/random.ts";
import { XLOG_OVERWRITE_CONTRECORD } from "../postgres/opcodes.ts";
import { RM_LOGICALMSG_ID, RM_XLOG_ID } from "../postgres/rmgr.ts";
import { PG_VERSIONS } from "../postgres/versions.ts";
import { encodeRecord, RECORD_HEADER_SIZE } from "../postgres/xlog-record.ts";
import { WalStream, type WalStreamOptions } from "./wal-stream.ts";

const { pageMagic } = PG_VERSIONS[17];
const SEGMENT = 16 * 1024 * 1024;
const START = toLsn(SEGMENT + 40);

function filler(length: number, seed = length): Uint8Array {
  const random = new SeededRandom(seed);
  return Uint8Array.from({ length }, () => random.int(256));
}

function message(length: number, options: { rmid?: number; info?: number } = {}): Uint8Array {
  return encodeRecord({
    rmid: options.rmid ?? RM_LOGICALMSG_ID,
    info: options.info ?? 0,
    xid: 0,
    prevLsn: toLsn(0),
    mainData: filler(length),
  });
}

function builder(startLsn: Lsn = START): WalBuilder {
  return new WalBuilder({ startLsn, pageMagic });
}

/** Records as `start end first-bytes`, fed in chunks of the given sizes (repeated). */
function decode(
  bytes: Uint8Array,
  startLsn: Lsn,
  options: Partial<WalStreamOptions> = {},
  chunks: readonly number[] = [bytes.length],
): { found: BuiltRecord[]; stream: WalStream } {
  const stream = new WalStream({ startLsn, pageMagic, ...options });
  const found: BuiltRecord[] = [];
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const end = Math.min(bytes.length, at + chunks[i % chunks.length]!);
    stream.feed(bytes, at, end);
    at = end;
    while (stream.next()) {
      const { startLsn, endLsn, bytes, offset, length } = stream.record;
      found.push({ startLsn, endLsn, bytes: bytes.slice(offset, offset + length) });
    }
  }
  return { found, stream };
}

function corrupt(pattern: RegExp, lsn: Lsn) {
  return (error: unknown) => {
    assert.ok(error instanceof StorageError, String(error));
    assert.equal(error.kind, "corrupt");
    assert.match(error.message, pattern);
    assert.equal(error.fields["lsn"], formatLsn(lsn));
    return true;
  };
}

test("WalStream: any record lengths, any start, any chunks", () => {
  const random = new SeededRandom(11);
  for (let round = 0; round < 40; round++) {
    const wal = builder(toLsn(SEGMENT + 40 + 8 * random.int(1000)));
    for (let i = 0; i < 60; i++) {
      const long = random.bool(0.1) ? 30_000 : 400;
      wal.append(message(random.int(long)));
    }
    const chunks = Array.from({ length: 9 }, () => 1 + random.int(random.bool() ? 9000 : 60));
    const { found, stream } = decode(wal.bytes, wal.startLsn, { systemId: wal.systemId }, chunks);
    assert.deepEqual(found, wal.records);
    assert.equal(stream.stop, "more");
    assert.equal(stream.recordEndLsn, wal.endLsn);
    assert.equal(stream.fedLsn, wal.endLsn);
  }
});

test("WalStream: every place of a record's header on a page, also at a segment's end", () => {
  for (const boundary of [SEGMENT + 8192, 2 * SEGMENT]) {
    for (let before = 8; before <= 64; before += 8) {
      const wal = builder(toLsn(boundary - before));
      wal.append(message(50));
      wal.append(message(9));
      for (const chunks of [[1 << 20], [1], [13]]) {
        assert.deepEqual(decode(wal.bytes, wal.startLsn, {}, chunks).found, wal.records);
      }
    }
  }
});

test("WalStream: starts at a page or segment start as well as behind its header", () => {
  for (const start of [2 * SEGMENT, SEGMENT + 3 * 8192]) {
    const wal = builder(toLsn(start));
    wal.append(message(100));
    const { found } = decode(wal.bytes, wal.startLsn);
    assert.deepEqual(found, wal.records);
    const first = wal.records[0]!.startLsn;
    const rest = decode(wal.bytes.subarray(first - start), first);
    assert.deepEqual(rest.found, wal.records);
  }
});

test("WalStream: refuses a start inside a page header or off the alignment", () => {
  for (const start of [SEGMENT + 8, SEGMENT + 32, SEGMENT + 8192 + 16, SEGMENT + 8192 + 25]) {
    assert.throws(() => new WalStream({ startLsn: toLsn(start), pageMagic }), { kind: "invalid" });
  }
});

test("WalStream: a switch ends at the segment's end, whether that is fed or not", () => {
  const wal = builder();
  wal.append(message(77));
  const switchEnd = addLsn(wal.endLsn, RECORD_HEADER_SIZE);
  wal.appendSwitch();
  wal.append(message(5));
  for (const chunks of [[1 << 25], [100_000], [8192], [777]]) {
    const { found } = decode(wal.bytes, wal.startLsn, {}, chunks);
    assert.deepEqual(found, wal.records);
  }
  assert.equal(wal.records[1]!.endLsn, 2 * SEGMENT);
  const cut = decode(wal.bytes.subarray(0, switchEnd - wal.startLsn), wal.startLsn);
  assert.equal(cut.found.length, 2);
  assert.equal(cut.stream.recordEndLsn, 2 * SEGMENT);
  assert.equal(cut.stream.fedLsn, switchEnd);
});

test("WalStream: zeros are told apart from an incomplete record", () => {
  for (const length of [100, 8192 - 40 - 26 - 8, 8192 - 40 - 26]) {
    const wal = builder();
    wal.append(message(length));
    const bytes = new Uint8Array(wal.bytes.length + 20_000);
    bytes.set(wal.bytes);
    const { found, stream } = decode(bytes, wal.startLsn);
    assert.deepEqual(found, wal.records);
    assert.equal(stream.stop, "zeroed");
    assert.equal(stream.recordEndLsn, wal.endLsn);
  }
  const wal = builder();
  wal.append(message(20_000));
  const torn = wal.bytes.fill(0, 8192);
  const { found, stream } = decode(torn, wal.startLsn);
  assert.deepEqual([found.length, stream.stop], [0, "zeroed"]);
});

test("WalStream: a record of 40 MB comes whole", () => {
  const wal = builder();
  wal.append(message(10));
  wal.append(
    encodeRecord({
      rmid: RM_LOGICALMSG_ID,
      info: 0,
      xid: 9,
      prevLsn: toLsn(0),
      mainData: new Uint8Array(40 * 1024 * 1024).fill(7),
    }),
  );
  wal.append(message(12));
  const { found } = decode(wal.bytes, wal.startLsn, {}, [100_000]);
  assert.deepEqual(
    found.map(({ startLsn, endLsn }) => [startLsn, endLsn]),
    wal.records.map(({ startLsn, endLsn }) => [startLsn, endLsn]),
  );
  assert.ok(Buffer.compare(found[1]!.bytes, wal.records[1]!.bytes) === 0);
});

test("WalStream: what is wrong is corrupt, with its LSN", () => {
  const wal = builder();
  for (const length of [100, 300, 9000, 50]) {
    wal.append(message(length));
  }
  const [first, second, third, fourth] = wal.records as [
    BuiltRecord,
    BuiltRecord,
    BuiltRecord,
    BuiltRecord,
  ];
  const page = toLsn(SEGMENT + 8192);
  const at = (lsn: Lsn) => lsn - wal.startLsn;
  const cases: [name: RegExp, lsn: Lsn, change: (bytes: Uint8Array, view: DataView) => void][] = [
    [/checksum/, first.startLsn, (bytes) => (bytes[30]! ^= 1)],
    [/checksum/, third.startLsn, (bytes) => (bytes[at(third.endLsn) - 9]! ^= 4)],
    [
      /invalid record length 23/,
      second.startLsn,
      (_, view) => view.setUint32(at(second.startLsn), 23, true),
    ],
    [
      /invalid record length/,
      second.startLsn,
      (_, view) => view.setUint32(at(second.startLsn), 0xffffffff, true),
    ],
    [
      /invalid resource manager 22/,
      second.startLsn,
      (bytes) => (bytes[at(second.startLsn) + 17] = 22),
    ],
    [/previous record/, second.startLsn, (bytes) => (bytes[at(second.startLsn) + 8]! ^= 8)],
    [/previous record/, fourth.startLsn, (bytes) => (bytes[at(fourth.startLsn) + 15] = 0xff)],
    [/page magic/, page, (bytes) => (bytes[at(page)]! ^= 1)],
    [
      /page magic is d110 \(PostgreSQL 15\), expected d116 \(PostgreSQL 17\)/,
      page,
      (bytes) => (bytes[at(page)] = 0x10),
    ],
    [/info bits/, page, (bytes) => (bytes[at(page) + 2]! |= 0x40)],
    [/page says it is at/, page, (bytes) => (bytes[at(page) + 8]! ^= 1)],
    [/long page header/, page, (bytes) => (bytes[at(page) + 2]! |= 2)],
    [/does not continue/, page, (bytes) => (bytes[at(page) + 16]! ^= 1)],
    [/does not continue/, page, (bytes) => (bytes[at(page) + 2]! &= ~1)],
    [
      /not acknowledged/,
      toLsn(page + 24),
      (bytes, view) => {
        // The page claims that the record was aborted, but what follows is no acknowledgement of it.
        bytes[at(page) + 2] = 8;
        const other = new WalBuilder({
          startLsn: toLsn(page + 24),
          pageMagic,
          prevLsn: second.startLsn,
        });
        other.append(message(20));
        bytes.set(other.bytes, at(page) + 24);
        assert.ok(view);
      },
    ],
  ];
  for (const [pattern, lsn, change] of cases) {
    const bytes = wal.bytes;
    change(bytes, new DataView(bytes.buffer));
    for (const chunks of [[1 << 20], [64]]) {
      assert.throws(
        () => decode(bytes, wal.startLsn, {}, chunks),
        corrupt(pattern, lsn),
        `${pattern}`,
      );
    }
  }
});

test("WalStream: checks the first record's predecessor where it is known", () => {
  const wal = new WalBuilder({ startLsn: START, pageMagic, prevLsn: toLsn(SEGMENT - 800) });
  wal.append(message(5));
  const known = (prevLsn: number) => decode(wal.bytes, START, { prevLsn: toLsn(prevLsn) });
  assert.equal(known(SEGMENT - 800).found.length, 1);
  assert.equal(known(0).found.length, 1);
  assert.throws(() => known(SEGMENT - 808), corrupt(/previous record/, START));
});

test("WalStream: WAL of another cluster or segment size is corrupt", () => {
  const wal = builder(toLsn(SEGMENT));
  wal.append(message(5));
  assert.throws(
    () => decode(wal.bytes, wal.startLsn, { systemId: 5n }),
    corrupt(/system/, wal.startLsn),
  );
  assert.throws(
    () => decode(wal.bytes, wal.startLsn, { segmentSize: 1024 * 1024 }),
    corrupt(/segment size/, wal.startLsn),
  );
});

test("WalStream: an aborted record is passed over when the next one acknowledges it", () => {
  const build = (named: (aborted: Lsn) => number) => {
    const wal = builder();
    wal.append(message(100));
    const aborted = wal.appendAborted(message(9000));
    const mainData = new Uint8Array(16);
    const view = new DataView(mainData.buffer);
    view.setUint32(0, lsnLow(toLsn(named(aborted))), true);
    view.setUint32(4, lsnHigh(toLsn(named(aborted))), true);
    wal.append(
      encodeRecord({
        rmid: RM_XLOG_ID,
        info: XLOG_OVERWRITE_CONTRECORD,
        xid: 0,
        prevLsn: toLsn(0),
        mainData,
      }),
    );
    wal.append(message(9));
    return wal;
  };
  const wal = build((aborted) => aborted);
  for (const chunks of [[1 << 20], [50]]) {
    assert.deepEqual(decode(wal.bytes, wal.startLsn, {}, chunks).found, wal.records);
  }
  const wrong = build((aborted) => aborted + 8);
  assert.throws(
    () => decode(wrong.bytes, wrong.startLsn),
    corrupt(/not acknowledged/, wrong.records[1]!.startLsn),
  );
});
