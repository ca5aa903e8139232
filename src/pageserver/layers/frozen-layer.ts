// A frozen open layer as plain data in shared memory: what the flush thread gets to see.

import type { Lsn } from "../../base/lsn.ts";
import type { SharedEntries } from "./entry-chunks.ts";

/** Immutable. The entries are in shared memory, so that posting it to another thread copies only the keys. */
export interface FrozenLayer {
  readonly lsnStart: Lsn;
  /** Exclusive. */
  readonly lsnEnd: Lsn;
  readonly entries: SharedEntries;
  /** Five key fields each, ascending; plain data for another thread. */
  readonly prefixFields: readonly (readonly [number, number, number, number, number])[];
  // Columns of the keys, ascending: number of the prefix above, index, newest entry.
  readonly keyPrefixes: Uint32Array;
  readonly keyIndexes: Uint32Array;
  readonly keyHeads: Int32Array;
}
