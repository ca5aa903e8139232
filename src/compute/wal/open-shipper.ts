// Opens the shipper over a new data directory, whose only WAL is the checkpoint that we made.

import { join } from "node:path";
import { StorageError } from "../../base/errors.ts";
import { addLsn, alignLsn, type Lsn, pageStart, XLOG_BLCKSZ } from "../../base/lsn.ts";
import type { SynthesizedWal } from "../../data-directory/synthesized-wal.ts";
import type { ComputeState } from "../../pageserver/api.ts";
import { pgVersion } from "../../postgres/versions.ts";
import { LocalWal } from "./local-wal.ts";
import type { OpenShipper, ShipperHooks } from "./wal-path.ts";
import { WalShipper } from "./wal-shipper.ts";
import { WalWalker } from "./wal-walker.ts";

/** WAL from `lsn` on: the start of the data directory, whose state is `state` and whose WAL is `wal`. */
export function openShipper(
  place: {
    readonly dataDirectory: string;
    readonly lsn: Lsn;
    readonly state: ComputeState;
    readonly wal: SynthesizedWal;
  },
  hooks: ShipperHooks,
): OpenShipper {
  const { lsn, state, wal } = place;
  const segmentSize = state.walSegmentSize;
  const localWal = new LocalWal(join(place.dataDirectory, "pg_wal"), segmentSize);
  // An LSN inside a page header, or not aligned, is where a branch may begin: its first bytes
  // are sent, but the first record begins behind them.
  const isPageBoundary = lsn === pageStart(lsn);
  const isReadable = isPageBoundary || alignLsn(lsn) === wal.recordStart;
  const shipper = new WalShipper({
    walker: new WalWalker({
      start: isReadable ? alignLsn(lsn) : wal.recordStart,
      prevLsn: state.prevRecordLsn,
      pageMagic: pgVersion(state.pgVersion).pageMagic,
      segmentSize,
      systemId: state.systemId,
    }),
    localWal,
    segmentSize,
    ...hooks,
  });
  const begin = () => {
    const lastByte = addLsn(wal.recordEnd, -1);
    shipper.noteWrittenUpTo(addLsn(pageStart(lastByte), XLOG_BLCKSZ));
    if (shipper.endOfRecords !== wal.recordEnd) {
      // A walker that does not move would let every flush pass as "nothing new".
      throw new StorageError("internal", "walk-failed", "the start record was not found again");
    }
  };
  return { shipper, begin, close: () => localWal.close() };
}
