// Finds the ends of whole records in WAL that Postgres is still writing.

import { CRC32C_START, finishCrc32c, updateCrc32c } from "../base/crc32c.ts";
import { errorMessage, StorageError } from "../base/errors.ts";
import {
  addLsn,
  formatLsn,
  INVALID_LSN,
  type Lsn,
  lsnHigh,
  lsnLow,
  pageOffset,
  WAL_SEGMENT_SIZE,
  XLOG_BLCKSZ,
} from "../base/lsn.ts";
import {
  checkPageHeader,
  pageHeaderSize,
  type WalPageExpectation,
  XLP_FIRST_IS_CONTRECORD,
} from "../postgres/wal-page.ts";
import { RECORD_HEADER_SIZE, RECORD_MAX_SIZE } from "../postgres/xlog-record.ts";

// The record's CRC covers bytes [24, length), then [0, 20) (access/xlogrecord.h). Unlike the decoder,
// this keeps no record bytes: a running CRC is enough to know that a record is whole, so a 1 GB
// record costs no memory here and is summed once however often we are called.
const RECORD_PREV_OFFSET = 8;
const RECORD_INFO_OFFSET = 16;
const RECORD_RMID_OFFSET = 17;
const RECORD_CRC_OFFSET = 20;
const RM_XLOG_ID = 0;
const XLOG_SWITCH = 0x40;

/** Where in the stream the next byte falls. */
interface WalkState {
  /** The next byte to look at. */
  position: Lsn;
  /** Start of the last record seen whole; 0 where unknown. */
  prevLsn: Lsn;
  /** Start of the record being read; valid while `got` > 0. */
  recordStart: Lsn;
  /** Bytes of it that were read. */
  got: number;
  totalLength: number;
  crc: number;
}

/**
 * Walks pages from `start` (a record end). What was found whole stays found; bytes of the last page
 * that do not make a whole record yet are looked at again next time, because Postgres writes that
 * page while other backends still copy records into it (so their bytes change later).
 */
export class WalWalker {
  /** End of the last whole record (Postgres's EndRecPtr): everything below it is final. */
  endOfRecords: Lsn;
  /** Start of that record. */
  lastRecordStart: Lsn;
  readonly #expected: WalPageExpectation;
  readonly #header = new Uint8Array(RECORD_HEADER_SIZE);
  readonly #headerView = new DataView(this.#header.buffer);
  readonly #state: WalkState;
  /** What `#state` and `#header` were where the mutable last page began. */
  readonly #saved: WalkState;
  readonly #savedHeader = new Uint8Array(RECORD_HEADER_SIZE);
  /** A whole XLOG_SWITCH whose segment is not written to its end yet. */
  #switchEnd: Lsn | undefined;
  #switchStart: Lsn = INVALID_LSN;

