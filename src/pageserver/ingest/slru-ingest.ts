// Transaction status, commit timestamp and multixact pages: what WAL says about them, as changes.
//
// Source: access/transam/{slru,clog,commit_ts,multixact}.c. A segment has 32 pages; its size in pages is a
// value of its own, and pages below it that were never written read as zeros.

import type { Lsn } from "../../base/lsn.ts";
import { PAGE_SIZE } from "../../postgres/page.ts";
import {
  CLOG_XACTS_PER_PAGE,
  COMMIT_TS_XACTS_PER_PAGE,
  FIRST_MULTIXACT_ID,
  MULTIXACT_MEMBERS_PER_PAGE,
  MULTIXACT_OFFSETS_PER_PAGE,
  SLRU_PAGES_PER_SEGMENT,
} from "../../postgres/slru.ts";
import {
  encodeClogStatus,
  encodeCommitTimestamps,
  encodeMultixactMembers,
  encodeMultixactOffsets,
} from "../../wal-decoder/implied-deltas.ts";
import {
  SLRU_CLOG,
  SLRU_COMMIT_TS,
  SLRU_MULTIXACT_MEMBERS,
  SLRU_MULTIXACT_OFFSETS,
  type SlruKind,
} from "../../wal-decoder/record-sink.ts";
import {
  KEYSPACE_SLRU_SIZE,
  type KeyPrefix,
  prefixField3,
  slruBlockPrefix,
  slruSizePrefix,
} from "../layers/key.ts";
import type { TimelineStorage } from "../storage/timeline-storage.ts";
import { precedes } from "./checkpoint-tracker.ts";
import { decodeSize, encodeSize } from "./relation-heads.ts";

const LAST_COMMIT_TS_PAGE = Math.floor(0xffff_ffff / COMMIT_TS_XACTS_PER_PAGE);
const MAX_MEMBERS_SEGMENT = Math.floor(
  0xffff_ffff / MULTIXACT_MEMBERS_PER_PAGE / SLRU_PAGES_PER_SEGMENT,
);
const ZERO_PAGE = new Uint8Array(PAGE_SIZE);

interface Member {
  readonly xid: number;
  readonly status: number;
}

export class SlruIngest {
  readonly #storage: TimelineStorage;
  /** Sizes of segments that were looked at, by kind; 0 for none. */
  readonly #sizes: Map<number, number>[] = [new Map(), new Map(), new Map(), new Map()];
  /** A page that a CREATE_ID record made before its own ZERO_OFF_PAGE record came. */
  #preInitializedOffsetsPage = -1;
  /** The page of the last delta exists: commits in a row change the same one. */
  #lastKind = -1;
  #lastPage = -1;
  #lastPrefix: KeyPrefix = slruBlockPrefix(0, 0);

  constructor(storage: TimelineStorage) {
    this.#storage = storage;
  }

