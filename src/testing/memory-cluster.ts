// A whole cluster in memory: a base directory plus WAL, replayed by our decoder and redo, for tests.
//
// Independent of the pageserver on purpose: it says what redo gives, whatever storage does. Pages keep
// their deltas in a chain and are made when read, as a pageserver makes them.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { INVALID_LSN, type Lsn } from "../base/lsn.ts";
import {
  encodeClogStatus,
  encodeMultixactMembers,
  encodeMultixactOffsets,
  encodeVmClear,
  encodeVmTruncate,
} from "../pageserver/implied-deltas.ts";
import { PageRedo, type PageRedoOptions } from "../redo/page-redo.ts";
import type { CheckPoint, RecordSink, RelationFork, SlruKind } from "../wal-decoder/record-sink.ts";
import {
  listRelationFiles,
  type PageSource,
  type RelationFile,
  RelationFileReader,
  readSlruPages,
} from "./stock-recovery.ts";

const HEAP_BLOCKS_PER_MAP_PAGE = 32672;
const CLOG_XACTS_PER_PAGE = 32768;
const OFFSETS_PER_PAGE = 2048;
const MEMBERS_PER_PAGE = 1636;
const SLRU_PAGES_PER_SEGMENT = 32;
const FORK_VM = 2;
/** Longer chains are folded, to bound memory. */
const CHAIN_LIMIT = 500;

/** A page's newest image and the deltas since. `base` undefined: in the base directory, or zeros. */
interface PageChain {
  base: Uint8Array | undefined;
  fromFile: boolean;
  deltas: Uint8Array[];
  lsns: Lsn[];
}

class MemoryFork implements RelationFork {
  readonly spcOid: number;
  readonly dbOid: number;
  readonly relNumber: number;
  readonly fork: number;
  blocks: number;
  /** Blocks below it that were never changed are in the base directory. */
  fileBlocks: number;
  readonly file: RelationFile | undefined;
  readonly pages = new Map<number, PageChain>();

  constructor(rel: RelationFork, file: RelationFile | undefined) {
    this.spcOid = rel.spcOid;
    this.dbOid = rel.dbOid;
    this.relNumber = rel.relNumber;
    this.fork = rel.fork;
    this.file = file;
    this.blocks = file?.blocks ?? 0;
    this.fileBlocks = this.blocks;
  }
}

export class MemoryCluster implements RecordSink, PageSource {
  /** End of the record whose changes come now: set by the replay loop before interpretRecord. */
  lsn: Lsn = INVALID_LSN;
  readonly relationMaps = new Map<string, Uint8Array>();
  /** Payloads of prepared transactions by 32-bit xid. */
  readonly twoPhase = new Map<number, Uint8Array>();
  lastCheckPoint: CheckPoint | undefined;
  deltaCount = 0;
  imageCount = 0;
  /**
   * Called with a private copy of each delta, to look at it or to change it (fault injection);
   * undefined drops it. `rel` is undefined for SLRU pages.
   */
  onDelta:
    | ((delta: Uint8Array, rel: RelationFork | undefined) => Uint8Array | undefined)
    | undefined;
  readonly #redo: PageRedo;
  readonly #forks = new Map<string, MemoryFork>();
  readonly #slrus: Map<number, PageChain>[] = [new Map(), new Map(), new Map()];
  readonly #readers = new Map<string, RelationFileReader>();
  #preInitializedOffsetsPage = -1;

  constructor(baseDir: string, options: PageRedoOptions = {}) {
    this.#redo = new PageRedo(options);
    for (const file of listRelationFiles(baseDir)) {
      this.#forks.set(forkKey(file), new MemoryFork(file, file));
    }
    this.#readRelationMap(1664, 0, join(baseDir, "global"));
    for (const name of readdirSync(join(baseDir, "base"))) {
      this.#readRelationMap(1663, Number(name), join(baseDir, "base", name));
    }
    for (let kind = 0; kind < 3; kind++) {
      for (const { pageno, page } of readSlruPages(baseDir, kind)) {
        const base = page.slice();
        this.#slrus[kind]!.set(pageno, { base, fromFile: false, deltas: [], lsns: [] });
      }
    }
  }

