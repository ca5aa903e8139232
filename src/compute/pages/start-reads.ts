// What Postgres read of storage in its last starts, so that the next one finds it in its data directory.

import {
  closeSync,
  ftruncateSync,
  futimesSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { nowMs, sleep } from "../../base/clock.ts";
import { writeFully } from "../../base/disk.ts";
import { errnoCode } from "../../base/errors.ts";
import { SpareFiles } from "../../data-directory/spare-files.ts";
import type { ComputeState } from "../../pageserver/api.ts";
import { PAGE_SIZE } from "../../postgres/page.ts";
import {
  DEFAULT_TABLESPACE_OID,
  FIRST_NORMAL_OBJECT_ID,
  MAIN_FORK,
  parseRelationPath,
  type RelationPath,
  type StorageFile,
  storagePath,
} from "../../postgres/relation-path.ts";
import type { PlacedFile } from "../shim/shim-protocol.ts";
import type { FileContent } from "./page-source.ts";

/*
 * The record is a JSON object { version: 1, files: [[path, block, block, ...], ...], unused: [[path, starts], ...] }:
 * paths in the data directory and blocks of theirs, in the order of the first question; no block where only
 * the size was asked; and how many starts in a row have not read what was placed, where it is not 0. It says what to
 * fetch and never what is in it, so a record that is old, of another branch or made up costs time only: a branch
 * begins with its parent's. One that cannot be read counts as none.
 *
 * What a process reads of another database than its own is not noted: it makes a copy of it, once, and that is hundreds of files.
 * In databases of the user's that no start has had a session in, a session is taken to read of the catalogs what one reads elsewhere.
 * Where that is a database of initdb's, in which one start has had a session and none since, it is taken to be there no more.
 */
const RECORD_VERSION = 1;
/** 6 MB: about twice what a first connection reads in a database with few tables. */
const MAX_BLOCKS = 768;
const MAX_FILES = 512;
/** What so many starts in a row have not read leaves the record. */
const MAX_UNUSED_STARTS = 3;
/** What is new has to prove itself: a CREATE DATABASE right after a start reads hundreds of files, once. */
const NEW_UNUSED_STARTS = 1;
/** Of so many databases without a record each is taken to be the one that somebody will connect to; of more, none. */
const MAX_GUESSED_DATABASES = 2;
/** catalog/pg_class.h: every session reads of it. */
const PG_CLASS = 1259;
/** A start waits so long for the last of them when all else is ready; later ones are read as usual. */
const PATIENCE_MS = 100;

/** Blocks by path. */
type Reads = Map<string, Set<number>>;

export class StartReads {
  readonly versionDirectory: string;
  readonly #recordPath: string;
  /** What earlier starts read. */
  readonly #known: Reads;
  readonly #unused: ReadonlyMap<string, number>;
  readonly #recordText: string;
  /** What this one had to ask for. */
  readonly #asked: Reads = new Map();
  #askedBlocks = 0;
  #recording = true;
  /** By process, what it read of first. */
  readonly #ownDatabases = new WeakMap<object, number>();

  /** `versionDirectory`: of the user's tablespaces; `databases`: those that there are. */
  constructor(
    recordPath: string,
    versionDirectory: string,
    databases: ComputeState["databases"] = [],
  ) {
    this.#recordPath = recordPath;
    this.versionDirectory = versionDirectory;
    const { text, reads, unused } = readRecord(recordPath);
    this.#recordText = text;
    const { guessed, left } = guessedReads(reads, unused, databases);
    this.#known = together(
      [...reads].filter(([path]) => !left.has(path)),
      guessed,
    );
    const isNew = [...guessed.keys()].filter((path) => !reads.has(path));
    this.#unused = new Map([...unused, ...isNew.map((path) => [path, NEW_UNUSED_STARTS] as const)]);
  }

  /** As the record has them. */
  get files(): readonly (readonly [path: string, blocks: readonly number[]])[] {
    return [...this.#known].map(([path, blocks]) => [path, [...blocks]]);
  }

  /** Postgres asks for these blocks of a file, or for its size. `process`: which one of its, where that is known. */
  note(file: StorageFile, blkno = 0, count = 0, process: object = {}): void {
    if (
      !this.#recording ||
      this.#askedBlocks + count > MAX_BLOCKS ||
      this.#isOfAnother(process, file)
    ) {
      return;
    }
    const path = storagePath(file, this.versionDirectory);
    let blocks = this.#asked.get(path);
    if (blocks === undefined) {
      if (this.#asked.size >= MAX_FILES) {
        return;
      }
      blocks = new Set();
      this.#asked.set(path, blocks);
    }
    for (let block = blkno; block < blkno + count; block++) {
      blocks.add(block);
    }
    this.#askedBlocks += count;
  }

  /** Than the database that it is connected to. */
  #isOfAnother(process: object, file: StorageFile): boolean {
    if (file.kind !== "relation" || file.dbOid === 0) {
      return false;
    }
    const own = this.#ownDatabases.get(process);
    if (own === undefined) {
      this.#ownDatabases.set(process, file.dbOid);
    }
    return own !== undefined && own !== file.dbOid;
  }

  /**
   * The start is over: what was asked in it is added to the record, and what starts use no more leaves it. `used`: whether Postgres
   * has read a file that was placed for it; of all others nobody knows.
   */
  save(used: ReadonlyMap<string, boolean> = new Map()): void {
    if (!this.#recording) {
      return;
    }
    this.#recording = false;
    const kept = this.#stillUsed(used);
    const all = together(
      [...kept].map(([path, { blocks }]) => [path, blocks]),
      this.#asked,
    );
    // Where there is no room for both, what no start has used again yet goes first, then what was asked last.
    const proven = [...kept].filter(([, { unused }]) => unused === 0);
    const files = isWithinLimits(all)
      ? all
      : cutToLimits(
          together(
            proven.map(([path, { blocks }]) => [path, blocks]),
            this.#asked,
          ),
        );
    const lines = [...files].map(([path, blocks]) => [path, ...[...blocks].sort((a, b) => a - b)]);
    const unused = [...files.keys()].flatMap((path) => {
      const before = kept.get(path)?.unused;
      const starts = before === undefined ? NEW_UNUSED_STARTS : this.#asked.has(path) ? 0 : before;
      return starts === 0 ? [] : [[path, starts]];
    });
    const record = { version: RECORD_VERSION, files: lines };
    const text = JSON.stringify(unused.length === 0 ? record : { ...record, unused });
    if (text !== this.#recordText && lines.length > 0) {
      writeFileSync(this.#recordPath, text);
    }
  }

  /** What of the record stays, and in how many starts in a row nothing has used it. */
  #stillUsed(
    used: ReadonlyMap<string, boolean>,
  ): Map<string, { blocks: Set<number>; unused: number }> {
    const kept = new Map<string, { blocks: Set<number>; unused: number }>();
    // A file system that keeps no times of reading says so of all files.
    const isKnown = [...used.values()].includes(true);
    for (const [path, blocks] of this.#known) {
      const before = this.#unused.get(path) ?? 0;
      // Of a fork that has only a size, its relation's main fork tells.
      const wasUsed = used.get(path) ?? used.get(path.replace(/(_fsm|_vm|_init)?(\.\d+)?$/, ""));
      const unused = !isKnown ? before : wasUsed === true ? 0 : before + 1;
      if (unused < MAX_UNUSED_STARTS) {
        kept.set(path, { blocks, unused });
      }
    }
    return kept;
  }
}

