// SLRU pages under replay: transaction status, commit times and multixacts, as Postgres's recovery changes their files.
//
// Source: access/transam/{slru,clog,commit_ts,multixact}.c, 14-18. Pages are kept in memory: they grow with
// transactions (8 kB for 32768), not with data.

import { INVALID_LSN, type Lsn } from "../base/lsn.ts";
import { PAGE_SIZE } from "../postgres/page.ts";
import {
  CLOG_XACTS_PER_PAGE,
  COMMIT_TS_XACTS_PER_PAGE,
  FIRST_MULTIXACT_ID,
  MULTIXACT_MEMBERS_PER_PAGE,
  MULTIXACT_OFFSETS_PER_PAGE,
  SLRU_PAGES_PER_SEGMENT,
} from "../postgres/slru.ts";
import {
  encodeClogStatus,
  encodeCommitTimestamps,
  encodeMultixactMembers,
  encodeMultixactOffsets,
} from "../wal-decoder/implied-deltas.ts";
import {
  SLRU_CLOG,
  SLRU_COMMIT_TS,
  SLRU_MULTIXACT_MEMBERS,
  SLRU_MULTIXACT_OFFSETS,
  type SlruKind,
} from "../wal-decoder/record-sink.ts";
import { readSlruPages } from "./relation-files.ts";

/** In the order of their numbers. */
export const SLRU_KINDS: readonly SlruKind[] = [
  SLRU_CLOG,
  SLRU_MULTIXACT_MEMBERS,
  SLRU_MULTIXACT_OFFSETS,
  SLRU_COMMIT_TS,
];
const MAX_ID = 0xffff_ffff;

/** A record that changed a page: its end, resource manager and xl_info. */
export interface PageOrigin {
  readonly lsn: Lsn;
  readonly rmid: number;
  readonly info: number;
}

interface Member {
  readonly xid: number;
  readonly status: number;
}

/** Applies a delta to the page, which is changed in place. */
export type ApplySlruDelta = (delta: Uint8Array, pageno: number, page: Uint8Array) => void;

export class SlruPages {
  readonly #apply: ApplySlruDelta;
  readonly #pages: Map<number, Uint8Array>[];
  readonly #origins = new Map<Uint8Array, PageOrigin>();
  /** A page that a CREATE_ID record made before its own ZERO_OFF_PAGE record came. */
  #preInitializedOffsetsPage = -1;
  /** The record at hand. */
  origin: PageOrigin = { lsn: INVALID_LSN, rmid: 0, info: 0 };

