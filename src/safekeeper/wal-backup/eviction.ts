// Brings the last segment of an evicted timeline back from the object store.

import { StorageError, withContext } from "../../base/errors.ts";
import { formatLsn, type Lsn, segmentNumber, segmentStart } from "../../base/lsn.ts";
import { readObject } from "../../object-store/object-store.ts";
import { pgVersion } from "../../postgres/versions.ts";
import type { AcceptorState } from "../acceptor.ts";
import type { WalPlacement } from "../control-file.ts";
import { SegmentCheck } from "./segment-check.ts";
import type { StoredWal } from "./stored-wal.ts";

/** A store that does not answer is an error, after which the next push or read asks again. */
const TIMEOUT_MS = 60_000;

/**
 * The log's last segment from its start to the flush LSN: a restart looks for the byte before it.
 * StorageError `corrupt` where the object is not that WAL, `not-found` where it is gone; the reason of
 * `closing` when that is aborted.
 */
export async function fetchEndOfWal(
  stored: StoredWal,
  state: AcceptorState,
  placement: WalPlacement,
  closing: AbortSignal,
): Promise<{ readonly lsn: Lsn; readonly bytes: Uint8Array }> {
  const { flushLsn, persistent } = state;
  const { segmentSize } = stored;
  const lsn = segmentStart((flushLsn - 1) as Lsn, segmentSize);
  const { partial } = placement;
  const isPartial = partial?.segno === segmentNumber(lsn, segmentSize);
  const key = isPartial ? stored.partialKey(partial) : stored.segmentKey(lsn / segmentSize);
  const doing = `bring back WAL up to ${formatLsn(flushLsn)}`;
  try {
    const range = { start: 0, end: flushLsn - lsn };
    const signal = AbortSignal.any([closing, AbortSignal.timeout(TIMEOUT_MS)]);
    const bytes = await readObject(stored.store, key, { range, signal });
    const check = new SegmentCheck({
      segmentSize,
      pageMagic: pgVersion(Math.floor(persistent.pgVersion / 10_000)).pageMagic,
      systemId: persistent.systemId,
    });
    const { localStartLsn } = persistent;
    if (localStartLsn > lsn) {
      check.startAt(localStartLsn);
      check.feed(localStartLsn, bytes.subarray(localStartLsn - lsn));
    } else {
      check.feed(lsn, bytes);
    }
    if (bytes.length !== flushLsn - lsn) {
      const message = `${key} ends after ${bytes.length} bytes`;
      throw new StorageError("corrupt", "stored-wal-short", message);
    }
    check.endAt(flushLsn);
    return { lsn, bytes };
  } catch (error) {
    throw withContext(error, doing);
  }
}
