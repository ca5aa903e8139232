// Reads segments that are to be uploaded, and checks their records meanwhile.

import { turn } from "../../base/clock.ts";
import { type Lsn, maxLsn, segmentStart } from "../../base/lsn.ts";
import { pgVersion } from "../../postgres/versions.ts";
import type { Timeline } from "../timeline.ts";
import { type CheckedWal, SegmentCheck } from "./segment-check.ts";
import { WholeSegmentCheck } from "./whole-segment-check.ts";

const READ_BYTES = 256 * 1024;

function checkedWal(timeline: Timeline): CheckedWal {
  const { walSegSize, pgVersion: version, systemId } = timeline.state.persistent;
  const { pageMagic } = pgVersion(Math.floor(version / 10_000));
  return { segmentSize: walSegSize, pageMagic, systemId };
}

export function newWholeSegmentCheck(timeline: Timeline): WholeSegmentCheck {
  return new WholeSegmentCheck(checkedWal(timeline), timeline.state.persistent.localStartLsn);
}

/**
 * The segment at `start`, all of it committed. What the check wants of segments that left the disk
 * comes from the store. StorageError as WholeSegmentCheck's and the store's.
 */
export async function readWholeSegment(
  timeline: Timeline,
  check: WholeSegmentCheck,
  start: Lsn,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const release = timeline.hold();
  const reader = timeline.openReader();
  try {
    const walk = check.segment(start, timeline.state.commitLsn);
    let step = walk.next();
    while (step.done !== true) {
      const { lsn, length } = step.value;
      const { storedWal, localWalStartLsn } = timeline;
      const isHere = lsn >= localWalStartLsn || storedWal === undefined;
      const piece = isHere ? reader.read(lsn, length) : await storedWal.read(lsn, length, signal);
      step = walk.next(piece);
      await turn();
    }
    return step.value;
  } finally {
    reader.close();
    release();
  }
}

/** The log's last segment up to `end`; zeros below the log's start. */
export async function readLastSegment(timeline: Timeline, end: Lsn): Promise<Uint8Array> {
  const checked = checkedWal(timeline);
  const start = segmentStart((end - 1) as Lsn, checked.segmentSize);
  const from = maxLsn(start, timeline.state.persistent.localStartLsn);
  const check = new SegmentCheck(checked);
  if (from > start) {
    check.startAt(from);
  }
  const release = timeline.hold();
  const reader = timeline.openReader();
  try {
    const bytes = Buffer.alloc(end - start);
    for (let at = from; at < end; ) {
      const length = Math.min(READ_BYTES, end - at);
      const piece = reader.read(at, length);
      check.feed(at, piece);
      bytes.set(piece, at - start);
      at = (at + length) as Lsn;
      await turn();
    }
    check.endAt(end);
    return bytes;
  } finally {
    reader.close();
    release();
  }
}