  constructor(baseDir: string, apply: ApplySlruDelta) {
    this.#apply = apply;
    this.#pages = SLRU_KINDS.map((kind) => {
      const pages = new Map<number, Uint8Array>();
      for (const { pageno, page } of readSlruPages(baseDir, kind)) {
        pages.set(pageno, page.slice());
      }
      return pages;
    });
  }

  /** Of every page, in no order. */
  pageNumbers(kind: SlruKind): Iterable<number> {
    return this.#pages[kind]!.keys();
  }

  /** Lent until the page is next changed; undefined where there is none. */
  read(kind: number, pageno: number): Uint8Array | undefined {
    return this.#pages[kind]?.get(pageno);
  }

  /** The last record that changed the page; undefined: none since the base. */
  originOf(kind: number, pageno: number): PageOrigin | undefined {
    const page = this.read(kind, pageno);
    return page === undefined ? undefined : this.#origins.get(page);
  }

  #change(kind: SlruKind, pageno: number, delta: Uint8Array): void {
    const pages = this.#pages[kind]!;
    let page = pages.get(pageno);
    if (page === undefined) {
      page = new Uint8Array(PAGE_SIZE);
      pages.set(pageno, page);
    }
    this.#origins.set(page, this.origin);
    this.#apply(delta, pageno, page);
  }

  zeroPage(kind: SlruKind, pageno: number): void {
    if (kind === SLRU_MULTIXACT_OFFSETS) {
      const skip = pageno === this.#preInitializedOffsetsPage;
      this.#preInitializedOffsetsPage = -1;
      if (skip) {
        return;
      }
    }
    const page = this.#pages[kind]!.get(pageno);
    if (page !== undefined) {
      page.fill(0);
      this.#origins.set(page, this.origin);
    } else {
      const made = new Uint8Array(PAGE_SIZE);
      this.#pages[kind]!.set(pageno, made);
      this.#origins.set(made, this.origin);
    }
  }

  transactionStatus(xids: readonly number[], committed: boolean): void {
    const byPage = Map.groupBy(xids, (xid) => Math.floor(xid / CLOG_XACTS_PER_PAGE));
    for (const [pageno, group] of byPage) {
      this.#change(SLRU_CLOG, pageno, encodeClogStatus(group, committed ? 1 : 2));
    }
  }

  /** TransactionTreeSetCommitTsData. */
  commitTimestamps(xids: readonly number[], timestampUs: bigint, originId: number): void {
    const byPage = Map.groupBy(xids, (xid) => Math.floor(xid / COMMIT_TS_XACTS_PER_PAGE));
    for (const [pageno, group] of byPage) {
      const delta = encodeCommitTimestamps(group, timestampUs, originId);
      this.#change(SLRU_COMMIT_TS, pageno, delta);
    }
  }

  /** TruncateCommitTs. */
  commitTsTruncate(cutoffPage: number): void {
    this.#truncate(SLRU_COMMIT_TS, cutoffPage, COMMIT_TS_XACTS_PER_PAGE);
  }

  /** DeactivateCommitTs: nothing is left. */
  dropCommitTs(): void {
    this.#deleteSegments(SLRU_COMMIT_TS, () => true);
  }

  /** RecordNewMultiXact: the multixact's offset, the next one's, and the members. */
  multixactCreate(multi: number, offset: number, members: readonly Member[]): void {
    const next = multi === MAX_ID ? FIRST_MULTIXACT_ID : multi + 1;
    // Offset 0 means "not set", so it is skipped when the counter wraps.
    const nextOffset = (offset + members.length) >>> 0 || 1;
    const page = Math.floor(multi / MULTIXACT_OFFSETS_PER_PAGE);
    const nextPage = Math.floor(next / MULTIXACT_OFFSETS_PER_PAGE);
    if (page !== nextPage) {
      // WAL of an older minor release: the page's own record comes later, and must not wipe it.
      this.#preInitializedOffsetsPage =
        this.read(SLRU_MULTIXACT_OFFSETS, nextPage) === undefined ? nextPage : -1;
    }
    this.#change(SLRU_MULTIXACT_OFFSETS, page, encodeMultixactOffsets([multi], [offset]));
    this.#change(SLRU_MULTIXACT_OFFSETS, nextPage, encodeMultixactOffsets([next], [nextOffset]));
    for (let start = 0; start < members.length; ) {
      const at = (offset + start) >>> 0;
      const room = Math.min(
        MULTIXACT_MEMBERS_PER_PAGE - (at % MULTIXACT_MEMBERS_PER_PAGE),
        MAX_ID + 1 - at,
      );
      const part = members.slice(start, start + room);
      const delta = encodeMultixactMembers(at, part);
      this.#change(SLRU_MULTIXACT_MEMBERS, Math.floor(at / MULTIXACT_MEMBERS_PER_PAGE), delta);
      start += part.length;
    }
  }

  /** TruncateCLOG. */
  clogTruncate(cutoffPage: number): void {
    this.#truncate(SLRU_CLOG, cutoffPage, CLOG_XACTS_PER_PAGE);
  }

  /** PerformMembersTruncation, then PerformOffsetsTruncation. */
  multixactTruncate(endTruncOff: number, startTruncMemb: number, endTruncMemb: number): void {
    const segmentOf = (offset: number) =>
      Math.floor(offset / MULTIXACT_MEMBERS_PER_PAGE / SLRU_PAGES_PER_SEGMENT);
    const first = segmentOf(startTruncMemb);
    const end = segmentOf(endTruncMemb);
    this.#deleteSegments(SLRU_MULTIXACT_MEMBERS, (segno) =>
      first <= end ? segno >= first && segno < end : segno >= first || segno < end,
    );
    const previous = endTruncOff <= FIRST_MULTIXACT_ID ? MAX_ID : endTruncOff - 1;
    const cutoffPage = Math.floor(previous / MULTIXACT_OFFSETS_PER_PAGE);
    this.#truncate(SLRU_MULTIXACT_OFFSETS, cutoffPage, MULTIXACT_OFFSETS_PER_PAGE);
  }

  /** SimpleLruTruncate: deletes the segments whose every page is before the cutoff. */
  #truncate(kind: SlruKind, cutoffPage: number, itemsPerPage: number): void {
    const precedes = (a: number, b: number) => ((a - b) | 0) < 0;
    const pagePrecedes = (a: number, b: number) => {
      const first = (a * itemsPerPage) >>> 0;
      const second = (b * itemsPerPage) >>> 0;
      return precedes(first, second) && precedes(first, (second + itemsPerPage - 1) >>> 0);
    };
    this.#deleteSegments(kind, (segno) => {
      const page = segno * SLRU_PAGES_PER_SEGMENT;
      return (
        pagePrecedes(page, cutoffPage) &&
        pagePrecedes(page + SLRU_PAGES_PER_SEGMENT - 1, cutoffPage)
      );
    });
  }

  #deleteSegments(kind: SlruKind, doomed: (segno: number) => boolean): void {
    const pages = this.#pages[kind]!;
    for (const pageno of [...pages.keys()]) {
      if (doomed(Math.floor(pageno / SLRU_PAGES_PER_SEGMENT))) {
        this.#origins.delete(pages.get(pageno)!);
        pages.delete(pageno);
      }
    }
  }
}
