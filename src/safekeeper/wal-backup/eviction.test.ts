import assert from "node:assert/strict";
import { test } from "node:test";
import { newTimeline } from "../../../simulation/simulated-timeline.ts";
import { SEGMENT_SIZE } from "../../../simulation/simulated-wal.ts";
import { toLsn } from "../../base/lsn.ts";
import { NO_MEMBERSHIP } from "../../safekeeper-protocol/membership.ts";
import { acceptorAfterStart } from "../consensus/acceptor.ts";
import { whereEndOfWal } from "./eviction.ts";

test("whereEndOfWal: a partial segment, unless whole ones have it all, so that it may be removed", () => {
  const endOfSegment = toLsn(9 * SEGMENT_SIZE);
  const where = (flushLsn: number, backupLsn: number, segno: number) => {
    const lsn = toLsn(flushLsn);
    const persistent = { ...newTimeline(NO_MEMBERSHIP), flushedLsn: lsn, commitLsn: lsn };
    const state = acceptorAfterStart(1, { ...persistent, backupLsn: toLsn(backupLsn) }, lsn);
    const partial = { segno, term: 1, flushLsn: lsn, commitLsn: lsn, safekeeperId: 1 };
    const end = whereEndOfWal(state, { partial, evicted: true });
    return { lsn: end.lsn, isPartial: end.partial === partial };
  };
  const start = endOfSegment - SEGMENT_SIZE;
  assert.deepEqual(where(start + 800, start, 8), { lsn: start, isPartial: true });
  assert.deepEqual(where(endOfSegment, start, 8), { lsn: start, isPartial: true });
  assert.deepEqual(where(endOfSegment, endOfSegment, 8), { lsn: start, isPartial: false });
  // One of an earlier segment that nobody has removed yet.
  assert.deepEqual(where(endOfSegment, endOfSegment, 7), { lsn: start, isPartial: false });
});
