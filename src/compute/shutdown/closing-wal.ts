// The WAL that the agent writes behind the shutdown checkpoint of a Postgres that has ended.

import { closeSync, ftruncateSync, readSync } from "node:fs";
import { writeFully } from "../../base/disk.ts";
import {
  addLsn,
  type Lsn,
  pageOffset,
  pageStart,
  segmentNumber,
  segmentOffset,
  walFileName,
  XLOG_BLCKSZ,
} from "../../base/lsn.ts";
import { openOrMakeFile } from "../../data-directory/left-files.ts";
import { skipPageHeader, WalPages } from "../../data-directory/wal-pages.ts";
import type { PgVersion } from "../../postgres/versions.ts";

/** Where WAL ends. */
export interface EndOfWal {
  readonly lsn: Lsn;
  /** Start of the record that ends there. */
  readonly lastRecordLsn: Lsn;
}

export interface PgWal {
  /** pg_wal. */
  readonly directory: string;
  readonly version: PgVersion;
  readonly systemId: bigint;
  readonly segmentSize: number;
}

/**
 * Appends records, each made with the start of the one before; returns the end of the last page written, up to
 * which the files have WAL now. No Postgres writes there any more.
 */
export function appendRecords(
  wal: PgWal,
  end: EndOfWal,
  records: readonly ((prevLsn: Lsn) => Uint8Array)[],
): Lsn {
  const pages = new WalPages(wal);
  let at = end.lsn;
  if (pageOffset(at) !== 0) {
    pages.take(pageStart(at), readWalPage(wal, pageStart(at)));
  }
  let prevLsn = end.lastRecordLsn;
  for (const make of records) {
    const start = skipPageHeader(at, wal.segmentSize);
    at = pages.put(make(prevLsn), start);
    prevLsn = start;
  }
  for (const { pageLsn, bytes } of pages.pages) {
    withSegment(wal, pageLsn, (fd, offset) => writeFully(fd, bytes, offset));
  }
  return addLsn(pageStart(addLsn(at, -1)), XLOG_BLCKSZ);
}

function readWalPage(wal: PgWal, lsn: Lsn): Uint8Array {
  const bytes = new Uint8Array(XLOG_BLCKSZ);
  withSegment(wal, lsn, (fd, offset) => readSync(fd, bytes, 0, XLOG_BLCKSZ, offset));
  return bytes;
}

/** A segment that Postgres has not begun is made. */
function withSegment(
  { directory, segmentSize }: PgWal,
  lsn: Lsn,
  body: (fd: number, offset: number) => void,
): void {
  const name = walFileName(segmentNumber(lsn, segmentSize), 1, segmentSize);
  const offset = segmentOffset(lsn, segmentSize);
  const fd = openOrMakeFile(directory, name);
  try {
    ftruncateSync(fd, segmentSize);
    body(fd, offset);
  } finally {
    closeSync(fd);
  }
}
