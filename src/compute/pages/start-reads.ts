// What Postgres read of storage in its last starts, so that the next one finds it in its data directory.

import { closeSync, ftruncateSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sleep } from "../../base/clock.ts";
import { writeFully } from "../../base/disk.ts";
import { errnoCode } from "../../base/errors.ts";
import { giveToPostgres } from "../../postgres/installation.ts";
import { PAGE_SIZE } from "../../postgres/page.ts";
import { parseRelationPath, type StorageFile, storagePath } from "../../postgres/relation-path.ts";
import type { PlacedFile } from "../shim/shim-protocol.ts";
import type { FileContent } from "./page-source.ts";

/*
 * The record is a JSON object { version: 1, files: [[path, block, block, ...], ...] }: paths in the data
 * directory and blocks of theirs, in the order of the first question; no block where only the size was
 * asked. It says what to fetch and never what is in it, so a record that is old, of another
 * branch or made up costs time only. One that cannot be read counts as none.
 */
const RECORD_VERSION = 1;
/** 6 MB: about twice what a first connection reads in a database with few tables. */
const MAX_BLOCKS = 768;
const MAX_FILES = 512;
/** A start waits so long for the last of them when all else is ready; later ones are read as usual. */
const PATIENCE_MS = 100;

/** Blocks by path. */
type Reads = Map<string, Set<number>>;

export class StartReads {
  readonly #recordPath: string;
  /** What earlier starts read. */
  readonly #known: Reads;
  /** What this one had to ask for. */
  readonly #asked: Reads = new Map();
  #askedBlocks = 0;
  #recording = true;

  constructor(recordPath: string) {
    this.#recordPath = recordPath;
    this.#known = readRecord(recordPath);
  }

  /** As the record has them. */
  get files(): readonly (readonly [path: string, blocks: readonly number[]])[] {
    return [...this.#known].map(([path, blocks]) => [path, [...blocks]]);
  }

  /** Postgres asks for these blocks of a file, or for its size. */
  note(file: StorageFile, blkno = 0, count = 0): void {
    if (!this.#recording || this.#askedBlocks + count > MAX_BLOCKS) {
      return;
    }
    const path = storagePath(file);
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

  /** The start is over: what was asked in it is added to the record. */
  save(): void {
    if (!this.#recording) {
      return;
    }
    this.#recording = false;
    if (this.#asked.size === 0) {
      return;
    }
    const both: Reads = new Map([...this.#known].map(([path, blocks]) => [path, new Set(blocks)]));
    for (const [path, blocks] of this.#asked) {
      both.set(path, (both.get(path) ?? new Set()).union(blocks));
    }
    // Full of what is read no more, it begins anew.
    const files = isWithinLimits(both) ? both : this.#asked;
    const lines = [...files].map(([path, blocks]) => [path, ...[...blocks].sort((a, b) => a - b)]);
    writeFileSync(this.#recordPath, JSON.stringify({ version: RECORD_VERSION, files: lines }));
  }
}

function isWithinLimits(reads: Reads): boolean {
  const blocks = [...reads.values()].reduce((sum, { size }) => sum + size, 0);
  return reads.size <= MAX_FILES && blocks <= MAX_BLOCKS;
}

function readRecord(path: string): Reads {
  const reads: Reads = new Map();
  let record: { version?: unknown; files?: unknown } | null;
  try {
    record = JSON.parse(readFileSync(path, "utf8"));
  } catch {
    return reads;
  }
  if (record?.version !== RECORD_VERSION || !Array.isArray(record.files)) {
    return reads;
  }
  for (const line of record.files) {
    const [path, ...blocks] = Array.isArray(line) ? (line as unknown[]) : [];
    const isBlock = (block: unknown): block is number =>
      Number.isInteger(block) && Number(block) >= 0;
    if (
      typeof path === "string" &&
      parseRelationPath(path) !== undefined &&
      blocks.every(isBlock)
    ) {
      reads.set(path, new Set(blocks.sort((a, b) => a - b)));
    }
  }
  return isWithinLimits(reads) ? reads : new Map();
}

/** Where the content comes from: PageSource. */
interface ContentSource {
  fileContent(file: StorageFile, blocks: readonly number[]): Promise<FileContent | undefined>;
}

/** Fetches what earlier starts have read, and puts it into a data directory in which Postgres does not run yet. */
export class FilePlacement {
  readonly #dataDirectory = Promise.withResolvers<string>();
  readonly #placed: PlacedFile[] = [];
  readonly #all: Promise<unknown>;
  #finished = false;

  /** Asks at once. */
  constructor(source: ContentSource, reads: StartReads) {
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
  into(dataDirectory: string): void {
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
    const path = join(dataDirectory, storagePath(file));
    try {
      writeBlocks(path, found);
    } catch (error) {
      // Half a file would be taken for a whole one; with none, Postgres makes its own or says why not.
      if (errnoCode(error) !== "EEXIST") {
        rmSync(path, { force: true });
      }
      return;
    }
    this.#placed.push({ file, bytes: found.bytes, runs: found.runs });
  }
}

function writeBlocks(file: string, { bytes, runs, pages }: FileContent): void {
  const fd = openSync(file, "wx", 0o600);
  try {
    ftruncateSync(fd, bytes);
    let page = 0;
    for (const [first, count] of runs) {
      const run = Buffer.concat(pages.slice(page, page + count));
      writeFully(fd, run, first * PAGE_SIZE);
      page += count;
    }
  } finally {
    closeSync(fd);
  }
  giveToPostgres(file);
}
