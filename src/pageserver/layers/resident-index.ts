// What of a layer file is in memory: its index and filter, and those of its blocks that were read, in the cache or for a scan.

import type { BlockCache, CacheEntry } from "./block-cache.ts";
import { type BlockMemory, type LayerBlock, REUSED_BYTES, reusedMemory } from "./layer-block.ts";
import type { LayerIndex } from "./layer-index.ts";

const SLOT_BYTES = 8;
/** A megabyte: of each layer that a scan passes a block or two, as a key's deltas may begin in the block before. */
const SCAN_BLOCKS = 32;
/** None until it is read again. */
const NEW_BLOCK_CHANCES = 0;
/** Of a block that is read again. */
export const BLOCK_CHANCES = 1;
/** An index takes its blocks along, so all blocks that were read as long ago go first. */
export const INDEX_CHANCES = 2;

/** A block in the cache, or in memory that scans use again. It copies the fields of the LayerBlock: a read has no other object to go through. */
export class CachedBlock implements LayerBlock, CacheEntry {
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;
  readonly keyCount: number;
  readonly entryCount: number;
  readonly entriesAt: number;
  readonly valuesAt: number;
  readonly owner: ResidentIndex;
  readonly blockNumber: number;
  chances = NEW_BLOCK_CHANCES;
  place = -1;
  /** VersionChain.reads of the read that was given it last. */
  lentTo = -1;

  constructor(block: LayerBlock, owner: ResidentIndex, blockNumber: number) {
    this.bytes = block.bytes;
    this.words = block.words;
    this.keyCount = block.keyCount;
    this.entryCount = block.entryCount;
    this.entriesAt = block.entriesAt;
    this.valuesAt = block.valuesAt;
    this.owner = owner;
    this.blockNumber = blockNumber;
  }

  get heldBytes(): number {
    return this.bytes.byteLength;
  }

  forget(): void {
    this.owner.blocks[this.blockNumber] = undefined;
  }

  /** Its memory becomes another's, unlike that of blocks in the cache. */
  leave(): void {
    if (this.owner.blocks[this.blockNumber] === this) {
      this.forget();
    }
  }
}

/**
 * A layer's index in the cache, which the owner looks up in a field of its own. It takes its blocks along
 * when it goes: nobody finds them without it, and none was read since it was.
 */
export class ResidentIndex implements LayerIndex, CacheEntry {
  readonly words: Uint32Array;
  readonly blockCount: number;
  readonly filter: Uint8Array;
  readonly filterLines: number;
  /** A hit is one array access and one store; only misses go to the cache. */
  readonly blocks: (CachedBlock | undefined)[];
  chances = INDEX_CHANCES;
  place = -1;
  readonly #cache: BlockCache;
  readonly #forgotten: () => void;

  /** `forgotten` is called when the index has left the cache. */
  constructor(index: LayerIndex, cache: BlockCache, forgotten: () => void) {
    this.words = index.words;
    this.blockCount = index.blockCount;
    this.filter = index.filter;
    this.filterLines = index.filterLines;
    this.blocks = new Array<CachedBlock | undefined>(index.blockCount).fill(undefined);
    this.#cache = cache;
    this.#forgotten = forgotten;
  }

  get heldBytes(): number {
    return this.words.byteLength + this.filter.byteLength + this.blockCount * SLOT_BYTES;
  }

  /** The block is kept, unless the index has gone meanwhile: for this read only, then. */
  keep(block: CachedBlock): void {
    if (this.place >= 0) {
      this.blocks[block.blockNumber] = block;
      this.#cache.insert(block);
    }
  }

  forget(): void {
    this.#forgotten();
    for (const block of this.blocks) {
      if (block !== undefined && block.place >= 0) {
        this.#cache.evict(block);
      }
    }
  }
}

/**
 * Blocks that scans read, in memory that is used again: they push nothing out of the cache, leave nothing to collect, and do not
 * touch fresh memory, which costs more than what it would save the next scan. Few, by the clock rule, and found as those of the cache are. What is lent to a read (VersionChain.reads) is not written
 * over before the next one.
 */
export class ScanBlocks {
  readonly #blocks = new Array<CachedBlock | undefined>(SCAN_BLOCKS).fill(undefined);
  readonly #memory = new Array<BlockMemory | undefined>(SCAN_BLOCKS).fill(undefined);
  #hand = 0;

  /**
   * What `load` makes in the memory that it is given, for the read `reads` and who comes to it soon; undefined, without a call,
   * where that read has all the memory.
   */
  read(
    owner: ResidentIndex,
    blockNumber: number,
    reads: number,
    load: (memory: BlockMemory) => LayerBlock,
  ): CachedBlock | undefined {
    const place = this.#freePlace(reads);
    if (place < 0) {
      return undefined;
    }
    this.#blocks[place]?.leave();
    // Also where it cannot be read: what was there is spoilt.
    this.#blocks[place] = undefined;
    this.#memory[place] ??= reusedMemory();
    const block = new CachedBlock(load(this.#memory[place]), owner, blockNumber);
    // One that is larger has other memory, which is not to be held for long.
    if (block.bytes.length <= REUSED_BYTES) {
      this.#blocks[place] = block;
      owner.blocks[blockNumber] = block;
    }
    return block;
  }

  #freePlace(reads: number): number {
    for (let passed = 0; passed < 2 * SCAN_BLOCKS; passed++) {
      const place = this.#hand;
      this.#hand = (place + 1) % SCAN_BLOCKS;
      const block = this.#blocks[place];
      if (block === undefined) {
        return place;
      }
      if (block.lentTo === reads) {
        continue;
      }
      if (block.chances === 0) {
        return place;
      }
      block.chances--;
    }
    return -1;
  }
}
