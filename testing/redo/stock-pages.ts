// Serves the pages of a stopped stock cluster to the shim: what storage would, without storage.

import { closeSync, openSync, readdirSync, readSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { sleep } from "../../src/base/clock.ts";
import { StorageError } from "../../src/base/errors.ts";
import type { FileContent } from "../../src/compute/pages/page-source.ts";
import type { ListedFile, PageHandlers } from "../../src/compute/shim/shim-server.ts";
import { PAGE_SIZE } from "../../src/postgres/page.ts";
import {
  INIT_FORK,
  MAIN_FORK,
  parseRelationPath,
  relationPath,
  type StorageDirectory,
  type StorageFile,
  storageDirectoryPath,
  storagePath,
} from "../../src/postgres/relation-path.ts";

const SLRU_DIRECTORIES = [
  "pg_xact",
  "pg_multixact/offsets",
  "pg_multixact/members",
  "pg_commit_ts",
];

/** `directory` is a data directory that nothing writes to. */
export class StockPages implements PageHandlers {
  readonly #directory: string;
  /** Added to each answer that reads pages. */
  latencyMs = 0;
  stats = 0;
  pages = 0;
  lists = 0;
  prefetches = 0;
  /** Told of every block that is read. */
  onRead: ((path: string, blkno: number) => void) | undefined;

  constructor(directory: string) {
    this.#directory = directory;
  }

  async stat(file: StorageFile): Promise<number | undefined> {
    this.stats++;
    const stored = this.#stored(file);
    return stored === undefined ? undefined : statSync(stored, { throwIfNoEntry: false })?.size;
  }

  async readPages(file: StorageFile, blkno: number, count: number): Promise<Uint8Array> {
    this.pages += count;
    const path = storagePath(file);
    for (let block = blkno; block < blkno + count; block++) {
      this.onRead?.(path, block);
    }
    if (this.latencyMs > 0) {
      await sleep(this.latencyMs);
    }
    const bytes = new Uint8Array(count * PAGE_SIZE);
    const fd = openSync(this.#stored(file)!, "r");
    try {
      const got = readSync(fd, bytes, 0, bytes.length, blkno * PAGE_SIZE);
      if (got !== bytes.length) {
        throw new StorageError("invalid", "block-out-of-range", `${path}: block ${blkno}`);
      }
    } finally {
      closeSync(fd);
    }
    return bytes;
  }

  async fileContent(
    file: StorageFile,
    blocks: readonly number[],
  ): Promise<FileContent | undefined> {
    const bytes = await this.stat(file);
    if (bytes === undefined) {
      return undefined;
    }
    const there = blocks.filter((block) => block * PAGE_SIZE < bytes);
    const pages = await Promise.all(there.map((block) => this.readPages(file, block, 1)));
    return { bytes, runs: there.map((block) => [block, 1] as const), pages };
  }

  async listDirectory(directory: StorageDirectory): Promise<ListedFile[]> {
    this.lists++;
    const path = storageDirectoryPath(directory);
    const files: ListedFile[] = [];
    for (const name of readdirSync(join(this.#directory, path))) {
      const file = parseRelationPath(`${path}/${name}`);
      const bytes = file === undefined ? undefined : await this.stat(file);
      if (file !== undefined && bytes !== undefined) {
        files.push({ file, bytes });
      }
    }
    return files;
  }

  prefetch(): void {
    this.prefetches++;
  }

  /** The path that answers for `file`: an unlogged relation is its init fork and nothing else. */
  #stored(file: StorageFile): string | undefined {
    if (file.kind === "relation" && file.fork !== INIT_FORK) {
      const init = relationPath({ ...file, fork: INIT_FORK, segment: 0 })!;
      if (statSync(join(this.#directory, init), { throwIfNoEntry: false }) !== undefined) {
        return file.fork === MAIN_FORK && file.segment === 0
          ? join(this.#directory, init)
          : undefined;
      }
    }
    return join(this.#directory, storagePath(file));
  }
}

/** Takes away every relation and SLRU segment of a data directory; returns how many files those were. */
export function removeRemoteFiles(dataDirectory: string): number {
  const databases = readdirSync(join(dataDirectory, "base")).map((name) => `base/${name}`);
  let removed = 0;
  for (const directory of ["global", ...databases, ...SLRU_DIRECTORIES]) {
    for (const name of readdirSync(join(dataDirectory, directory))) {
      if (parseRelationPath(`${directory}/${name}`) !== undefined) {
        rmSync(join(dataDirectory, directory, name));
        removed++;
      }
    }
  }
  // A cache of catalog rows, which a real start does not have.
  for (const directory of ["global", ...databases]) {
    rmSync(join(dataDirectory, directory, "pg_internal.init"), { force: true });
  }
  return removed;
}
