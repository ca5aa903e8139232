// What page service and ingest need of a timeline besides its versions: its fixed properties.

import type { StorageError } from "../base/errors.ts";
import type { TenantId, TimelineId } from "../base/ids.ts";
import type { Lsn } from "../base/lsn.ts";
import type { KeyPrefix } from "./layers/key.ts";
import type { TimelineStorage } from "./storage/timeline-storage.ts";

export interface ServedTimeline extends TimelineStorage {
  /** As `readPage` without the copy: to be left as it is, and good until the next read of any timeline. */
  lendPage(prefix: KeyPrefix, index: number, lsn: Lsn): Uint8Array | undefined;
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  /** Where its own WAL begins: initdb's end for a root, the branch LSN for a branch. */
  readonly startLsn: Lsn;
  /** The oldest LSN that has all its versions. */
  readonly minReadableLsn: Lsn;
  /** Whether the state at `lsn`, at most `lastRecordLsn`, can be read. */
  isKept(lsn: Lsn): boolean;
  /** StorageError `invalid`, which names the oldest LSN, where the state at `lsn` is not kept. */
  checkKept(lsn: Lsn): void;
  /** The state at `lsn` is kept for `lengthMs` from now on, over a restart too; `invalid` where it is not any more. */
  promiseLease(lsn: Lsn, lengthMs: number): Promise<void>;
  readonly pgVersion: number;
  readonly systemId: bigint;
  readonly walSegmentSize: number;
  /** Its cluster has data checksums: served pages must carry them, as storage keeps none. */
  readonly dataChecksums: boolean;
  /** Safekeepers may forget WAL below it. */
  readonly remoteConsistentLsn: Lsn;
  /** Resolves when nothing that ingest may read has to be fetched. */
  prepareIngest(): Promise<void>;
  /** Bytes in layer files of its own. */
  readonly physicalSizeBytes: number;
  /** Who waits for WAL, now or later, is told why it does not come; undefined: it may come again. */
  setIngestFailure(failure: StorageError | undefined): void;
  /** Undefined while ingest may go on; else resolves when enough of what is in memory is on disk. */
  ingestReady(): Promise<void> | undefined;
}
