// Checks a segment's WAL before it leaves: page headers, and the CRC of every record that is whole.

import { StorageError } from "../../base/errors.ts";
import { formatLsn, type Lsn, XLOG_BLCKSZ } from "../../base/lsn.ts";
import {
  checkPageHeader,
  LONG_PAGE_HEADER_SIZE,
  pageHeaderSize,
  type WalPageExpectation,
  XLP_FIRST_IS_CONTRECORD,
  XLP_FIRST_IS_OVERWRITE_CONTRECORD,
} from "../../postgres/wal-page.ts";
import { RecordWalker } from "../../wal-decoder/record-walker.ts";

export interface CheckedWal {
  readonly segmentSize: number;
  readonly pageMagic: number | undefined;
  /** 0: not known. */
  readonly systemId: bigint;
}

/**
 * Walks WAL in pieces that may begin anywhere in the log. A piece that continues the last one is
 * checked to the last byte. One that does not begins inside a record, as a rule: of that record only
 * the pages are checked (its CRC was, when it was written), the records behind it in full.
 */
export class SegmentCheck {
  readonly #wal: CheckedWal;
  readonly #expected: WalPageExpectation;
  #walker: RecordWalker | undefined;

  constructor(wal: CheckedWal) {
    this.#wal = wal;
    this.#expected = {
      pageMagic: wal.pageMagic,
      segmentSize: wal.segmentSize,
      systemId: wal.systemId === 0n ? undefined : wal.systemId,
    };
  }

  /** End of the last whole record that was walked; undefined before the first. */
  get recordEndLsn(): Lsn | undefined {
    return this.#walker?.recordEndLsn;
  }

  /** `lsn` is a record end (the start of a timeline's WAL): what follows can be walked from there. */
  startAt(lsn: Lsn): void {
    this.#walker = new RecordWalker({
      startLsn: lsn,
      segmentSize: this.#wal.segmentSize,
      ...(this.#expected.pageMagic === undefined ? {} : { pageMagic: this.#expected.pageMagic }),
      ...(this.#expected.systemId === undefined ? {} : { systemId: this.#expected.systemId }),
    });
  }

  /**
   * Walks `bytes`, which begin at `lsn`: where the last piece ended, where `startAt` said, or at the
   * start of a segment. StorageError `corrupt` names the LSN; then begin anew.
   */
  feed(lsn: Lsn, bytes: Uint8Array): void {
    if (this.#walker?.position !== lsn) {
      const first = this.#firstRecord(lsn, bytes);
      if (first === undefined) {
        this.#walker = undefined;
        return;
      }
      this.startAt(first);
      this.#walker!.feed(bytes.subarray(first - lsn));
      return;
    }
    this.#walker.feed(bytes);
  }

  /**
   * The WAL that was fed ends at `lsn`, a record end. StorageError `corrupt` where the last record is
   * not whole: a wrong length alone lets a walk wait for more.
   */
  endAt(lsn: Lsn): void {
    const walked = this.recordEndLsn ?? lsn;
    if (walked !== lsn) {
      const message = `whole records up to ${formatLsn(walked)} instead of ${formatLsn(lsn)}`;
      throw new StorageError("corrupt", "record-not-whole", message);
    }
  }

  /** Where the first record begins that starts in `bytes`; undefined where none does. */
  #firstRecord(lsn: Lsn, bytes: Uint8Array): Lsn | undefined {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = 0; at + LONG_PAGE_HEADER_SIZE <= bytes.length; at += XLOG_BLCKSZ) {
      const pageLsn = (lsn + at) as Lsn;
      const info = checkPageHeader(view, at, pageLsn, this.#expected);
      const header = pageHeaderSize(pageLsn, this.#wal.segmentSize);
      const isContinued =
        (info & XLP_FIRST_IS_CONTRECORD) !== 0 && (info & XLP_FIRST_IS_OVERWRITE_CONTRECORD) === 0;
      const remaining = isContinued ? view.getUint32(at + 16, true) : 0;
      const offset = header + Math.ceil(remaining / 8) * 8;
      // A record that ends with its page is followed by one that begins behind the next header, which
      // the next turn finds.
      if (offset < XLOG_BLCKSZ) {
        return at + offset < bytes.length ? ((pageLsn + offset) as Lsn) : undefined;
      }
    }
    return undefined;
  }
}
