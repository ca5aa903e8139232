// What the shim counts of the blocks in the data directory, in a file that it shares with the agent.

import { rmSync } from "node:fs";
import { readFileIfExists } from "../../base/disk.ts";
import { SpareFiles } from "../../data-directory/spare-files.ts";
import { PAGE_SIZE } from "../../postgres/page.ts";

/*
 * struct cache_counters of library/shim.h, little-endian. The shim's processes map it and count in it; whoever reads
 * may find one count a moment older than the next.
 *
 *   0 i64 clean | 8 i64 kept | 16 u64 evicted | 24 u64 fetched_again | 32 u64 reread
 *   40 u64 written_evicted | 48 u64 unlike
 */
const COUNTERS_BYTES = 56;

/** Bytes of blocks in files that came from storage; since Postgres's start, but for the first two. */
export interface CacheUsage {
  /** Here, as storage has them: may be given back. */
  readonly cleanBytes: number;
  /** Here, and written, or of files that are never given back. */
  readonly keptBytes: number;
  /** Given back to the disk. */
  readonly evictedBytes: number;
  /** Of those, fetched anew. */
  readonly fetchedAgainBytes: number;
  /** Reads that were repeated because a block was given back meanwhile. */
  readonly repeatedReads: number;
  /** Of `evictedBytes`, what had been written here. */
  readonly writtenEvictedBytes: number;
  /** How often a written block was not as storage had it, and stayed. */
  readonly unlikeComparisons: number;
}

/** A new file: what an older Postgres still counts goes elsewhere. */
export function makeCacheCounters(path: string, spares = SpareFiles.none()): void {
  rmSync(path, { force: true });
  spares.write(path, new Uint8Array(COUNTERS_BYTES));
}

/** Undefined where there is no such file. */
export function readCacheUsage(path: string): CacheUsage | undefined {
  const bytes = readFileIfExists(path);
  if (bytes === undefined || bytes.length < COUNTERS_BYTES) {
    return undefined;
  }
  const count = (at: number) => Math.max(0, Number(bytes.readBigInt64LE(at)));
  return {
    cleanBytes: count(0) * PAGE_SIZE,
    keptBytes: count(8) * PAGE_SIZE,
    evictedBytes: count(16) * PAGE_SIZE,
    fetchedAgainBytes: count(24) * PAGE_SIZE,
    repeatedReads: count(32),
    writtenEvictedBytes: count(40) * PAGE_SIZE,
    unlikeComparisons: count(48),
  };
}
