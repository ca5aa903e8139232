// Turns what Postgres writes into pg_wal into whole records on a quorum, and its fdatasync into a wait for that.

import { monotonicMs, setTimer, type Timer } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { addLsn, type Lsn, toLsn, XLOG_BLCKSZ } from "../../base/lsn.ts";
import { freeMemory, isWorthFreeing } from "../../base/memory/free-memory.ts";
import type { CommitTimes } from "../../walproposer/commit-times.ts";
import { extensionPaceMicros, holdMs } from "./back-pressure.ts";
import type { LocalWal } from "./local-wal.ts";
import type { WalWalker } from "./wal-walker.ts";

/** Bulk load waits for a pageserver now and then; one that stands still so long is worth a word. */
const STALL_MS = 5000;
/** While a flush waits for a pageserver, no WAL is on its way whose answers would tell how far that is. */
const ASK_MS = 50;
/** Read and summed at a time: what one turn of the event loop may cost, about a millisecond. */
const READ_BYTES = 1024 * 1024;

/**
 * Invariant: a flush is answered when every whole record that was in the file when it was asked for
 * is durable on a quorum. Postgres may ask for a position in the middle of a record (walwriter, or a
 * page that had to leave the buffers); then only the records before matter, because commits and page
 * LSNs are record ends.
 */
export interface WalShipperOptions {
  readonly walker: WalWalker;
  readonly localWal: LocalWal;
  readonly segmentSize: number;
  /** More whole records exist: send them. Called synchronously, from the commit path. */
  readonly onAvailable: (endLsn: Lsn) => void;
  readonly times?: CommitTimes | undefined;
  /** A flush this much above what a pageserver has taken in waits for it; absent: no limit. */
  readonly maxWriteLagBytes?: number | undefined;
  /** A flush waits for a pageserver alone: its position is to be asked for. */
  readonly onHeld?: (() => void) | undefined;
  /** Flushes wait, and the pageserver has stood still for STALL_MS; or (`false`) that is over. */
  readonly onStalled?: ((stalled: boolean, lagBytes: number) => void) | undefined;
  /** The local WAL cannot be true. No flush is answered any more; Postgres must be ended. */
  readonly onFatal: (error: StorageError) => void;
}

interface FlushWaiter {
  readonly target: Lsn;
  readonly askedMs: number;
  readonly shippedMs: number;
  readonly resolve: () => void;
}

export class WalShipper {
  readonly #options: WalShipperOptions;
  /** End of what Postgres has written, a page boundary. */
  #written: Lsn;
  #committed: Lsn;
  #ingested: Lsn;
  /** Runs while flushes wait for a pageserver alone; anew when it gets on. */
  #stallTimer: Timer | undefined;
  #stalled = false;
  /** Runs while flushes are held for a pageserver, also where it does get on. */
  #heldTimer: Timer | undefined;
  #lagIsLimited = true;
  /** Ascending in target, because targets are ends of records found so far. */
  #waiters: FlushWaiter[] = [];
  #firstWaiter = 0;
  #stopped = false;
  /** The last bytes that were read, so that sending them does not read them again. */
  #recent: Uint8Array = new Uint8Array(0);
  #recentStart: Lsn;
  /** How many reads of a piece of memory have not been released. */
  readonly #lent = new WeakMap<ArrayBufferLike, number>();

  constructor(options: WalShipperOptions) {
    this.#options = options;
    const start = options.walker.endOfRecords;
    this.#written = start;
    this.#committed = start;
    // Postgres began with a pageserver's state of here.
    this.#ingested = start;
    this.#recentStart = start;
  }

  /** End of the last whole record that Postgres wrote. */
  get endOfRecords(): Lsn {
    return this.#options.walker.endOfRecords;
  }

  /** As WalWalker's. */
  get insideLsn(): Lsn {
    return this.#options.walker.insideLsn;
  }

  /** Start of the last whole record. */
  get lastRecordLsn(): Lsn {
    return this.#options.walker.lastRecordLsn;
  }

  get committedLsn(): Lsn {
    return this.#committed;
  }

  /** Flushes that wait for a quorum. */
  get waiting(): number {
    return this.#waiters.length - this.#firstWaiter;
  }

  /** Postgres has written `length` bytes at `offset` of a segment (after the pwrite returned). */
  walWritten(segment: number, offset: number, length: number): void {
    this.#noteWritten(segment, offset + length);
  }

