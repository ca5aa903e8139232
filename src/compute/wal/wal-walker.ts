// Finds the ends of whole records in WAL that Postgres is still writing: looks at the last page again and again.

import { StorageError } from "../../base/errors.ts";
import { formatLsn, type Lsn, maxLsn, WAL_SEGMENT_SIZE, XLOG_BLCKSZ } from "../../base/lsn.ts";
import { RecordWalker } from "../../wal-decoder/record-walker.ts";

/**
 * Walks pages from `start` (a record end). What was found whole stays found; bytes of the last page
 * that do not make a whole record yet are looked at again next time, because Postgres writes that
 * page while other backends still copy records into it (so their bytes change later).
 */
export class WalWalker {
  readonly #walker: RecordWalker;
  #insideLsn: Lsn;

  constructor(options: {
    start: Lsn;
    /** Start of the record that ends at `start`; 0 where unknown. */
    prevLsn: Lsn;
    pageMagic: number;
    segmentSize?: number;
    systemId: bigint;
  }) {
    const { start, prevLsn, pageMagic, segmentSize = WAL_SEGMENT_SIZE, systemId } = options;
    this.#walker = new RecordWalker({ startLsn: start, prevLsn, pageMagic, segmentSize, systemId });
    this.#insideLsn = start;
  }

  /** End of the last whole record (Postgres's EndRecPtr): everything below it is final. */
  get endOfRecords(): Lsn {
    return this.#walker.recordEndLsn;
  }

  /** At least `endOfRecords`: up to here there is nothing but the beginning of a record that is not whole. */
  get insideLsn(): Lsn {
    return maxLsn(this.#insideLsn, this.#walker.recordEndLsn);
  }

  /** Start of the last whole record. */
  get lastRecordLsn(): Lsn {
    return this.#walker.prevRecordLsn;
  }

  /** From where the next `walk` must be given bytes; may lie ahead of all that was written. */
  get position(): Lsn {
    return this.#walker.neededLsn;
  }

  /**
   * Says that Postgres has written up to `lsn`. A switch record ends at its segment's end, but may
   * be acknowledged only when the empty pages up to there exist: whoever flushes an earlier record
   * holds the lock that writing them needs, so that flush must not wait for them.
   */
  noteWritten(lsn: Lsn): boolean {
    const walker = this.#walker;
    if (walker.position === walker.neededLsn || lsn < walker.neededLsn) {
      return false;
    }
    walker.skipPadding();
    return true;
  }

  /**
   * Looks at `bytes`, which begin at `position` and end at a page boundary, the end of what was
   * written. True where a new whole record was found. StorageError `corrupt` where a page that
   * cannot change any more is wrong.
   */
  walk(bytes: Uint8Array): boolean {
    const walker = this.#walker;
    const before = walker.recordEndLsn;
    walker.skipPadding();
    const lastPage = Math.max(0, bytes.length - XLOG_BLCKSZ);
    if (!walker.tryFeed(bytes.subarray(0, lastPage))) {
      const { lsn, text } = walker.problem!;
      throw new StorageError(
        "corrupt",
        "bad-local-wal",
        `WAL of Postgres is wrong at ${formatLsn(lsn)}: ${text}`,
        { fields: { lsn: formatLsn(lsn) } },
      );
    }
    // A record may also begin below the last page: it was read in so far as it is final.
    walker.mark();
    walker.tryFeed(bytes.subarray(lastPage));
    if (walker.isInsideRecord) {
      this.#insideLsn = walker.position;
    }
    walker.rewind();
    return walker.recordEndLsn > before;
  }
}
