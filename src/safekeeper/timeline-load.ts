// Reads what a former process left of a timeline: control file, end and start of WAL.

import { join } from "node:path";
import { type Disk, REAL_DISK, readFileIfExists } from "../base/disk.ts";
import { StorageError, withContext } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { formatLsn, type Lsn, MAX_LSN, maxLsn } from "../base/lsn.ts";
import { pgVersion } from "../postgres/versions.ts";
import {
  type AcceptorPersistentState,
  type AcceptorState,
  acceptorAfterStart,
} from "./consensus/acceptor.ts";
import { CONTROL_FILE_NAME, decodeWholeControlFile, type WalPlacement } from "./control-file.ts";
import { findEndOfWal, findStartOfWal, WalStorage } from "./wal-storage.ts";

export interface LoadContext {
  readonly nodeId: number;
  readonly logger: Logger;
  /** Absent: the real one. */
  readonly disk?: Disk;
}

/** What a timeline's directory holds. */
export interface LoadedTimeline {
  readonly state: AcceptorState;
  readonly wal: WalStorage;
  readonly placement: WalPlacement;
  readonly localWalStart: Lsn;
}

/** StorageError `corrupt` where a former process's files cannot be trusted. */
export function loadTimeline(context: LoadContext, directory: string): LoadedTimeline {
  const disk = context.disk ?? REAL_DISK;
  try {
    const bytes = readFileIfExists(join(directory, CONTROL_FILE_NAME), disk);
    if (bytes === undefined) {
      throw new StorageError("corrupt", "no-control-file", `no ${CONTROL_FILE_NAME}`);
    }
    const { state: persistent, placement } = decodeWholeControlFile(bytes);
    const end = placement.evicted
      ? { endLsn: persistent.flushedLsn, stoppedBy: undefined }
      : findEndOfWal(
          directory,
          persistent.walSegSize,
          persistent.flushedLsn,
          persistent.localStartLsn,
          disk,
        );
    const { tenantId, timelineId } = persistent;
    context.logger.info(
      { tenantId, timelineId, flushLsn: formatLsn(end.endLsn), stoppedBy: end.stoppedBy },
      "timeline loaded",
    );
    // Before anything is changed: where committed WAL is missing the files are evidence.
    const state = acceptorAfterStart(context.nodeId, persistent, end.endLsn);
    const wal = openWal(directory, persistent, end.endLsn, disk);
    // Votes and WAL that only the page cache has are not to be told of.
    disk.fsyncDirectory(join(directory, ".."));
    if (placement.evicted) {
      disk.fsyncDirectory(directory);
      wal.removeBelow(MAX_LSN);
    } else {
      wal.settleAfterStart(persistent.flushedLsn);
    }
    const { walSegSize, localStartLsn } = persistent;
    const start = findStartOfWal(directory, walSegSize, end.endLsn, disk);
    return { state, wal, placement, localWalStart: maxLsn(start, localStartLsn) };
  } catch (error) {
    throw withContext(error, `load timeline from ${directory}`);
  }
}

/** A timeline takes WAL of its own major only: the magic on each page tells; of its own system, from the next term on. */
export function openWal(
  directory: string,
  persistent: AcceptorPersistentState,
  endLsn: Lsn,
  disk: Disk,
): WalStorage {
  const { pageMagic } = pgVersion(Math.floor(persistent.pgVersion / 10_000));
  const wal = new WalStorage(directory, persistent.walSegSize, endLsn, disk, pageMagic);
  wal.expectSystemId(persistent.systemId);
  return wal;
}
