// Compares replayed pages with the after-images that wal_consistency_checking puts into WAL, record by record.
//
// As checkXLogConsistency in xlogrecovery.c (14-18): images that redo restores are left out, so are pages
// that are not there or are newer than the record (a base taken from a running server). It says which
// record went wrong, where a comparison of files only says that one did; it is the weaker of the two,
// because what is not WAL-logged must be masked.
//
// Up to 17.10 and 18.4 a server clears bits of a visibility map before it writes the record that says so,
// without a lock on the map: a VISIBLE record's image of the map can lack bits that replay still has.
// Such an image counts as right if the records that clear those bits come soon.

import type { Lsn } from "../base/lsn.ts";
import { restoreImage } from "../postgres/fpi.ts";
import { PAGE_SIZE, pageLsn } from "../postgres/page.ts";
import { VM_FORK } from "../postgres/relation-path.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import { relationForkOf } from "../wal-decoder/block-references.ts";
import type { RelationFork } from "../wal-decoder/record-sink.ts";
import { firstDifference } from "./directory-comparison.ts";
import { maskPage, pageKindOfRmgr } from "./page-masks.ts";

/** What is asked of the replayed cluster. */
export interface ReplayedPages {
  /** Lent until the next call; undefined where there is no such page. */
  readPage(rel: RelationFork, blkno: number): Uint8Array | undefined;
  /** Whether records for the page were skipped, because it was not there or never initialised. */
  isInvalid(rel: RelationFork, blkno: number): boolean;
}

export interface ImageMismatch {
  readonly lsn: Lsn;
  readonly rmid: number;
  readonly info: number;
  /** Of the block reference. */
  readonly blockId: number;
  readonly rel: RelationFork;
  readonly blkno: number;
  /** First byte that differs after masks. */
  readonly offset: number;
  readonly what: string;
}

/** Bytes of WAL within which a backend that cleared map bits has written its record. */
const MAP_AHEAD_LIMIT = 1024 * 1024;

/** A map page whose image lacked bits: those not seen cleared yet, by byte of the page. */
interface MapAhead {
  readonly bits: Map<number, number>;
  readonly mismatch: ImageMismatch;
}

export class AfterImageChecker {
  /** Images compared. */
  compared = 0;
  /** Called with each mismatch. */
  readonly #onMismatch: (mismatch: ImageMismatch) => void;
  readonly #image = new Uint8Array(PAGE_SIZE);
  readonly #actual = new Uint8Array(PAGE_SIZE);
  readonly #imageView = new DataView(this.#image.buffer);
  readonly #actualView = new DataView(this.#actual.buffer);
  #mapsAhead: MapAhead[] = [];

  constructor(onMismatch: (mismatch: ImageMismatch) => void) {
    this.#onMismatch = onMismatch;
  }

  /** Call after the record was replayed; the number of its images that were compared. */
  check(record: XLogRecord, cluster: ReplayedPages): number {
    let compared = 0;
    if (this.#mapsAhead.length > 0) {
      this.#followMaps(record.startLsn, cluster);
    }
    for (let i = 0; i < record.blockCount; i++) {
      if (record.imageLength[i]! > 0 && record.imageApply[i] === 0) {
        compared += this.#checkBlock(record, i, cluster) ? 1 : 0;
      }
    }
    this.compared += compared;
    return compared;
  }

  #checkBlock(record: XLogRecord, ordinal: number, cluster: ReplayedPages): boolean {
    const rel = relationForkOf(record, ordinal);
    const blkno = record.blockNumber[ordinal]!;
    const page = cluster.readPage(rel, blkno);
    if (page === undefined || cluster.isInvalid(rel, blkno)) {
      return false;
    }
    this.#actual.set(page);
    if (pageLsn(this.#actualView) > record.endLsn) {
      return false;
    }
    restoreImage(record, ordinal, this.#image);
    const kind = pageKindOfRmgr(record.rmid, rel.fork);
    maskPage(this.#image, this.#imageView, kind, blkno);
    maskPage(this.#actual, this.#actualView, kind, blkno);
    const offset = firstDifference(this.#image, this.#actual);
    if (offset < 0) {
      return true;
    }
    const hex = (bytes: Uint8Array) =>
      Buffer.from(bytes.subarray(offset, offset + 16)).toString("hex");
    const mismatch: ImageMismatch = {
      lsn: record.startLsn,
      rmid: record.rmid,
      info: record.info,
      blockId: record.blockId[ordinal]!,
      rel,
      blkno,
      offset,
      what: `byte ${offset}: image ${hex(this.#image)}, replayed ${hex(this.#actual)}`,
    };
    if (rel.fork === VM_FORK && this.#image.every((byte, i) => (byte & ~this.#actual[i]!) === 0)) {
      const bits = new Map<number, number>();
      this.#actual.forEach((byte, i) => {
        if (byte !== this.#image[i]) {
          bits.set(i, byte & ~this.#image[i]!);
        }
      });
      this.#mapsAhead.push({ bits, mismatch });
    } else {
      this.#onMismatch(mismatch);
    }
    return true;
  }

  /** Forgets the bits that are cleared now, and reports maps that waited for too long. */
  #followMaps(lsn: Lsn, cluster: ReplayedPages): void {
    this.#mapsAhead = this.#mapsAhead.filter(({ bits, mismatch }) => {
      const page = cluster.readPage(mismatch.rel, mismatch.blkno);
      for (const [at, mask] of bits) {
        const left = mask & (page?.[at] ?? 0);
        if (left === 0) {
          bits.delete(at);
        } else {
          bits.set(at, left);
        }
      }
      if (bits.size > 0 && lsn - mismatch.lsn > MAP_AHEAD_LIMIT) {
        this.#onMismatch(mismatch);
        return false;
      }
      return bits.size > 0;
    });
  }

  /** After the last record: reports the maps whose bits were not cleared. */
  finish(): void {
    for (const { mismatch } of this.#mapsAhead.splice(0)) {
      this.#onMismatch(mismatch);
    }
  }
}
