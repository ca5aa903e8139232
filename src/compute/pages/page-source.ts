// Answers the shim's questions about pages from a pageserver, as of the LSN at which the compute started, or later where it has
// given back what it wrote.

import { monotonicMs, sleep } from "../../base/clock.ts";
import { errorKind, errorMessage, StorageError, withContext } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { RelationSize, TenantTimeline } from "../../pageserver/api.ts";
import { hasRelationsFrom, listRelations, PagestreamClient } from "../../pageserver/client.ts";
import { PAGE_SIZE } from "../../postgres/page.ts";
import {
  FIRST_NORMAL_OBJECT_ID,
  FSM_FORK,
  INIT_FORK,
  MAIN_FORK,
  RELATION_SEGMENT_BLOCKS,
  type RelationPath,
  type StorageDirectory,
  type StorageFile,
  storagePath,
  VM_FORK,
} from "../../postgres/relation-path.ts";
import {
  CLOG_XACTS_PER_PAGE,
  COMMIT_TS_XACTS_PER_PAGE,
  MULTIXACT_MEMBERS_PER_PAGE,
  MULTIXACT_OFFSETS_PER_PAGE,
  SLRU_PAGES_PER_SEGMENT,
} from "../../postgres/slru.ts";
import {
  type CheckPoint,
  type RelationFork,
  SLRU_CLOG,
  SLRU_COMMIT_TS,
  SLRU_MULTIXACT_MEMBERS,
  SLRU_MULTIXACT_OFFSETS,
  type SlruKind,
} from "../../wal-decoder/record-sink.ts";
import type { AlsoLacking } from "../shim/shim-protocol.ts";
import type { ListedFile, PageHandlers, PagePiece } from "../shim/shim-server.ts";
import { PageMemory } from "./page-memory.ts";
import { type FetchPages, ReadAhead } from "./read-ahead.ts";
import type { WrittenBlocks } from "./written-blocks.ts";

/** The part of PagestreamClient that is needed here. */
export type PageClient = Pick<
  PagestreamClient,
  "getPage" | "getPages" | "relSize" | "slruSegment" | "close" | "closed"
>;

/** Where pages come from; a test has its own. */
export interface PageService {
  /** `silenceMs` as PagestreamClient has it. */
  connect(silenceMs: number): Promise<PageClient>;
  listRelations(spcOid: number, dbOid: number): Promise<readonly RelationSize[]>;
  /** Whether there is one in that directory with this number or a higher one. */
  hasRelationsFrom(rel: RelationDirectory & { readonly relNumber: number }): Promise<boolean>;
}

interface RelationDirectory {
  readonly spcOid: number;
  readonly dbOid: number;
}

export function connectPages(
  pgAddr: string,
  timeline: TenantTimeline,
  silenceMs = FIRST_SILENCE_MS,
): Promise<PageClient> {
  return PagestreamClient.connect(pgAddr, timeline, { timeoutMs: CONNECT_TIMEOUT_MS, silenceMs });
}

export function pageserverPageService(
  pgAddr: string,
  timeline: TenantTimeline,
  lsn: Lsn,
): PageService {
  return {
    connect: (silenceMs) => connectPages(pgAddr, timeline, silenceMs),
    listRelations: (spcOid, dbOid) => listRelations(pgAddr, timeline, lsn, spcOid, dbOid),
    hasRelationsFrom: (rel) => hasRelationsFrom(pgAddr, timeline, lsn, rel),
  };
}

/** Some blocks of a relation or SLRU segment. */
export interface FileContent {
  /** Size of the whole file. */
  readonly bytes: number;
  /** Of blocks, as (first, count); ascending and apart. */
  readonly runs: readonly (readonly [first: number, count: number])[];
  /** Of each run. */
  readonly pages: readonly Uint8Array[];
}

/** A fork that was asked for lately. */
interface RecentFork extends RelationFork {
  readonly key: string;
  /** As of the start LSN, where that is known. */
  stored?: ServedFork;
}

