// Resource managers: who wrote a WAL record, by number and by name (access/rmgrlist.h, the same in 14-18).

export const RM_XLOG_ID = 0;
export const RM_XACT_ID = 1;
export const RM_SMGR_ID = 2;
export const RM_CLOG_ID = 3;
export const RM_DBASE_ID = 4;
export const RM_TBLSPC_ID = 5;
export const RM_MULTIXACT_ID = 6;
export const RM_RELMAP_ID = 7;
export const RM_STANDBY_ID = 8;
export const RM_HEAP2_ID = 9;
export const RM_HEAP_ID = 10;
export const RM_BTREE_ID = 11;
export const RM_HASH_ID = 12;
export const RM_GIN_ID = 13;
export const RM_GIST_ID = 14;
export const RM_SEQ_ID = 15;
export const RM_SPGIST_ID = 16;
export const RM_BRIN_ID = 17;
export const RM_COMMIT_TS_ID = 18;
export const RM_REPLORIGIN_ID = 19;
export const RM_GENERIC_ID = 20;
export const RM_LOGICALMSG_ID = 21;
/** Last built-in one. */
export const RM_MAX_BUILTIN_ID = 21;
/** Extensions have [128, 255], from 15 on. */
export const RM_MIN_CUSTOM_ID = 128;

/** As Postgres prints them (pg_waldump, pg_walinspect). */
const RMGR_NAMES = [
  "XLOG",
  "Transaction",
  "Storage",
  "CLOG",
  "Database",
  "Tablespace",
  "MultiXact",
  "RelMap",
  "Standby",
  "Heap2",
  "Heap",
  "Btree",
  "Hash",
  "Gin",
  "Gist",
  "Sequence",
  "SPGist",
  "BRIN",
  "CommitTs",
  "ReplicationOrigin",
  "Generic",
  "LogicalMessage",
] as const;

/** Custom ones as pg_walinspect names those it has no module for: `custom128`. */
export function rmgrName(rmid: number): string {
  return (
    RMGR_NAMES[rmid] ??
    (rmid >= RM_MIN_CUSTOM_ID ? `custom${rmid.toString().padStart(3, "0")}` : `unknown${rmid}`)
  );
}

/** High four bits of xl_info are the resource manager's, low four the WAL machinery's. */
export const XLR_RMGR_INFO_MASK = 0xf0;
