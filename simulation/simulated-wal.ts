// The WAL of the simulation: well-formed records in tiny segments, and what each leader's log holds.

import type { TenantId, TimelineId } from "../src/base/ids.ts";
import { type Lsn, segmentNumber, segmentOffset, toLsn, walFileName } from "../src/base/lsn.ts";
import { CONTROL_FILE_NAME, decodeWholeControlFile } from "../src/safekeeper/control-file.ts";
import type { PartialSegment } from "../src/safekeeper/wal-backup/stored-wal.ts";
import type { Term, TermHistory } from "../src/safekeeper-protocol/term-history.ts";
import type { WalBuilder } from "../testing/wal-builder.ts";
import type { SimulatedDisk } from "./simulated-disk.ts";

/** Two WAL pages: nearly every run crosses segments. */
export const SEGMENT_SIZE = 16 * 1024;
/** Every log begins here, behind a page header and inside a segment. */
export const FIRST_LSN = toLsn(8 * SEGMENT_SIZE + 40);
export const SYSTEM_ID = 42n;
export const TIMELINE_IDS = {
  tenantId: "11111111111111111111111111111111" as TenantId,
  timelineId: "22222222222222222222222222222222" as TimelineId,
  pgVersion: 170010,
};
/** A safekeeper's work directory, and where in it the one timeline is that there is. */
export const WORKDIR = "/";
const TENANT_DIRECTORY = `/${TIMELINE_IDS.tenantId}`;
export const TIMELINE_DIRECTORY = `${TENANT_DIRECTORY}/${TIMELINE_IDS.timelineId}`;

/** Where WAL is that left the disks. */
export interface KeptWal {
  /** A whole segment, or at least what there is of it that no disk needs; undefined where it is not there. */
  peek(segno: number): Uint8Array | undefined;
  peekPartial(partial: PartialSegment): Uint8Array | undefined;
}

/** The partial segment that the control file on `disk` names. */
function partialSegment(
  disk: SimulatedDisk,
  segno: number,
  store: KeptWal,
): Uint8Array | undefined {
  const bytes = disk.peek(`${TIMELINE_DIRECTORY}/${CONTROL_FILE_NAME}`);
  const partial = bytes && decodeWholeControlFile(bytes).placement.partial;
  return partial?.segno === segno ? store.peekPartial(partial) : undefined;
}

/** What a proposer that won its term has: the log of its voters up to L, then its own. */
export interface Leader {
  readonly term: Term;
  readonly compute: string;
  readonly startLsn: Lsn;
  readonly termHistory: TermHistory;
  /** WAL [FIRST_LSN, L) as the donor told it with its vote. */
  readonly below: Uint8Array;
  readonly own: WalBuilder;
}

export function readLeader(leader: Leader, begin: Lsn, end: Lsn): Uint8Array {
  const { startLsn } = leader;
  if (begin >= startLsn) {
    return leader.own.read(begin, end);
  }
  const below = leader.below.subarray(begin - FIRST_LSN, Math.min(end, startLsn) - FIRST_LSN);
  return end <= startLsn ? below : Buffer.concat([below, leader.own.read(startLsn, end)]);
}

/**
 * WAL as it stands in a safekeeper's files or, where it has none, in the store; undefined where a file
 * ends before, or WAL is in neither.
 */
export function walOnDisk(
  disk: SimulatedDisk,
  begin: Lsn,
  end: Lsn,
  store?: KeptWal,
): Uint8Array | undefined {
  const bytes = new Uint8Array(Math.max(0, end - begin));
  for (let at = begin; at < end; ) {
    const segno = segmentNumber(at, SEGMENT_SIZE);
    const offset = segmentOffset(at, SEGMENT_SIZE);
    const take = Math.min(end - at, SEGMENT_SIZE - offset);
    const file =
      disk.peek(`${TIMELINE_DIRECTORY}/${walFileName(segno, 1, SEGMENT_SIZE)}`) ??
      store?.peek(segno) ??
      (store && partialSegment(disk, segno, store));
    if (file === undefined || file.length < offset + take) {
      return undefined;
    }
    bytes.set(file.subarray(offset, offset + take), at - begin);
    at = (at + take) as Lsn;
  }
  return bytes;
}
