// What of a layer file is in memory: its index and filter, and those of its blocks that were read.

import type { BlockCache, CacheEntry } from "./block-cache.ts";
import type { LayerBlock } from "./layer-block.ts";
import type { LayerIndex } from "./layer-index.ts";

const SLOT_BYTES = 8;
/** None until it is read again: a scan of deltas pushes out what it read itself. */
const NEW_BLOCK_CHANCES = 0;
/** Of a block that is read again. */
export const BLOCK_CHANCES = 1;
/** An index takes its blocks along, so all blocks that were read as long ago go first. */
export const INDEX_CHANCES = 2;

/** A block in the cache. It copies the fields of the LayerBlock: a read has no other object to go through. */
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
      if (block !== undefined) {
        this.#cache.evict(block);
      }
    }
  }
}