  #size(kind: SlruKind, segno: number): number {
    const sizes = this.#sizes[kind]!;
    let size = sizes.get(segno);
    if (size === undefined) {
      const stored = this.#storage.readValue(
        slruSizePrefix(kind, segno),
        0,
        this.#storage.lastRecordLsn,
      );
      size = stored === undefined ? 0 : decodeSize(stored);
      sizes.set(segno, size);
    }
    return size;
  }

  #extendOver(kind: SlruKind, pageno: number, lsn: Lsn): void {
    const segno = Math.floor(pageno / SLRU_PAGES_PER_SEGMENT);
    const blocks = (pageno % SLRU_PAGES_PER_SEGMENT) + 1;
    if (this.#size(kind, segno) < blocks) {
      this.#sizes[kind]!.set(segno, blocks);
      this.#storage.putImage(slruSizePrefix(kind, segno), 0, lsn, encodeSize(blocks));
    }
  }

  #putDelta(kind: SlruKind, pageno: number, lsn: Lsn, delta: Uint8Array): void {
    if (kind !== this.#lastKind || pageno !== this.#lastPage) {
      this.#extendOver(kind, pageno, lsn);
      this.#lastKind = kind;
      this.#lastPage = pageno;
      this.#lastPrefix = slruBlockPrefix(kind, Math.floor(pageno / SLRU_PAGES_PER_SEGMENT));
    }
    this.#storage.putDelta(this.#lastPrefix, pageno % SLRU_PAGES_PER_SEGMENT, lsn, delta, false);
  }

  zeroPage(kind: SlruKind, pageno: number, lsn: Lsn): void {
    if (kind === SLRU_MULTIXACT_OFFSETS) {
      const skip = pageno === this.#preInitializedOffsetsPage;
      this.#preInitializedOffsetsPage = -1;
      if (skip) {
        return;
      }
    }
    this.#extendOver(kind, pageno, lsn);
    const prefix = slruBlockPrefix(kind, Math.floor(pageno / SLRU_PAGES_PER_SEGMENT));
    this.#storage.putImage(prefix, pageno % SLRU_PAGES_PER_SEGMENT, lsn, ZERO_PAGE);
  }

  transactionStatus(xids: readonly number[], committed: boolean, lsn: Lsn): void {
    const status = committed ? 1 : 2;
    const firstPage = Math.floor(xids[0]! / CLOG_XACTS_PER_PAGE);
    if (xids.every((xid) => Math.floor(xid / CLOG_XACTS_PER_PAGE) === firstPage)) {
      this.#putDelta(SLRU_CLOG, firstPage, lsn, encodeClogStatus(xids, status));
      return;
    }
    const byPage = Map.groupBy(xids, (xid) => Math.floor(xid / CLOG_XACTS_PER_PAGE));
    for (const [pageno, group] of byPage) {
      this.#putDelta(SLRU_CLOG, pageno, lsn, encodeClogStatus(group, status));
    }
  }

  /** TransactionTreeSetCommitTsData. */
  commitTimestamps(xids: readonly number[], timestampUs: bigint, originId: number, lsn: Lsn): void {
    const byPage = Map.groupBy(xids, (xid) => Math.floor(xid / COMMIT_TS_XACTS_PER_PAGE));
    for (const [pageno, group] of byPage) {
      const delta = encodeCommitTimestamps(group, timestampUs, originId);
      this.#putDelta(SLRU_COMMIT_TS, pageno, lsn, delta);
    }
  }

  /**
   * The page of `nextXid` exists, as after ActivateCommitTs, and all before it in the last two
   * segments: nextXid may have jumped over some, whose own records then never come.
   */
  extendCommitTs(nextXid: number, lsn: Lsn): void {
    const pageno = Math.floor(nextXid / COMMIT_TS_XACTS_PER_PAGE);
    const segno = Math.floor(pageno / SLRU_PAGES_PER_SEGMENT);
    const before = segno === 0 ? LAST_COMMIT_TS_PAGE : segno * SLRU_PAGES_PER_SEGMENT - 1;
    if (this.#size(SLRU_COMMIT_TS, Math.floor(before / SLRU_PAGES_PER_SEGMENT)) > 0) {
      this.#extendOver(SLRU_COMMIT_TS, before, lsn);
    }
    this.#extendOver(SLRU_COMMIT_TS, pageno, lsn);
  }

  /** DeactivateCommitTs: nothing is left. */
  dropCommitTs(lsn: Lsn): void {
    for (const segno of this.#segments(SLRU_COMMIT_TS)) {
      this.#deleteSegment(SLRU_COMMIT_TS, segno, lsn);
    }
  }

  /** TruncateCommitTs: SimpleLruTruncate with CommitTsPagePrecedes. */
  commitTsTruncate(cutoffPage: number, lsn: Lsn): void {
    this.#truncate(SLRU_COMMIT_TS, cutoffPage, COMMIT_TS_XACTS_PER_PAGE, lsn);
  }

  /** RecordNewMultiXact: the multixact's offset, the next one's, and the members. */
  multixactCreate(multi: number, offset: number, members: readonly Member[], lsn: Lsn): void {
    const next = multi === 0xffff_ffff ? FIRST_MULTIXACT_ID : multi + 1;
    // Offset 0 means "not set", so it is skipped when the counter wraps.
    const nextOffset = (offset + members.length) >>> 0 || 1;
    const page = Math.floor(multi / MULTIXACT_OFFSETS_PER_PAGE);
    const nextPage = Math.floor(next / MULTIXACT_OFFSETS_PER_PAGE);
    if (page === nextPage) {
      const delta = encodeMultixactOffsets([multi, next], [offset, nextOffset]);
      this.#putDelta(SLRU_MULTIXACT_OFFSETS, page, lsn, delta);
    } else {
      const segno = Math.floor(nextPage / SLRU_PAGES_PER_SEGMENT);
      const block = nextPage % SLRU_PAGES_PER_SEGMENT;
      this.#preInitializedOffsetsPage = -1;
      if (this.#size(SLRU_MULTIXACT_OFFSETS, segno) <= block) {
        // WAL of an older minor release: the page's own record comes later, and must not wipe it.
        this.#preInitializedOffsetsPage = nextPage;
      }
      const first = encodeMultixactOffsets([multi], [offset]);
      this.#putDelta(SLRU_MULTIXACT_OFFSETS, page, lsn, first);
      const second = encodeMultixactOffsets([next], [nextOffset]);
      this.#putDelta(SLRU_MULTIXACT_OFFSETS, nextPage, lsn, second);
    }
    for (let start = 0; start < members.length; ) {
      const at = (offset + start) >>> 0;
      const pageno = Math.floor(at / MULTIXACT_MEMBERS_PER_PAGE);
      const room = Math.min(
        MULTIXACT_MEMBERS_PER_PAGE - (at % MULTIXACT_MEMBERS_PER_PAGE),
        0x1_0000_0000 - at,
      );
      const part = members.slice(start, start + room);
      this.#putDelta(SLRU_MULTIXACT_MEMBERS, pageno, lsn, encodeMultixactMembers(at, part));
      start += part.length;
    }
  }

  /** TruncateCLOG: SimpleLruTruncate with CLOGPagePrecedes. */
  clogTruncate(cutoffPage: number, lsn: Lsn): void {
    this.#truncate(SLRU_CLOG, cutoffPage, CLOG_XACTS_PER_PAGE, lsn);
  }

  /** PerformMembersTruncation, then PerformOffsetsTruncation. */
  multixactTruncate(
    endTruncOff: number,
    startTruncMemb: number,
    endTruncMemb: number,
    lsn: Lsn,
  ): void {
    const segmentOf = (offset: number) =>
      Math.floor(offset / MULTIXACT_MEMBERS_PER_PAGE / SLRU_PAGES_PER_SEGMENT);
    const first = segmentOf(startTruncMemb);
    const end = segmentOf(endTruncMemb);
    const doomed = (segno: number) =>
      first <= end ? segno >= first && segno < end : segno >= first || segno < end;
    for (const segno of this.#segments(SLRU_MULTIXACT_MEMBERS)) {
      if (segno <= MAX_MEMBERS_SEGMENT && doomed(segno)) {
        this.#deleteSegment(SLRU_MULTIXACT_MEMBERS, segno, lsn);
      }
    }
    const previous = endTruncOff <= FIRST_MULTIXACT_ID ? 0xffff_ffff : endTruncOff - 1;
    const cutoffPage = Math.floor(previous / MULTIXACT_OFFSETS_PER_PAGE);
    this.#truncate(SLRU_MULTIXACT_OFFSETS, cutoffPage, MULTIXACT_OFFSETS_PER_PAGE, lsn);
  }

  /** SimpleLruTruncate: deletes the segments whose every page is before the cutoff. */
  #truncate(kind: SlruKind, cutoffPage: number, itemsPerPage: number, lsn: Lsn): void {
    const pagePrecedes = (a: number, b: number) => {
      const first = (a * itemsPerPage) >>> 0;
      const second = (b * itemsPerPage) >>> 0;
      return precedes(first, second) && precedes(first, (second + itemsPerPage - 1) >>> 0);
    };
    for (const segno of this.#segments(kind)) {
      const page = segno * SLRU_PAGES_PER_SEGMENT;
      if (
        pagePrecedes(page, cutoffPage) &&
        pagePrecedes(page + SLRU_PAGES_PER_SEGMENT - 1, cutoffPage)
      ) {
        this.#deleteSegment(kind, segno, lsn);
      }
    }
  }

  /** Segments that exist: published ones, and those made since. */
  #segments(kind: SlruKind): number[] {
    const known = this.#sizes[kind]!;
    for (const { prefix } of this.#storage.scan(
      [KEYSPACE_SLRU_SIZE, kind],
      this.#storage.lastRecordLsn,
    )) {
      this.#size(kind, prefixField3(prefix));
    }
    return [...known].filter(([, size]) => size > 0).map(([segno]) => segno);
  }

  #deleteSegment(kind: SlruKind, segno: number, lsn: Lsn): void {
    const blocks = this.#size(kind, segno);
    this.#sizes[kind]!.set(segno, 0);
    this.#lastKind = -1;
    this.#storage.putTombstone(slruSizePrefix(kind, segno), 0, lsn);
    // After a wrap of the counter the segment comes back: nothing old may show through.
    for (let block = 0; block < blocks; block++) {
      this.#storage.putTombstone(slruBlockPrefix(kind, segno), block, lsn);
    }
  }
}
