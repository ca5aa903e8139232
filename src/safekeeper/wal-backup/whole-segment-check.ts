// Checks a segment before it is uploaded, with the records that begin before it or end behind it.

import { StorageError } from "../../base/errors.ts";
import { formatLsn, type Lsn, maxLsn, segmentStart } from "../../base/lsn.ts";
import { type CheckedWal, SegmentCheck } from "./segment-check.ts";

const READ_BYTES = 256 * 1024;
/** Of a record that goes on in the next segment so much is kept in memory. */
const MAX_KEPT_BYTES = 1024 * 1024;

/** What is wanted next: WAL [lsn, lsn + length), within one segment. */
export interface WantedWal {
  readonly lsn: Lsn;
  readonly length: number;
}

/** A record end, where a record begins that goes on at a later position, and its bytes up to there. */
interface RecordHead {
  readonly lsn: Lsn;
  /** Undefined: to be read again. */
  readonly bytes: Uint8Array | undefined;
}

/** Generator steps are answered with the bytes wanted. */
export type Walk<T = void> = Generator<WantedWal, T, Uint8Array>;

/**
 * A record's checksum covers all of it, so the part of it that a segment has is known to be right only
 * when its rest, in other segments, was read too. And read now: what was right when another segment was
 * uploaded may have rotted since. So a record over several segments is walked as a whole for each.
 */
export class WholeSegmentCheck {
  readonly #wal: CheckedWal;
  readonly #logStart: Lsn;
  /**
   * What goes on in the segment that was asked for last, and in the one behind it, by where their WAL
   * begins. Segments are asked for in their order as a rule, and again after a failed upload.
   */
  #heads: ReadonlyMap<Lsn, RecordHead>;

  /** `logStart`: a record end, where the log begins. */
  constructor(wal: CheckedWal, logStart: Lsn) {
    this.#wal = wal;
    this.#logStart = logStart;
    this.#heads = new Map([[logStart, { lsn: logStart, bytes: undefined }]]);
  }

  /**
   * The bytes of the segment at `start`, zeros below the log's start; all of it is committed, up to
   * `commitLsn`. StorageError `corrupt` names the LSN; `unavailable` while its last record is not whole.
   */
  *segment(start: Lsn, commitLsn: Lsn): Walk<Uint8Array> {
    const { segmentSize } = this.#wal;
    const end = (start + segmentSize) as Lsn;
    const from = maxLsn(start, this.#logStart);
    const bytes = new Uint8Array(segmentSize);
    const keep = (lsn: Lsn, piece: Uint8Array) => bytes.set(piece, lsn - start);
    const check = yield* this.#walkUpTo(from);
    const head = this.#heads.get(from) ?? { lsn: check.recordEndLsn!, bytes: undefined };
    yield* this.#read(from, end, check, keep);
    const lsn = check.recordEndLsn!;
    const isKept = lsn >= from && end - lsn <= MAX_KEPT_BYTES;
    const nextHead = { lsn, bytes: isKept ? bytes.slice(lsn - start) : undefined };
    yield* this.#finishRecord(check, end, commitLsn);
    this.#heads = new Map([
      [from, head],
      [end, nextHead],
    ]);
    return bytes;
  }

  /**
   * The log's last segment up to `end`, a record end; zeros below the log's start. StorageError `corrupt`
   * names the LSN.
   */
  *lastSegment(end: Lsn): Walk<Uint8Array> {
    const start = segmentStart((end - 1) as Lsn, this.#wal.segmentSize);
    const from = maxLsn(start, this.#logStart);
    const bytes = new Uint8Array(end - start);
    const check = yield* this.#walkUpTo(from);
    yield* this.#read(from, end, check, (lsn, piece) => bytes.set(piece, lsn - start));
    check.endAt(end);
    return bytes;
  }

  /**
   * Checks the record that goes on at `lsn`, if one does: who reads the log from there on cannot. It ends
   * at `end` at the latest. StorageError `corrupt` names the LSN.
   */
  *recordAt(lsn: Lsn, end: Lsn): Walk {
    const check = yield* this.#walkUpTo(lsn);
    yield* this.#finishRecord(check, lsn, end);
  }

  /** Begins where the record begins that goes on at `from`. */
  *#walkUpTo(from: Lsn): Walk<SegmentCheck> {
    const { segmentSize } = this.#wal;
    const head = this.#heads.get(from);
    if (head !== undefined) {
      const check = new SegmentCheck(this.#wal);
      check.startAt(head.lsn);
      if (head.bytes === undefined) {
        yield* this.#read(head.lsn, from, check);
      } else {
        check.feed(head.lsn, head.bytes);
      }
      return check;
    }
    for (let begin = from; ; ) {
      begin = maxLsn((begin - segmentSize) as Lsn, this.#logStart);
      const check = new SegmentCheck(this.#wal);
      if (begin === this.#logStart) {
        check.startAt(begin);
      }
      yield* this.#read(begin, from, check);
      if (check.recordEndLsn !== undefined) {
        return check;
      }
    }
  }

  /** Goes on behind `end` until the record that is being walked is whole. */
  *#finishRecord(check: SegmentCheck, end: Lsn, commitLsn: Lsn): Walk {
    for (let at = end; check.recordEndLsn! < end; ) {
      if (at >= commitLsn) {
        const message = `a record that begins before ${formatLsn(end)} is not committed as a whole`;
        throw new StorageError("unavailable", "record-not-whole", message);
      }
      const to = Math.min(at + READ_BYTES, commitLsn) as Lsn;
      yield* this.#read(at, to, check);
      at = to;
    }
  }

  /** Walks WAL [from, to) in pieces. */
  *#read(
    from: Lsn,
    to: Lsn,
    check: SegmentCheck,
    onPiece?: (lsn: Lsn, piece: Uint8Array) => void,
  ): Walk {
    const { segmentSize } = this.#wal;
    for (let at = from; at < to; ) {
      const length = Math.min(READ_BYTES, to - at, segmentSize - (at % segmentSize));
      const piece = yield { lsn: at, length };
      check.feed(at, piece);
      onPiece?.(at, piece);
      at = (at + length) as Lsn;
    }
  }
}
