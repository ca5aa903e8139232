// Reads the WAL segment files of a directory with our decoder, up to an LSN.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Lsn, segmentNumber, segmentOffset, walFileName } from "../../src/base/lsn.ts";
import { decodeControlFile } from "../../src/postgres/control-file.ts";
import { DEFAULT_MAJOR } from "../../src/postgres/installation.ts";
import { pgVersion } from "../../src/postgres/versions.ts";
import type { XLogRecord } from "../../src/postgres/xlog-record.ts";
import { WalStream } from "../../src/wal-decoder/wal-stream.ts";

export interface ReadWalOptions {
  readonly walDir: string;
  /** A record's start. */
  readonly startLsn: Lsn;
  /** Records that start here or later are left out; absent: up to the end of the WAL. */
  readonly endLsn?: Lsn;
  readonly pgMajor?: number;
}

/** Calls `onRecord` for each whole record; it is lent for the call. Returns how many there were. */
export function readWal(
  options: ReadWalOptions,
  onRecord: (record: XLogRecord, endLsn: Lsn) => void,
): number {
  const pageMagic = pgVersion(options.pgMajor ?? DEFAULT_MAJOR).pageMagic;
  const stream = new WalStream({ startLsn: options.startLsn, pageMagic });
  let count = 0;
  for (let segno = segmentNumber(options.startLsn); ; segno++) {
    const path = join(options.walDir, walFileName(segno));
    if (!existsSync(path)) {
      return count;
    }
    const bytes = new Uint8Array(readFileSync(path));
    const from = segno === segmentNumber(options.startLsn) ? segmentOffset(stream.fedLsn) : 0;
    stream.feed(bytes, from, bytes.length);
    while (stream.next()) {
      if (options.endLsn !== undefined && stream.record.startLsn >= options.endLsn) {
        return count;
      }
      count++;
      onRecord(stream.record, stream.recordEndLsn);
    }
    if (stream.stop === "zeroed") {
      return count;
    }
  }
}

/** Where replay of a cleanly stopped data directory begins: its last checkpoint record. */
export function baseStartLsn(baseDir: string): Lsn {
  return decodeControlFile(new Uint8Array(readFileSync(join(baseDir, "global", "pg_control"))))
    .checkPointLsn;
}