/** A fork as its pages are given now. */
interface ServedFork {
  readonly key: string;
  readonly blocks: number;
  readonly fetch: FetchPages;
}

export interface PageSourceOptions {
  readonly service: PageService;
  /** To `service`, where one has been made already. */
  readonly connection?: Promise<PageClient> | undefined;
  /** The compute's start LSN: every page is asked as of it. */
  readonly lsn: Lsn;
  /** The state at `lsn`: which SLRU segments there are. */
  readonly checkPoint: CheckPoint;
  /** Undefined: what this compute writes is never given back. */
  readonly written?: WrittenBlocks | undefined;
  readonly logger: Logger;
  /** Bound of pages read ahead; default 4096 (32 MiB). */
  readonly maxPagesAhead?: number;
  /** How long a read waits for a pageserver that does not answer; default 5 minutes. */
  readonly giveUpAfterMs?: number;
}

const CONNECT_TIMEOUT_MS = 10_000;
/**
 * How long a connection may be silent before the next one is tried. Each that never answered makes it
 * twice as long, so that a slow pageserver gets its time.
 */
const FIRST_SILENCE_MS = 10_000;
const LONGEST_SILENCE_MS = 160_000;
const XIDS_PER_SEGMENT = SLRU_PAGES_PER_SEGMENT * CLOG_XACTS_PER_PAGE;
const MULTIS_PER_SEGMENT = SLRU_PAGES_PER_SEGMENT * MULTIXACT_OFFSETS_PER_PAGE;
const MEMBERS_PER_SEGMENT = SLRU_PAGES_PER_SEGMENT * MULTIXACT_MEMBERS_PER_PAGE;
const COMMIT_TS_PER_SEGMENT = SLRU_PAGES_PER_SEGMENT * COMMIT_TS_XACTS_PER_PAGE;
const SLRU_SEGMENTS_KEPT = 32;
const MAX_SIZES_KEPT = 200_000;
const RETRY_FIRST_MS = 20;
const RETRY_LONGEST_MS = 2000;
const OUTAGE_REPORT_INTERVAL_MS = 30_000;

/** By low bits of the relation's number: names as text and sizes as promises cost a read of one page more than all else here. */
const RECENT_FORKS = 256;

const ALL_FORKS = [MAIN_FORK, FSM_FORK, VM_FORK, INIT_FORK] as const;

/**
 * Unlogged relations are empty at every start: their main fork is answered from the init fork, and
 * their other forks do not exist. Holds caches only; a new one knows all it needs.
 */
export class PageSource implements PageHandlers {
  readonly #service: PageService;
  readonly #lsn: Lsn;
  readonly #checkPoint: CheckPoint;
  readonly #written: WrittenBlocks | undefined;
  readonly #logger: Logger;
  readonly #giveUpAfterMs: number;
  readonly #memory = new PageMemory();
  readonly #readAhead: ReadAhead;
  /** Blocks of a fork at the start LSN, undefined for none; every one that was asked for. */
  readonly #sizes = new Map<string, Promise<number | undefined>>();
  /** The same as of `#laterLsn`, or later. */
  readonly #laterSizes = new Map<string, Promise<number | undefined>>();
  #laterLsn: Lsn | undefined;
  /** By directory: whether storage has a relation there that is numbered as those are that this compute makes. */
  readonly #hasNewNumbers = new Map<string, Promise<boolean>>();
  readonly #slrus = new Map<string, Promise<Uint8Array | undefined>>();
  readonly #recent: (RecentFork | undefined)[] = new Array(RECENT_FORKS).fill(undefined);
  #client: Promise<PageClient> | undefined;
  /** The last one that was connected; may be closed by now. */
  #connectedClient: PageClient | undefined;
  #closed = false;
  #silenceMs = FIRST_SILENCE_MS;
  #waitingReads = 0;
  #outage: { readonly sinceMs: number; reportedMs: number } | undefined;

