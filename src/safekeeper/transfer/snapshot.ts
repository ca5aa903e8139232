// A whole timeline as a tar stream: control file first, then every segment that is on this disk.

import { type Lsn, maxLsn, segmentNumber, segmentStart, walFileName } from "../../base/lsn.ts";
import { persistentNow } from "../consensus/acceptor.ts";
import { ALL_LOCAL, CONTROL_FILE_NAME, encodeControlFile } from "../control-file.ts";
import type { Timeline } from "../timeline.ts";
import { TAR_END, tarHeader, tarPadding } from "./tar.ts";
import { TimelineWal } from "./timeline-wal.ts";

/**
 * The state at the time of the call, up to its flush LSN; bytes of the last segment behind it are
 * zeros. Where the log is cut meanwhile the stream breaks. No WAL is removed until it ends.
 */
export async function* snapshot(timeline: Timeline): AsyncGenerator<Uint8Array> {
  const source = await TimelineWal.open(timeline);
  try {
    const { state, localWalStartLsn } = timeline;
    const persistent = persistentNow(state);
    const { walSegSize, flushedLsn } = persistent;
    await source.checkRecordAt(localWalStartLsn, flushedLsn);
    const control = encodeControlFile(persistent, ALL_LOCAL);
    yield tarHeader(CONTROL_FILE_NAME, control.length);
    yield control;
    yield tarPadding(control.length);
    let start = segmentStart(localWalStartLsn, walSegSize);
    for (; start < flushedLsn; start = (start + walSegSize) as Lsn) {
      yield tarHeader(walFileName(segmentNumber(start, walSegSize), 1, walSegSize), walSegSize);
      const from = maxLsn(start, localWalStartLsn);
      const end = Math.min(start + walSegSize, flushedLsn) as Lsn;
      yield new Uint8Array(from - start);
      for await (const { bytes } of source.read(from, end)) {
        yield bytes;
      }
      yield new Uint8Array(start + walSegSize - end);
      yield tarPadding(walSegSize);
    }
    source.check();
    yield TAR_END;
  } finally {
    source.close();
  }
}
