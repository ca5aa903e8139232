// Log sequence numbers: a byte position in a timeline's WAL, and all arithmetic on them.

/**
 * A WAL byte position. Exact as a double below 2^53 (8 PiB of WAL a timeline), so never
 * shift it or use `|`: bitwise operators cut to 32 bits. 0 is Postgres's InvalidXLogRecPtr.
 */
export type Lsn = number & { readonly __lsn: unique symbol };

export const INVALID_LSN = 0 as Lsn;
/** "The latest", on our own interfaces; u64::MAX on the wire. */
export const MAX_LSN = Number.MAX_SAFE_INTEGER as Lsn;
export const WAL_SEGMENT_SIZE = 16 * 1024 * 1024;
export const XLOG_BLCKSZ = 8192;
const TWO_32 = 2 ** 32;

/** Brands a number that is known to be a whole one in [0, 2^53). */
export function toLsn(value: number): Lsn {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new RangeError(`not an LSN: ${value}`);
  }
  return value as Lsn;
}

/** From the two unsigned halves in which pages and records store it. RangeError at 2^53 and above. */
export function lsnFromParts(high: number, low: number): Lsn {
  return toLsn(high * TWO_32 + low);
}

export function lsnFromBigInt(value: bigint): Lsn {
  if (value === 0xffff_ffff_ffff_ffffn) {
    return MAX_LSN;
  }
  return toLsn(Number(value));
}

export function lsnToBigInt(lsn: Lsn): bigint {
  return lsn === MAX_LSN ? 0xffff_ffff_ffff_ffffn : BigInt(lsn);
}

export function lsnHigh(lsn: Lsn): number {
  return Math.floor(lsn / TWO_32);
}

export function lsnLow(lsn: Lsn): number {
  return lsn % TWO_32;
}

/** Postgres's `%X/%X`, for example `0/16F9A00`. */
export function formatLsn(lsn: Lsn): string {
  return `${lsnHigh(lsn).toString(16).toUpperCase()}/${lsnLow(lsn).toString(16).toUpperCase()}`;
}

/** Parses `X/X`; undefined where it is not one, so that each caller can say whose input was wrong. */
export function parseLsn(text: string): Lsn | undefined {
  const match = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text);
  if (match === null) {
    return undefined;
  }
  const value = Number.parseInt(match[1]!, 16) * TWO_32 + Number.parseInt(match[2]!, 16);
  return value < Number.MAX_SAFE_INTEGER ? (value as Lsn) : undefined;
}

export function addLsn(lsn: Lsn, bytes: number): Lsn {
  return (lsn + bytes) as Lsn;
}

/** Bytes from the start of the WAL page that holds `lsn`. */
export function pageOffset(lsn: Lsn): number {
  return lsn % XLOG_BLCKSZ;
}

export function pageStart(lsn: Lsn): Lsn {
  return (lsn - (lsn % XLOG_BLCKSZ)) as Lsn;
}

export function segmentNumber(lsn: Lsn, segmentSize = WAL_SEGMENT_SIZE): number {
  return Math.floor(lsn / segmentSize);
}

export function segmentOffset(lsn: Lsn, segmentSize = WAL_SEGMENT_SIZE): number {
  return lsn % segmentSize;
}

export function segmentStart(lsn: Lsn, segmentSize = WAL_SEGMENT_SIZE): Lsn {
  return (lsn - (lsn % segmentSize)) as Lsn;
}

/** Records start at multiples of MAXALIGN (8). */
export function alignLsn(lsn: Lsn): Lsn {
  return (Math.ceil(lsn / 8) * 8) as Lsn;
}

export function maxLsn(a: Lsn, b: Lsn): Lsn {
  return a > b ? a : b;
}

export function minLsn(a: Lsn, b: Lsn): Lsn {
  return a < b ? a : b;
}

/** A WAL segment's file name, 24 hex digits (`XLogFileName`, access/xlog_internal.h). */
export function walFileName(segno: number, timeline = 1, segmentSize = WAL_SEGMENT_SIZE): string {
  const perId = TWO_32 / segmentSize;
  const hex = (value: number) => value.toString(16).toUpperCase().padStart(8, "0");
  return hex(timeline) + hex(Math.floor(segno / perId)) + hex(segno % perId);
}

/** Segment number of a WAL file name, or undefined where the name is not one. */
export function parseWalFileName(name: string, segmentSize = WAL_SEGMENT_SIZE): number | undefined {
  if (!/^[0-9A-F]{24}$/.test(name)) {
    return undefined;
  }
  const perId = TWO_32 / segmentSize;
  const low = Number.parseInt(name.slice(16), 16);
  return low < perId ? Number.parseInt(name.slice(8, 16), 16) * perId + low : undefined;
}