  /**
   * Resolves when the whole records written so far are on a quorum; never rejects, and never
   * resolves after `stop`: an fdatasync that fails would make Postgres panic, one that returns would
   * acknowledge commits.
   */
  flushWal(segment: number, endOffset: number): Promise<void> {
    const askedMs = monotonicMs();
    this.#noteWritten(segment, endOffset);
    const target = this.endOfRecords;
    const isCommitted = target <= this.#committed;
    if (isCommitted && this.#heldMs(target) === 0 && !this.#stopped) {
      return Promise.resolve();
    }
    const shippedMs = monotonicMs();
    return new Promise((resolve) => {
      this.#waiters.push({ target, askedMs, shippedMs, resolve });
      if (isCommitted && !this.#stopped) {
        this.#answer();
      }
    });
  }

  /** A quorum has everything up to `lsn`. */
  committed(lsn: Lsn): void {
    if (this.#stopped || lsn <= this.#committed) {
      return;
    }
    this.#committed = lsn;
    this.#answer();
  }

  /** A pageserver has taken in everything up to `lsn`. */
  ingested(lsn: Lsn): void {
    if (lsn <= this.#ingested || this.#stopped) {
      return;
    }
    this.#ingested = lsn;
    this.#noteStall(false);
    this.#answer();
  }

  /** From now on no flush waits for a pageserver: Postgres is to shut down, which writes WAL. */
  endWriteLagLimit(): void {
    this.#lagIsLimited = false;
    if (!this.#stopped) {
      this.#answer();
    }
  }

  /** Whether a flush waits for a pageserver alone. */
  get waitsForPageserver(): boolean {
    return this.#stallTimer !== undefined;
  }

