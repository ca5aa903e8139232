// Hostile WAL against the decoder: real records with damage that the checksums do not show.
//
// Invariants, for every seed:
// 1. Whatever the bytes, the only error is a StorageError `corrupt` or `unsupported` that names an LSN.
// 2. Records that end before the first damaged byte come out whole and unchanged.
// 3. What the decoder hands out lies inside the record: every delta is exactly as long as its own
//    header says, every image is a page.
// 4. `next` ends: no more records than bytes.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { StorageError } from "../../src/base/errors.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { MAJORS, PG_VERSIONS } from "../../src/postgres/versions.ts";
import { DELTA_HEADER_SIZE, DELTA_REFERENCE_SIZE } from "../../src/wal-decoder/delta.ts";
import { interpretRecord } from "../../src/wal-decoder/interpret-record.ts";
import type { RecordSink } from "../../src/wal-decoder/record-sink.ts";
import { WalStream } from "../../src/wal-decoder/wal-stream.ts";
import { recordingSink } from "../redo/recording-sink.ts";
import { WalBuilder } from "../wal-builder.ts";

const SAMPLES = readFileSync(
  join(import.meta.dirname, "../../src/wal-decoder/testdata/records-17.hex.txt"),
  "latin1",
)
  .trim()
  .split("\n")
  .map((hex) => Uint8Array.from(Buffer.from(hex, "hex")));

export interface FuzzResult {
  readonly records: number;
  readonly refused: number;
}

/** Builds `steps` pieces of WAL from damaged records and decodes each in random chunks. */
export function run(seed: number, steps: number): FuzzResult {
  const random = new SeededRandom(seed);
  let records = 0;
  let refused = 0;
  for (let step = 0; step < steps; step++) {
    const { pageMagic } = PG_VERSIONS[random.bool(0.7) ? 17 : random.pick(MAJORS)];
    const wal = new WalBuilder({
      startLsn: toLsn(0x1000000 * (1 + random.int(3)) + 40 + 8 * random.int(1018)),
      pageMagic,
    });
    for (let i = 1 + random.int(20); i > 0; i--) {
      const sample = random.pick(SAMPLES);
      // Damage before the CRC is set: as a buggy or malicious compute would send it.
      wal.append(random.bool(0.5) ? sample : damageRecord(sample, random));
    }
    const bytes = wal.bytes;
    const damagedFrom = random.bool(0.5) ? bytes.length : damageStream(bytes, random);
    const intact = wal.records.filter(({ endLsn }) => endLsn <= wal.startLsn + damagedFrom);
    const result = decodeAll(bytes, wal, pageMagic, random);
    records += result.records;
    refused += result.refused;
    if (!result.stoppedByContent) {
      assert.ok(result.records >= intact.length, "an intact record is missing");
    }
  }
  return { records, refused };
}

function damageRecord(sample: Uint8Array, random: SeededRandom): Uint8Array {
  let bytes = sample.slice();
  for (let i = 1 + random.int(4); i > 0; i--) {
    const at = 16 + random.int(bytes.length - 16);
    switch (random.int(4)) {
      case 0:
        bytes[at]! ^= 1 << random.int(8);
        break;
      case 1:
        bytes[at] = random.pick([0, 1, 0x7f, 0x80, 0xfe, 0xff, random.int(256)]);
        break;
      case 2:
        bytes.fill(random.int(256), at, at + random.int(12));
        break;
      default:
        bytes = bytes.slice(0, Math.max(24, at));
    }
  }
  if (bytes[17]! > 21 && bytes[17]! < 128) {
    bytes[17] = random.int(22); // others end the stream at once
  }
  new DataView(bytes.buffer).setUint32(0, bytes.length, true);
  return bytes;
}

/** Damages the stream behind the checksums' back; returns the offset of the first damaged byte. */
function damageStream(bytes: Uint8Array, random: SeededRandom): number {
  let first = bytes.length;
  for (let i = 1 + random.int(3); i > 0; i--) {
    const at = random.int(bytes.length);
    first = Math.min(first, at);
    if (random.bool()) {
      bytes[at]! ^= 1 << random.int(8);
    } else {
      bytes.fill(random.bool() ? 0 : random.int(256), at, at + random.int(100));
    }
  }
  return first;
}

function decodeAll(
  bytes: Uint8Array,
  wal: WalBuilder,
  pageMagic: number,
  random: SeededRandom,
): FuzzResult & { stoppedByContent: boolean } {
  const stream = new WalStream({ startLsn: wal.startLsn, pageMagic });
  const sink = checkingSink();
  let records = 0;
  let refused = 0;
  try {
    for (let at = 0; at < bytes.length; ) {
      const end = Math.min(bytes.length, at + 1 + random.int(random.bool() ? 40 : 9000));
      stream.feed(bytes, at, end);
      at = end;
      while (stream.next()) {
        const expected = wal.records[records];
        assert.ok(expected !== undefined, "more records than were written");
        records++;
        const { record } = stream;
        const got = record.bytes.subarray(record.offset, record.offset + record.length);
        assert.deepEqual(Buffer.compare(got, expected.bytes), 0);
        try {
          interpretRecord(record, sink);
        } catch (error) {
          refused++;
          checkError(error);
          // The content is refused; the stream goes on, so that the rest is tried too.
        }
        if (record.endLsn !== expected.endLsn) {
          // Damage made a switch of it: the rest of the segment is skipped.
          return { records, refused, stoppedByContent: true };
        }
      }
    }
  } catch (error) {
    refused++;
    checkError(error);
  }
  return { records, refused, stoppedByContent: false };
}

function checkError(error: unknown): void {
  if (
    !(error instanceof StorageError) ||
    (error.kind !== "corrupt" && error.kind !== "unsupported") ||
    typeof error.fields["lsn"] !== "string"
  ) {
    throw error;
  }
}

function checkingSink(): RecordSink {
  const lines: string[] = [];
  const recording = recordingSink(lines);
  return new Proxy(recording, {
    get(target, name: keyof RecordSink) {
      lines.length = 0;
      if (name === "blockDelta") {
        return (_rel: unknown, _blkno: number, delta: Uint8Array) => {
          const view = new DataView(delta.buffer, delta.byteOffset, delta.byteLength);
          const references = view.getUint8(8) * DELTA_REFERENCE_SIZE;
          const data = view.getUint32(12, true) + view.getUint32(16, true);
          assert.equal(delta.length, DELTA_HEADER_SIZE + references + data);
        };
      }
      if (name === "blockImage") {
        return (_rel: unknown, _blkno: number, page: Uint8Array) => assert.equal(page.length, 8192);
      }
      return target[name];
    },
  });
}

if (import.meta.main) {
  const [first = "1", count = "1000", steps = "200"] = process.argv.slice(2);
  let records = 0;
  let refused = 0;
  for (let seed = Number(first); seed < Number(first) + Number(count); seed++) {
    try {
      const result = run(seed, Number(steps));
      records += result.records;
      refused += result.refused;
    } catch (error) {
      console.error(`seed ${seed}`);
      throw error;
    }
  }
  console.log(`${count} seeds of ${steps} steps: ${records} records, ${refused} refused`);
}
