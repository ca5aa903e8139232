import assert from "node:assert/strict";
import { test } from "node:test";
import { WalBuilder } from "../../testing/wal-builder.ts";
import { addLsn, type Lsn, toLsn, XLOG_BLCKSZ } from "../base/lsn.ts";
import { SeededRandom } from "../base/random.ts";
import { isRecordEnd } from "./record-end.ts";

const SEGMENT = 4 * XLOG_BLCKSZ;

test("isRecordEnd: as the walk of the whole log says, at every position", () => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = new SeededRandom(seed);
    const startLsn = addLsn(toLsn(5 * SEGMENT), random.pick([0, 40, 400, 2 * XLOG_BLCKSZ + 24]));
    const wal = new WalBuilder({ startLsn, segmentSize: SEGMENT });
    while (wal.endLsn < startLsn + 6 * SEGMENT) {
      if (random.bool(0.02)) {
        wal.appendSwitch();
      } else if (random.bool(0.2)) {
        // Ends with its page, or next to that.
        const room = XLOG_BLCKSZ - (wal.endLsn % XLOG_BLCKSZ);
        wal.appendFilled(Math.max(24, room - random.pick([0, 5, 8, 24, 32])));
      } else {
        wal.appendFilled(24 + random.int(random.pick([100, 1000, 20_000, 2 * SEGMENT])));
      }
    }
    const read = (lsn: Lsn, length: number) => wal.read(lsn, addLsn(lsn, length));
    const log = { read, segmentSize: SEGMENT, startLsn };
    const ends = new Set<number>([startLsn, ...wal.recordEnds]);
    for (let at = startLsn; at < wal.endLsn; at = addLsn(at, random.bool(0.1) ? 4 : 8)) {
      assert.equal(isRecordEnd(log, at), ends.has(at), `seed ${seed}, ${at}`);
    }
    for (const end of wal.recordEnds.slice(0, -1)) {
      assert.equal(isRecordEnd(log, end), true, `seed ${seed}, ${end}`);
    }
  }
});

test("isRecordEnd: needs nothing of the segment before", () => {
  const startLsn = toLsn(5 * SEGMENT + 40);
  const wal = new WalBuilder({ startLsn, segmentSize: SEGMENT });
  wal.appendSwitch();
  wal.appendFilled(2 * SEGMENT);
  const first = toLsn(6 * SEGMENT);
  const read = (lsn: Lsn, length: number) => {
    assert.ok(lsn >= first, "the segment before was removed");
    return wal.read(lsn, addLsn(lsn, length));
  };
  const log = { read, segmentSize: SEGMENT, startLsn };
  assert.equal(isRecordEnd(log, first), true);
  assert.equal(isRecordEnd(log, toLsn(7 * SEGMENT)), false);
});

test("isRecordEnd: a page without a valid header is corrupt", () => {
  const startLsn = toLsn(5 * SEGMENT + 40);
  const log = {
    read: (_: Lsn, length: number) => new Uint8Array(length),
    segmentSize: SEGMENT,
    startLsn,
  };
  const lsn = addLsn(startLsn, 2 * XLOG_BLCKSZ);
  assert.throws(() => isRecordEnd(log, lsn), { kind: "corrupt" });
});
