// Where a replica begins to replay: near the head, and where recovery learns at once which transactions run.

import { StorageError } from "../../base/errors.ts";
import { INVALID_LSN, type Lsn } from "../../base/lsn.ts";
import type { ReplayStart } from "../../data-directory/start-directory.ts";
import type { ComputeState, StandbySnapshot } from "../../pageserver/api.ts";

export interface ReplicaStart extends ReplayStart {
  /** R: pages are as of there, records behind it are replayed. */
  readonly lsn: Lsn;
  /** Start of the record that ends at R; 0 where unknown, as it may be where a branch begins. */
  readonly prevRecordLsn: Lsn;
  /** The head as it was: who reads after the start finds all that was committed up to there. */
  readonly headLsn: Lsn;
}

/**
 * Recovery opens for readers at a record that names all running transactions. Behind a shutdown checkpoint none runs. Else the
 * start is behind the last record but one that names them, and all that is up to the last one is replayed before anybody reads:
 * locks are in WAL before the record that follows them (LogStandbySnapshot in standby.c), and what was locked before the last
 * but one, and is still, is there again before the last. Postgres writes such a record each 15 s in which there was WAL
 * (LOG_SNAPSHOT_INTERVAL_MS in bgwriter.c), so it is never much.
 *
 * `newest` is the state at the head. StorageError `unavailable` where storage knows of no such record, as it has taken in the
 * WAL in an earlier version: until the primary has been started again, or has made two checkpoints.
 */
export function replicaStart(newest: ComputeState): ReplicaStart {
  const { lsn: headLsn, timelineStartLsn } = newest;
  // An ancestor's transactions that were open where the timeline begins never go on.
  const own = newest.standbySnapshots.filter(({ endLsn }) => endLsn > timelineStartLsn);
  const last = own.at(-1);
  if (last === undefined && headLsn === timelineStartLsn) {
    // Nobody has written to it.
    const { prevRecordLsn } = newest;
    return { lsn: headLsn, prevRecordLsn, headLsn, running: undefined, consistentLsn: headLsn };
  }
  const begin = last?.kind === "shutdown" ? last : own.length > 1 ? own.at(-2) : undefined;
  if (begin === undefined) {
    throw new StorageError(
      "unavailable",
      "no-replica-start",
      "storage does not know yet where a replica of this branch can begin: start its primary endpoint again, or run CHECKPOINT there twice",
    );
  }
  return startBehind(begin, last ?? begin, headLsn);
}

/**
 * Recovery counts as consistent once `last` is replayed. Before, it would wait recovery_min_apply_delay for each commit, and so with
 * commits between the two open for nobody until then.
 */
function startBehind(begin: StandbySnapshot, last: StandbySnapshot, headLsn: Lsn): ReplicaStart {
  const { startLsn, endLsn, kind, oldestRunningXid, nextXid } = begin;
  return {
    lsn: endLsn,
    prevRecordLsn: startLsn,
    headLsn,
    running: kind === "shutdown" ? undefined : { oldestXid: oldestRunningXid, nextXid },
    consistentLsn: last.endLsn,
  };
}

/** Whether recovery can go on with the first record behind R. */
export function canGoOn(start: ReplicaStart): boolean {
  return start.prevRecordLsn !== INVALID_LSN;
}
