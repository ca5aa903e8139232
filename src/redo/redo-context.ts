// The private memory of one page redo and the decoded head of the delta being applied.
//
// One ArrayBuffer holds everything that redo touches, so that a wrong offset can at worst spoil this
// page (which is then thrown away) and bytes move with copyWithin, without a view per call:
//
//   offset  size
//        0  8192  the page
//     8192  8192  scratch page: a btree page being rebuilt, or the tuples of a page being compacted
//    16384  8192  tuple under construction
//    24576  8192  second tuple or its TIDs
//    32768     .  the delta (format: wal-decoder/delta.ts)
//
// Reads go through one DataView: fast at any alignment. Invariants: every access to the page is at an
// offset checked against [0, 8192), every access to the delta against its own length.

import { StorageError } from "../base/errors.ts";
import { formatLsn, INVALID_LSN, type Lsn, lsnHigh } from "../base/lsn.ts";
import { PAGE_SIZE } from "../postgres/page.ts";
import { rmgrName } from "../postgres/rmgr.ts";
import { DELTA_HEADER_SIZE, DELTA_RECORD, DELTA_REFERENCE_SIZE } from "../wal-decoder/delta.ts";
import { type RedoVersion, redoVersion } from "./redo-version.ts";

export const PAGE = 0;
export const SCRATCH = 8192;
export const TUPLE = 16384;
export const TUPLE2 = 24576;
const DELTA = 32768;
const INITIAL_DELTA_SPACE = 65536;
/** `copyWithin` costs as much as so many words of a loop. */
const COPY_BY_WORDS_BYTES = 256;
/** ... and as much as so many bytes at any place, eight at a time. */
const COPY_UNALIGNED_BYTES = 56;
/** A view of a delta, to `set` it from, costs as much as copying so many bytes that way. */
const VIEW_BYTES = 160;
const EMPTY = new Uint8Array(0);

export class RedoContext {
  bytes: Uint8Array;
  view: DataView;
  /** `bytes`, eight at a time: the fastest way to move aligned tuples. */
  words: BigInt64Array;
  /** `bytes`, four at a time: line pointers, at a quarter of what DataView takes. */
  ints: Int32Array;
  /** Bytes [0, 8192) of `bytes`. */
  page: Uint8Array;
  /** wal_log_hints or data checksums of the cluster: HEAP2 VISIBLE then stamps the heap page. */
  readonly walLogHints: boolean;

  lsn: Lsn = INVALID_LSN;
  lsnHigh = 0;
  lsnLow = 0;
  blkno = 0;
  fork = 0;

  /** What the last delta was copied from, and a view of it: of words where it is aligned. */
  #source: Uint8Array = EMPTY;
  #sourceView: DataView | undefined;
  #sourceWords: BigInt64Array | undefined;

  /** The delta is bytes [delta, deltaEnd). */
  readonly delta = DELTA;
  deltaEnd = DELTA;
  kind = 0;
  rmid = 0;
  info = 0;
  blockId = 0;
  xid = 0;
  blockCount = 0;
  version: RedoVersion = redoVersion(0xd116)!;
  /** Main data is bytes [main, mainEnd), this block's data [data, dataEnd). */
  main = DELTA;
  mainEnd = DELTA;
  data = DELTA;
  dataEnd = DELTA;
  /** The fork that the record names for this block: 0 main, 2 visibility map. */
  referenceFork = 0;

  /** Items or runs of items that move: at most (8192 - 24) / 4 = 2042 line pointers are on a page. */
  readonly itemOffset = new Int32Array(2048);
  readonly itemLength = new Int32Array(2048);
  readonly itemTarget = new Int32Array(2048);

  constructor(walLogHints: boolean) {
    this.walLogHints = walLogHints;
    const buffer = new ArrayBuffer(DELTA + INITIAL_DELTA_SPACE);
    this.bytes = new Uint8Array(buffer);
    this.view = new DataView(buffer);
    this.words = new BigInt64Array(buffer);
    this.ints = new Int32Array(buffer);
    this.page = this.bytes.subarray(PAGE, PAGE + PAGE_SIZE);
  }

