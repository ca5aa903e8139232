// Reads back the WAL that Postgres wrote into its own pg_wal.

import { closeSync, constants, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { errnoCode, StorageError } from "../../base/errors.ts";
import {
  addLsn,
  formatLsn,
  type Lsn,
  segmentNumber,
  segmentOffset,
  WAL_SEGMENT_SIZE,
  walFileName,
} from "../../base/lsn.ts";

/** Descriptors kept: the segment being written, the one before, and one for whoever lags. */
const OPEN_SEGMENTS = 3;

export class LocalWal {
  readonly #directory: string;
  readonly #segmentSize: number;
  /** Segment number -> descriptor, least recently used first. */
  readonly #open = new Map<number, number>();

  constructor(pgWalDirectory: string, segmentSize = WAL_SEGMENT_SIZE) {
    this.#directory = pgWalDirectory;
    this.#segmentSize = segmentSize;
  }

  /**
   * Fills `target` from its start with WAL [begin, end). Synchronous, because the commit path waits
   * for it and the bytes were written a moment ago. StorageError `not-found` where Postgres has
   * removed the segment, `corrupt` where it is shorter than it must be.
   */
  read(begin: Lsn, end: Lsn, target: Uint8Array): void {
    let at = begin;
    while (at < end) {
      const segment = segmentNumber(at, this.#segmentSize);
      const offset = segmentOffset(at, this.#segmentSize);
      const take = Math.min(end - at, this.#segmentSize - offset);
      const got = readSync(this.#descriptor(segment), target, at - begin, take, offset);
      if (got === 0) {
        throw new StorageError(
          "corrupt",
          "short-wal-segment",
          `WAL segment ${this.#name(segment)} ends before ${formatLsn(at)}`,
        );
      }
      at = addLsn(at, got);
    }
  }

  close(): void {
    for (const descriptor of this.#open.values()) {
      closeSync(descriptor);
    }
    this.#open.clear();
  }

  #descriptor(segment: number): number {
    let descriptor = this.#open.get(segment);
    if (descriptor !== undefined) {
      if (this.#open.size > 1) {
        this.#open.delete(segment);
        this.#open.set(segment, descriptor);
      }
      return descriptor;
    }
    const path = join(this.#directory, this.#name(segment));
    try {
      // A link or a pipe of that name is none that Postgres has made.
      const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
      descriptor = openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    } catch (cause) {
      const missing = errnoCode(cause) === "ENOENT";
      throw new StorageError(
        missing ? "not-found" : "internal",
        "wal-segment-unreadable",
        `open ${path}: ${missing ? "Postgres has removed it" : String(cause)}`,
        { cause },
      );
    }
    this.#open.set(segment, descriptor);
    if (this.#open.size > OPEN_SEGMENTS) {
      const [oldest, oldDescriptor] = this.#open.entries().next().value!;
      this.#open.delete(oldest);
      closeSync(oldDescriptor);
    }
    return descriptor;
  }

  #name(segment: number): string {
    return walFileName(segment, 1, this.#segmentSize);
  }
}
