// Every kind of record that the resource managers of Postgres 14 to 18 can write, by name.
//
// Sources: the XLOG_... constants of access/*xlog*.h, access/{xact,clog,commit_ts,multixact}.h,
// catalog/{pg_control,storage_xlog}.h, commands/{dbcommands_xlog,tablespace,sequence}.h,
// replication/{origin,message}.h, storage/standbydefs.h, utils/relmapper.h. Names as pg_waldump has
// them. Bits of xl_info that only modify an opcode are masked: the init bit of heap and BRIN is an
// opcode of its own here, XLOG_XACT_HAS_INFO is not.

import { RM_XACT_ID, rmgrName } from "../../src/postgres/rmgr.ts";

export interface Opcode {
  readonly rmid: number;
  /** Of xl_info's high four bits, those that tell opcodes apart. */
  readonly info: number;
  readonly name: string;
  readonly since?: number;
  readonly until?: number;
  /** Why no workload can make it. */
  readonly impossible?: string;
  /** Only a run with full_page_writes and hint bits that are logged has it. */
  readonly needsHints?: boolean;
}

type Range = { since?: number; until?: number; impossible?: string; needsHints?: boolean };
type Kinds = Readonly<Record<number, string | readonly (readonly [string, Range])[]>>;

const BY_MANAGER: Readonly<Record<number, Kinds>> = {
  0: {
    0: "CHECKPOINT_SHUTDOWN",
    16: "CHECKPOINT_ONLINE",
    32: [["NOOP", { impossible: "no code in Postgres writes it" }]],
    48: "NEXTOID",
    64: "SWITCH",
    80: "BACKUP_END",
    96: "PARAMETER_CHANGE",
    112: "RESTORE_POINT",
    128: "FPW_CHANGE",
    144: [
      ["END_OF_RECOVERY", { impossible: "begins a new timeline, which one history cannot hold" }],
    ],
    160: [["FPI_FOR_HINT", { needsHints: true }]],
    176: "FPI",
    208: "OVERWRITE_CONTRECORD",
    224: [["CHECKPOINT_REDO", { since: 17 }]],
  },
  1: {
    0: "COMMIT",
    16: "PREPARE",
    32: "ABORT",
    48: "COMMIT_PREPARED",
    64: "ABORT_PREPARED",
    80: "ASSIGNMENT",
    96: "INVALIDATION",
  },
  2: { 16: "CREATE", 32: "TRUNCATE" },
  3: { 0: "ZEROPAGE", 16: "TRUNCATE" },
  4: {
    0: [
      ["CREATE", { until: 14 }],
      ["CREATE_FILE_COPY", { since: 15 }],
    ],
    16: [
      ["DROP", { until: 14 }],
      ["CREATE_WAL_LOG", { since: 15 }],
    ],
    32: [["DROP", { since: 15 }]],
  },
  5: { 0: "CREATE", 16: "DROP" },
  6: { 0: "ZERO_OFF_PAGE", 16: "ZERO_MEM_PAGE", 32: "CREATE_ID", 48: "TRUNCATE_ID" },
  7: { 0: "UPDATE" },
  8: { 0: "LOCK", 16: "RUNNING_XACTS", 32: "INVALIDATIONS" },
  9: {
    0: "REWRITE",
    16: [
      ["PRUNE", { until: 16 }],
      ["PRUNE_ON_ACCESS", { since: 17 }],
    ],
    32: [
      ["VACUUM", { until: 16 }],
      ["PRUNE_VACUUM_SCAN", { since: 17 }],
    ],
    48: [
      ["FREEZE_PAGE", { until: 16 }],
      ["PRUNE_VACUUM_CLEANUP", { since: 17 }],
    ],
    64: "VISIBLE",
    80: "MULTI_INSERT",
    96: "LOCK_UPDATED",
    112: "NEW_CID",
    208: "MULTI_INSERT+INIT",
  },
  10: {
    0: "INSERT",
    16: "DELETE",
    32: "UPDATE",
    48: "TRUNCATE",
    64: "HOT_UPDATE",
    80: "HEAP_CONFIRM",
    96: "LOCK",
    112: "INPLACE",
    128: "INSERT+INIT",
    160: "UPDATE+INIT",
    192: [
      ["HOT_UPDATE+INIT", { impossible: "the new row is on the old one's page, which is not new" }],
    ],
  },
  11: {
    0: "INSERT_LEAF",
    16: "INSERT_UPPER",
    32: "INSERT_META",
    48: "SPLIT_L",
    64: "SPLIT_R",
    80: "INSERT_POST",
    96: "DEDUP",
    112: "DELETE",
    128: "UNLINK_PAGE",
    144: "UNLINK_PAGE_META",
    160: "NEWROOT",
    176: "MARK_PAGE_HALFDEAD",
    192: "VACUUM",
    208: "REUSE_PAGE",
    224: "META_CLEANUP",
  },
  12: {
    0: "INIT_META_PAGE",
    16: "INIT_BITMAP_PAGE",
    32: "INSERT",
    48: "ADD_OVFL_PAGE",
    64: "SPLIT_ALLOCATE_PAGE",
    80: "SPLIT_PAGE",
    96: "SPLIT_COMPLETE",
    112: "MOVE_PAGE_CONTENTS",
    128: "SQUEEZE_PAGE",
    144: "DELETE",
    160: "SPLIT_CLEANUP",
    176: "UPDATE_META_PAGE",
    192: "VACUUM_ONE_PAGE",
  },
  13: {
    16: "CREATE_PTREE",
    32: "INSERT",
    48: "SPLIT",
    64: "VACUUM_PAGE",
    80: "DELETE_PAGE",
    96: "UPDATE_META_PAGE",
    112: "INSERT_LISTPAGE",
    128: "DELETE_LISTPAGE",
    144: "VACUUM_DATA_LEAF_PAGE",
  },
  14: {
    0: "PAGE_UPDATE",
    16: "DELETE",
    32: "PAGE_REUSE",
    48: "PAGE_SPLIT",
    96: "PAGE_DELETE",
    112: [
      ["ASSIGN_LSN", { impossible: "needs wal_level minimal, under which no WAL can be replayed" }],
    ],
  },
  15: { 0: "LOG" },
  16: {
    16: "ADD_LEAF",
    32: "MOVE_LEAFS",
    48: "ADD_NODE",
    64: "SPLIT_TUPLE",
    80: "PICKSPLIT",
    96: "VACUUM_LEAF",
    112: "VACUUM_ROOT",
    128: "VACUUM_REDIRECT",
  },
  17: {
    0: "CREATE_INDEX",
    16: "INSERT",
    32: "UPDATE",
    48: "SAMEPAGE_UPDATE",
    64: "REVMAP_EXTEND",
    80: "DESUMMARIZE",
    144: "INSERT+INIT",
    160: "UPDATE+INIT",
  },
  18: { 0: "ZEROPAGE", 16: "TRUNCATE" },
  19: { 0: "SET", 16: "DROP" },
  20: { 0: "Generic" },
  21: { 0: "MESSAGE" },
};

const ALL: readonly Opcode[] = Object.entries(BY_MANAGER).flatMap(([rmid, kinds]) =>
  Object.entries(kinds).flatMap(([info, forms]) =>
    (typeof forms === "string" ? [[forms, {}] as const] : forms).map(([name, range]) => ({
      rmid: Number(rmid),
      info: Number(info),
      name,
      ...range,
    })),
  ),
);

/** What of xl_info says the opcode. */
export function opcodeOf(rmid: number, info: number): number {
  return rmid === RM_XACT_ID ? info & 0x70 : info & 0xf0;
}

/** `Heap INSERT+INIT`, also for what is not in the list: `Heap 0x30`. */
export function opcodeName(major: number, rmid: number, info: number): string {
  const found = opcodesOf(major).find((known) => known.rmid === rmid && known.info === info);
  return `${rmgrName(rmid)} ${found?.name ?? `0x${info.toString(16).padStart(2, "0")}`}`;
}

/** The opcodes of one major, impossible ones too. */
export function opcodesOf(major: number): readonly Opcode[] {
  return ALL.filter(({ since, until }) => (since ?? 0) <= major && major <= (until ?? 99));
}