  /** Microseconds that Postgres is to wait for each block that makes a relation longer. */
  get extensionPaceMicros(): number {
    const { maxWriteLagBytes } = this.#options;
    return maxWriteLagBytes === undefined || !this.#lagIsLimited
      ? 0
      : extensionPaceMicros(this.endOfRecords - this.#ingested, maxWriteLagBytes);
  }

  /** How long a flush up to `lsn` takes at least, because a pageserver is behind. */
  #heldMs(lsn: Lsn): number {
    const { maxWriteLagBytes } = this.#options;
    return maxWriteLagBytes === undefined || !this.#lagIsLimited
      ? 0
      : holdMs(lsn - this.#ingested, maxWriteLagBytes);
  }

  /** `next` is on a quorum and waits for a pageserver, or is undefined: asks for news now and then, and looks again. */
  #noteHeld(next: FlushWaiter | undefined, nowMs: number): void {
    this.#noteStall(next !== undefined && this.#heldMs(next.target) === Number.POSITIVE_INFINITY);
    if (next === undefined || this.#heldTimer !== undefined) {
      return;
    }
    const leftMs = next.askedMs + this.#heldMs(next.target) - nowMs;
    this.#heldTimer = setTimer(
      () => {
        this.#heldTimer = undefined;
        this.#options.onHeld?.();
        this.#answer();
      },
      Math.min(leftMs, ASK_MS),
    );
  }

  #noteStall(waits: boolean): void {
    if (waits) {
      this.#stallTimer ??= setTimer(() => this.#tellStall(true), STALL_MS);
    } else if (this.#stallTimer !== undefined) {
      this.#stallTimer?.cancel();
      this.#stallTimer = undefined;
      if (this.#stalled) {
        this.#tellStall(false);
      }
    }
  }

  #tellStall(stalled: boolean): void {
    this.#stalled = stalled;
    this.#options.onStalled?.(stalled, this.#committed - this.#ingested);
  }

  #answer(): void {
    const committedMs = monotonicMs();
    const first = this.#firstWaiter;
    while (this.#firstWaiter < this.#waiters.length) {
      const waiter = this.#waiters[this.#firstWaiter]!;
      const isHeld = committedMs < waiter.askedMs + this.#heldMs(waiter.target);
      if (waiter.target > this.#committed || isHeld) {
        break;
      }
      this.#firstWaiter++;
      waiter.resolve();
    }
    const next = this.#waiters[this.#firstWaiter];
    const isCommitted = next !== undefined && next.target <= this.#committed;
    this.#noteHeld(isCommitted ? next : undefined, committedMs);
    if (this.#firstWaiter > first && this.#options.times !== undefined) {
      const answered = this.#waiters.slice(first, this.#firstWaiter);
      // Behind what those who wait do at once: they answer Postgres.
      queueMicrotask(() => this.#observe(answered, committedMs));
    }
    if (this.#firstWaiter === this.#waiters.length) {
      this.#waiters = [];
      this.#firstWaiter = 0;
    }
  }

  #observe(answered: readonly FlushWaiter[], committedMs: number): void {
    const { times } = this.#options;
    const nowMs = monotonicMs();
    for (const { askedMs, shippedMs } of answered) {
      times?.observe("ship", shippedMs - askedMs);
      times?.observe("quorum", committedMs - shippedMs);
      times?.observe("notify", nowMs - committedMs);
      times?.observe("total", nowMs - askedMs);
    }
  }

  /**
   * Bytes of WAL [begin, end), which lie below `endOfRecords` and above the start: final, in memory
   * that nobody changes before `released`. StorageError `not-found` where Postgres has removed them.
   */
  read(begin: Lsn, end: Lsn): Uint8Array {
    const from = begin - this.#recentStart;
    let bytes: Uint8Array;
    if (from >= 0 && end - this.#recentStart <= this.#recent.length) {
      bytes = this.#recent.subarray(from, end - this.#recentStart);
    } else {
      bytes = Buffer.allocUnsafeSlow(end - begin);
      this.#options.localWal.read(begin, end, bytes);
    }
    if (isWorthFreeing(bytes.buffer)) {
      this.#lent.set(bytes.buffer, (this.#lent.get(bytes.buffer) ?? 0) + 1);
    }
    return bytes;
  }

  /** What one `read` has returned is not needed any more. */
  released(bytes: Uint8Array): void {
    const { buffer } = bytes;
    const count = this.#lent.get(buffer);
    if (count !== undefined) {
      this.#lent.set(buffer, count - 1);
      this.#freeUnused(buffer);
    }
  }

  #freeUnused(buffer: ArrayBufferLike): void {
    if (buffer !== this.#recent.buffer && (this.#lent.get(buffer) ?? 0) === 0) {
      freeMemory(new Uint8Array(buffer));
    }
  }

  /** From now on nothing is answered and nothing read. */
  stop(): void {
    this.#stopped = true;
    this.#waiters = [];
    this.#firstWaiter = 0;
    this.#stallTimer?.cancel();
    this.#stallTimer = undefined;
    this.#heldTimer?.cancel();
    this.#heldTimer = undefined;
  }

  /** Looks at WAL that is in the file already (the synthesized record). */
  noteWrittenUpTo(lsn: Lsn): void {
    // Postgres writes whole pages, but a short write may be reported.
    const wholePages = toLsn(lsn - (lsn % XLOG_BLCKSZ));
    if (this.#stopped || wholePages < this.#written) {
      return;
    }
    this.#written = wholePages;
    try {
      this.#advance();
    } catch (error) {
      this.stop();
      this.#options.onFatal(
        error instanceof StorageError
          ? error
          : new StorageError("internal", "read-wal", String(error), { cause: error }),
      );
    }
  }

  #noteWritten(segment: number, endOffset: number): void {
    this.noteWrittenUpTo(toLsn(segment * this.#options.segmentSize + endOffset));
  }

  #advance(): void {
    const { walker, localWal, onAvailable } = this.#options;
    let found = walker.noteWritten(this.#written);
    while (walker.position < this.#written) {
      const start = walker.position;
      const limit = addLsn(start, READ_BYTES);
      const end = limit < this.#written ? toLsn(limit - (limit % XLOG_BLCKSZ)) : this.#written;
      const bytes = Buffer.allocUnsafeSlow(end - start);
      localWal.read(start, end, bytes);
      found = walker.walk(bytes) || found;
      found = walker.noteWritten(this.#written) || found;
      if (found) {
        this.#keepRecent(start, bytes);
        found = false;
        onAvailable(walker.endOfRecords);
      }
      if (end === this.#written || walker.position === start) {
        // All was read; what another backend has put into the last page meanwhile it will tell.
        break;
      }
    }
    if (found) {
      onAvailable(walker.endOfRecords);
    }
  }

  /** The part of what was just read that is final. */
  #keepRecent(start: Lsn, bytes: Uint8Array): void {
    const final = this.#options.walker.endOfRecords - start;
    const { buffer } = this.#recent;
    this.#recent = bytes.subarray(0, Math.max(0, Math.min(final, bytes.length)));
    this.#recentStart = start;
    this.#freeUnused(buffer);
  }
}