/**
 * What the first session in each of few databases will read, by what those in another have read, and what of that will not be read
 * instead; none where there is no such.
 */
function guessedReads(
  known: Reads,
  unused: ReadonlyMap<string, number>,
  databases: ComputeState["databases"],
): { readonly guessed: Reads; readonly left: ReadonlySet<string> } {
  const catalogs = Map.groupBy(
    [...known].flatMap(([path, blocks]) => {
      // readRecord() has seen that it is one.
      const file = parseRelationPath(path)!;
      return isCatalog(file) && blocks.size > 0 ? [{ file, blocks }] : [];
    }),
    ({ file }) => file.dbOid,
  );
  // Where no session began, something else has read.
  for (const [dbOid, reads] of catalogs) {
    if (!reads.some(({ file }) => file.relNumber === PG_CLASS)) {
      catalogs.delete(dbOid);
    }
  }
  const [pattern = []] = [...catalogs.values()].sort((a, b) => b.length - a.length);
  const without = databases.filter(
    ({ spcOid, dbOid }) =>
      spcOid === DEFAULT_TABLESPACE_OID && dbOid >= FIRST_NORMAL_OBJECT_ID && !catalogs.has(dbOid),
  );
  const guessed: Reads = new Map();
  for (const { dbOid } of without.length > MAX_GUESSED_DATABASES ? [] : without) {
    for (const { file, blocks } of pattern) {
      guessed.set(storagePath({ ...file, dbOid }), blocks);
    }
  }
  if (guessed.size === 0 || !isWithinLimits(together([...known], guessed))) {
    return { guessed: new Map(), left: new Set() };
  }
  return { guessed, left: onceReadOf(pattern[0]!.file.dbOid, known, unused) };
}

