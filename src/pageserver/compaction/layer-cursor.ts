// Streams the versions of one layer file in key and LSN order, past the cache, in large reads.

import { type Disk, diskError } from "../../base/disk.ts";
import { errnoCode, StorageError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import { comparePrefixes, type KeyPrefix } from "../layers/key.ts";
import {
  blockKeyIndex,
  blockKeyPrefix,
  endEntry,
  entryKind,
  entryLsn,
  firstEntry,
  type LayerBlock,
  parseBlock,
} from "../layers/layer-block.ts";
import {
  BLOCK_HEADER_BYTES,
  corruptLayer,
  FIRST_KEY,
  INDEX_ENTRY_BYTES,
  LAYER_KIND_IMAGE,
  type LayerName,
} from "../layers/layer-format.ts";
import { type LayerIndex, lastBlockAtOrBelow, readLayerIndex } from "../layers/layer-index.ts";
import type { VersionBatch } from "./version-batch.ts";

/** A layer file to read. */
export interface CompactionInput {
  readonly path: string;
  readonly name: LayerName;
  /** As the timeline's index has it; another size on disk is corruption. */
  readonly sizeBytes: number;
  /** Versions above it are not seen: they belong to another timeline's future. */
  readonly maxLsn: Lsn;
}

/** Keys [start, end], both inclusive. */
export interface KeyRange {
  readonly start: { readonly prefix: KeyPrefix; readonly index: number };
  readonly end: { readonly prefix: KeyPrefix; readonly index: number };
}

const INDEX_WORDS = INDEX_ENTRY_BYTES / 4;

/**
 * Stands before one version, its head. Memory: one piece of the file, the block at hand, and the file's
 * block index, 36 bytes for each 16 kB. `load` where `starved`; `close` at the end.
 */
export class LayerCursor {
  readonly input: CompactionInput;
  readonly isImage: boolean;
  /** Where versions of two layers have one LSN, those of the higher rank are newer. */
  readonly rank: number;
  // The head: key and LSN.
  prefix: KeyPrefix = FIRST_KEY.prefix;
  index = 0;
  lsn = 0;
  done = false;
  /** The head is in a piece that is yet to be read. */
  starved = true;
  /** The block's number in the batch that is being filled; -1: it is not in it. */
  batchBlock = -1;
  readonly #range: KeyRange;
  readonly #disk: Disk;
  readonly #file: number;
  readonly #pieceBytes: number;
  readonly #index: LayerIndex;
  #piece = new Uint8Array(0);
  #pieceOffset = 0;
  /** Blocks [#nextBlock, #pieceEnd) are in the piece, and not read yet. */
  #nextBlock = 0;
  #pieceEnd = 0;
  #block: LayerBlock | undefined;
  #blockOffset = 0;
  #key = 0;
  // Entries [#entry, #end) of the key are here, and can be seen.
  #entry = 0;
  #end = 0;

  private constructor(
    input: CompactionInput,
    rank: number,
    range: KeyRange,
    file: number,
    disk: Disk,
    pieceBytes: number,
  ) {
    this.input = input;
    this.isImage = input.name.kind === LAYER_KIND_IMAGE;
    this.rank = rank;
    this.#range = range;
    this.#file = file;
    this.#disk = disk;
    this.#pieceBytes = pieceBytes;
    this.#index = this.#readIndex();
    const { prefix, index } = range.start;
    const first = Math.max(0, lastBlockAtOrBelow(this.#index, prefix, index, 0 as Lsn));
    this.#nextBlock = first;
    this.#pieceEnd = first;
    this.done = first === this.#index.blockCount;
    this.starved = !this.done;
  }

  /** Before the first version in the range. `corrupt`, with file and offset, where the index is damaged. */
  static async open(
    input: CompactionInput,
    rank: number,
    range: KeyRange,
    disk: Disk,
    pieceBytes: number,
  ): Promise<LayerCursor> {
    const { path } = input;
    let file: number;
    try {
      file = await disk.background.open(path, "r");
    } catch (error) {
      throw errnoCode(error) === "ENOENT"
        ? corruptLayer(path, 0, "the file that the index names is missing")
        : diskError(error, `open ${path}`);
    }
    try {
      const cursor = new LayerCursor(input, rank, range, file, disk, pieceBytes);
      await cursor.load();
      return cursor;
    } catch (error) {
      await disk.background.close(file);
      throw error;
    }
  }

  /** Index and filter in one blocking read each: they are small, and this happens once. */
  #readIndex(): LayerIndex {
    const { path, name, sizeBytes } = this.input;
    const size = this.#disk.size(this.#file);
    if (size !== sizeBytes) {
      throw corruptLayer(path, size, `the file should have ${sizeBytes} bytes`);
    }
    const read = (offset: number, length: number) => {
      const bytes = new Uint8Array(new ArrayBuffer(length));
      for (let done = 0; done < length; ) {
        done += this.#checkCount(
          offset + done,
          this.#disk.read(this.#file, bytes, done, length - done, offset + done),
        );
      }
      return bytes;
    };
    const index = readLayerIndex({ path, name, sizeBytes, read });
    // Nothing is looked for in the filter.
    return { ...index, filter: new Uint8Array(0), filterLines: 0 };
  }

  #checkCount(offset: number, count: number): number {
    if (count === 0) {
      throw corruptLayer(this.input.path, offset, "the file ends too early");
    }
    return count;
  }

  /** Reads until there is a head, or none any more. */
  async load(): Promise<void> {
    while (this.starved) {
      await this.#readPiece();
      this.#enterBlock();
    }
  }

  async #readPiece(): Promise<void> {
    const { words, blockCount } = this.#index;
    const { path, sizeBytes } = this.input;
    const first = this.#nextBlock * INDEX_WORDS;
    const start = words[first + 7]!;
    let end = start;
    let block = this.#nextBlock;
    for (; block < blockCount; block++) {
      const offset = words[block * INDEX_WORDS + 7]!;
      const length = words[block * INDEX_WORDS + 8]!;
      if (offset !== end || length < BLOCK_HEADER_BYTES || offset + length > sizeBytes) {
        throw corruptLayer(path, offset, "the block lies outside the file or not after the last");
      }
      if (end > start && end + length - start > this.#pieceBytes) {
        break;
      }
      end += length;
    }
    if (this.#piece.length < end - start) {
      const most = Math.min(this.#pieceBytes, sizeBytes - start);
      this.#piece = new Uint8Array(Math.max(end - start, most));
    }
    const { background } = this.#disk;
    try {
      for (let done = 0; done < end - start; ) {
        const left = end - start - done;
        const count = await background.read(this.#file, this.#piece, done, left, start + done);
        done += this.#checkCount(start + done, count);
      }
    } catch (error) {
      throw error instanceof StorageError ? error : diskError(error, `read ${path}`);
    }
    this.#pieceOffset = start;
    this.#pieceEnd = block;
  }

  /** Stands before the first version of the next block that can be seen. */
  #enterBlock(): void {
    while (!this.done) {
      if (this.#nextBlock === this.#pieceEnd) {
        this.done = this.#nextBlock === this.#index.blockCount;
        this.starved = !this.done;
        this.#block = undefined;
        return;
      }
      const at = this.#nextBlock * INDEX_WORDS;
      const offset = this.#index.words[at + 7]!;
      const from = offset - this.#pieceOffset;
      const stored = this.#piece.subarray(from, from + this.#index.words[at + 8]!);
      this.#block = parseBlock(stored, this.input.path, offset);
      this.#blockOffset = offset;
      this.batchBlock = -1;
      this.#nextBlock++;
      this.#key = -1;
      this.starved = false;
      if (this.#enterKey()) {
        return;
      }
    }
  }

  /** Stands before the first version of the block's next key that can be seen; false: there is none. */
  #enterKey(): boolean {
    const block = this.#block!;
    const { start, end } = this.#range;
    while (++this.#key < block.keyCount) {
      const prefix = blockKeyPrefix(block, this.#key);
      const index = blockKeyIndex(block, this.#key);
      this.#checkOrder(prefix, index);
      this.prefix = prefix;
      this.index = index;
      if (compareKeys(prefix, index, end.prefix, end.index) > 0) {
        this.done = true;
        return true;
      }
      this.#entry = firstEntry(block, this.#key);
      this.#end = endEntry(block, this.#key);
      while (this.#end > this.#entry && entryLsn(block, this.#end - 1) > this.input.maxLsn) {
        this.#end--;
      }
      if (this.#entry < this.#end && compareKeys(prefix, index, start.prefix, start.index) >= 0) {
        this.lsn = entryLsn(block, this.#entry);
        return true;
      }
    }
    return false;
  }

  #lastPrefix: KeyPrefix | undefined;
  #lastIndex = 0;
  #lastLsn = 0;

  /** Keys ascend; only the first of a block may be the last of the block before. */
  #checkOrder(prefix: KeyPrefix, index: number): void {
    const last = this.#lastPrefix;
    const order = last === undefined ? 1 : compareKeys(prefix, index, last, this.#lastIndex);
    if (order < 0 || (order === 0 && this.#key > 0)) {
      throw corruptLayer(this.input.path, this.#blockOffset, "keys are out of order");
    }
    if (order > 0) {
      this.#lastLsn = 0;
    }
    this.#lastPrefix = prefix;
    this.#lastIndex = index;
  }

  /**
   * Moves versions of the head's key to the batch: those at or below `maxLsn`, as far as the block goes.
   * Then stands before the next one.
   */
  take(batch: VersionBatch, maxLsn: number): void {
    const block = this.#block!;
    if (this.batchBlock < 0) {
      this.batchBlock = batch.addBlock(block);
    }
    let entry = this.#entry;
    let { lsn } = this;
    do {
      if (lsn < this.#lastLsn) {
        throw corruptLayer(this.input.path, this.#blockOffset, "LSNs are out of order");
      }
      this.#lastLsn = lsn;
      batch.addVersion(entryKind(block, entry), lsn, this.batchBlock, entry);
      entry++;
      if (entry === this.#end) {
        if (!this.#enterKey()) {
          this.#enterBlock();
        }
        return;
      }
      lsn = entryLsn(block, entry);
    } while (lsn <= maxLsn);
    this.#entry = entry;
    this.lsn = lsn;
  }

  async close(): Promise<void> {
    await this.#disk.background.close(this.#file);
  }
}

/** Key order: negative, 0 or positive. */
export function compareKeys(
  prefixA: KeyPrefix,
  indexA: number,
  prefixB: KeyPrefix,
  indexB: number,
): number {
  return comparePrefixes(prefixA, prefixB) || indexA - indexB;
}