  constructor(options: PageSourceOptions) {
    this.#service = options.service;
    this.#lsn = options.lsn;
    this.#checkPoint = options.checkPoint;
    this.#written = options.written;
    this.#logger = options.logger;
    this.#giveUpAfterMs = options.giveUpAfterMs ?? 300_000;
    this.#readAhead = new ReadAhead(options.maxPagesAhead ?? 4096, (pages) =>
      this.#memory.give(pages),
    );
    if (options.connection !== undefined) {
      this.#use(options.connection);
    }
  }

  /** Questions that the pageserver has not answered. */
  get waitingReads(): number {
    return this.#waitingReads;
  }

  /** Connects ahead of the first question, so that it need not wait for that. */
  warmUp(): void {
    this.#connected().catch(() => undefined);
  }

  #use(connecting: Promise<PageClient>): void {
    this.#client = connecting;
    connecting.then(
      (client) => {
        this.#connectedClient = client;
        this.#silenceMs = Math.min(this.#silenceMs * 2, LONGEST_SILENCE_MS);
      },
      () => {
        if (this.#client === connecting) {
          this.#client = undefined;
        }
      },
    );
  }

  close(): void {
    this.#closed = true;
    this.#client?.then(
      (client) => client.close(),
      () => undefined,
    );
  }

  stat(file: StorageFile): Promise<number | undefined> {
    return this.#bytesOf(file, true);
  }

  /** `withMaps`: as #size. */
  async #bytesOf(file: StorageFile, withMaps: boolean): Promise<number | undefined> {
    if (file.kind === "slru") {
      return (await this.#slruSegment(file.slru, file.segment))?.length;
    }
    if (this.#isNumberedNew(file) && (await this.#lacksNewNumbers(file))) {
      return undefined;
    }
    const stored = await this.#storedFork(file, withMaps);
    return stored === undefined ? undefined : segmentBytes(stored.blocks, file.segment);
  }

  async alsoLacking(rel: RelationFork): Promise<AlsoLacking | undefined> {
    if (this.#isNumberedNew(rel) && (await this.#lacksNewNumbers(rel))) {
      return this.#checkPoint.nextOid;
    }
    const sizes = await Promise.all(ALL_FORKS.map((fork) => this.#size({ ...rel, fork })));
    return sizes.every((size) => size === undefined) ? "relation" : undefined;
  }

  /** Whether it is numbered as what this compute makes: Postgres takes numbers from there on. */
  #isNumberedNew({ relNumber }: { readonly relNumber: number }): boolean {
    const { nextOid } = this.#checkPoint;
    return nextOid > 0 && relNumber >= nextOid;
  }

  /**
   * Whether storage has no relation of the directory that is numbered `nextOid` or higher: one answer for all that is made there.
   * Where the counter has come round there may be some; then each is asked for.
   */
  async #lacksNewNumbers({ spcOid, dbOid }: RelationDirectory): Promise<boolean> {
    const { nextOid } = this.#checkPoint;
    const key = `${spcOid}/${dbOid}`;
    let has = this.#hasNewNumbers.get(key);
    if (has === undefined) {
      const ask = () => this.#service.hasRelationsFrom({ spcOid, dbOid, relNumber: nextOid });
      const what = `relations of database ${dbOid} from ${nextOid} on`;
      has = this.#retrying(what, ask).catch((error: unknown) => {
        if (errorKind(error) !== "invalid") {
          throw error;
        }
        // A pageserver of before this question.
        return true;
      });
      this.#hasNewNumbers.set(key, has);
      has.catch(() => this.#hasNewNumbers.delete(key));
    }
    return !(await has);
  }

  readPages(file: StorageFile, blkno: number, count: number): Promise<readonly PagePiece[]> {
    if (file.kind === "slru") {
      return this.#readSlru(file, blkno, count);
    }
    const served = this.#knownFork(file);
    return served === undefined
      ? this.#servedFork(file).then((later) => this.#readServed(file, later, blkno, count))
      : this.#readServed(file, served, blkno, count);
  }

  async #readSlru(
    file: Extract<StorageFile, { kind: "slru" }>,
    blkno: number,
    count: number,
  ): Promise<readonly PagePiece[]> {
    const segment = await this.#slruSegment(file.slru, file.segment);
    return [{ bytes: slruPages(file, segment, blkno, count), release: () => undefined }];
  }

  #readServed(
    file: RelationPath,
    stored: ServedFork | undefined,
    blkno: number,
    count: number,
  ): Promise<readonly PagePiece[]> {
    const first = file.segment * RELATION_SEGMENT_BLOCKS + blkno;
    if (stored === undefined || first + count > stored.blocks) {
      const message = `${storagePath(file)} has ${stored?.blocks ?? 0} blocks in all its segments, block ${first + count - 1} was asked for`;
      return Promise.reject(new StorageError("invalid", "block-out-of-range", message));
    }
    const { key, blocks, fetch } = stored;
    const pieces = this.#readAhead.read(key, first, count, blocks, fetch);
    return pieces.length === 1 ? pieces[0]!.then((piece) => [piece]) : Promise.all(pieces);
  }

  #recentFork(rel: RelationFork): RecentFork {
    const { spcOid, dbOid, relNumber, fork } = rel;
    const at = (relNumber * 4 + fork) % RECENT_FORKS;
    const found = this.#recent[at];
    if (
      found?.relNumber === relNumber &&
      found.fork === fork &&
      found.dbOid === dbOid &&
      found.spcOid === spcOid
    ) {
      return found;
    }
    const recent = { spcOid, dbOid, relNumber, fork, key: forkKey(rel) };
    this.#recent[at] = recent;
    return recent;
  }

  /** As #servedFork, where nothing has to be asked for it. */
  #knownFork(file: RelationFork): ServedFork | undefined {
    const { key, stored } = this.#recentFork(file);
    return stored !== undefined && this.#written?.lsnFor(key) === undefined ? stored : undefined;
  }

  /**
   * How pages of a fork are asked for now, how many it has then, and under which name they are read ahead: those of another LSN are
   * others.
   */
  async #servedFork(file: RelationFork): Promise<ServedFork | undefined> {
    const recent = this.#recentFork(file);
    const own = recent.key;
    const lsn = this.#written?.lsnFor(own);
    if (lsn === undefined) {
      const stored = await this.#storedFork(file);
      if (stored === undefined) {
        return undefined;
      }
      const { rel, blocks } = stored;
      const fetch = (from: number, count: number) => this.#getPages(rel, from, count, this.#lsn);
      recent.stored = { key: forkKey(rel), blocks, fetch };
      return recent.stored;
    }
    const key = `${own}@${lsn}`;
    const blocks = await this.#sizeAt(key, file, lsn);
    const fetch = (from: number, count: number) => this.#getKeptPages(file, from, count, lsn);
    return blocks === undefined ? undefined : { key, blocks, fetch };
  }

  /** In blocks, as of `lsn` or later. */
  #sizeAt(key: string, rel: RelationFork, lsn: Lsn): Promise<number | undefined> {
    if (lsn !== this.#laterLsn) {
      // It moves on each second, and nobody asks for what is past.
      this.#laterSizes.clear();
      this.#laterLsn = lsn;
    }
    const known = this.#laterSizes.get(key);
    if (known !== undefined) {
      return known;
    }
    const size = this.#atOrLater(lsn, (at) =>
      this.#found(`size of ${key}`, (client) => client.relSize(rel, at)),
    );
    this.#laterSizes.set(key, size);
    size.catch(() => this.#laterSizes.delete(key));
    return size;
  }

  #getKeptPages(rel: RelationFork, blkno: number, count: number, lsn: Lsn): Promise<Uint8Array> {
    return this.#atOrLater(lsn, (at) => this.#getPages(rel, blkno, count, at));
  }

  /** As of `lsn` or later: history up to there may be collected meanwhile, as nothing holds it. */
  async #atOrLater<T>(lsn: Lsn, ask: (at: Lsn) => Promise<T>): Promise<T> {
    const started = monotonicMs();
    for (let at = lsn; ; at = this.#written!.moveOn()) {
      try {
        return await ask(at);
      } catch (error) {
        const isGone = error instanceof StorageError && error.code === "lsn-too-old";
        if (!isGone || this.#closed || monotonicMs() - started > this.#giveUpAfterMs) {
          throw error;
        }
      }
      await sleep(RETRY_FIRST_MS);
    }
  }

  async comparePages(
    file: StorageFile,
    blkno: number,
    blocks: number,
  ): Promise<number | undefined> {
    if (file.kind !== "relation" || this.#written === undefined) {
      return undefined;
    }
    // Of what was unlogged at the start storage has other pages; what was not there then is of this compute's making.
    const stored = await this.#storedFork(file);
    if (stored !== undefined && stored.rel.fork !== file.fork) {
      return undefined;
    }
    const { spcOid, dbOid, relNumber, fork } = file;
    const rel = { spcOid, dbOid, relNumber, fork };
    return this.#written.same(forkKey(rel), file, blkno, blocks, async (first, count, lsn) => {
      try {
        return await this.#getKeptPages(rel, first, count, lsn);
      } catch (error) {
        if (errorKind(error) === "not-found") {
          return undefined;
        }
        throw error;
      }
    });
  }

  /** Those of `blocks` (ascending) that the file has, without reading ahead; undefined for no such file. */
  async fileContent(
    file: StorageFile,
    blocks: readonly number[],
  ): Promise<FileContent | undefined> {
    // A start may ask for many: what it reads of maps is named by itself.
    const bytes = await this.#bytesOf(file, false);
    if (bytes === undefined) {
      return undefined;
    }
    const there = blocks.filter((block) => block < bytes / PAGE_SIZE);
    const runs: [number, number][] = [];
    for (const block of there) {
      const last = runs.at(-1);
      if (last !== undefined && last[0] + last[1] === block) {
        last[1]++;
      } else {
        runs.push([block, 1]);
      }
    }
    if (file.kind === "slru") {
      const segment = await this.#slruSegment(file.slru, file.segment);
      return {
        ...{ bytes, runs },
        pages: runs.map(([block, count]) => slruPages(file, segment, block, count)),
      };
    }
    const { rel } = (await this.#storedFork(file, false))!;
    const first = file.segment * RELATION_SEGMENT_BLOCKS;
    const pages = await Promise.all(
      runs.map(([block, count]) => this.#getPages(rel, first + block, count, this.#lsn)),
    );
    return { bytes, runs, pages };
  }

  prefetch(file: StorageFile, blkno: number, count: number): void {
    if (file.kind !== "relation") {
      return;
    }
    this.#servedFork(file).then(
      (served) => {
        if (served !== undefined) {
          const first = file.segment * RELATION_SEGMENT_BLOCKS + blkno;
          this.#readAhead.prefetch(served.key, first, count, served.blocks, served.fetch);
        }
      },
      // The read that the hint announced meets the same trouble and reports it.
      () => undefined,
    );
  }

  async listDirectory(directory: StorageDirectory): Promise<readonly ListedFile[]> {
    if (directory.kind === "slru") {
      return this.#listSlru(directory.slru);
    }
    const { spcOid, dbOid } = directory;
    const forks = await this.#retrying(`list database ${dbOid}`, () =>
      this.#service.listRelations(spcOid, dbOid),
    );
    return relationFiles(directory, forks);
  }

  /** The fork that stands for `rel`, and its size; undefined where a compute does not see one. */
  async #storedFork(
    rel: RelationFork,
    withMaps = true,
  ): Promise<{ rel: RelationFork; blocks: number } | undefined> {
    // What initdb makes is logged, and what a rewrite makes of it has another number.
    if (rel.fork === INIT_FORK || rel.relNumber < FIRST_NORMAL_OBJECT_ID) {
      const blocks = await this.#size(rel, withMaps);
      return blocks === undefined ? undefined : { rel, blocks };
    }
    const init = { ...rel, fork: INIT_FORK };
    const [blocks, initBlocks] = await Promise.all([this.#size(rel, withMaps), this.#size(init)]);
    if (initBlocks !== undefined) {
      return rel.fork === MAIN_FORK ? { rel: init, blocks: initBlocks } : undefined;
    }
    return blocks === undefined ? undefined : { rel, blocks };
  }

  /** `withMaps`: of a main fork also its maps'. */
  #size(rel: RelationFork, withMaps = true): Promise<number | undefined> {
    const key = forkKey(rel);
    const known = this.#sizes.get(key);
    if (known !== undefined) {
      return known;
    }
    if (this.#sizes.size >= MAX_SIZES_KEPT) {
      this.#sizes.clear();
    }
    const size = this.#found(`size of ${key}`, (client) => client.relSize(rel, this.#lsn));
    this.#sizes.set(key, size);
    size.catch(() => this.#sizes.delete(key));
    if (rel.fork === MAIN_FORK && withMaps) {
      // Postgres looks for these when a page is full, with a row locked that everybody waits for.
      for (const fork of [FSM_FORK, VM_FORK]) {
        this.#size({ ...rel, fork }).catch(() => undefined);
      }
    }
    return size;
  }

  #getPages(rel: RelationFork, blkno: number, count: number, lsn: Lsn): Promise<Uint8Array> {
    const client = this.#connectedClient;
    if (client === undefined || client.closed) {
      return this.#getPagesAgain(rel, blkno, count, lsn);
    }
    // What mostly happens, without the steps that only a failure needs.
    this.#waitingReads++;
    return client.getPages(rel, blkno, lsn, this.#memory.take(count)).then(
      (pages) => {
        this.#waitingReads--;
        this.#answered();
        return pages;
      },
      (error: unknown) => {
        this.#waitingReads--;
        return this.#getPagesAgain(rel, blkno, count, lsn, Promise.reject(error));
      },
    );
  }

  /** `failed`: how the first try went. */
  #getPagesAgain(
    rel: RelationFork,
    blkno: number,
    count: number,
    lsn: Lsn,
    failed?: Promise<never>,
  ): Promise<Uint8Array> {
    const which = count === 1 ? `page ${blkno}` : `pages ${blkno} to ${blkno + count - 1}`;
    const ask = async () =>
      (await this.#connected()).getPages(rel, blkno, lsn, this.#memory.take(count));
    return this.#retrying(`${which} of ${forkKey(rel)}`, ask, failed);
  }

  #slruSegment(kind: SlruKind, segment: number): Promise<Uint8Array | undefined> {
    const key = `${kind}/${segment}`;
    const known = this.#slrus.get(key);
    if (known !== undefined) {
      return known;
    }
    for (const oldest of this.#slrus.keys()) {
      if (this.#slrus.size < SLRU_SEGMENTS_KEPT) {
        break;
      }
      this.#slrus.delete(oldest);
    }
    const bytes = this.#found(
      `SLRU segment ${key}`,
      async (client) => (await client.slruSegment(kind, segment, this.#lsn)).data,
    );
    this.#slrus.set(key, bytes);
    bytes.catch(() => this.#slrus.delete(key));
    return bytes;
  }

  /**
   * Every segment from the oldest entry in use to the newest exists; only the newest can be short.
   * So a listing costs one or two requests however many there are.
   */
  async #listSlru(slru: SlruKind): Promise<ListedFile[]> {
    if (slru === SLRU_COMMIT_TS && this.#checkPoint.oldestCommitTsXid === 0) {
      return []; // not tracked
    }
    const [oldest, next, perSegment] = await this.#slruRange(slru);
    const segments = Math.ceil(2 ** 32 / perSegment);
    const last = Math.floor(next / perSegment);
    const files: ListedFile[] = [];
    const bytes = SLRU_PAGES_PER_SEGMENT * PAGE_SIZE;
    for (let segment = Math.floor(oldest / perSegment); segment !== last; ) {
      files.push({ file: { kind: "slru", slru, segment }, bytes });
      segment = (segment + 1) % segments;
    }
    const newest = await this.#slruSegment(slru, last);
    if (newest !== undefined) {
      files.push({ file: { kind: "slru", slru, segment: last }, bytes: newest.length });
    }
    return files;
  }

  async #slruRange(kind: SlruKind): Promise<[oldest: number, next: number, perSegment: number]> {
    const { oldestMulti, nextMulti, nextMultiOffset } = this.#checkPoint;
    const nextXid = Number(BigInt.asUintN(32, this.#checkPoint.nextFullXid));
    switch (kind) {
      case SLRU_CLOG:
        return [this.#checkPoint.oldestXid, nextXid, XIDS_PER_SEGMENT];
      case SLRU_COMMIT_TS:
        return [this.#checkPoint.oldestCommitTsXid, nextXid, COMMIT_TS_PER_SEGMENT];
      case SLRU_MULTIXACT_OFFSETS:
        return [oldestMulti, nextMulti, MULTIS_PER_SEGMENT];
      case SLRU_MULTIXACT_MEMBERS: {
        const offset =
          oldestMulti === nextMulti ? nextMultiOffset : await this.#memberOffset(oldestMulti);
        return [offset, nextMultiOffset, MEMBERS_PER_SEGMENT];
      }
    }
  }

  /** Where the members of `multi` begin. */
  async #memberOffset(multi: number): Promise<number> {
    const segment = await this.#slruSegment(
      SLRU_MULTIXACT_OFFSETS,
      Math.floor(multi / MULTIS_PER_SEGMENT),
    );
    const at = (multi % MULTIS_PER_SEGMENT) * 4;
    if (segment === undefined || at + 4 > segment.length) {
      throw new StorageError(
        "corrupt",
        "no-multixact-offset",
        `storage has no offset of multixact ${multi}, the oldest one in use`,
      );
    }
    return new DataView(segment.buffer, segment.byteOffset).getUint32(at, true);
  }

  /** As #asking; undefined where the pageserver says that there is no such thing. */
  async #found<T>(what: string, ask: (client: PageClient) => Promise<T>): Promise<T | undefined> {
    try {
      return await this.#asking(what, ask);
    } catch (error) {
      if (errorKind(error) === "not-found") {
        return undefined;
      }
      throw error;
    }
  }

  #asking<T>(what: string, ask: (client: PageClient) => Promise<T>): Promise<T> {
    return this.#retrying(what, async () => ask(await this.#connected()));
  }

  async #retrying<T>(
    what: string,
    attempt: () => Promise<T>,
    first: Promise<T> = attempt(),
  ): Promise<T> {
    this.#waitingReads++;
    try {
      return await this.#repeated(what, attempt, first);
    } finally {
      this.#waitingReads--;
    }
  }

  /** Repeats while the pageserver is `unavailable`: Postgres waits, as for a slow disk. */
  async #repeated<T>(what: string, attempt: () => Promise<T>, first: Promise<T>): Promise<T> {
    let started: number | undefined;
    let answering = first;
    for (let pauseMs = RETRY_FIRST_MS; ; pauseMs = Math.min(pauseMs * 2, RETRY_LONGEST_MS)) {
      try {
        const answer = await answering;
        this.#answered();
        return answer;
      } catch (error) {
        started ??= monotonicMs();
        const waitedMs = monotonicMs() - started;
        if (errorKind(error) !== "unavailable" || this.#closed || waitedMs > this.#giveUpAfterMs) {
          throw withContext(error, what);
        }
        this.#reportOutage(what, error);
      }
      await sleep(pauseMs);
      answering = attempt();
    }
  }

  #answered(): void {
    this.#silenceMs = FIRST_SILENCE_MS;
    if (this.#outage !== undefined) {
      const seconds = ((monotonicMs() - this.#outage.sinceMs) / 1000).toFixed(1);
      this.#logger.info(`the pageserver answers again after ${seconds} s`);
      this.#outage = undefined;
    }
  }

  /** Now and then, however many reads wait. */
  #reportOutage(what: string, error: unknown): void {
    const now = monotonicMs();
    this.#outage ??= { sinceMs: now, reportedMs: Number.NEGATIVE_INFINITY };
    if (now - this.#outage.reportedMs > OUTAGE_REPORT_INTERVAL_MS) {
      this.#outage.reportedMs = now;
      this.#logger.warn(`Postgres waits for ${what}: ${errorMessage(error)}; asking again`);
    }
  }

  async #connected(): Promise<PageClient> {
    const current = this.#client;
    if (current !== undefined) {
      const client = await current;
      if (!client.closed) {
        return client;
      }
      if (this.#client === current) {
        this.#client = undefined;
      }
    }
    if (this.#closed) {
      throw new StorageError("unavailable", "closed", "the page source is closed");
    }
    if (this.#client === undefined) {
      this.#use(this.#service.connect(this.#silenceMs));
    }
    return this.#client!;
  }
}

