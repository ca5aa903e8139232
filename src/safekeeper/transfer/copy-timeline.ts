// Copies a timeline on this safekeeper up to an LSN, under another id.

import { carryOutInBackground } from "../../base/disk-steps.ts";
import { StorageError, withContext } from "../../base/errors.ts";
import type { TimelineId } from "../../base/ids.ts";
import {
  formatLsn,
  type Lsn,
  maxLsn,
  minLsn,
  segmentNumber,
  segmentStart,
  walFileName,
} from "../../base/lsn.ts";
import { historyUpTo, lastTermAt } from "../../safekeeper-protocol/term-history.ts";
import { type AcceptorPersistentState, persistentNow } from "../consensus/acceptor.ts";
import type { Timeline } from "../timeline.ts";
import type { TimelineManager } from "../timeline-manager.ts";
import { timelinePrefix } from "../wal-backup/stored-wal.ts";
import { IncomingTimeline } from "./incoming-timeline.ts";
import { TimelineWal } from "./timeline-wal.ts";

/**
 * `untilLsn`, a record end at or below the commit LSN, becomes the end of the copy. Whole segments in
 * the object store are copied there; the rest is written here. StorageError `invalid` for another LSN.
 */
export async function copyTimeline(
  manager: TimelineManager,
  source: Timeline,
  targetId: TimelineId,
  untilLsn: Lsn,
): Promise<void> {
  const { tenantId } = source;
  const { timelineStartLsn } = source.state.persistent;
  if (untilLsn < timelineStartLsn || untilLsn > source.state.commitLsn) {
    const range = `${formatLsn(timelineStartLsn)} to ${formatLsn(source.state.commitLsn)}`;
    const message = `until_lsn ${formatLsn(untilLsn)} is not in committed WAL, ${range}`;
    throw new StorageError("invalid", "bad-until-lsn", message);
  }
  const place = manager.reserve(tenantId, targetId);
  const wal = await TimelineWal.open(source);
  try {
    const state = copiedState(source, targetId, untilLsn);
    const isStored = source.storedWal !== undefined;
    const start = isStored ? state.backupLsn : source.localWalStartLsn;
    await wal.checkRecordAt(maxLsn(start, timelineStartLsn), untilLsn);
    const incoming = new IncomingTimeline(place.disk, place.directory, state, start);
    try {
      const write = (bytes: Uint8Array) => carryOutInBackground(incoming.write(bytes), place.disk);
      await writeSegments(wal, write, state, start);
      incoming.finish();
    } finally {
      await carryOutInBackground(incoming.close(), place.disk);
    }
    await copyStored(source, state);
    place.install();
  } catch (error) {
    throw withContext(error, `copy timeline ${source.timelineId} to ${targetId}`);
  } finally {
    wal.close();
    place.release();
  }
}

function copiedState(
  source: Timeline,
  timelineId: TimelineId,
  untilLsn: Lsn,
): AcceptorPersistentState {
  const from = persistentNow(source.state);
  const lastStart = segmentStart((untilLsn - 1) as Lsn, from.walSegSize);
  return {
    ...from,
    timelineId,
    term: lastTermAt(from.termHistory, untilLsn),
    termHistory: historyUpTo(from.termHistory, untilLsn),
    commitLsn: untilLsn,
    flushedLsn: untilLsn,
    backupLsn: maxLsn(minLsn(from.backupLsn, lastStart), from.timelineStartLsn),
    peerHorizonLsn: minLsn(from.peerHorizonLsn, untilLsn),
    remoteConsistentLsn: from.timelineStartLsn,
  };
}

async function writeSegments(
  wal: TimelineWal,
  write: (bytes: Uint8Array) => Promise<void>,
  state: AcceptorPersistentState,
  start: Lsn,
): Promise<void> {
  const { walSegSize, flushedLsn, localStartLsn } = state;
  let segment = segmentStart(start, walSegSize);
  for (; segment < flushedLsn; segment = (segment + walSegSize) as Lsn) {
    const from = maxLsn(segment, localStartLsn);
    const end = Math.min(segment + walSegSize, flushedLsn) as Lsn;
    await write(new Uint8Array(from - segment));
    for await (const bytes of wal.read(from, end)) {
      await write(bytes);
    }
    await write(new Uint8Array(segment + walSegSize - end));
  }
}

async function copyStored(source: Timeline, state: AcceptorPersistentState): Promise<void> {
  const stored = source.storedWal;
  if (stored === undefined) {
    return;
  }
  const { walSegSize, timelineStartLsn, backupLsn, tenantId, timelineId } = state;
  const prefix = timelinePrefix(tenantId, timelineId);
  const end = segmentNumber(backupLsn, walSegSize);
  for (let segno = segmentNumber(timelineStartLsn, walSegSize); segno < end; segno++) {
    const to = prefix + walFileName(segno, 1, walSegSize);
    await stored.store.copy(stored.segmentKey(segno), to);
  }
}
