// Finds the first record that begins in a stream of WAL, wherever the stream begins.

import { StorageError } from "../base/errors.ts";
import { formatLsn, type Lsn, pageOffset, pageStart, XLOG_BLCKSZ } from "../base/lsn.ts";
import { versionFromPageMagic } from "../postgres/versions.ts";
import {
  corruptWal,
  pageHeaderProblem,
  pageHeaderSize,
  XLP_FIRST_IS_CONTRECORD,
} from "../postgres/wal-page.ts";

export interface FirstRecord {
  /** Where it begins; a page start where its page's header comes first. */
  readonly startLsn: Lsn;
  /** Of the page that it begins on. */
  readonly pageMagic: number;
  /** The bytes from `startLsn` on that were fed already. */
  readonly bytes: Uint8Array;
}

export interface FirstRecordOptions {
  /** Of the first byte fed. In the middle of a page it must be where a record begins. */
  readonly startLsn: Lsn;
  readonly segmentSize: number;
  /** Of the WAL's major, where it is known without its pages. */
  readonly pageMagic?: number | undefined;
}

/**
 * Page headers tell how much of a page belongs to a record from before. Pages of zeros are passed
 * over: a safekeeper's first segment has them in front. The first page that is not all zeros, but has
 * no header either, is where the WAL of a safekeeper begins: with a record.
 */
export class FirstRecordFinder {
  readonly #options: FirstRecordOptions;
  #pageLsn: Lsn;
  readonly #page = new Uint8Array(XLOG_BLCKSZ);
  readonly #view = new DataView(this.#page.buffer);
  /** Bytes of the page that are here, or were before the stream began. */
  #fill: number;
  /** What is found, but for the magic: the next page tells it. */
  #beginning: Omit<FirstRecord, "pageMagic"> | undefined;

  constructor(options: FirstRecordOptions) {
    this.#options = options;
    this.#pageLsn = pageStart(options.startLsn);
    this.#fill = pageOffset(options.startLsn);
  }

  /**
   * Undefined while it is not found. StorageError `invalid` where the bytes are no WAL of a major that
   * Strata knows, `corrupt` where a page header is wrong.
   */
  feed(bytes: Uint8Array): FirstRecord | undefined {
    for (let at = 0; at < bytes.length; ) {
      const take = Math.min(XLOG_BLCKSZ - this.#fill, bytes.length - at);
      this.#page.set(bytes.subarray(at, at + take), this.#fill);
      this.#fill += take;
      at += take;
      if (this.#fill === XLOG_BLCKSZ) {
        const found = this.finish();
        if (found !== undefined) {
          return { ...found, bytes: Buffer.concat([found.bytes, bytes.subarray(at)]) };
        }
        this.#pageLsn = (this.#pageLsn + XLOG_BLCKSZ) as Lsn;
        this.#fill = 0;
        this.#page.fill(0);
      }
    }
    return undefined;
  }

  /** Looks at the page as far as it came: when nothing more will come. */
  finish(): FirstRecord | undefined {
    const headerSize = pageHeaderSize(this.#pageLsn, this.#options.segmentSize);
    if (this.#fill < headerSize) {
      return undefined;
    }
    const pageMagic = this.#view.getUint16(0, true);
    if (pageMagic === 0) {
      this.#beginning ??= this.#beginningBehindZeros(headerSize);
      return this.#withMagic(this.#options.pageMagic);
    }
    this.#checkHeader(pageMagic);
    if (this.#beginning !== undefined) {
      const bytes = Buffer.concat([this.#beginning.bytes, this.#page.subarray(0, this.#fill)]);
      return { ...this.#beginning, bytes, pageMagic };
    }
    if ((this.#view.getUint16(2, true) & XLP_FIRST_IS_CONTRECORD) === 0) {
      return { ...this.#from(0), pageMagic };
    }
    const start = headerSize + Math.ceil(this.#view.getUint32(16, true) / 8) * 8;
    return start < this.#fill ? { ...this.#from(start), pageMagic } : undefined;
  }

  #checkHeader(pageMagic: number): void {
    if (versionFromPageMagic(pageMagic) === undefined) {
      const found = pageMagic.toString(16).padStart(4, "0");
      throw new StorageError(
        "invalid",
        "not-wal",
        `not WAL of Postgres 14 to 18: at ${formatLsn(this.#pageLsn)} the page magic is ${found}`,
      );
    }
    const { segmentSize } = this.#options;
    const expected = { pageMagic: this.#options.pageMagic, segmentSize, systemId: undefined };
    const problem = pageHeaderProblem(this.#view, 0, this.#pageLsn, expected);
    if (problem !== undefined) {
      throw corruptWal(this.#pageLsn, problem);
    }
  }

  #beginningBehindZeros(headerSize: number): Omit<FirstRecord, "pageMagic"> | undefined {
    for (let at = headerSize; at + 8 <= this.#fill; at += 8) {
      if (this.#view.getBigUint64(at, true) !== 0n) {
        return this.#from(at);
      }
    }
    return undefined;
  }

  #withMagic(pageMagic: number | undefined): FirstRecord | undefined {
    return this.#beginning === undefined || pageMagic === undefined
      ? undefined
      : { ...this.#beginning, pageMagic };
  }

  #from(offset: number): Omit<FirstRecord, "pageMagic"> {
    const startLsn = (this.#pageLsn + offset) as Lsn;
    return { startLsn, bytes: this.#page.slice(offset, this.#fill) };
  }
}
