// Pages the agent asked for before Postgres did: for sequential scans, which never announce themselves, and for hints.

import { PAGE_SIZE } from "../../postgres/page.ts";
import type { PagePiece } from "../shim/shim-server.ts";
import { RUN_BLOCKS } from "./page-memory.ts";

/** Fetches blocks [blkno, blkno + count) of a fork: `count` pages in one piece of memory. */
export type FetchPages = (blkno: number, count: number) => Promise<Uint8Array>;

interface Stream {
  /** Block that a scan would ask next. */
  next: number;
  /** Blocks below it have been asked for. */
  ahead: number;
  window: number;
}

/** Blocks that were asked for together. */
interface Run {
  readonly fork: Fork;
  readonly first: number;
  readonly count: number;
  readonly pages: Promise<Uint8Array>;
  /** Blocks that nobody has taken; the memory is whole until all are. */
  left: number;
  /** Blocks that have not been released. */
  unreleased: number;
}

interface Fork {
  /** By block. */
  readonly runs: Map<number, Run>;
  /** Blocks that Postgres has said it will read, and has not read yet. */
  readonly announced: Set<number>;
  readonly streams: Stream[];
}

/** Two parallel workers and a few other scans of one table. */
const STREAMS_PER_FORK = 4;
/** Parallel workers leave gaps of what others have taken. */
const STREAM_GAP_BLOCKS = 64;
const FIRST_WINDOW_BLOCKS = 32;
/** Measured with 1 ms of storage latency: 59 MB/s without read-ahead, 293 with 256, 248 with 1024. */
const MAX_WINDOW_BLOCKS = 256;
const MAX_FORKS = 10_000;
/** In the queue: a megabyte or two. */
const MOST_DONE_RUNS = 32;
/** Of one fork; a scan that ends before its end leaves as many as it is ahead (effective_io_concurrency, at most 1000). */
const MAX_ANNOUNCED_BLOCKS = 4096;

/**
 * A page leaves when it is handed out, as Postgres asks for each block once; pages nobody asks for
 * go when there are more than `maxPages`, oldest first. Only memory: it never writes a local file, so
 * whatever happens to the relation meanwhile cannot be undone by a late prefetch.
 */
export class ReadAhead {
  readonly #forks = new Map<string, Fork>();
  readonly #maxPages: number;
  readonly #giveBack: (pages: Uint8Array) => void;
  /** In order of arrival; those that have been handed out are skipped. */
  #queue: Run[] = [];
  /** Of the queue, those that have not. */
  #waitingRuns = 0;
  #held = 0;

  /** `giveBack` gets what was fetched when all of it has been released. */
  constructor(maxPages: number, giveBack: (pages: Uint8Array) => void) {
    this.#maxPages = maxPages;
    this.#giveBack = giveBack;
  }

  /** Pages in memory or on their way, with those that were handed out of a run that others are still in. */
  get heldPages(): number {
    return this.#held;
  }

  /**
   * Blocks [blkno, blkno + count) of the fork named `key`, which has `sizeBlocks`, one after the other in some pieces; then
   * asks for what a scan that got here would read next; but not where Postgres has announced this read, as then it announces the next
   * ones too: a bitmap scan that reads a page of five would fetch all of them.
   */
  read(
    key: string,
    blkno: number,
    count: number,
    sizeBlocks: number,
    fetch: FetchPages,
  ): Promise<PagePiece>[] {
    const fork = this.#fork(key);
    const pieces: Promise<PagePiece>[] = [];
    const end = blkno + count;
    for (let from = blkno; from < end; ) {
      const run = fork.runs.get(from);
      let to = from + 1;
      while (to < end && fork.runs.get(to) === run) {
        to++;
      }
      pieces.push(
        run === undefined ? this.#fetch(from, to, fetch) : this.#take(run, from, to, fetch),
      );
      from = to;
    }
    if (wasAnnounced(fork, blkno, end)) {
      return pieces;
    }
    const stream = fork.streams.find(
      ({ next }) => blkno >= next && blkno <= next + STREAM_GAP_BLOCKS,
    );
    if (stream === undefined) {
      fork.streams.unshift({ next: blkno + count, ahead: blkno + count, window: 0 });
      fork.streams.length = Math.min(fork.streams.length, STREAMS_PER_FORK);
      return pieces;
    }
    stream.next = blkno + count;
    const grown = stream.window === 0 ? FIRST_WINDOW_BLOCKS : stream.window * 2;
    stream.window = Math.min(grown, MAX_WINDOW_BLOCKS);
    const from = Math.max(stream.ahead, stream.next);
    // In big steps: half a window at least.
    if (from - stream.next <= stream.window / 2) {
      stream.ahead = Math.min(stream.next + stream.window, sizeBlocks);
      this.#fetchAhead(fork, from, stream.ahead, fetch);
    }
    return pieces;
  }

