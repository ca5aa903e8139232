// Of which files blocks were given back that this compute had written, and as of when their pages are asked since.

import { closeSync, existsSync, readSync } from "node:fs";
import { join } from "node:path";
import { monotonicMs } from "../../base/clock.ts";
import type { Lsn } from "../../base/lsn.ts";
import { openLeftFile } from "../../data-directory/left-files.ts";
import { PAGE_SIZE, pageLsn } from "../../postgres/page.ts";
import {
  INIT_FORK,
  MAIN_FORK,
  RELATION_SEGMENT_BLOCKS,
  type RelationPath,
  storagePath,
} from "../../postgres/relation-path.ts";
import { type Comparison, comparePages } from "./page-comparison.ts";

/** How far a compute and storage have come. */
export interface Progress {
  /** A pageserver has taken in all WAL of this compute's up to there; 0 where it has told nothing. */
  ingestedLsn(): Lsn;
  /** All transactions before it have ended; undefined where nobody can say. */
  oldestRunningXid(): Promise<number | undefined>;
}

export interface WrittenBlocksOptions {
  readonly dataDirectory: string;
  /** Of the user's tablespaces. */
  readonly versionDirectory: string;
  readonly startLsn: Lsn;
  readonly progress: Progress;
}

/** Pages that are asked as of one LSN are read ahead together, so that it moves in steps. */
const STEP_MS = 1000;
/** A look at the transactions that run takes a session. */
const XID_STEP_MS = 1000;

/** Pages of a fork as of an LSN; undefined where it has not all of them then. */
export type FetchAt = (blkno: number, count: number, lsn: Lsn) => Promise<Uint8Array | undefined>;

export class WrittenBlocks {
  readonly #options: WrittenBlocksOptions;
  /** Forks of which blocks were given back after they had been written. */
  readonly #given = new Set<string>();
  #lsn: Lsn;
  #movedMs = Number.NEGATIVE_INFINITY;
  #xid: number | undefined;
  #askedXidMs = Number.NEGATIVE_INFINITY;

  constructor(options: WrittenBlocksOptions) {
    this.#options = options;
    this.#lsn = options.startLsn;
  }

  /**
   * As of which LSN pages of the fork `key` are to be asked; undefined: of the start. Whatever is absent was not changed since
   * it was given back, so each LSN from then on is right, as long as storage has got there.
   */
  lsnFor(key: string): Lsn | undefined {
    if (!this.#given.has(key)) {
      return undefined;
    }
    if (monotonicMs() - this.#movedMs > STEP_MS) {
      this.moveOn();
    }
    return this.#lsn;
  }

  /** To where storage is by now. */
  moveOn(): Lsn {
    const ingested = this.#options.progress.ingestedLsn();
    if (ingested > this.#lsn) {
      this.#lsn = ingested;
    }
    this.#movedMs = monotonicMs();
    return this.#lsn;
  }

  /**
   * Which of `blocks` (bit i: block `blkno` + i of the segment) storage has as they are in the file. Those are asked as of now, or
   * later, from here on. Undefined, and never any, of a fork other than a main one, and of an unlogged relation, whose rows storage
   * has not.
   */
  async same(
    key: string,
    file: RelationPath,
    blkno: number,
    blocks: number,
    fetchPages: FetchAt,
  ): Promise<number | undefined> {
    if (file.fork !== MAIN_FORK || this.#isUnlogged(file)) {
      return undefined;
    }
    const lsn = this.moveOn();
    const local = this.#read(file, blkno, blocks, lsn);
    const compared = await Promise.all(
      runsOf(local).map(async ({ first, pages }) => {
        const from = file.segment * RELATION_SEGMENT_BLOCKS + blkno + first;
        return { first, pages, stored: await fetchPages(from, pages.length, lsn) };
      }),
    );
    const compareAll = (xid: number | undefined) => {
      let [same, running] = [0, 0];
      for (const { first, pages, stored } of compared) {
        pages.forEach((page, i) => {
          const other = stored?.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE);
          const result: Comparison =
            other === undefined ? "differs" : comparePages(page, other, xid);
          same |= result === "same" ? 1 << (first + i) : 0;
          running |= result === "running" ? 1 << (first + i) : 0;
        });
      }
      return { same: same >>> 0, running };
    };
    let { same, running } = compareAll(this.#xid);
    if (running !== 0) {
      same = compareAll(await this.#oldestRunningXid()).same;
    }
    if (same !== 0) {
      this.#given.add(key);
    }
    return same;
  }

  /** Whether Postgres has made it so; one that storage has is not asked about here. */
  #isUnlogged(file: RelationPath): boolean {
    const { dataDirectory, versionDirectory } = this.#options;
    const init = storagePath({ ...file, fork: INIT_FORK, segment: 0 }, versionDirectory);
    return existsSync(join(dataDirectory, init));
  }

  /** The pages of `blocks` in the file, by bit, without those that storage cannot have yet. */
  #read(file: RelationPath, blkno: number, blocks: number, lsn: Lsn): Map<number, Uint8Array> {
    const pages = new Map<number, Uint8Array>();
    const { dataDirectory, versionDirectory } = this.#options;
    const fd = openLeftFile(dataDirectory, storagePath(file, versionDirectory));
    if (fd === undefined) {
      return pages; // It was removed meanwhile.
    }
    try {
      for (let i = 0; i < 32; i++) {
        const page = new Uint8Array(PAGE_SIZE);
        if (
          ((blocks >>> i) & 1) === 1 &&
          readSync(fd, page, 0, PAGE_SIZE, (blkno + i) * PAGE_SIZE) === PAGE_SIZE &&
          isAtMost(page, lsn)
        ) {
          pages.set(i, page);
        }
      }
    } finally {
      closeSync(fd);
    }
    return pages;
  }

  async #oldestRunningXid(): Promise<number | undefined> {
    if (monotonicMs() - this.#askedXidMs > XID_STEP_MS) {
      this.#askedXidMs = monotonicMs();
      this.#xid = (await this.#options.progress.oldestRunningXid()) ?? this.#xid;
    }
    return this.#xid;
  }
}

/** Whether the page's LSN is at most `lsn`; false for what is none. */
function isAtMost(page: Uint8Array, lsn: Lsn): boolean {
  try {
    return pageLsn(new DataView(page.buffer)) <= lsn;
  } catch {
    return false;
  }
}

/** Neighbours together. */
function runsOf(pages: ReadonlyMap<number, Uint8Array>): { first: number; pages: Uint8Array[] }[] {
  const runs: { first: number; pages: Uint8Array[] }[] = [];
  for (const [i, page] of pages) {
    const last = runs.at(-1);
    if (last !== undefined && last.first + last.pages.length === i) {
      last.pages.push(page);
    } else {
      runs.push({ first: i, pages: [page] });
    }
  }
  return runs;
}
