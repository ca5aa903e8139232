// Reads the WAL of a stopped or running cluster from its segment files, for tests.

import { closeSync, existsSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import {
  type Lsn,
  segmentNumber,
  segmentOffset,
  WAL_SEGMENT_SIZE,
  walFileName,
} from "../src/base/lsn.ts";

/** Bytes [from, to) of the WAL, in chunks of at most `chunkBytes`; stops where a segment is missing. */
export function* readWalFiles(
  walDir: string,
  from: Lsn,
  to: Lsn,
  chunkBytes = 128 * 1024,
): Generator<Uint8Array> {
  let lsn = from as number;
  while (lsn < to) {
    const segno = segmentNumber(lsn as Lsn);
    const path = join(walDir, walFileName(segno));
    if (!existsSync(path)) {
      return;
    }
    const fd = openSync(path, "r");
    try {
      const end = Math.min(to, (segno + 1) * WAL_SEGMENT_SIZE);
      while (lsn < end) {
        const bytes = new Uint8Array(Math.min(chunkBytes, end - lsn));
        const got = readSync(fd, bytes, 0, bytes.length, segmentOffset(lsn as Lsn));
        if (got === 0) {
          return;
        }
        yield bytes.subarray(0, got);
        lsn += got;
      }
    } finally {
      closeSync(fd);
    }
  }
}
