// Which records a dump shows.

import type { XLogRecord } from "../postgres/xlog-record.ts";

/** Absent fields admit every record; as the options of pg_waldump. */
export interface WalFilter {
  readonly rmids?: ReadonlySet<number> | undefined;
  readonly xid?: number | undefined;
  readonly relation?: RelationName | undefined;
  readonly fork?: number | undefined;
  readonly block?: number | undefined;
  /** Only records with a page image. */
  readonly fullPage?: boolean | undefined;
}

export interface RelationName {
  readonly spcOid: number;
  readonly dbOid: number;
  readonly relNumber: number;
}

/** Of a decoded record. */
export function admits(filter: WalFilter, record: XLogRecord): boolean {
  if (filter.rmids?.has(record.rmid) === false) {
    return false;
  }
  if (filter.xid !== undefined && filter.xid !== record.xid) {
    return false;
  }
  const wantsBlock =
    filter.relation !== undefined || filter.fork !== undefined || filter.block !== undefined;
  if (wantsBlock && !hasBlock(filter, record)) {
    return false;
  }
  return filter.fullPage !== true || hasImage(record);
}

/** One reference must fit in everything. */
function hasBlock({ relation, fork, block }: WalFilter, record: XLogRecord): boolean {
  for (let i = 0; i < record.blockCount; i++) {
    if (
      (relation === undefined ||
        (relation.spcOid === record.blockSpc[i] &&
          relation.dbOid === record.blockDb[i] &&
          relation.relNumber === record.blockRel[i])) &&
      (fork === undefined || fork === record.blockFork[i]) &&
      (block === undefined || block === record.blockNumber[i])
    ) {
      return true;
    }
  }
  return false;
}

function hasImage(record: XLogRecord): boolean {
  for (let i = 0; i < record.blockCount; i++) {
    if (record.imageLength[i]! > 0) {
      return true;
    }
  }
  return false;
}
