// Lays records out on WAL pages: page headers, and records that go on behind them.

import { addLsn, alignLsn, type Lsn, pageOffset, pageStart, XLOG_BLCKSZ } from "../base/lsn.ts";
import type { PgVersion } from "../postgres/versions.ts";
import { encodePageHeader, pageHeaderSize } from "../postgres/wal-page.ts";

export interface WalPagesOptions {
  readonly version: PgVersion;
  readonly systemId: bigint;
  readonly segmentSize: number;
}

export class WalPages {
  readonly #options: WalPagesOptions;
  readonly #pages = new Map<Lsn, Uint8Array>();

  constructor(options: WalPagesOptions) {
    this.#options = options;
  }

  /** Whole 8 kB pages, ascending. */
  get pages(): readonly { readonly pageLsn: Lsn; readonly bytes: Uint8Array }[] {
    return [...this.#pages]
      .map(([pageLsn, bytes]) => ({ pageLsn, bytes }))
      .sort((a, b) => a.pageLsn - b.pageLsn);
  }

  /** The page at `pageLsn`, made where there is none; `remainingLength` of a record go on in it. */
  pageAt(pageLsn: Lsn, remainingLength: number): Uint8Array {
    let bytes = this.#pages.get(pageLsn);
    if (bytes === undefined) {
      bytes = new Uint8Array(XLOG_BLCKSZ);
      const { version, systemId, segmentSize } = this.#options;
      encodePageHeader(new DataView(bytes.buffer), 0, {
        pageMagic: version.pageMagic,
        pageLsn,
        systemId,
        timeline: 1,
        segmentSize,
        remainingLength,
      });
      this.#pages.set(pageLsn, bytes);
    }
    return bytes;
  }

  /** A page that is there already, to be written on; its bytes become this object's. */
  take(pageLsn: Lsn, bytes: Uint8Array): void {
    this.#pages.set(pageLsn, bytes);
  }

  /** Puts a record where one can begin; returns where it ends, aligned (Postgres's EndRecPtr). */
  put(record: Uint8Array, start: Lsn): Lsn {
    this.pageAt(pageStart(start), 0);
    let at = start;
    let done = 0;
    while (done < record.length) {
      if (pageOffset(at) === 0) {
        this.pageAt(at, record.length - done);
        at = addLsn(at, pageHeaderSize(at, this.#options.segmentSize));
      }
      const take = Math.min(record.length - done, XLOG_BLCKSZ - pageOffset(at));
      this.pageAt(pageStart(at), 0).set(record.subarray(done, done + take), pageOffset(at));
      done += take;
      at = addLsn(at, take);
    }
    return alignLsn(at);
  }
}

/** The first position at or after `lsn` where a record can begin. */
export function skipPageHeader(lsn: Lsn, segmentSize: number): Lsn {
  const page = pageStart(lsn);
  const header = pageHeaderSize(page, segmentSize);
  return lsn - page < header ? addLsn(page, header) : lsn;
}
