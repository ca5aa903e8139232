// Verified blocks of layer files in memory, bounded, evicted by the clock (second chance) rule.

import { type Disk, REAL_DISK } from "../../base/disk.ts";
import type { LayerBlock } from "./layer-block.ts";

export interface CachedBlock extends LayerBlock {
  /** Where its owner looks it up; eviction empties that place. */
  readonly home: (CachedBlock | undefined)[];
  readonly blockNumber: number;
  /** Read since the clock hand last passed. */
  referenced: boolean;
}

/**
 * Each layer keeps an array of its blocks, so that a hit is one array access and one store; only
 * misses come here.
 */
export class BlockCache {
  readonly #capacityBytes: number;
  #usedBytes = 0;
  #ring: CachedBlock[] = [];
  #hand = 0;

  constructor(capacityBytes: number) {
    this.#capacityBytes = capacityBytes;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Puts the block into its home and evicts others until the capacity holds. */
  insert(block: CachedBlock): void {
    block.home[block.blockNumber] = block;
    this.#ring.push(block);
    this.#usedBytes += block.bytes.length;
    while (this.#usedBytes > this.#capacityBytes && this.#ring.length > 1) {
      this.#evictOne(block);
    }
  }

  #evictOne(keep: CachedBlock): void {
    for (;;) {
      if (this.#hand >= this.#ring.length) {
        this.#hand = 0;
      }
      const candidate = this.#ring[this.#hand]!;
      const dropped = candidate.home[candidate.blockNumber] !== candidate;
      if (candidate === keep || (candidate.referenced && !dropped)) {
        candidate.referenced = false;
        this.#hand++;
        continue;
      }
      if (!dropped) {
        candidate.home[candidate.blockNumber] = undefined;
      }
      this.#remove(this.#hand);
      return;
    }
  }

  #remove(at: number): void {
    this.#usedBytes -= this.#ring[at]!.bytes.length;
    // The last one takes its place: order does not matter to the clock.
    const last = this.#ring.pop()!;
    if (at < this.#ring.length) {
      this.#ring[at] = last;
    }
  }

  /** Forgets the blocks of a layer that is going away. */
  drop(home: (CachedBlock | undefined)[]): void {
    this.#ring = this.#ring.filter((block) => block.home !== home);
    this.#usedBytes = this.#ring.reduce((sum, block) => sum + block.bytes.length, 0);
    home.length = 0;
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
