// WAL page headers: decode, check and encode.
//
// Source: access/xlog_internal.h, 14-18. Little-endian, every XLOG_BLCKSZ (8192) bytes of WAL.
//   offset size field
//        0    2 xlp_magic      tells the major version
//        2    2 xlp_info       XLP_* flags
//        4    4 xlp_tli        timeline
//        8    8 xlp_pageaddr   LSN of this page
//       16    4 xlp_rem_len    bytes of the record continued from the page before
//       20    4 padding
// and on the first page of a segment (XLP_LONG_HEADER):
//       24    8 xlp_sysid
//       32    4 xlp_seg_size
//       36    4 xlp_xlog_blcksz
// No checksum. Short headers are 24 bytes, long ones 40; records follow 8-byte aligned.

import { StorageError } from "../base/errors.ts";
import { formatLsn, type Lsn, lsnHigh, lsnLow, XLOG_BLCKSZ } from "../base/lsn.ts";
import { versionFromPageMagic } from "./versions.ts";

export const SHORT_PAGE_HEADER_SIZE = 24;
export const LONG_PAGE_HEADER_SIZE = 40;

export const XLP_FIRST_IS_CONTRECORD = 0x0001;
export const XLP_LONG_HEADER = 0x0002;
export const XLP_BKP_REMOVABLE = 0x0004;
export const XLP_FIRST_IS_OVERWRITE_CONTRECORD = 0x0008;
const XLP_ALL_FLAGS = 0x000f;

/** What every page of one WAL must say. */
export interface WalPageExpectation {
  /** Undefined: that of any major Strata knows. */
  readonly pageMagic: number | undefined;
  readonly segmentSize: number;
  /** Undefined: not checked. */
  readonly systemId: bigint | undefined;
}

/** Bytes of the header of the page that starts at `pageLsn`. */
export function pageHeaderSize(pageLsn: Lsn, segmentSize: number): number {
  return pageLsn % segmentSize === 0 ? LONG_PAGE_HEADER_SIZE : SHORT_PAGE_HEADER_SIZE;
}

export function corruptWal(lsn: Lsn, problem: string, fields: object = {}): StorageError {
  const text = formatLsn(lsn);
  return new StorageError("corrupt", "corrupt-wal", `WAL at ${text}: ${problem}`, {
    fields: { lsn: text, ...fields },
  });
}

/**
 * Checks the header at `at`; the caller makes sure that all its bytes are there. Throws
 * StorageError `corrupt`. Returns xlp_info.
 */
export function checkPageHeader(
  view: DataView,
  at: number,
  pageLsn: Lsn,
  expected: WalPageExpectation,
): number {
  const problem = pageHeaderProblem(view, at, pageLsn, expected);
  if (problem !== undefined) {
    throw corruptWal(pageLsn, problem);
  }
  return view.getUint16(at + 2, true);
}

/** As `checkPageHeader`, for whom a wrong header is no error: what is wrong, or undefined. */
export function pageHeaderProblem(
  view: DataView,
  at: number,
  pageLsn: Lsn,
  expected: WalPageExpectation,
): string | undefined {
  const magic = view.getUint16(at, true);
  const { pageMagic } = expected;
  if (pageMagic === undefined ? versionFromPageMagic(magic) === undefined : magic !== pageMagic) {
    const want = pageMagic === undefined ? "" : `, expected ${describeMagic(pageMagic)}`;
    return `page magic is ${describeMagic(magic)}${want}`;
  }
  const info = view.getUint16(at + 2, true);
  if ((info & ~XLP_ALL_FLAGS) !== 0) {
    return `invalid page info bits ${info.toString(16)}`;
  }
  const low = view.getUint32(at + 8, true);
  const high = view.getUint32(at + 12, true);
  if (low !== lsnLow(pageLsn) || high !== lsnHigh(pageLsn)) {
    const found = `${high.toString(16)}/${low.toString(16)}`.toUpperCase();
    return `page says it is at ${found}`;
  }
  const long = (info & XLP_LONG_HEADER) !== 0;
  if (pageLsn % expected.segmentSize !== 0) {
    return long ? "long page header inside a segment" : undefined;
  }
  return long
    ? longHeaderProblem(view, at, expected)
    : "first page of a segment lacks the long header";
}

function describeMagic(magic: number): string {
  const version = versionFromPageMagic(magic);
  return magic.toString(16) + (version === undefined ? "" : ` (PostgreSQL ${version.major})`);
}

function longHeaderProblem(
  view: DataView,
  at: number,
  expected: WalPageExpectation,
): string | undefined {
  if (expected.systemId !== undefined) {
    const systemId = view.getBigUint64(at + 24, true);
    if (systemId !== expected.systemId) {
      return `WAL of system ${systemId}, expected ${expected.systemId}`;
    }
  }
  const segmentSize = view.getUint32(at + 32, true);
  if (segmentSize !== expected.segmentSize) {
    return `segment size ${segmentSize}, expected ${expected.segmentSize}`;
  }
  const blockSize = view.getUint32(at + 36, true);
  return blockSize === XLOG_BLCKSZ
    ? undefined
    : `WAL block size ${blockSize}, expected ${XLOG_BLCKSZ}`;
}

/** Writes a page header at `at` (24 or 40 bytes, by `pageLsn`) and returns its size. */
export function encodePageHeader(
  view: DataView,
  at: number,
  header: {
    readonly pageMagic: number;
    readonly pageLsn: Lsn;
    readonly systemId: bigint;
    readonly timeline: number;
    readonly segmentSize: number;
    /** Bytes left of a record that began on an earlier page, from this page on; 0: none. */
    readonly remainingLength: number;
  },
): number {
  const size = pageHeaderSize(header.pageLsn, header.segmentSize);
  const long = size === LONG_PAGE_HEADER_SIZE;
  const continued = header.remainingLength > 0 ? XLP_FIRST_IS_CONTRECORD : 0;
  view.setUint16(at, header.pageMagic, true);
  view.setUint16(at + 2, continued | (long ? XLP_LONG_HEADER : 0), true);
  view.setUint32(at + 4, header.timeline, true);
  view.setUint32(at + 8, lsnLow(header.pageLsn), true);
  view.setUint32(at + 12, lsnHigh(header.pageLsn), true);
  view.setUint32(at + 16, header.remainingLength, true);
  view.setUint32(at + 20, 0, true);
  if (long) {
    view.setBigUint64(at + 24, header.systemId, true);
    view.setUint32(at + 32, header.segmentSize, true);
    view.setUint32(at + 36, XLOG_BLCKSZ, true);
  }
  return size;
}
