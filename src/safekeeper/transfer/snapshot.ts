// A whole timeline as a tar stream: control file first, then every segment that is on this disk.

import { type Lsn, maxLsn, segmentNumber, segmentStart, walFileName } from "../../base/lsn.ts";
import { carryOutStream, type StoreStream } from "../../object-store/store-steps.ts";
import { type AcceptorPersistentState, persistentNow } from "../consensus/acceptor.ts";
import { ALL_LOCAL, CONTROL_FILE_NAME, encodeControlFile } from "../control-file.ts";
import type { Timeline } from "../timeline.ts";
import { TAR_END, tarHeader, tarPadding } from "./tar.ts";
import { TimelineWal } from "./timeline-wal.ts";

/** WAL [lsn, end), to be read. */
export interface WalRange {
  readonly lsn: Lsn;
  readonly end: Lsn;
}

/**
 * A tar archive, but for its end: the control file of `persistent`, then the segments from that of
 * `localWalStart` to that of its flush LSN, zeros around the WAL.
 */
export function* snapshotLayout(
  persistent: AcceptorPersistentState,
  localWalStart: Lsn,
): Generator<Uint8Array | WalRange> {
  const { walSegSize, flushedLsn } = persistent;
  const control = encodeControlFile(persistent, ALL_LOCAL);
  yield tarHeader(CONTROL_FILE_NAME, control.length);
  yield control;
  yield tarPadding(control.length);
  // None where there is no WAL, also where that begins in the middle of a segment.
  let start = localWalStart < flushedLsn ? segmentStart(localWalStart, walSegSize) : flushedLsn;
  for (; start < flushedLsn; start = (start + walSegSize) as Lsn) {
    yield tarHeader(walFileName(segmentNumber(start, walSegSize), 1, walSegSize), walSegSize);
    const lsn = maxLsn(start, localWalStart);
    const end = Math.min(start + walSegSize, flushedLsn) as Lsn;
    yield new Uint8Array(lsn - start);
    yield { lsn, end };
    yield new Uint8Array(start + walSegSize - end);
    yield tarPadding(walSegSize);
  }
}

/**
 * The state at the time of the call, up to its flush LSN; bytes of the last segment behind it are
 * zeros. Where the log is cut meanwhile the stream breaks. No WAL is removed until it ends.
 */
export async function* snapshot(timeline: Timeline): AsyncGenerator<Uint8Array> {
  await timeline.wake();
  const { storedWal, closing } = timeline;
  yield* carryOutStream(snapshotSteps(timeline), storedWal?.store, () => closing);
}

/** The same of a timeline that is not evicted, as steps. */
export function* snapshotSteps(timeline: Timeline): StoreStream {
  const source = new TimelineWal(timeline);
  try {
    const { state, localWalStartLsn } = timeline;
    const persistent = persistentNow(state);
    yield* source.checkRecordAtSteps(localWalStartLsn, persistent.flushedLsn);
    for (const part of snapshotLayout(persistent, localWalStartLsn)) {
      if (part instanceof Uint8Array) {
        yield part;
      } else {
        yield* source.readSteps(part.lsn, part.end);
      }
    }
    source.check();
    yield TAR_END;
  } finally {
    source.close();
  }
}