  /** Asks for blocks [blkno, blkno + count) that are not on their way yet. */
  prefetch(key: string, blkno: number, count: number, sizeBlocks: number, fetch: FetchPages): void {
    const end = Math.min(blkno + Math.min(count, MAX_WINDOW_BLOCKS), sizeBlocks);
    const fork = this.#fork(key);
    if (fork.announced.size >= MAX_ANNOUNCED_BLOCKS) {
      fork.announced.clear();
    }
    for (let block = blkno; block < end; block++) {
      fork.announced.add(block);
    }
    this.#fetchAhead(fork, blkno, end, fetch);
  }

  #fork(key: string): Fork {
    let fork = this.#forks.get(key);
    if (fork === undefined) {
      if (this.#forks.size >= MAX_FORKS) {
        this.#forget();
      }
      fork = { runs: new Map(), announced: new Set(), streams: [] };
      this.#forks.set(key, fork);
    }
    return fork;
  }

  /** Everything here can be fetched again. */
  #forget(): void {
    this.#forks.clear();
    this.#queue = [];
    this.#waitingRuns = 0;
    this.#held = 0;
  }

  async #fetch(from: number, to: number, ask: FetchPages): Promise<PagePiece> {
    const bytes = await ask(from, to - from);
    return { bytes, release: () => this.#giveBack(bytes) };
  }

  async #take(run: Run, from: number, to: number, fetch: FetchPages): Promise<PagePiece> {
    this.#leave(run, from, to);
    let pages: Uint8Array;
    try {
      pages = await run.pages;
    } catch {
      // Perhaps because of a block that nobody reads.
      return this.#fetch(from, to, fetch);
    }
    const at = (from - run.first) * PAGE_SIZE;
    return {
      bytes: pages.subarray(at, at + (to - from) * PAGE_SIZE),
      release: () => {
        run.unreleased -= to - from;
        if (run.unreleased === 0) {
          this.#giveBack(pages);
        }
      },
    };
  }

  /** Blocks [from, to), which are there, are nobody's any more. */
  #leave(run: Run, from: number, to: number): void {
    for (let blkno = from; blkno < to; blkno++) {
      run.fork.runs.delete(blkno);
    }
    run.left -= to - from;
    if (run.left === 0) {
      this.#held -= run.count;
      this.#waitingRuns--;
    }
  }

  #fetchAhead(fork: Fork, from: number, to: number, fetch: FetchPages): void {
    for (let first = from; first < to; ) {
      if (fork.runs.has(first)) {
        first++;
        continue;
      }
      let end = first + 1;
      while (end < to && end - first < RUN_BLOCKS && !fork.runs.has(end)) {
        end++;
      }
      const count = end - first;
      const pages = fetch(first, count);
      const run: Run = { fork, first, count, pages, left: count, unreleased: count };
      // Whoever takes it asks again; if nobody does, there is no failure.
      run.pages.catch(() => undefined);
      for (let blkno = first; blkno < end; blkno++) {
        fork.runs.set(blkno, run);
      }
      this.#queue.push(run);
      this.#waitingRuns++;
      this.#held += count;
      first = end;
    }
    this.#evict();
  }

  #evict(): void {
    for (let at = 0; this.#held > this.#maxPages; at++) {
      const oldest = this.#queue[at]!;
      for (
        let blkno = oldest.first;
        oldest.left > 0 && blkno < oldest.first + oldest.count;
        blkno++
      ) {
        if (oldest.fork.runs.get(blkno) === oldest) {
          this.#leave(oldest, blkno, blkno + 1);
        }
      }
    }
    // Seldom, as it walks all. Those that have been handed out hold their memory until then.
    if (this.#queue.length > 2 * this.#waitingRuns + MOST_DONE_RUNS) {
      this.#queue = this.#queue.filter(({ left }) => left > 0);
    }
  }
}

/** Whether any of the blocks [from, to) was; none of them is any more. */
function wasAnnounced({ announced }: Fork, from: number, to: number): boolean {
  let found = false;
  if (announced.size > 0) {
    for (let blkno = from; blkno < to; blkno++) {
      found = announced.delete(blkno) || found;
    }
  }
  return found;
}
