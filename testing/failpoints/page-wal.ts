// A timeline's WAL of full page images, and which page each LSN has: a model that is trivially right.

import type { Lsn } from "../../src/base/lsn.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { XLOG_FPI } from "../../src/postgres/opcodes.ts";
import { PAGE_SIZE } from "../../src/postgres/page.ts";
import { RM_XLOG_ID } from "../../src/postgres/rmgr.ts";
import { RECORD_HEADER_SIZE } from "../../src/postgres/xlog-record.ts";
import type { RelationFork } from "../../src/wal-decoder/record-sink.ts";
import type { WalBuilder } from "../wal-builder.ts";

/** All pages are this one relation's. */
export const REL: RelationFork = { spcOid: 1663, dbOid: 5, relNumber: 16384, fork: 0 };
export const BLOCKS = 8;
/** What of a page the record says: the rest is the LSN, which whoever applies it sets. */
export const PD_LSN_BYTES = 8;

const BLOCK_HEADER_BYTES = 4 + 5 + 12 + 4;
const HAS_IMAGE = 0x10;
/** Of 15 and later. */
const IMAGE_APPLY = 0x02;

interface PageVersion {
  readonly blkno: number;
  readonly lsn: Lsn;
  readonly page: Uint8Array;
}

/** XLOG_FPI of one block, as 15 and later write it; WalBuilder links it. */
function fullPageImage(blkno: number, page: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(RECORD_HEADER_SIZE + BLOCK_HEADER_BYTES + PAGE_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint8(16, XLOG_FPI);
  view.setUint8(17, RM_XLOG_ID);
  let at = RECORD_HEADER_SIZE;
  // Block 0, its fork and flags, no data; an image without a hole.
  view.setUint8(at + 1, REL.fork | HAS_IMAGE);
  view.setUint16(at + 4, PAGE_SIZE, true);
  view.setUint8(at + 8, IMAGE_APPLY);
  at += 9;
  for (const number of [REL.spcOid, REL.dbOid, REL.relNumber, blkno]) {
    view.setUint32(at, number, true);
    at += 4;
  }
  bytes.set(page, at);
  return bytes;
}

/** A page that compression makes nothing of, or one of a few bytes again and again. */
function randomPage(random: SeededRandom, isDense: boolean): Uint8Array {
  const page = new Uint8Array(PAGE_SIZE);
  const period = isDense ? PAGE_SIZE : 32;
  for (let i = 0; i < PAGE_SIZE; i++) {
    page[i] = i < period ? random.int(256) : page[i - period]!;
  }
  // pd_flags to pd_pagesize_version: an empty page of 8 kB.
  new DataView(page.buffer).setUint32(8, 0, true);
  new DataView(page.buffer).setUint16(12, 24, true);
  new DataView(page.buffer).setUint16(14, PAGE_SIZE, true);
  new DataView(page.buffer).setUint16(16, PAGE_SIZE, true);
  new DataView(page.buffer).setUint16(18, PAGE_SIZE + 4, true);
  return page;
}

export class PageWal {
  readonly builder: WalBuilder;
  /** The branch point, where there is an ancestor. */
  readonly ancestor: { readonly wal: PageWal; readonly lsn: Lsn } | undefined;
  readonly versions: PageVersion[] = [];
  readonly #random: SeededRandom;

  constructor(
    builder: WalBuilder,
    ancestor?: { readonly wal: PageWal; readonly lsn: Lsn },
    seed = 1,
  ) {
    this.builder = builder;
    this.ancestor = ancestor;
    this.#random = new SeededRandom(seed);
  }

  get endLsn(): Lsn {
    return this.builder.endLsn;
  }

  /** So many records, of one block after the other. */
  write(records: number, { isDense = false } = {}): void {
    for (let i = 0; i < records; i++) {
      const blkno = this.#random.int(BLOCKS);
      const page = randomPage(this.#random, isDense);
      const { endLsn } = this.builder.append(fullPageImage(blkno, page));
      this.versions.push({ blkno, lsn: endLsn, page });
    }
  }

  /** The same up to here; what either writes then the other has not. */
  fork(ancestor = this.ancestor): PageWal {
    const fork = new PageWal(this.builder.fork(this.endLsn), ancestor, this.versions.length + 2);
    fork.versions.push(...this.versions);
    return fork;
  }

  /** Undefined where there is no such page yet. */
  pageAt(blkno: number, lsn: Lsn): PageVersion | undefined {
    return (
      this.versions.findLast((one) => one.blkno === blkno && one.lsn <= lsn) ??
      this.ancestor?.wal.pageAt(blkno, Math.min(lsn, this.ancestor.lsn) as Lsn)
    );
  }
}