  /** Copies the delta in, bytes [offset, offset + length) of `source`, and decodes its head. */
  setDelta(
    source: Uint8Array,
    offset: number,
    length: number,
    lsn: Lsn,
    blkno: number,
    fork: number,
  ): void {
    if (DELTA + length > this.bytes.length) {
      this.#grow(DELTA + length);
    }
    this.#copyDelta(source, offset, length);
    this.deltaEnd = DELTA + length;
    this.lsn = lsn;
    const high = lsnHigh(lsn);
    this.lsnHigh = high;
    // Not lsnLow: a remainder of doubles costs more than all the rest of this function.
    this.lsnLow = lsn - high * 2 ** 32;
    this.blkno = blkno;
    this.fork = fork;
    this.rmid = -1;
    this.info = 0;
    this.kind = length > 0 ? this.bytes[DELTA]! : 0;
    if (this.kind === DELTA_RECORD) {
      this.#decodeRecord(length);
    }
  }

  /**
   * A view of each delta, to copy it from, would cost more than the copy. Deltas of a page come from
   * few blocks or chunks, so views of the whole of each serve many.
   */
  #copyDelta(source: Uint8Array, offset: number, length: number): void {
    if (offset === 0 && length === source.length) {
      this.bytes.set(source, DELTA);
      return;
    }
    if (source !== this.#source) {
      this.#source = source;
      this.#sourceView = undefined;
      this.#sourceWords = alignedWords(source);
    }
    const sourceWords = this.#sourceWords;
    if (sourceWords !== undefined && (offset & 7) === 0 && length <= COPY_BY_WORDS_BYTES) {
      // The last word may hold bytes behind the delta, which nobody looks at.
      const { words } = this;
      const from = offset >>> 3;
      for (let i = ((length + 7) >>> 3) - 1; i >= 0; i--) {
        words[DELTA / 8 + i] = sourceWords[from + i]!;
      }
      return;
    }
    if (length > VIEW_BYTES) {
      this.bytes.set(source.subarray(offset, offset + length), DELTA);
      return;
    }
    this.#sourceView ??= new DataView(source.buffer, source.byteOffset, source.length);
    const from = this.#sourceView;
    const { view, bytes } = this;
    let i = 0;
    for (const stop = length - 7; i < stop; i += 8) {
      view.setBigInt64(DELTA + i, from.getBigInt64(offset + i, true), true);
    }
    for (; i < length; i++) {
      bytes[DELTA + i] = source[offset + i]!;
    }
  }

  /** Moves bytes of the arena that do not overlap where they go. */
  copy(to: number, from: number, length: number): void {
    if (length > COPY_UNALIGNED_BYTES) {
      this.bytes.copyWithin(to, from, from + length);
      return;
    }
    const { view, bytes } = this;
    let i = 0;
    for (const stop = length - 7; i < stop; i += 8) {
      view.setBigInt64(to + i, view.getBigInt64(from + i, true), true);
    }
    for (; i < length; i++) {
      bytes[to + i] = bytes[from + i]!;
    }
  }

  /** Moves bytes of the arena to the same place or a higher one; all three are multiples of 8. */
  moveUp(to: number, from: number, length: number): void {
    if (length > COPY_BY_WORDS_BYTES) {
      this.bytes.copyWithin(to, from, from + length);
      return;
    }
    const { words } = this;
    const target = to >>> 3;
    const source = from >>> 3;
    for (let i = (length >>> 3) - 1; i >= 0; i--) {
      words[target + i] = words[source + i]!;
    }
  }

  #decodeRecord(length: number): void {
    if (length < DELTA_HEADER_SIZE) {
      this.fail(`delta of ${length} bytes has no whole header`, 0);
    }
    const view = this.view;
    this.rmid = view.getUint8(DELTA + 1);
    this.info = view.getUint8(DELTA + 2);
    this.blockId = view.getUint8(DELTA + 3);
    this.xid = view.getUint32(DELTA + 4, true);
    this.blockCount = view.getUint8(DELTA + 8);
    const magic = view.getUint16(DELTA + 10, true);
    const version = this.version.pageMagic === magic ? this.version : redoVersion(magic);
    if (version === undefined) {
      this.fail(`WAL page magic 0x${magic.toString(16)} is of no known major`, 10);
    }
    this.version = version;
    const mainLength = view.getUint32(DELTA + 12, true);
    const dataLength = view.getUint32(DELTA + 16, true);
    const references = this.blockCount * DELTA_REFERENCE_SIZE;
    if (DELTA_HEADER_SIZE + references + mainLength + dataLength !== length) {
      this.fail(
        `delta of ${length} bytes, but its parts make ${DELTA_HEADER_SIZE + references + mainLength + dataLength}`,
        12,
      );
    }
    this.main = DELTA + DELTA_HEADER_SIZE + references;
    this.mainEnd = this.main + mainLength;
    this.data = this.mainEnd;
    this.dataEnd = this.deltaEnd;
    const own = this.#reference(this.blockId);
    if (own < 0) {
      this.fail(`delta for reference ${this.blockId}, which the record lacks`, 3);
    }
    const flags = view.getUint8(own + 1);
    this.referenceFork = flags & 0x0f;
    if (this.referenceFork !== this.fork || view.getUint32(own + 4, true) !== this.blkno) {
      this.fail(
        `delta is for block ${view.getUint32(own + 4, true)} of fork ${this.referenceFork}`,
        own - DELTA,
      );
    }
  }

  #reference(id: number): number {
    let at = DELTA + DELTA_HEADER_SIZE;
    for (let i = 0; i < this.blockCount; i++, at += DELTA_REFERENCE_SIZE) {
      if (this.bytes[at] === id) {
        return at;
      }
    }
    return -1;
  }

  /** Block number that the record's reference `id` names, or -1 where it has no such reference. */
  referenceBlkno(id: number): number {
    const at = this.#reference(id);
    return at < 0 ? -1 : this.view.getUint32(at + 4, true);
  }

  /** As referenceBlkno; `corrupt` where it has none. */
  requireReferenceBlkno(id: number): number {
    const blkno = this.referenceBlkno(id);
    return blkno < 0 ? this.fail(`the record lacks reference ${id}`, DELTA_HEADER_SIZE) : blkno;
  }

  /** `corrupt` unless main data has at least `length` bytes. */
  needMain(length: number): void {
    if (this.mainEnd - this.main < length) {
      this.fail(
        `main data of ${this.mainEnd - this.main} bytes is below ${length}`,
        this.main - DELTA,
      );
    }
  }

  /** `corrupt` unless this block's data goes on for `length` bytes after `at`. */
  needData(at: number, length: number): void {
    if (at + length > this.dataEnd) {
      this.fail(`block data of ${this.dataEnd - this.data} bytes ends too early`, at - DELTA);
    }
  }

  #grow(size: number): void {
    const buffer = new ArrayBuffer((size + INITIAL_DELTA_SPACE + 7) & ~7);
    const bytes = new Uint8Array(buffer);
    bytes.set(this.bytes.subarray(0, DELTA));
    this.bytes = bytes;
    this.view = new DataView(buffer);
    this.words = new BigInt64Array(buffer);
    this.ints = new Int32Array(buffer);
    this.page = bytes.subarray(PAGE, PAGE + PAGE_SIZE);
  }

  /**
   * Throws `corrupt`: this delta does not fit this page. `offset` is that within the delta, or
   * undefined where the page is what is wrong.
   */
  fail(reason: string, offset?: number): never {
    const rmgr = this.rmid < 0 ? `kind ${this.kind}` : rmgrName(this.rmid);
    const info = `0x${this.info.toString(16).padStart(2, "0")}`;
    const where = offset === undefined ? "in the page" : `at delta byte ${offset}`;
    throw new StorageError(
      "corrupt",
      "redo-failed",
      `redo ${rmgr} info ${info} at LSN ${formatLsn(this.lsn)} on block ${this.blkno} of fork ` +
        `${this.fork}: ${reason} (${where})`,
      {
        fields: {
          rmid: this.rmid,
          info: this.info,
          blockId: this.blockId,
          lsn: formatLsn(this.lsn),
          blkno: this.blkno,
          fork: this.fork,
          offset,
        },
      },
    );
  }

  /** Throws `unsupported`: a record kind that this version cannot replay. */
  unsupported(): never {
    const info = `0x${this.info.toString(16).padStart(2, "0")}`;
    throw new StorageError(
      "unsupported",
      "unsupported-wal-record",
      `redo of rmgr ${this.rmid} info ${info} at LSN ${formatLsn(this.lsn)}`,
      { fields: { rmid: this.rmid, info: this.info, lsn: formatLsn(this.lsn), blkno: this.blkno } },
    );
  }
}

/** `source` as words of eight bytes; undefined where it does not begin and end between such. */
function alignedWords({ buffer, byteOffset, length }: Uint8Array): BigInt64Array | undefined {
  return ((byteOffset | length) & 7) === 0
    ? new BigInt64Array(buffer, byteOffset, length >>> 3)
    : undefined;
}
