// Reads one layer file: finds a key's versions through the block index, verifying every block it loads.

import { basename } from "node:path";
import { errnoCode, errorMessage, StorageError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { BlockCache, CacheEntry, OpenableFile, OpenFiles } from "./block-cache.ts";
import {
  comparePrefixes,
  type KeyPrefix,
  leastPrefix,
  prefixStartsWith,
  samePrefix,
} from "./key.ts";
import {
  type BlockMemory,
  blockKeyIndex,
  blockKeyPrefix,
  endEntry,
  entryKind,
  entryLsn,
  findKey,
  firstEntry,
  type LayerBlock,
  valueEnd,
  valueStart,
} from "./layer-block.ts";
import {
  corruptLayer,
  FIRST_KEY,
  LAST_KEY,
  LAYER_KIND_IMAGE,
  type LayerName,
} from "./layer-format.ts";
import {
  type BlockSource,
  lastBlockAtOrBelow,
  mayContain,
  readBlock,
  readLayerIndex,
} from "./layer-index.ts";
import type { ReadWindow, WindowedFile } from "./read-window.ts";
import {
  BLOCK_CHANCES,
  CachedBlock,
  INDEX_CHANCES,
  ResidentIndex,
  type ScanBlocks,
} from "./resident-index.ts";
import { VALUE_TOMBSTONE, type VersionChain } from "./version-chain.ts";

/** What all layers of a process share. */
export interface LayerResources {
  readonly blockCache: BlockCache;
  readonly openFiles: OpenFiles;
  readonly readWindow: ReadWindow;
  /** Of blocks that are not kept in the cache. */
  readonly scanBlocks: ScanBlocks;
  /** Counts on with time, coarsely: the order of uses. */
  readonly useClock: { readonly now: number };
}

/** A key may have versions in several blocks, and who reads a page of some goes on in few steps, too. */
const MAX_SCAN_STEP = 4;
/** So many blocks, one after the other, are a scan. */
const LEAST_SCANNED = 4;
/** Not of a VersionChain: done with a block before the next one. */
const NO_READ = -1;

/**
 * A read needs a layer that only the object store has. Who can wait fetches it, or the bytes [start, end) that the read came
 * to, and reads again; nothing was changed.
 */
export class LayerNotResident extends Error {
  readonly layer: LayerFile;
  readonly start: number;
  readonly end: number;

  constructor(layer: LayerFile, start: number, end: number) {
    super(`layer ${layer.path} is only in the object store`);
    this.layer = layer;
    this.start = start;
    this.end = end;
  }
}

/** A part of a layer that is not on the disk, under the block cache's budget. */
class FetchedRange implements CacheEntry {
  readonly start: number;
  readonly bytes: Uint8Array;
  readonly heldBytes: number;
  chances = 1;
  place = -1;
  readonly #from: FetchedRange[];

  constructor(start: number, bytes: Uint8Array, from: FetchedRange[]) {
    this.start = start;
    this.bytes = bytes;
    this.heldBytes = bytes.length;
    this.#from = from;
  }

  forget(): void {
    this.#from.splice(this.#from.indexOf(this), 1);
  }
}

/**
 * An immutable file; loading is lazy, so that a timeline with a damaged layer loads and only the
 * reads that need the damaged part fail. `corrupt` names file and offset.
 */
export class LayerFile implements OpenableFile, BlockSource, WindowedFile {
  readonly path: string;
  readonly name: LayerName;
  readonly lsnStart: Lsn;
  readonly lsnEnd: Lsn;
  /** As the timeline's index has it; another size on disk is corruption. */
  readonly sizeBytes: number;
  readonly isImage: boolean;
  descriptor = -1;
  /** Whether the file is on the local disk. For TenantLayers to change. */
  isResident = true;
  /** Whether the object store has it, for sure. */
  isStored = false;
  /** Who needs the file to stay on the disk. */
  pins = 0;
  /** Bytes that were fetched of it in parts. For TenantLayers to count. */
  fetchedBytes = 0;
  /** When it was read last, on the clock of its resources. */
  lastUse = 0;
  readonly #resources: LayerResources;
  readonly #coversAllKeys: boolean;
  /** Of a layer that is not on the disk: what came for those who are reading it. */
  readonly #fetched: FetchedRange[] = [];
  /** Undefined while it is not in the cache. */
  #index: ResidentIndex | undefined;
  /** Where the key that was read last has its newest version. */
  #lastBlock = -1;
  /** Blocks that were come to one after the other, so far. */
  #scanned = 0;

  constructor(path: string, name: LayerName, sizeBytes: number, resources: LayerResources) {
    this.path = path;
    this.name = name;
    this.lsnStart = name.lsnStart;
    this.lsnEnd = name.lsnEnd;
    this.sizeBytes = sizeBytes;
    this.isImage = name.kind === LAYER_KIND_IMAGE;
    this.#resources = resources;
    this.#coversAllKeys = sameKey(name.keyStart, FIRST_KEY) && sameKey(name.keyEnd, LAST_KEY);
  }

  get fileName(): string {
    return basename(this.path);
  }

  /** Adds the key's versions at or below `maxLsn` to the chain; true when it is complete. */
  collect(
    prefix: KeyPrefix,
    index: number,
    hash: number,
    maxLsn: Lsn,
    chain: VersionChain,
  ): boolean {
    if (!this.#coversAllKeys && !this.#covers(prefix, index)) {
      return false;
    }
    const loaded = this.#index ?? this.#load();
    loaded.chances = INDEX_CHANCES;
    if (!mayContain(loaded, hash)) {
      return false;
    }
    this.lastUse = this.#resources.useClock.now;
    if (!this.isImage) {
      return this.#collectVersions(loaded, prefix, index, maxLsn, chain);
    }
    chain.dropDeltasUpTo(this.lsnStart);
    if (!this.#collectVersions(loaded, prefix, index, maxLsn, chain)) {
      // An image layer has every key of its range that exists at its LSN.
      chain.add(VALUE_TOMBSTONE, this.lsnStart, EMPTY, 0, 0);
    }
    return true;
  }

  #covers(prefix: KeyPrefix, index: number): boolean {
    const { keyStart, keyEnd } = this.name;
    const fromStart = comparePrefixes(keyStart.prefix, prefix) || keyStart.index - index;
    const toEnd = comparePrefixes(prefix, keyEnd.prefix) || index - keyEnd.index;
    return fromStart <= 0 && toEnd <= 0;
  }

  #collectVersions(
    loaded: ResidentIndex,
    prefix: KeyPrefix,
    index: number,
    maxLsn: Lsn,
    chain: VersionChain,
  ): boolean {
    let blockNumber = lastBlockAtOrBelow(loaded, prefix, index, maxLsn);
    this.#noteScan(blockNumber);
    while (blockNumber >= 0) {
      const block = this.#block(loaded, blockNumber, chain.reads);
      const key = findKey(block, prefix, index);
      if (key < 0) {
        return false;
      }
      if (this.#collectFromBlock(block, key, maxLsn, chain)) {
        return true;
      }
      if (key > 0) {
        return false;
      }
      // The key is the block's first: the block before may end with older versions of it.
      blockNumber--;
    }
    return false;
  }

  #collectFromBlock(block: LayerBlock, key: number, maxLsn: Lsn, chain: VersionChain): boolean {
    const first = firstEntry(block, key);
    let entry = endEntry(block, key) - 1;
    while (entry >= first && entryLsn(block, entry) > maxLsn) {
      entry--;
    }
    for (; entry >= first; entry--) {
      const start = valueStart(block, entry);
      const complete = chain.add(
        entryKind(block, entry),
        entryLsn(block, entry),
        block.bytes,
        start,
        valueEnd(block, entry) - start,
      );
      if (complete) {
        return true;
      }
    }
    return false;
  }

  /** Reports each key whose fields start with `fields`, from `first` (more fields) on; ascending, repeats possible. */
  collectKeys(
    fields: readonly number[],
    maxLsn: Lsn,
    report: (prefix: KeyPrefix, index: number) => void,
    first = fields,
  ): void {
    if (this.lsnStart > maxLsn) {
      return;
    }
    const loaded = this.#index ?? this.#load();
    loaded.chances = INDEX_CHANCES;
    const from = leastPrefix(first);
    const firstBlock = Math.max(0, lastBlockAtOrBelow(loaded, from, 0, 0 as Lsn));
    for (let number = firstBlock; number < loaded.blockCount; number++) {
      this.#noteScan(number);
      const block = this.#block(loaded, number, NO_READ);
      for (let key = 0; key < block.keyCount; key++) {
        const prefix = blockKeyPrefix(block, key);
        if (comparePrefixes(prefix, from) < 0) {
          continue;
        }
        if (prefixStartsWith(prefix, fields)) {
          report(prefix, blockKeyIndex(block, key));
        } else {
          return;
        }
      }
    }
  }

  /** All its blocks one after the other, past the cache. As reads of it, it ends when the file is closed for good. */
  *blocks(): Generator<LayerBlock> {
    const loaded = this.#index ?? this.#load();
    for (let number = 0; number < loaded.blockCount; number++) {
      const held = loaded.blocks[number];
      // Not in memory that scans use again, as who gets it may wait in between.
      yield held !== undefined && held.place >= 0 ? held : readBlock(this, loaded, number);
    }
  }

  #descriptor(): number {
    try {
      return this.#resources.openFiles.descriptorOf(this);
    } catch (error) {
      if (errnoCode(error) === "ENOENT") {
        throw corruptLayer(this.path, 0, "the file that the index names is missing");
      }
      throw this.#readError(error);
    }
  }

  #readError(error: unknown): StorageError {
    return error instanceof StorageError
      ? error
      : new StorageError("internal", "disk-error", `read ${this.path}: ${errorMessage(error)}`, {
          cause: error,
        });
  }

  read(offset: number, length: number): Uint8Array<ArrayBuffer> {
    if (!this.isResident) {
      return this.#readFetched(offset, offset + length);
    }
    const bytes = new Uint8Array(new ArrayBuffer(length));
    this.readInto(bytes, offset, length);
    return bytes;
  }

  lend(offset: number, length: number): Uint8Array {
    const lent = this.isResident
      ? this.#resources.readWindow.lend(this, offset, length)
      : undefined;
    return lent ?? this.read(offset, length);
  }

  /** Of a file that is on the disk. */
  readInto(into: Uint8Array, offset: number, length: number): void {
    const descriptor = this.#descriptor();
    const { disk } = this.#resources.openFiles;
    let done = 0;
    try {
      while (done < length) {
        const count = disk.read(descriptor, into, done, length - done, offset + done);
        if (count === 0) {
          throw corruptLayer(this.path, offset + done, "the file ends too early");
        }
        done += count;
      }
    } catch (error) {
      throw this.#readError(error);
    }
  }

  #readFetched(start: number, end: number): Uint8Array<ArrayBuffer> {
    const found = this.#fetched.find(
      (one) => one.start <= start && end <= one.start + one.bytes.length,
    );
    if (found === undefined) {
      throw new LayerNotResident(this, start, end);
    }
    const bytes = new Uint8Array(new ArrayBuffer(end - start));
    bytes.set(found.bytes.subarray(start - found.start, end - found.start));
    return bytes;
  }

  /** For the read that came to it, and for those to come. */
  takeFetched(start: number, bytes: Uint8Array): void {
    const range = new FetchedRange(start, bytes, this.#fetched);
    this.#fetched.unshift(range);
    this.#resources.blockCache.insert(range);
  }

  /** The file is about to leave the disk; what is in memory of it stays good. */
  leaveDisk(): void {
    this.isResident = false;
    this.#resources.openFiles.close(this);
    this.#resources.readWindow.forget(this);
  }

  #load(): ResidentIndex {
    if (this.isResident) {
      const size = this.#resources.openFiles.disk.size(this.#descriptor());
      if (size !== this.sizeBytes) {
        throw corruptLayer(this.path, size, `the file should have ${this.sizeBytes} bytes`);
      }
    }
    const { blockCache } = this.#resources;
    const loaded = new ResidentIndex(readLayerIndex(this), blockCache, () => {
      this.#index = undefined;
    });
    this.#index = loaded;
    blockCache.insert(loaded);
    return loaded;
  }

  #noteScan(blockNumber: number): void {
    const step = blockNumber - this.#lastBlock;
    this.#lastBlock = blockNumber;
    if (step < 0 || step > MAX_SCAN_STEP) {
      this.#scanned = 0;
    } else if (step > 0) {
      this.#scanned++;
    }
  }

  /** Good until the next key is read (`reads`), as what a scan comes to is not kept. */
  #block(loaded: ResidentIndex, blockNumber: number, reads: number): LayerBlock {
    const held = loaded.blocks[blockNumber];
    if (held !== undefined) {
      held.chances = BLOCK_CHANCES;
      held.lentTo = reads;
      return held;
    }
    const { scanBlocks } = this.#resources;
    const load = (memory?: BlockMemory) => readBlock(this, loaded, blockNumber, memory);
    const scanned =
      this.#scanned >= LEAST_SCANNED
        ? scanBlocks.read(loaded, blockNumber, reads, load)
        : undefined;
    if (scanned !== undefined) {
      scanned.lentTo = reads;
      return scanned;
    }
    const block = new CachedBlock(load(), loaded, blockNumber);
    loaded.keep(block);
    return block;
  }

  /** Gives back memory and descriptor; the layer can be read again later. */
  close(): void {
    this.#resources.openFiles.close(this);
    this.#resources.readWindow.forget(this);
    for (const range of [...this.#fetched]) {
      this.#resources.blockCache.evict(range);
    }
    if (this.#index !== undefined) {
      this.#resources.blockCache.evict(this.#index);
    }
  }
}

const EMPTY = new Uint8Array(0);

function sameKey(
  a: { prefix: KeyPrefix; index: number },
  b: { prefix: KeyPrefix; index: number },
): boolean {
  return samePrefix(a.prefix, b.prefix) && a.index === b.index;
}
