// The versioned store behind one timeline: what ingest writes and page service reads.

import type { Lsn } from "../../base/lsn.ts";
import type { KeyPrefix } from "../layers/key.ts";

/**
 * (key, LSN) -> value, where a key is a prefix (Neon's fields 1 to 5) and an index (field 6).
 * Writes come from one ingester in LSN order; they become readable when `advance` passes their LSN.
 * Reads are synchronous: layers are local files, read with pread through a block cache; one that is not here is
 * fetched between two tries (`whenResident`).
 */
export interface TimelineStorage {
  /** Where its own WAL begins: what is below is an ancestor's. */
  readonly startLsn: Lsn;
  /** End of the last ingested record: reads at or below it are complete. Monotonic. */
  readonly lastRecordLsn: Lsn;
  /** Start of that record, for the next record's xl_prev; 0 where unknown (a fresh branch). */
  readonly prevRecordLsn: Lsn;
  /** All versions at or below it are in fsynced layer files that the index names. */
  readonly diskConsistentLsn: Lsn;

  putImage(prefix: KeyPrefix, index: number, lsn: Lsn, value: Uint8Array): void;
  putDelta(prefix: KeyPrefix, index: number, lsn: Lsn, delta: Uint8Array, willInit: boolean): void;
  /** From `lsn` on the key does not exist. */
  putTombstone(prefix: KeyPrefix, index: number, lsn: Lsn): void;
  /**
   * Between the versions of one record that has very many, none of them deltas: what is a whole layer is written
   * out already, and after a crash put again. Undefined where the next may be put at once, else resolves
   * when there is room in memory.
   */
  makeRoom(): Promise<void> | undefined;
  /** Where replicas would begin by what has been written, ascending: stays readable, whatever is collected, until the next call. */
  keepReplicaStarts(lsns: readonly Lsn[]): void;
  /** Publishes everything written up to `lsn`. */
  advance(lsn: Lsn, prevRecordLsn: Lsn): void;

  /** The page as of `lsn` with redo applied, in fresh memory that the caller owns; undefined where
   *  the key does not exist at `lsn`. StorageError `corrupt` names key, LSN and layer. */
  readPage(prefix: KeyPrefix, index: number, lsn: Lsn): Uint8Array | undefined;
  /** A value that is never a delta (metadata), as stored. */
  readValue(prefix: KeyPrefix, index: number, lsn: Lsn): Uint8Array | undefined;
  /** Every key that exists at `lsn` whose fields start with `fields` (1 to 5 of them), ascending; from `first` on, which has
   *  these and more. Meant for the sparse metadata keyspaces. */
  scan(
    fields: readonly number[],
    lsn: Lsn,
    first?: readonly number[],
  ): Iterable<{ prefix: KeyPrefix; index: number; value: Uint8Array }>;

  /**
   * What `read` gives. A read that needs a layer which only the object store has throws LayerNotResident; here that layer is
   * fetched and `read` called again. StorageErrors: `read`'s; `unavailable` where the store does not answer.
   */
  whenResident<T>(read: () => T): Promise<T>;

  /** Resolves when `lastRecordLsn >= lsn`; StorageError `unavailable` after `timeoutMs`,
   *  or why ingest has stopped. */
  waitForLsn(lsn: Lsn, timeoutMs: number): Promise<void>;
}
