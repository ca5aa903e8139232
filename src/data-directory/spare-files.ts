// Empty files and directories that were made ahead, for a data directory to be put together from.
//
// To make a file can take a file system half a millisecond: ext4 looks for a number that was not freed lately, one after the other,
// and a start frees as many as it makes. To take over one that is there takes a rename.
//
//   PATH/pgdata         the empty directories of a data directory
//   PATH/files/N        empty
//   PATH/directories/N  empty
//
// PATH is an endpoint's alone, or of all endpoints of a home, for those that start for the first time; what is in it is Postgres's. It is there whole or not at all: PATH.new until all is made, and PATH.used from when
// somebody has begun to take of it, so nobody else does.

import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { turn } from "../base/clock.ts";
import { FileLock } from "../base/file-lock.ts";
import { giveToPostgres } from "../postgres/installation.ts";
import { makeDirectory, makeSkeleton } from "./make-directory.ts";

const SKELETON = "pgdata";
const FILES = "files";
const DIRECTORIES = "directories";
const OWNER_ONLY = 0o600;

export interface SpareCounts {
  readonly files: number;
  readonly directories: number;
}

/** More than a start with few tables needs (pages/start-reads.ts has limits). */
const MOST: SpareCounts = { files: 640, directories: 64 };

/** What makes files and directories, from spare ones as long as there are some. */
export class SpareFiles {
  readonly #path: string | undefined;
  readonly #files: string[];
  readonly #directories: string[];
  #hasSkeleton: boolean;
  /** How many were asked for. */
  readonly #asked = { files: 0, directories: 0 };

  private constructor(path?: string) {
    this.#path = path;
    this.#files = path === undefined ? [] : listing(path, FILES);
    this.#directories = path === undefined ? [] : listing(path, DIRECTORIES);
    this.#hasSkeleton = path !== undefined;
  }

  /** Of which there is none: all is made. */
  static none(): SpareFiles {
    return new SpareFiles();
  }

  /** Those at `path`, or else at `shared`, which are this one's from now on; none where there are none. */
  static take(path: string, shared?: string): SpareFiles {
    const used = `${path}.used`;
    return moves(path, used) || (shared !== undefined && moves(shared, used))
      ? new SpareFiles(used)
      : SpareFiles.none();
  }

  /** As make(), at a path that several processes may want to make: one of them does. */
  static async makeShared(
    path: string,
    counts: SpareCounts,
    signal: AbortSignal,
  ): Promise<boolean> {
    const lock = existsSync(path) ? undefined : FileLock.take(`${path}.lock`);
    try {
      return lock !== undefined && (await SpareFiles.make(path, counts, signal));
    } finally {
      lock?.release();
    }
  }

  /**
   * Makes so many at `path`, whose parent must be there; whatever else arrives in this process is handled meanwhile. False where some are there
   * already, or `signal` has ended it; then nothing is left that counts.
   */
  static async make(path: string, counts: SpareCounts, signal?: AbortSignal): Promise<boolean> {
    if (existsSync(path)) {
      return false;
    }
    const made = `${path}.new`;
    await rm(made, { recursive: true, force: true });
    mkdirSync(made, { mode: 0o700 });
    await makeSkeleton(join(made, SKELETON));
    for (const part of [FILES, DIRECTORIES]) {
      mkdirSync(join(made, part), { mode: 0o700 });
    }
    for (let i = 0; i < Math.min(counts.files, MOST.files); i++) {
      if (signal?.aborted === true) {
        return false;
      }
      writeFileSync(join(made, FILES, `${i}`), "", { mode: OWNER_ONLY });
      giveToPostgres(join(made, FILES, `${i}`));
      await turn();
    }
    for (let i = 0; i < Math.min(counts.directories, MOST.directories); i++) {
      if (signal?.aborted === true) {
        return false;
      }
      makeDirectory(join(made, DIRECTORIES, `${i}`));
      await turn();
    }
    return signal?.aborted !== true && moves(made, path);
  }

  /** How many a start like this one needs. */
  get needed(): SpareCounts {
    return this.#asked;
  }

  /** As makeSkeleton(). */
  async skeleton(target: string): Promise<void> {
    const hasSkeleton = this.#hasSkeleton;
    this.#hasSkeleton = false;
    if (!hasSkeleton || !moves(join(this.#path!, SKELETON), target)) {
      await makeSkeleton(target);
    }
  }

  /** As makeDirectory(). */
  directory(target: string): void {
    this.#asked.directories++;
    const spare = this.#directories.pop();
    if (spare === undefined || !moves(spare, target)) {
      makeDirectory(target);
    }
  }

  /** An empty file of Postgres's, where none is; a descriptor to write to it, which is the caller's. */
  file(target: string): number {
    this.#asked.files++;
    const spare = this.#files.pop();
    if (spare !== undefined && moves(spare, target)) {
      return openSync(target, "r+");
    }
    const fd = openSync(target, "wx", OWNER_ONLY);
    giveToPostgres(target);
    return fd;
  }

  /** A file with that content. */
  write(target: string, content: string | Uint8Array): void {
    const fd = this.file(target);
    try {
      writeFileSync(fd, content);
    } finally {
      closeSync(fd);
    }
  }

  /** What is left of it goes. */
  async remove(): Promise<void> {
    if (this.#path !== undefined) {
      await rm(this.#path, { recursive: true, force: true });
    }
  }
}

/** Whether it could be renamed. */
function moves(from: string, to: string): boolean {
  try {
    renameSync(from, to);
    return true;
  } catch {
    return false;
  }
}

function listing(path: string, part: string): string[] {
  return readdirSync(join(path, part)).map((name) => join(path, part, name));
}
