// Which of a timeline's WAL may leave the disk: what everybody has who could ask for it.

import { INVALID_LSN, type Lsn, minLsn } from "../../base/lsn.ts";

/**
 * A reader or safekeeper further behind than this no longer keeps local WAL, where the object store
 * can serve it: one that has stopped reading, or is down for days, must not fill the disks.
 */
const MAX_LAG_BYTES = 1024 ** 3;

export interface RemovalPositions {
  readonly commitLsn: Lsn;
  /** Survives the loss of the pageserver. */
  readonly remoteConsistentLsn: Lsn;
  /** Below, every safekeeper has all WAL. */
  readonly peerHorizonLsn: Lsn;
  /** Below, WAL is in the object store; undefined where there is no store. */
  readonly backupLsn: Lsn | undefined;
  /** Where connected pageservers, standbys and proposers will read next. */
  readonly readers: readonly Lsn[];
}

/** Segments that end at or below this LSN may go. */
export function walRemovalHorizon(positions: RemovalPositions): Lsn {
  const { commitLsn, remoteConsistentLsn, peerHorizonLsn, backupLsn } = positions;
  let horizon = minLsn(commitLsn, remoteConsistentLsn);
  if (backupLsn !== undefined) {
    horizon = minLsn(horizon, backupLsn);
  }
  for (const lsn of [peerHorizonLsn, ...positions.readers]) {
    if (backupLsn === undefined || commitLsn - lsn <= MAX_LAG_BYTES) {
      horizon = minLsn(horizon, lsn);
    }
  }
  // The byte before the commit LSN stays, also where it is the last of its segment: the log may be cut
  // down to there, and a restart looks at its last byte.
  return commitLsn === INVALID_LSN ? horizon : minLsn(horizon, (commitLsn - 1) as Lsn);
}