/** All that has not been read again, where that is so of all that one start has read of a database that initdb has made. */
function onceReadOf(
  dbOid: number,
  known: Reads,
  unused: ReadonlyMap<string, number>,
): ReadonlySet<string> {
  const paths = [...known.keys()].filter((path) => {
    const file = parseRelationPath(path);
    return file?.kind === "relation" && file.dbOid === dbOid;
  });
  const isOnce = paths.every((path) => (unused.get(path) ?? 0) > 0);
  return new Set(dbOid < FIRST_NORMAL_OBJECT_ID && isOnce ? paths : []);
}

/** Its main fork, in a database's own directory. */
function isCatalog(file: StorageFile): file is RelationPath {
  return (
    file.kind === "relation" &&
    file.spcOid === DEFAULT_TABLESPACE_OID &&
    file.relNumber < FIRST_NORMAL_OBJECT_ID &&
    file.fork === MAIN_FORK
  );
}

function together(known: readonly (readonly [string, Set<number>])[], asked: Reads): Reads {
  const both: Reads = new Map(known);
  for (const [path, blocks] of asked) {
    both.set(path, (both.get(path) ?? new Set()).union(blocks));
  }
  return both;
}

/** The first of them. */
function cutToLimits(reads: Reads): Reads {
  const cut: Reads = new Map();
  let blocksLeft = MAX_BLOCKS;
  for (const [path, blocks] of [...reads].slice(0, MAX_FILES)) {
    const some = new Set([...blocks].slice(0, blocksLeft));
    if (some.size > 0 || blocks.size === 0) {
      cut.set(path, some);
      blocksLeft -= some.size;
    }
  }
  return cut;
}

function isWithinLimits(reads: Reads): boolean {
  const blocks = [...reads.values()].reduce((sum, { size }) => sum + size, 0);
  return reads.size <= MAX_FILES && blocks <= MAX_BLOCKS;
}

interface StartRecord {
  readonly text: string;
  readonly reads: Reads;
  /** Starts in a row that have not used it, by path; absent: 0. */
  readonly unused: ReadonlyMap<string, number>;
}

function readRecord(path: string): StartRecord {
  const none = { text: "", reads: new Map(), unused: new Map() };
  let text: string;
  let record: { version?: unknown; files?: unknown; unused?: unknown } | null;
  try {
    text = readFileSync(path, "utf8");
    record = JSON.parse(text);
  } catch {
    return none;
  }
  if (record?.version !== RECORD_VERSION || !Array.isArray(record.files)) {
    return none;
  }
  const reads: Reads = new Map();
  for (const [path, blocks] of numbersByPath(record.files)) {
    reads.set(path, new Set(blocks.sort((a, b) => a - b)));
  }
  const unused = Array.isArray(record.unused) ? numbersByPath(record.unused) : [];
  return isWithinLimits(reads)
    ? { text, reads, unused: new Map(unused.map(([path, [starts = 0]]) => [path, starts])) }
    : none;
}

/** Of lines [path, number, ...] those that can be. */
function numbersByPath(lines: readonly unknown[]): [path: string, numbers: number[]][] {
  return lines.flatMap((line): [string, number[]][] => {
    const [path, ...numbers] = Array.isArray(line) ? (line as unknown[]) : [];
    const isNumber = (value: unknown): value is number =>
      Number.isInteger(value) && Number(value) >= 0;
    return typeof path === "string" &&
      parseRelationPath(path) !== undefined &&
      numbers.every(isNumber)
      ? [[path, numbers]]
      : [];
  });
}