  constructor(options: {
    start: Lsn;
    /** Start of the record that ends at `start`; 0 where unknown. */
    prevLsn: Lsn;
    pageMagic: number;
    segmentSize?: number;
    systemId?: bigint;
  }) {
    this.#expected = {
      pageMagic: options.pageMagic,
      segmentSize: options.segmentSize ?? WAL_SEGMENT_SIZE,
      systemId: options.systemId,
    };
    this.#state = {
      position: options.start,
      prevLsn: options.prevLsn,
      recordStart: options.start,
      got: 0,
      totalLength: 0,
      crc: CRC32C_START,
    };
    this.#saved = { ...this.#state };
    this.endOfRecords = options.start;
    this.lastRecordStart = options.prevLsn;
  }

  /** From where the next `walk` must be given bytes; may lie ahead of all that was written. */
  get position(): Lsn {
    return this.#state.position;
  }

  /**
   * Says that Postgres has written up to `lsn`. A switch record ends at its segment's end, but may
   * be acknowledged only when the empty pages up to there exist: whoever flushes an earlier record
   * holds the lock that writing them needs, so that flush must not wait for them.
   */
  noteWritten(lsn: Lsn): boolean {
    if (this.#switchEnd === undefined || lsn < this.#switchEnd) {
      return false;
    }
    this.endOfRecords = this.#switchEnd;
    this.lastRecordStart = this.#switchStart;
    this.#switchEnd = undefined;
    return true;
  }

  /**
   * Looks at `bytes`, which begin at `position` and end at a page boundary, the end of what was
   * written. True where a new whole record was found. StorageError `corrupt` where a page that
   * cannot change any more is wrong.
   */
  walk(bytes: Uint8Array): boolean {
    const state = this.#state;
    const before = this.endOfRecords;
    const base = state.position;
    const end = addLsn(base, bytes.length);
    const mutableFrom = end - XLOG_BLCKSZ;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let saved = false;
    while (state.position < end) {
      if (!saved && state.position >= mutableFrom) {
        this.#save();
        saved = true;
      }
      const problem = this.#step(view, bytes, state.position - base);
      if (problem === undefined) {
        this.noteWritten(end);
        if (state.got === 0 && saved) {
          this.#save();
        }
        continue;
      }
      // A record may also begin below the mutable page: it was read in so far as it is final.
      if (!saved) {
        throw new StorageError(
          "corrupt",
          "bad-local-wal",
          `WAL of Postgres is wrong at ${formatLsn(state.position)}: ${problem}`,
          { fields: { lsn: formatLsn(state.position) } },
        );
      }
      break;
    }
    if (saved && (state.got !== 0 || state.position < end)) {
      this.#restore();
    }
    return this.endOfRecords > before;
  }

  /** Takes one page header or one piece of a record; what is wrong, or undefined. */
  #step(view: DataView, bytes: Uint8Array, at: number): string | undefined {
    const state = this.#state;
    const inPage = pageOffset(state.position);
    if (inPage === 0) {
      const problem = this.#checkPageHeader(view, at);
      if (problem === undefined) {
        const headerBytes = pageHeaderSize(state.position, this.#expected.segmentSize);
        state.position = addLsn(state.position, headerBytes);
      }
      return problem;
    }
    const room = XLOG_BLCKSZ - inPage;
    if (state.got === 0) {
      state.totalLength = view.getUint32(at, true);
      state.recordStart = state.position;
      state.crc = CRC32C_START;
      if (state.totalLength < RECORD_HEADER_SIZE || state.totalLength > RECORD_MAX_SIZE) {
        return `record length ${state.totalLength}`;
      }
    }
    const take = Math.min(room, state.totalLength - state.got);
    const headerTake = Math.min(take, RECORD_HEADER_SIZE - state.got);
    if (headerTake > 0) {
      this.#header.set(bytes.subarray(at, at + headerTake), state.got);
      if (state.got + headerTake === RECORD_HEADER_SIZE) {
        const problem = this.#checkRecordHeader();
        if (problem !== undefined) {
          return problem;
        }
      }
    }
    const bodyFrom = at + Math.max(headerTake, 0);
    state.crc = updateCrc32c(state.crc, bytes, bodyFrom, at + take);
    if (state.got + take < state.totalLength) {
      state.got += take;
      state.position = addLsn(state.position, take);
      return undefined;
    }
    return this.#finishRecord(take);
  }

  #checkPageHeader(view: DataView, at: number): string | undefined {
    const state = this.#state;
    let info: number;
    try {
      info = checkPageHeader(view, at, state.position, this.#expected);
    } catch (error) {
      return errorMessage(error);
    }
    const remaining = state.got === 0 ? 0 : state.totalLength - state.got;
    const continued = (info & XLP_FIRST_IS_CONTRECORD) !== 0;
    if (continued !== remaining > 0 || view.getUint32(at + 16, true) !== remaining) {
      return `remaining length ${view.getUint32(at + 16, true)}, expected ${remaining}`;
    }
    return undefined;
  }

  #checkRecordHeader(): string | undefined {
    const state = this.#state;
    const low = this.#headerView.getUint32(RECORD_PREV_OFFSET, true);
    const high = this.#headerView.getUint32(RECORD_PREV_OFFSET + 4, true);
    if (state.prevLsn !== 0 && (low !== lsnLow(state.prevLsn) || high !== lsnHigh(state.prevLsn))) {
      return `previous record ${high.toString(16)}/${low.toString(16)}, expected ${formatLsn(state.prevLsn)}`;
    }
    return undefined;
  }

  #finishRecord(take: number): string | undefined {
    const state = this.#state;
    const crc = finishCrc32c(updateCrc32c(state.crc, this.#header, 0, RECORD_CRC_OFFSET));
    if (crc !== this.#headerView.getUint32(RECORD_CRC_OFFSET, true)) {
      return "record checksum";
    }
    const info = this.#header[RECORD_INFO_OFFSET]!;
    let end = addLsn(state.position, Math.ceil(take / 8) * 8);
    if (this.#header[RECORD_RMID_OFFSET] === RM_XLOG_ID && (info & 0xf0) === XLOG_SWITCH) {
      end = (Math.ceil(end / this.#expected.segmentSize) * this.#expected.segmentSize) as Lsn;
      this.#switchEnd = end;
      this.#switchStart = state.recordStart;
    }
    state.position = end;
    state.prevLsn = state.recordStart;
    state.got = 0;
    if (this.#switchEnd !== undefined) {
      return undefined;
    }
    this.endOfRecords = end;
    this.lastRecordStart = state.recordStart;
    return undefined;
  }

  #save(): void {
    Object.assign(this.#saved, this.#state);
    this.#savedHeader.set(this.#header);
  }

  #restore(): void {
    Object.assign(this.#state, this.#saved);
    this.#header.set(this.#savedHeader);
  }
}
