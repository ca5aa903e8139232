// Compares pages with the files of a data directory: byte for byte, or after Postgres's masks.
//
// Byte for byte is right for what Postgres itself recovered from the same WAL, but for one flag, counted as
// tolerated: Debian's 15.20 no longer sets a gist page's TUPLES_DELETED, which nothing reads, when it
// replays a deletion; WAL does not say which minor release replays it. A server that did not
// recover has, besides what the masks take away, things that WAL does not have. With masks they are
// counted as tolerated:
// - pages that it added to a file and never used: zeros, or visibility maps without a bit;
// - sequences: up to 32 values are handed out for one record, which has the last (sequence.c,
//   SEQ_LOG_VALS);
// - in a database made with STRATEGY = wal_log, bits of visibility maps: their images lose their content
//   to the hole (bufmgr.c, RelationCopyStorageUsingBuffer);
// - with checksums or wal_log_hints, a newer pd_lsn: full_page_writes = off leaves the image out of the
//   record for a hint bit, and then redo does nothing (xloginsert.c, XLogSaveBufferForHint);
// - of an SP-GiST index's metapage the cache of pages used last, and pd_lsn of what a sorted GiST build wrote:
//   neither is logged (page-masks.ts);
// - no file for an empty relation.
// The free space map is not WAL-logged, and unlogged relations are reset by recovery: both are left out.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Lsn } from "../base/lsn.ts";
import { PAGE_SIZE } from "../postgres/page.ts";
import { INIT_FORK, MAIN_FORK, VM_FORK } from "../postgres/relation-path.ts";
import { SLRU_PAGES_PER_SEGMENT } from "../postgres/slru.ts";
import type { RelationFork, SlruKind } from "../wal-decoder/record-sink.ts";
import {
  differsOnlyUnlogged,
  GIST_TUPLES_DELETED,
  maskPage,
  type PageKind,
  pageKindOf,
} from "./page-masks.ts";
import {
  listDatabaseFolders,
  listRelationFiles,
  type RelationFile,
  RelationFileReader,
  readSlruPages,
  readTwoPhaseFiles,
  SLRU_DIRECTORIES,
} from "./relation-files.ts";
import { SLRU_KINDS } from "./slru-pages.ts";

/** Where compared pages come from: our replay, a pageserver. */
export interface ComparedPages {
  /** Blocks of a fork; undefined where it does not exist. */
  blocks(rel: RelationFork): number | undefined | Promise<number | undefined>;
  /** Undefined means a page of zeros. Lent until the next call. */
  readPage(
    rel: RelationFork,
    blkno: number,
  ): Uint8Array | undefined | Promise<Uint8Array | undefined>;
  /** Every fork it has, to find those that should not be there; absent: not checked. */
  forks?(): Iterable<RelationFork>;
}

export interface Mismatch {
  readonly rel: RelationFork;
  /** 0 where sizes differ. */
  readonly blkno: number;
  /** First byte that differs; -1 where sizes differ. */
  readonly offset: number;
  readonly what: string;
}

export interface CompareResult {
  readonly forks: number;
  readonly pages: number;
  /** Pages and sizes that differ only as a server that did not recover may. */
  readonly tolerated: number;
  /** How many there are, and the first `maxMismatches`. */
  readonly mismatchCount: number;
  readonly mismatches: Mismatch[];
}

export interface CompareOptions {
  /** Data directory of a stopped server. */
  readonly directory: string;
  readonly source: ComparedPages;
  /** Default main and visibility map. */
  readonly forks?: readonly number[];
  readonly only?: (rel: RelationFork) => boolean;
  /** Default 100. */
  readonly maxMismatches?: number;
  /** Go on after `maxMismatches`, to count them. */
  readonly countAll?: boolean;
  /** The directory's pages have checksums, which redo does not write. Implied by `masked`. */
  readonly ignoreChecksum?: boolean;
  /** Compare after Postgres's masks, visibility maps raw, pd_lsn included. */
  readonly masked?: boolean;
  /** A visibility map of that database may lack bits; only with `masked`. */
  readonly lostMapBits?: (rel: RelationFork) => boolean;
  /** Of a server that logs hint bits: where it stopped, and no pd_lsn is above; only with `masked`. */
  readonly hintsLoggedUntil?: Lsn | undefined;
  /** Called with each mismatch, also with those over the limit. */
  readonly onMismatch?: (mismatch: Mismatch) => void;
  /** Called now and then with how many pages are done of how many. */
  readonly onProgress?: (done: number, total: number) => void;
}

