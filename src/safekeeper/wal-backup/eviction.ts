// Brings the last segment of an evicted timeline back from the object store.

import { StorageError, withContext } from "../../base/errors.ts";
import { formatLsn, type Lsn, segmentNumber, segmentStart } from "../../base/lsn.ts";
import type { StoreSteps } from "../../object-store/store-steps.ts";
import { pgVersion } from "../../postgres/versions.ts";
import type { AcceptorState } from "../consensus/acceptor.ts";
import type { WalPlacement } from "../control-file.ts";
import { SegmentCheck } from "./segment-check.ts";
import type { PartialSegment, StoredWal } from "./stored-wal.ts";

/** The log's last segment from its start to the flush LSN: a restart looks for the byte before it. */
export interface EndOfWal {
  readonly lsn: Lsn;
  readonly bytes: Uint8Array;
}

/**
 * Where the log's last segment begins, and the partial one in the store that it is in, if not a whole
 * one: a partial one that is in whole ones too may be removed already.
 */
export function whereEndOfWal(
  { flushLsn, persistent: { walSegSize, backupLsn } }: AcceptorState,
  { partial }: WalPlacement,
): { readonly lsn: Lsn; readonly partial: PartialSegment | undefined } {
  const lsn = segmentStart((flushLsn - 1) as Lsn, walSegSize);
  const isPartial = partial?.segno === segmentNumber(lsn, walSegSize) && flushLsn > backupLsn;
  return { lsn, partial: isPartial ? partial : undefined };
}

/** StorageError `corrupt` where it is not whole records up to the flush LSN. */
export function checkEndOfWal(
  { flushLsn, persistent }: AcceptorState,
  { lsn, bytes }: EndOfWal,
): void {
  const { pgVersion: version, systemId, localStartLsn, walSegSize } = persistent;
  if (bytes.length !== flushLsn - lsn) {
    const message = `${bytes.length} bytes of WAL from ${formatLsn(lsn)} instead of up to ${formatLsn(flushLsn)}`;
    throw new StorageError("corrupt", "stored-wal-short", message);
  }
  const { pageMagic } = pgVersion(Math.floor(version / 10_000));
  const check = new SegmentCheck({ segmentSize: walSegSize, pageMagic, systemId });
  if (localStartLsn > lsn) {
    check.startAt(localStartLsn);
    check.feed(localStartLsn, bytes.subarray(localStartLsn - lsn));
  } else {
    check.feed(lsn, bytes);
  }
  check.endAt(flushLsn);
}

/** StorageError `corrupt` where the object is not that WAL, `not-found` where it is gone. */
export function* fetchEndOfWal(
  stored: StoredWal,
  state: AcceptorState,
  placement: WalPlacement,
): StoreSteps<EndOfWal> {
  const { flushLsn } = state;
  const { segmentSize } = stored;
  const { lsn, partial } = whereEndOfWal(state, placement);
  const key = partial ? stored.partialKey(partial) : stored.segmentKey(lsn / segmentSize);
  try {
    const end = { lsn, bytes: yield* stored.readObjectSteps(key, lsn, flushLsn - lsn) };
    checkEndOfWal(state, end);
    return end;
  } catch (error) {
    throw withContext(error, `bring back WAL up to ${formatLsn(flushLsn)} from ${key}`);
  }
}