function forkKey(rel: RelationFork): string {
  return `${rel.spcOid}/${rel.dbOid}/${rel.relNumber}/${rel.fork}`;
}

/** Bytes of one segment of a fork of `blocks`; the first exists even when it is empty. */
function segmentBytes(blocks: number, segment: number): number | undefined {
  const left = blocks - segment * RELATION_SEGMENT_BLOCKS;
  return left > 0 || segment === 0
    ? Math.min(left, RELATION_SEGMENT_BLOCKS) * PAGE_SIZE
    : undefined;
}

/** The files of a directory with these forks, unlogged relations as after a restart. */
function relationFiles(
  directory: { readonly spcOid: number; readonly dbOid: number },
  forks: readonly RelationSize[],
): ListedFile[] {
  const unlogged = new Map<number, number>();
  for (const { relNumber, fork, blocks } of forks) {
    if (fork === INIT_FORK) {
      unlogged.set(relNumber, blocks);
    }
  }
  const files: ListedFile[] = [];
  for (const { relNumber, fork, blocks: stored } of forks) {
    const initBlocks = fork === INIT_FORK ? undefined : unlogged.get(relNumber);
    if (initBlocks !== undefined && fork !== MAIN_FORK) {
      continue;
    }
    const blocks = initBlocks ?? stored;
    for (let segment = 0; ; segment++) {
      const bytes = segmentBytes(blocks, segment);
      if (bytes === undefined) {
        break;
      }
      const { spcOid, dbOid } = directory;
      files.push({ file: { kind: "relation", spcOid, dbOid, relNumber, fork, segment }, bytes });
    }
  }
  return files;
}

function slruPages(
  file: StorageFile,
  segment: Uint8Array | undefined,
  blkno: number,
  count: number,
): Uint8Array {
  const end = (blkno + count) * PAGE_SIZE;
  if (segment === undefined || end > segment.length) {
    throw new StorageError(
      "invalid",
      "block-out-of-range",
      `${storagePath(file)} has ${(segment?.length ?? 0) / PAGE_SIZE} blocks, block ${blkno + count - 1} was asked for`,
    );
  }
  return segment.subarray(blkno * PAGE_SIZE, end);
}