const PROGRESS_PAGES = 1024;
const SEQUENCE_VALUES = 32;
const HEADER_SIZE = 24;
const GIST_FLAGS = PAGE_SIZE - 4;

/** Compares the relation files of a directory with a source's pages. */
export async function compareRelationFiles(options: CompareOptions): Promise<CompareResult> {
  const comparison = new RelationComparison(options);
  try {
    return await comparison.run();
  } finally {
    comparison.close();
  }
}

class RelationComparison {
  readonly #options: CompareOptions;
  readonly #limit: number;
  readonly #reader = new RelationFileReader();
  readonly #expected = new Uint8Array(PAGE_SIZE);
  readonly #actual = new Uint8Array(PAGE_SIZE);
  readonly #expectedView = new DataView(this.#expected.buffer);
  readonly #actualView = new DataView(this.#actual.buffer);
  readonly #mismatches: Mismatch[] = [];
  #mismatchCount = 0;
  #tolerated = 0;
  #pages = 0;
  #total = 0;

  constructor(options: CompareOptions) {
    this.#options = options;
    this.#limit = options.maxMismatches ?? 100;
  }

  close(): void {
    this.#reader.close();
  }

  get #full(): boolean {
    return this.#mismatchCount >= this.#limit && this.#options.countAll !== true;
  }

  async run(): Promise<CompareResult> {
    const { directory, source, only, masked } = this.#options;
    const wanted = this.#options.forks ?? [MAIN_FORK, VM_FORK];
    const all = listRelationFiles(directory);
    const unlogged = new Set(all.filter((f) => f.fork === INIT_FORK).map(relationName));
    const relevant = (rel: RelationFork) =>
      wanted.includes(rel.fork) &&
      only?.(rel) !== false &&
      (rel.fork === INIT_FORK || !unlogged.has(relationName(rel)));
    const files = all.filter(relevant);
    this.#total = files.reduce((sum, file) => sum + file.blocks, 0);
    const seen = new Set<string>();
    for (const file of files) {
      seen.add(forkName(file));
      await this.#compareFork(file);
      if (this.#full) {
        break;
      }
    }
    for (const rel of this.#full ? [] : (source.forks?.() ?? [])) {
      if (relevant(rel) && !seen.has(forkName(rel))) {
        const empty = masked === true && (await source.blocks(rel)) === 0;
        this.#mismatch(rel, 0, -1, "no such file recovered", empty);
      }
    }
    return {
      forks: seen.size,
      pages: this.#pages,
      tolerated: this.#tolerated,
      mismatchCount: this.#mismatchCount,
      mismatches: this.#mismatches,
    };
  }

  #mismatch(rel: RelationFork, blkno: number, offset: number, what: string, tolerated: boolean) {
    if (tolerated) {
      this.#tolerated++;
      return;
    }
    const { spcOid, dbOid, relNumber, fork } = rel;
    const mismatch = { rel: { spcOid, dbOid, relNumber, fork }, blkno, offset, what };
    this.#mismatchCount++;
    if (this.#mismatches.length < this.#limit) {
      this.#mismatches.push(mismatch);
    }
    this.#options.onMismatch?.(mismatch);
  }

  async #compareFork(file: RelationFile): Promise<void> {
    const have = await this.#options.source.blocks(file);
    const both = Math.min(have ?? 0, file.blocks);
    if (have !== file.blocks) {
      const what = `${file.blocks} blocks recovered, ${have ?? "no fork"} here`;
      const unused =
        this.#options.masked === true && both === (have ?? 0) && this.#unusedFrom(file, both);
      this.#mismatch(file, 0, -1, what, unused);
    }
    for (let blkno = 0; blkno < both && !this.#full; blkno++) {
      this.#reader.read(file, blkno, this.#expected);
      const page = await this.#options.source.readPage(file, blkno);
      if (page === undefined) {
        this.#actual.fill(0);
      } else {
        this.#actual.set(page);
      }
      this.#comparePage(file, blkno);
      if (++this.#pages % PROGRESS_PAGES === 0) {
        this.#options.onProgress?.(this.#pages, this.#total);
      }
    }
  }

  #unusedFrom(file: RelationFile, blkno: number): boolean {
    const start = file.fork === VM_FORK ? HEADER_SIZE : 0;
    for (let at = blkno; at < file.blocks; at++) {
      this.#reader.read(file, at, this.#expected);
      if (!isZero(this.#expected, start)) {
        return false;
      }
    }
    return true;
  }

  #comparePage(rel: RelationFork, blkno: number): void {
    const expected = this.#expected;
    const actual = this.#actual;
    const masked = this.#options.masked === true;
    let offset = firstDifference(expected, actual, this.#options.ignoreChecksum ?? false);
    if (offset < 0) {
      return;
    }
    let tolerated = false;
    if (masked) {
      const kind = pageKindOf(this.#actualView, rel.fork, blkno);
      maskPage(expected, this.#expectedView, kind, blkno, { keepLsn: true });
      maskPage(actual, this.#actualView, kind, blkno, { keepLsn: true });
      offset = firstDifference(expected, actual);
      if (offset < 0) {
        return;
      }
      tolerated = this.#isTolerated(rel, kind, offset);
    } else if (pageKindOf(this.#actualView, rel.fork, blkno) === "gist") {
      tolerated = this.#lacksTuplesDeleted();
    }
    this.#mismatch(rel, blkno, offset, describe(expected, actual, offset), tolerated);
  }

  /** Whether the server's gist page is ours but for that flag. */
  #lacksTuplesDeleted(): boolean {
    const theirs = this.#expectedView.getUint16(GIST_FLAGS, true);
    const ours = this.#actualView.getUint16(GIST_FLAGS, true);
    if ((theirs | GIST_TUPLES_DELETED) !== ours) {
      return false;
    }
    this.#actualView.setUint16(GIST_FLAGS, theirs, true);
    const same = firstDifference(this.#expected, this.#actual, this.#options.ignoreChecksum) < 0;
    this.#actualView.setUint16(GIST_FLAGS, ours, true);
    return same;
  }

  /** Of two masked pages that differ first at `offset`. */
  #isTolerated(rel: RelationFork, kind: PageKind, offset: number): boolean {
    const expected = this.#expected;
    const actual = this.#actual;
    if (kind === "sequence" && isSequenceAhead(this.#expectedView, this.#actualView)) {
      return true;
    }
    if (kind === "visibility-map") {
      return this.#options.lostMapBits?.(rel) === true
        ? isSubset(actual, expected)
        : isZero(actual, 0) && isZero(expected, HEADER_SIZE);
    }
    if (differsOnlyUnlogged(kind, this.#expectedView, this.#actualView)) {
      return true;
    }
    return (
      this.#options.hintsLoggedUntil !== undefined &&
      offset < 8 &&
      Buffer.compare(expected.subarray(8), actual.subarray(8)) === 0 &&
      rawLsn(this.#expectedView) > rawLsn(this.#actualView) &&
      rawLsn(this.#expectedView) <= this.#options.hintsLoggedUntil
    );
  }
}

/** pd_lsn, whatever it is: the page may be damaged, and above 2^53 a few bits do not matter. */
function rawLsn(page: DataView): number {
  return page.getUint32(0, true) * 2 ** 32 + page.getUint32(4, true);
}

function relationName(rel: RelationFork): string {
  return `${rel.spcOid}/${rel.dbOid}/${rel.relNumber}`;
}

function forkName(rel: RelationFork): string {
  return `${relationName(rel)}/${rel.fork}`;
}

function isZero(page: Uint8Array, start: number): boolean {
  return page.every((byte, i) => i < start || byte === 0);
}

/** Whether `mine`, a map's page, has no bit that `theirs` lacks. */
function isSubset(mine: Uint8Array, theirs: Uint8Array): boolean {
  return mine.every((byte, i) => i < HEADER_SIZE || (byte & ~theirs[i]!) === 0);
}

/**
 * A sequence's only tuple ends with i64 last_value, i64 log_cnt, bool is_called. WAL has the value that
 * the server may hand out without another record; on disk is the one it handed out, and how many are
 * left. The step between two is not on the page.
 */
function isSequenceAhead(disk: DataView, replayed: DataView): boolean {
  const tuple = disk.getUint32(24, true) & 0x7fff;
  const data = tuple + (tuple + 22 < PAGE_SIZE ? disk.getUint8(tuple + 22) : PAGE_SIZE);
  if (data + 17 > PAGE_SIZE || replayed.getBigInt64(data + 8, true) !== 0n) {
    return false;
  }
  const left = disk.getBigInt64(data + 8, true);
  if (left <= 0n || left > BigInt(SEQUENCE_VALUES)) {
    return false;
  }
  for (let at = 0; at < PAGE_SIZE; at++) {
    if ((at < data || at >= data + 17) && disk.getUint8(at) !== replayed.getUint8(at)) {
      return false;
    }
  }
  return true;
}

function describe(expected: Uint8Array, actual: Uint8Array, offset: number): string {
  const hex = (page: Uint8Array) => Buffer.from(page.subarray(offset, offset + 16)).toString("hex");
  return `byte ${offset}: recovered ${hex(expected)}, here ${hex(actual)}`;
}

/** Index of the first byte that differs, or -1. */
export function firstDifference(a: Uint8Array, b: Uint8Array, ignoreChecksum = false): number {
  if (Buffer.compare(a, b) === 0) {
    return -1;
  }
  for (let i = 0; i < a.length; i++) {
    if (a[i] !== b[i] && !(ignoreChecksum && (i === 8 || i === 9))) {
      return i;
    }
  }
  return a.length === b.length ? -1 : a.length;
}

export interface FileMismatch {
  /** Path in the data directory. */
  readonly file: string;
  /** Of an SLRU: the page's number in the whole SLRU. */
  readonly pageno?: number;
  readonly kind?: number;
  readonly offset: number;
  readonly what: string;
}

/**
 * Compares all SLRU pages that the directory has; a page that `readPage` lacks counts as zeros.
 * `pageNumbers`: of every page that is here, to find segments that should be gone; absent: not checked.
 */
export function compareSlruPages(
  directory: string,
  readPage: (kind: number, pageno: number) => Uint8Array | undefined,
  pageNumbers?: (kind: SlruKind) => Iterable<number>,
): { pages: number; mismatches: FileMismatch[] } {
  const mismatches: FileMismatch[] = [];
  const zeros = new Uint8Array(PAGE_SIZE);
  let pages = 0;
  for (const kind of SLRU_KINDS) {
    const segments = new Set<number>();
    for (const { pageno, page } of readSlruPages(directory, kind)) {
      segments.add(Math.floor(pageno / SLRU_PAGES_PER_SEGMENT));
      const actual = readPage(kind, pageno) ?? zeros;
      const offset = firstDifference(page, actual);
      pages++;
      if (offset >= 0) {
        const what = describe(page, actual, offset);
        mismatches.push({ file: SLRU_DIRECTORIES[kind], pageno, kind, offset, what });
      }
    }
    for (const pageno of pageNumbers?.(kind) ?? []) {
      if (!segments.has(Math.floor(pageno / SLRU_PAGES_PER_SEGMENT))) {
        const what = "its segment was not recovered";
        mismatches.push({ file: SLRU_DIRECTORIES[kind], pageno, kind, offset: -1, what });
      }
    }
  }
  return { pages, mismatches };
}

/** Compares relation maps (by `<spcOid>/<dbOid>`) and prepared transactions (by 32-bit xid). */
export function compareOtherFiles(
  directory: string,
  cluster: {
    readonly relationMaps: ReadonlyMap<string, Uint8Array>;
    readonly twoPhase: ReadonlyMap<number, Uint8Array>;
  },
): { files: number; mismatches: FileMismatch[] } {
  const mismatches: FileMismatch[] = [];
  let files = 0;
  const compare = (file: string, expected: Uint8Array | undefined, actual?: Uint8Array) => {
    files++;
    if (expected === undefined || actual === undefined) {
      const what = expected === undefined ? "no such file recovered" : "nothing here";
      mismatches.push({ file, offset: -1, what });
      return;
    }
    const offset = firstDifference(expected, actual);
    if (offset >= 0) {
      mismatches.push({ file, offset, what: describe(expected, actual, offset) });
    }
  };
  const folders = new Map(
    listDatabaseFolders(directory).map((f) => [`${f.spcOid}/${f.dbOid}`, f.path]),
  );
  for (const [key, bytes] of cluster.relationMaps) {
    const folder = folders.get(key);
    const path = folder === undefined ? undefined : join(folder, "pg_filenode.map");
    const exists = path !== undefined && existsSync(path);
    compare(`pg_filenode.map of ${key}`, exists ? readFileSync(path) : undefined, bytes);
  }
  const prepared = new Map(readTwoPhaseFiles(directory).map((f) => [f.xid, f.payload]));
  for (const xid of new Set([...prepared.keys(), ...cluster.twoPhase.keys()])) {
    compare(`pg_twophase of ${xid}`, prepared.get(xid), cluster.twoPhase.get(xid));
  }
  return { files, mismatches };
}
