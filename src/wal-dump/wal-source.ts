// Where the bytes of a dump come from: what files and safekeepers have in common.

import type { StorageError } from "../base/errors.ts";
import type { Lsn } from "../base/lsn.ts";

/** A run of WAL bytes; read once. */
export interface WalSource {
  /** Of the first byte: a page start, or where the WAL of a timeline begins. */
  readonly startLsn: Lsn;
  readonly segmentSize: number;
  /** Of the major that wrote it; undefined: the pages tell. */
  readonly pageMagic?: number | undefined;
  /** Lent until the next one is asked for. StorageError where the bytes cannot be had. */
  chunks(): AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
  /**
   * Called when the chunks are used up and the WAL was not seen to end (by zeros, where a record
   * should begin): why that is wrong, or undefined where it is not. `openRecord`: start of a record
   * that is not whole.
   */
  endProblem(endLsn: Lsn, openRecord: Lsn | undefined): StorageError | undefined;
}