/** Where the content comes from: PageSource. */
interface ContentSource {
  fileContent(file: StorageFile, blocks: readonly number[]): Promise<FileContent | undefined>;
}

/** Fetches what earlier starts have read, and puts it into a data directory in which Postgres does not run yet. */
export class FilePlacement {
  readonly #dataDirectory = Promise.withResolvers<string>();
  #spares = SpareFiles.none();
  #path: string | undefined;
  readonly #versionDirectory: string;
  readonly #onPlaced: ((file: StorageFile, content: FileContent) => void) | undefined;
  readonly #placed: PlacedFile[] = [];
  readonly #all: Promise<unknown>;
  #finished = false;

  /** Asks at once. `onPlaced`: of each file with what was put into it. */
  constructor(
    source: ContentSource,
    reads: StartReads,
    onPlaced?: (file: StorageFile, content: FileContent) => void,
  ) {
    this.#onPlaced = onPlaced;
    this.#versionDirectory = reads.versionDirectory;
    this.#all = Promise.all(
      reads.files.map(async ([path, blocks]) => {
        // readRecord() has seen that it is one.
        const file = parseRelationPath(path)!;
        // What cannot be had is left out: whoever reads it meets the same trouble and reports it.
        const content = source.fileContent(file, blocks).then(
          (found) => ({ found }),
          () => undefined,
        );
        const dataDirectory = await this.#dataDirectory.promise;
        this.#place(dataDirectory, file, await content);
      }),
    );
    this.#all.catch(() => undefined);
  }

  /** Its directories are there now: what has come and what comes is written. */
  into(dataDirectory: string, spares = SpareFiles.none()): void {
    this.#path = dataDirectory;
    this.#spares = spares;
    this.#dataDirectory.resolve(dataDirectory);
  }

  /** What is there; nothing is written after that. Rejects where half a file could not be removed. */
  async finish(): Promise<readonly PlacedFile[]> {
    const timer = new AbortController();
    const late = sleep(PATIENCE_MS, timer.signal).catch(() => undefined);
    await Promise.race([this.#all, late]);
    timer.abort();
    this.#finished = true;
    return this.#placed;
  }

  /**
   * By path in the data directory: whether somebody has read of a file that was placed with blocks. That is what its time
   * of reading says, which is 0 until then (`relatime`, as Linux mounts, is enough).
   */
  used(): Map<string, boolean> {
    const used = new Map<string, boolean>();
    for (const { file, runs } of this.#path === undefined ? [] : this.#placed) {
      if (runs.length > 0) {
        const path = storagePath(file, this.#versionDirectory);
        const status = statSync(join(this.#path!, path), { throwIfNoEntry: false });
        used.set(path, status !== undefined && status.atimeMs > 0);
      }
    }
    return used;
  }

  /** Nothing is written from now on. */
  cancel(): void {
    this.#finished = true;
  }

  #place(
    dataDirectory: string,
    file: StorageFile,
    content: { found: FileContent | undefined } | undefined,
  ): void {
    if (content === undefined || this.#finished) {
      return;
    }
    const { found } = content;
    if (found === undefined) {
      this.#placed.push({ file, bytes: undefined, runs: [] });
      return;
    }
    const path = join(dataDirectory, storagePath(file, this.#versionDirectory));
    try {
      writeBlocks(this.#spares.file(path), found);
    } catch (error) {
      // Half a file would be taken for a whole one; with none, Postgres makes its own or says why not.
      if (errnoCode(error) !== "EEXIST") {
        rmSync(path, { force: true });
      }
      return;
    }
    this.#onPlaced?.(file, found);
    this.#placed.push({ file, bytes: found.bytes, runs: found.runs });
  }
}

/** Into a new file, which is closed. */
function writeBlocks(fd: number, { bytes, runs, pages }: FileContent): void {
  try {
    ftruncateSync(fd, bytes);
    for (const [i, [first]] of runs.entries()) {
      writeFully(fd, pages[i]!, first * PAGE_SIZE);
    }
    // Read never: `used` looks whether that has changed.
    futimesSync(fd, 0, nowMs() / 1000);
  } finally {
    closeSync(fd);
  }
}
