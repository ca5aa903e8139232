// A copy of a timeline as it travels from one simulated safekeeper to another: a twin of transfer/.

import { join } from "node:path";
import { diskError } from "../src/base/disk.ts";
import { type Lsn, maxLsn, segmentNumber, segmentStart, walFileName } from "../src/base/lsn.ts";
import {
  type AcceptorPersistentState,
  persistentNow,
} from "../src/safekeeper/consensus/acceptor.ts";
import { CONTROL_FILE_NAME, writeControlFile } from "../src/safekeeper/control-file.ts";
import type { Timeline } from "../src/safekeeper/timeline.ts";
import {
  adoptedState,
  type PullDecision,
  type PullSource,
} from "../src/safekeeper/transfer/pull-decision.ts";
import { newWholeSegmentCheck, walked } from "../src/safekeeper/wal-backup/read-segment.ts";
import { SegmentCheck } from "../src/safekeeper/wal-backup/segment-check.ts";
import type { SimulatedDisk } from "./simulated-disk.ts";
import { carryOutNow, type SimulatedStore } from "./simulated-store.ts";
import { SEGMENT_SIZE, TIMELINE_DIRECTORY } from "./simulated-wal.ts";

const PULL_DIRECTORY = "/timeline.pull";
const DISCARDED_DIRECTORY = "/timeline.discarded";

export interface TimelineCopy {
  readonly persistent: AcceptorPersistentState;
  /** The WAL on the donor's disk, from `startLsn` to its flush LSN. */
  readonly startLsn: Lsn;
  readonly wal: Uint8Array;
}

/** The record in the middle of which it begins, if it does, is checked with what the store has of it. */
export function copyOf(timeline: Timeline, store: SimulatedStore): TimelineCopy {
  const { state, localWalStartLsn } = timeline;
  const { persistent, flushLsn } = state;
  const startLsn = maxLsn(persistent.localStartLsn, localWalStartLsn);
  if (timeline.storedWal !== undefined && startLsn < flushLsn) {
    const walk = newWholeSegmentCheck(timeline).recordAt(startLsn, flushLsn);
    carryOutNow(walked(timeline, walk), store);
  }
  const reader = timeline.openReader();
  const wal = reader.read(startLsn, flushLsn - startLsn);
  reader.close();
  return { persistent: persistentNow(state), startLsn, wal };
}

/**
 * Writes a pulled copy beside, durably, and gives it its name at the end: a half copy is never served.
 * Loading it makes its name durable.
 */
export function installCopy(
  disk: SimulatedDisk,
  copy: TimelineCopy,
  decision: PullDecision<PullSource>,
): void {
  disk.removeTree(PULL_DIRECTORY);
  disk.makeDirectory(PULL_DIRECTORY);
  try {
    writeSegments(disk, copy);
  } catch (error) {
    throw diskError(error, "write a copy");
  }
  const persistent = adoptedState(copy.persistent, decision);
  writeControlFile(join(PULL_DIRECTORY, CONTROL_FILE_NAME), persistent, disk);
  disk.rename(PULL_DIRECTORY, TIMELINE_DIRECTORY);
}

/** As TimelineManager.delete does it: a crash in the middle must not leave half a timeline. */
export function discardTimeline(disk: SimulatedDisk): void {
  try {
    disk.removeTree(DISCARDED_DIRECTORY);
    disk.rename(TIMELINE_DIRECTORY, DISCARDED_DIRECTORY);
    disk.fsyncDirectory("/");
    disk.removeTree(DISCARDED_DIRECTORY);
  } catch (error) {
    throw diskError(error, "discard a timeline");
  }
}

/** The records in it are walked: damage does not travel. */
function writeSegments(disk: SimulatedDisk, { persistent, startLsn, wal }: TimelineCopy): void {
  const { systemId } = persistent;
  const check = new SegmentCheck({ segmentSize: SEGMENT_SIZE, pageMagic: undefined, systemId });
  if (startLsn === persistent.localStartLsn) {
    check.startAt(startLsn);
  }
  for (let done = 0; done < wal.length; ) {
    const lsn = (startLsn + done) as Lsn;
    const offset = lsn - segmentStart(lsn, SEGMENT_SIZE);
    const bytes = wal.subarray(done, done + SEGMENT_SIZE - offset);
    check.feed(lsn, bytes);
    const name = walFileName(segmentNumber(lsn, SEGMENT_SIZE), 1, SEGMENT_SIZE);
    const fd = disk.open(join(PULL_DIRECTORY, name), "wx+");
    disk.write(fd, bytes, offset);
    disk.truncate(fd, SEGMENT_SIZE);
    disk.fsync(fd);
    disk.close(fd);
    done += bytes.length;
  }
  check.endAt((startLsn + wal.length) as Lsn);
}
