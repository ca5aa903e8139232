// Bounds what readers of layer files hold: blocks, indexes and filters in memory, and open files.

import { type Disk, REAL_DISK } from "../../base/disk.ts";

/** Something of a layer file in memory, verified when it was read; its bytes never change. */
export interface CacheEntry {
  /** Bytes of the arrays it holds, always the same. */
  readonly heldBytes: number;
  /** So many times the clock hand passes by before it evicts: what a read of it sets. */
  chances: number;
  /** Where the cache has it, for the cache alone to set; -1 where it has not. */
  place: number;
  /** Called when it has left the cache: its owner lets go of it. */
  forget(): void;
}

/** Objects and array headers around an entry's bytes; most entries of small layers are little else. */
const ENTRY_OVERHEAD_BYTES = 512;

/**
 * One budget for blocks, indexes and filters, kept by the clock rule. Owners find what is theirs by
 * themselves, so that a hit costs no lookup here: they set `chances`.
 */
export class BlockCache {
  readonly #capacityBytes: number;
  #usedBytes = 0;
  readonly #ring: CacheEntry[] = [];
  #hand = 0;

  constructor(capacityBytes: number) {
    this.#capacityBytes = capacityBytes;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Evicts others until the capacity holds; one entry alone may be larger. */
  insert(entry: CacheEntry): void {
    entry.place = this.#ring.length;
    this.#ring.push(entry);
    this.#usedBytes += entry.heldBytes + ENTRY_OVERHEAD_BYTES;
    while (this.#usedBytes > this.#capacityBytes && this.#ring.length > 1) {
      this.#evictOne(entry);
    }
  }

  #evictOne(keep: CacheEntry): void {
    for (;;) {
      if (this.#hand >= this.#ring.length) {
        this.#hand = 0;
      }
      const candidate = this.#ring[this.#hand]!;
      if (candidate !== keep && candidate.chances === 0) {
        this.evict(candidate);
        // What took its place is new, mostly: the hand comes to it last.
        this.#hand++;
        return;
      }
      candidate.chances = Math.max(0, candidate.chances - 1);
      this.#hand++;
    }
  }

  /** Of an entry that is in the cache. */
  evict(entry: CacheEntry): void {
    this.#usedBytes -= entry.heldBytes + ENTRY_OVERHEAD_BYTES;
    // The last one takes its place: order does not matter to the clock.
    const last = this.#ring.pop()!;
    if (last !== entry) {
      this.#ring[entry.place] = last;
      last.place = entry.place;
    }
    entry.place = -1;
    entry.forget();
  }
}

/** A file that is open while it is in use, and may be closed between two calls. */
export interface OpenableFile {
  readonly path: string;
  /** -1 while closed. */
  descriptor: number;
}

/** Bounds the number of open layer files, first opened, first closed: a reopen costs microseconds. */
export class OpenFiles {
  readonly disk: Disk;
  readonly #limit: number;
  readonly #open = new Set<OpenableFile>();

  constructor(limit: number, disk: Disk = REAL_DISK) {
    this.disk = disk;
    this.#limit = limit;
  }

  /** The descriptor, valid until the next call. Node's own error where it cannot be opened. */
  descriptorOf(file: OpenableFile): number {
    if (file.descriptor >= 0) {
      return file.descriptor;
    }
    if (this.#open.size >= this.#limit) {
      const [oldest] = this.#open;
      this.close(oldest!);
    }
    file.descriptor = this.disk.open(file.path, "r");
    this.#open.add(file);
    return file.descriptor;
  }

  close(file: OpenableFile): void {
    if (this.#open.delete(file)) {
      this.disk.close(file.descriptor);
      file.descriptor = -1;
    }
  }
}