  #readRelationMap(spcOid: number, dbOid: number, folder: string): void {
    const path = join(folder, "pg_filenode.map");
    if (existsSync(path)) {
      this.relationMaps.set(`${spcOid}/${dbOid}`, new Uint8Array(readFileSync(path)));
    }
  }

  close(): void {
    for (const reader of this.#readers.values()) {
      reader.close();
    }
    this.#readers.clear();
  }

  // Reading.

  blocks(rel: RelationFork): number | undefined {
    return this.#forks.get(forkKey(rel))?.blocks;
  }

  forks(): Iterable<RelationFork> {
    return this.#forks.values();
  }

  readPage(rel: RelationFork, blkno: number): Uint8Array | undefined {
    const fork = this.#forks.get(forkKey(rel));
    if (fork === undefined || blkno >= fork.blocks) {
      return undefined;
    }
    const chain = fork.pages.get(blkno);
    return chain === undefined ? this.#basePage(fork, blkno) : this.#fold(chain, fork, blkno);
  }

  readSlruPage(kind: number, pageno: number): Uint8Array | undefined {
    const chain = this.#slrus[kind]!.get(pageno);
    return chain === undefined ? undefined : this.#fold(chain, undefined, pageno);
  }

  /** Every changed page's base and the deltas since, as far as they are not folded yet. */
  *chains(): Generator<{
    rel: RelationFork;
    blkno: number;
    base: Uint8Array | undefined;
    deltas: readonly Uint8Array[];
    lsns: readonly Lsn[];
  }> {
    for (const fork of this.#forks.values()) {
      for (const [blkno, page] of fork.pages) {
        const base = page.fromFile ? this.#basePage(fork, blkno) : page.base;
        yield { rel: fork, blkno, base, deltas: page.deltas, lsns: page.lsns };
      }
    }
  }

  #basePage(fork: MemoryFork, blkno: number): Uint8Array | undefined {
    if (fork.file === undefined || blkno >= fork.fileBlocks) {
      return undefined;
    }
    let reader = this.#readers.get(fork.file.path);
    if (reader === undefined) {
      reader = new RelationFileReader(fork.file);
      this.#readers.set(fork.file.path, reader);
    }
    return reader.read(blkno);
  }

  #fold(chain: PageChain, fork: MemoryFork | undefined, blkno: number): Uint8Array {
    if (chain.deltas.length === 0 && chain.base !== undefined) {
      return chain.base;
    }
    const base = chain.fromFile && fork !== undefined ? this.#basePage(fork, blkno) : chain.base;
    if (base === undefined) {
      this.#redo.loadZero();
    } else {
      this.#redo.load(base);
    }
    for (let i = 0; i < chain.deltas.length; i++) {
      this.#redo.apply(chain.deltas[i]!, chain.lsns[i]!, blkno, fork?.fork ?? 0);
    }
    chain.base = this.#redo.copyOut();
    chain.fromFile = false;
    chain.deltas = [];
    chain.lsns = [];
    return chain.base;
  }

  // Changes of pages.

  #fork(rel: RelationFork): MemoryFork {
    const key = forkKey(rel);
    let fork = this.#forks.get(key);
    if (fork === undefined) {
      fork = new MemoryFork(rel, undefined);
      this.#forks.set(key, fork);
    }
    return fork;
  }

  #chain(fork: MemoryFork, blkno: number): PageChain {
    if (blkno >= fork.blocks) {
      fork.blocks = blkno + 1;
    }
    let chain = fork.pages.get(blkno);
    if (chain === undefined) {
      const fromFile = blkno < fork.fileBlocks;
      chain = { base: undefined, fromFile, deltas: [], lsns: [] };
      fork.pages.set(blkno, chain);
    }
    return chain;
  }

  #append(chain: PageChain, fork: MemoryFork | undefined, blkno: number, given: Uint8Array): void {
    const delta = this.onDelta === undefined ? given : this.onDelta(given, fork);
    if (delta === undefined) {
      return;
    }
    chain.deltas.push(delta);
    chain.lsns.push(this.lsn);
    this.deltaCount++;
    if (chain.deltas.length >= CHAIN_LIMIT) {
      this.#fold(chain, fork, blkno);
    }
  }

  blockDelta(rel: RelationFork, blkno: number, delta: Uint8Array, willInit: boolean): void {
    const fork = this.#fork(rel);
    const chain = this.#chain(fork, blkno);
    if (willInit) {
      chain.base = undefined;
      chain.fromFile = false;
      chain.deltas = [];
      chain.lsns = [];
    }
    this.#append(chain, fork, blkno, delta.slice());
  }

  blockImage(rel: RelationFork, blkno: number, page: Uint8Array): void {
    const chain = this.#chain(this.#fork(rel), blkno);
    this.imageCount++;
    chain.base = page.slice();
    chain.fromFile = false;
    chain.deltas = [];
    chain.lsns = [];
  }

  visibilityMapClear(rel: RelationFork, heapBlkno: number, flags: number): void {
    const fork = this.#forks.get(forkKey({ ...identity(rel), fork: FORK_VM }));
    const blkno = Math.floor(heapBlkno / HEAP_BLOCKS_PER_MAP_PAGE);
    if (fork !== undefined && blkno < fork.blocks) {
      this.#append(this.#chain(fork, blkno), fork, blkno, encodeVmClear(heapBlkno, flags));
    }
  }

  // Files.

  relationCreate(rel: RelationFork): void {
    this.#fork(rel);
  }

  relationTruncate(rel: RelationFork, blocks: number, flags: number): void {
    const main = this.#fork({ ...identity(rel), fork: 0 });
    if ((flags & 1) !== 0) {
      truncate(main, blocks);
    }
    const map = this.#forks.get(forkKey({ ...identity(rel), fork: FORK_VM }));
    if ((flags & 2) !== 0 && map !== undefined) {
      const partial = blocks % HEAP_BLOCKS_PER_MAP_PAGE !== 0;
      const last = Math.floor(blocks / HEAP_BLOCKS_PER_MAP_PAGE);
      if (partial && last < map.blocks) {
        this.#append(this.#chain(map, last), map, last, encodeVmTruncate(blocks));
      }
      truncate(map, partial ? last + 1 : last);
    }
  }

  relationDrop(spcOid: number, dbOid: number, relNumber: number): void {
    for (let fork = 0; fork <= 3; fork++) {
      this.#forks.delete(forkKey({ spcOid, dbOid, relNumber, fork }));
    }
  }

  databaseCreateFileCopy(spcOid: number, dbOid: number, srcSpcOid: number, srcDbOid: number): void {
    const map = this.relationMaps.get(`${srcSpcOid}/${srcDbOid}`);
    if (map !== undefined) {
      this.relationMaps.set(`${spcOid}/${dbOid}`, map);
    }
    for (const source of [...this.#forks.values()]) {
      if (source.spcOid === srcSpcOid && source.dbOid === srcDbOid) {
        const target = this.#fork({ ...identity(source), spcOid, dbOid, fork: source.fork });
        for (let blkno = 0; blkno < source.blocks; blkno++) {
          const page = this.readPage(source, blkno);
          if (page !== undefined) {
            this.#chain(target, blkno).base = page;
          }
        }
        target.blocks = source.blocks;
      }
    }
  }

  databaseCreateWalLog(): void {}

  databaseDrop(dbOid: number, spcOids: readonly number[]): void {
    for (const [key, fork] of [...this.#forks]) {
      if (fork.dbOid === dbOid && spcOids.includes(fork.spcOid)) {
        this.#forks.delete(key);
      }
    }
    for (const spcOid of spcOids) {
      this.relationMaps.delete(`${spcOid}/${dbOid}`);
    }
  }

  relationMapUpdate(spcOid: number, dbOid: number, bytes: Uint8Array): void {
    this.relationMaps.set(`${spcOid}/${dbOid}`, bytes.slice());
  }

  // SLRUs.

  #appendSlru(kind: SlruKind, pageno: number, delta: Uint8Array): void {
    let chain = this.#slrus[kind]!.get(pageno);
    if (chain === undefined) {
      chain = { base: undefined, fromFile: false, deltas: [], lsns: [] };
      this.#slrus[kind]!.set(pageno, chain);
    }
    this.#append(chain, undefined, pageno, delta);
  }

  slruZeroPage(kind: SlruKind, pageno: number): void {
    const skip = kind === 2 && pageno === this.#preInitializedOffsetsPage;
    if (kind === 2) {
      this.#preInitializedOffsetsPage = -1;
    }
    if (!skip) {
      this.#slrus[kind]!.set(pageno, {
        base: new Uint8Array(8192),
        fromFile: false,
        deltas: [],
        lsns: [],
      });
    }
  }

  clogTruncate(cutoffPage: number): void {
    this.#truncateSlru(0, cutoffPage);
  }

  #truncateSlru(kind: number, cutoffPage: number): void {
    const first = Math.floor(cutoffPage / SLRU_PAGES_PER_SEGMENT) * SLRU_PAGES_PER_SEGMENT;
    for (const pageno of [...this.#slrus[kind]!.keys()]) {
      if (pageno < first) {
        this.#slrus[kind]!.delete(pageno);
      }
    }
  }

  transactionStatus(xids: readonly number[], committed: boolean): void {
    const byPage = Map.groupBy(xids, (xid) => Math.floor(xid / CLOG_XACTS_PER_PAGE));
    for (const [pageno, group] of byPage) {
      this.#appendSlru(0, pageno, encodeClogStatus(group, committed ? 1 : 2));
    }
  }

  multixactCreate(
    multi: number,
    offset: number,
    members: readonly { readonly xid: number; readonly status: number }[],
  ): void {
    this.#appendSlru(
      2,
      Math.floor(multi / OFFSETS_PER_PAGE),
      encodeMultixactOffsets([multi], [offset]),
    );
    const nextPage = Math.floor((multi + 1) / OFFSETS_PER_PAGE);
    if (nextPage !== Math.floor(multi / OFFSETS_PER_PAGE) && !this.#slrus[2]!.has(nextPage)) {
      this.#preInitializedOffsetsPage = nextPage;
    }
    this.#appendSlru(2, nextPage, encodeMultixactOffsets([multi + 1], [offset + members.length]));
    members.forEach((member, i) => {
      const delta = encodeMultixactMembers(offset + i, [member]);
      this.#appendSlru(1, Math.floor((offset + i) / MEMBERS_PER_PAGE), delta);
    });
  }

  multixactTruncate(
    _oldestMultiDb: number,
    _startTruncOff: number,
    endTruncOff: number,
    _startTruncMemb: number,
    endTruncMemb: number,
  ): void {
    this.#truncateSlru(2, Math.floor((endTruncOff - 1) / OFFSETS_PER_PAGE));
    this.#truncateSlru(1, Math.floor(endTruncMemb / MEMBERS_PER_PAGE));
  }

  // The rest.

  twoPhasePrepare(fullXid: bigint, payload: Uint8Array): void {
    this.twoPhase.set(Number(BigInt.asUintN(32, fullXid)), payload.slice());
  }

  twoPhaseForget(xid: number): void {
    this.twoPhase.delete(xid);
  }

  sawXid(): void {}
  nextOid(): void {}

  checkpoint(checkPoint: CheckPoint): void {
    this.lastCheckPoint = { ...checkPoint };
  }

  oldestActiveXid(): void {}
  walLevel(): void {}
  commitTime(): void {}
}

function identity(rel: RelationFork): Omit<RelationFork, "fork"> {
  return { spcOid: rel.spcOid, dbOid: rel.dbOid, relNumber: rel.relNumber };
}

function forkKey(rel: RelationFork): string {
  return `${rel.spcOid}/${rel.dbOid}/${rel.relNumber}/${rel.fork}`;
}

function truncate(fork: MemoryFork, blocks: number): void {
  if (blocks < fork.blocks) {
    for (const blkno of [...fork.pages.keys()]) {
      if (blkno >= blocks) {
        fork.pages.delete(blkno);
      }
    }
    fork.blocks = blocks;
  }
  fork.fileBlocks = Math.min(fork.fileBlocks, blocks);
}
