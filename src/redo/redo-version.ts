// What page redo must do differently from one Postgres major to the next, as data.

import { PG_VERSIONS } from "../postgres/versions.ts";

/** How the three heap2 opcodes 0x10, 0x20 and 0x30 are laid out. */
export type PruneFormat = "prune-vacuum-freeze-tuples" | "prune-vacuum-freeze-plans" | "combined";

export interface RedoVersion {
  readonly major: number;
  /** Of the WAL pages that its records come from. */
  readonly pageMagic: number;
  /** `PageRepairFragmentation` also cuts unused line pointers off the end of the array. */
  readonly repairTruncatesLinePointers: boolean;
  readonly pruneFormat: PruneFormat;
  /** Replay of a btree VACUUM record zeroes btpo_cycleid. */
  readonly btreeVacuumClearsCycleId: boolean;
  /** Where gistxlogDelete ends and its offset numbers begin: isCatalogRel came with 16. */
  readonly gistDeleteOffsets: 6 | 8;
  /** The same in spgxlogVacuumRedirect. */
  readonly spgistRedirectOffsets: 8 | 10;
  /** xl_hash_vacuum_one_page counts its tuples in 4 bytes, not 2. */
  readonly hashVacuumCountIsInt: boolean;
  /** Replay of a hash SQUEEZE_PAGE stamps the page that gets no tuple, though nothing changes. */
  readonly hashSqueezeStampsUnchangedPage: boolean;
}

const VERSION_14: RedoVersion = {
  major: 14,
  pageMagic: PG_VERSIONS[14].pageMagic,
  repairTruncatesLinePointers: false,
  pruneFormat: "prune-vacuum-freeze-tuples",
  btreeVacuumClearsCycleId: false,
  gistDeleteOffsets: 6,
  spgistRedirectOffsets: 8,
  hashVacuumCountIsInt: true,
  hashSqueezeStampsUnchangedPage: true,
};
const VERSION_15: RedoVersion = {
  major: 15,
  pageMagic: PG_VERSIONS[15].pageMagic,
  repairTruncatesLinePointers: true,
  pruneFormat: "prune-vacuum-freeze-tuples",
  btreeVacuumClearsCycleId: false,
  gistDeleteOffsets: 6,
  spgistRedirectOffsets: 8,
  hashVacuumCountIsInt: true,
  hashSqueezeStampsUnchangedPage: true,
};
const VERSION_16: RedoVersion = {
  major: 16,
  pageMagic: PG_VERSIONS[16].pageMagic,
  repairTruncatesLinePointers: true,
  pruneFormat: "prune-vacuum-freeze-plans",
  btreeVacuumClearsCycleId: false,
  gistDeleteOffsets: 8,
  spgistRedirectOffsets: 10,
  hashVacuumCountIsInt: false,
  hashSqueezeStampsUnchangedPage: true,
};
const VERSION_17: RedoVersion = {
  major: 17,
  pageMagic: PG_VERSIONS[17].pageMagic,
  repairTruncatesLinePointers: true,
  pruneFormat: "combined",
  btreeVacuumClearsCycleId: false,
  gistDeleteOffsets: 8,
  spgistRedirectOffsets: 10,
  hashVacuumCountIsInt: false,
  hashSqueezeStampsUnchangedPage: false,
};
const VERSION_18: RedoVersion = {
  major: 18,
  pageMagic: PG_VERSIONS[18].pageMagic,
  repairTruncatesLinePointers: true,
  pruneFormat: "combined",
  btreeVacuumClearsCycleId: true,
  gistDeleteOffsets: 8,
  spgistRedirectOffsets: 10,
  hashVacuumCountIsInt: false,
  hashSqueezeStampsUnchangedPage: false,
};

const VERSIONS = [VERSION_14, VERSION_15, VERSION_16, VERSION_17, VERSION_18];

/** By the magic of the WAL page on which the record began; undefined for a major we do not know. */
export function redoVersion(pageMagic: number): RedoVersion | undefined {
  return VERSIONS.find((version) => version.pageMagic === pageMagic);
}
