// Reads one layer file: finds a key's versions through the block index, verifying every block it loads.

import { basename } from "node:path";
import { errnoCode, errorMessage, StorageError } from "../../base/errors.ts";
import { type Lsn, lsnHigh, lsnLow } from "../../base/lsn.ts";
import type { BlockCache, CachedBlock, OpenableFile, OpenFiles } from "./block-cache.ts";
import { LAYER_FORMAT_VERSION } from "./format-versions.ts";
import {
  comparePrefixes,
  internPrefix,
  type KeyPrefix,
  prefixField1,
  prefixField2,
  prefixField3,
  prefixField4,
  prefixField5,
  prefixStartsWith,
} from "./key.ts";
import {
  BLOCK_ENTRY_BYTES,
  BLOCK_HEADER_BYTES,
  BLOCK_KEY_BYTES,
  CODEC_RAW,
  corruptLayer,
  ENTRY_KIND_SHIFT,
  ENTRY_LSN_HIGH_MASK,
  FILTER_LINE_BYTES,
  FILTER_PROBES,
  FIRST_KEY,
  filterLine,
  filterProbe,
  INDEX_ENTRY_BYTES,
  LAST_KEY,
  LAYER_FOOTER_BYTES,
  LAYER_HEADER_BYTES,
  LAYER_KIND_IMAGE,
  LAYER_MAGIC,
  type LayerName,
  layerChecksum,
  layerNameChecksum,
} from "./layer-format.ts";
import { VALUE_TOMBSTONE, type VersionChain } from "./version-chain.ts";

const INDEX_WORDS = INDEX_ENTRY_BYTES / 4;
const KEY_WORDS = BLOCK_KEY_BYTES / 4;
const ENTRY_WORDS = BLOCK_ENTRY_BYTES / 4;
const KEYS_AT = BLOCK_HEADER_BYTES / 4;

/** What all layers of a process share. */
export interface LayerResources {
  readonly blockCache: BlockCache;
  readonly openFiles: OpenFiles;
}

/** Block index and filter, loaded at the first read of the layer and kept. */
interface LoadedIndex {
  /** INDEX_WORDS a block. */
  readonly words: Uint32Array;
  readonly blockCount: number;
  readonly filter: Uint8Array;
  readonly filterLines: number;
}

/**
 * An immutable file; loading is lazy, so that a timeline with a damaged layer loads and only the
 * reads that need the damaged part fail. `corrupt` names file and offset.
 */
export class LayerFile implements OpenableFile {
  readonly path: string;
  readonly name: LayerName;
  readonly lsnStart: Lsn;
  readonly lsnEnd: Lsn;
  /** As the timeline's index has it; another size on disk is corruption. */
  readonly sizeBytes: number;
  readonly isImage: boolean;
  descriptor = -1;
  readonly #resources: LayerResources;
  readonly #coversAllKeys: boolean;
  #index: LoadedIndex | undefined;
  readonly #blocks: (CachedBlock | undefined)[] = [];

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
    if (loaded.filterLines > 0 && !mayContain(loaded, hash)) {
      return false;
    }
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
    loaded: LoadedIndex,
    prefix: KeyPrefix,
    index: number,
    maxLsn: Lsn,
    chain: VersionChain,
  ): boolean {
    let blockNumber = lastBlockAtOrBelow(loaded, prefix, index, maxLsn);
    while (blockNumber >= 0) {
      const block = this.#blocks[blockNumber] ?? this.#loadBlock(loaded, blockNumber);
      block.referenced = true;
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

  #collectFromBlock(block: CachedBlock, key: number, maxLsn: Lsn, chain: VersionChain): boolean {
    const { words } = block;
    const first = words[KEYS_AT + key * KEY_WORDS + 5]!;
    const end =
      key + 1 < block.keyCount ? words[KEYS_AT + (key + 1) * KEY_WORDS + 5]! : block.entryCount;
    let entry = end - 1;
    while (entry >= first && entryLsn(block, entry) > maxLsn) {
      entry--;
    }
    for (; entry >= first; entry--) {
      const at = block.entriesAt + entry * ENTRY_WORDS;
      const start = entry === 0 ? 0 : words[at - 1]!;
      const complete = chain.add(
        words[at + 1]! >>> ENTRY_KIND_SHIFT,
        entryLsn(block, entry),
        block.bytes,
        block.valuesAt + start,
        words[at + 2]! - start,
      );
      if (complete) {
        return true;
      }
    }
    return false;
  }

  /** Reports each key whose fields start with `fields`, ascending, repeats possible. */
  collectKeys(
    fields: readonly number[],
    maxLsn: Lsn,
    report: (prefix: KeyPrefix, index: number) => void,
  ): void {
    if (this.lsnStart > maxLsn) {
      return;
    }
    const loaded = this.#index ?? this.#load();
    const [f1 = 0, f2 = 0, f3 = 0, f4 = 0, f5 = 0] = fields;
    const from = internPrefix(f1, f2, f3, f4, f5);
    const firstBlock = Math.max(0, lastBlockAtOrBelow(loaded, from, 0, 0 as Lsn));
    for (let number = firstBlock; number < loaded.blockCount; number++) {
      const block = this.#blocks[number] ?? this.#loadBlock(loaded, number);
      for (let key = 0; key < block.keyCount; key++) {
        const at = KEYS_AT + key * KEY_WORDS;
        const prefix = prefixAt(block.words, at);
        if (prefixStartsWith(prefix, fields)) {
          report(prefix, block.words[at + 4]!);
        } else if (comparePrefixes(prefix, from) > 0) {
          return;
        }
      }
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

  #read(offset: number, length: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(new ArrayBuffer(length));
    const descriptor = this.#descriptor();
    const { disk } = this.#resources.openFiles;
    let done = 0;
    try {
      while (done < length) {
        const count = disk.read(descriptor, bytes, done, length - done, offset + done);
        if (count === 0) {
          throw corruptLayer(this.path, offset + done, "the file ends too early");
        }
        done += count;
      }
    } catch (error) {
      throw this.#readError(error);
    }
    return bytes;
  }

  #load(): LoadedIndex {
    const size = this.#resources.openFiles.disk.size(this.#descriptor());
    if (size !== this.sizeBytes) {
      throw corruptLayer(this.path, size, `the file should have ${this.sizeBytes} bytes`);
    }
    if (size < LAYER_HEADER_BYTES + LAYER_FOOTER_BYTES) {
      throw corruptLayer(this.path, 0, "the file is too short for a layer");
    }
    const footerAt = size - LAYER_FOOTER_BYTES;
    const footer = this.#read(footerAt, LAYER_FOOTER_BYTES);
    const view = new DataView(footer.buffer);
    this.#checkHeader(new DataView(this.#read(0, LAYER_HEADER_BYTES).buffer), 0);
    this.#checkHeader(view, footerAt);
    if (view.getUint32(60, true) !== layerChecksum(footer, 0, 60)) {
      throw corruptLayer(this.path, footerAt, "the footer's checksum is wrong");
    }
    if (view.getUint32(32, true) !== layerNameChecksum(this.name)) {
      throw corruptLayer(this.path, footerAt, "the file belongs to another layer");
    }
    const index = this.#readSection(view, 8, footerAt, INDEX_ENTRY_BYTES, "block index");
    const filter = this.#readSection(view, 20, footerAt, FILTER_LINE_BYTES, "key filter");
    this.#index = {
      words: new Uint32Array(index.buffer),
      blockCount: index.length / INDEX_ENTRY_BYTES,
      filter,
      filterLines: filter.length / FILTER_LINE_BYTES,
    };
    return this.#index;
  }

  #checkHeader(view: DataView, offset: number): void {
    if (view.getUint32(0, true) !== LAYER_MAGIC) {
      throw corruptLayer(this.path, offset, "this is not a layer file");
    }
    const version = view.getUint16(4, true);
    if (version !== LAYER_FORMAT_VERSION) {
      throw corruptLayer(this.path, offset + 4, `format version ${version} is not known`);
    }
    if (view.getUint8(6) !== this.name.kind) {
      throw corruptLayer(this.path, offset + 6, "the layer's kind is not what its name says");
    }
  }

  #readSection(
    footer: DataView,
    field: number,
    footerAt: number,
    elementBytes: number,
    what: string,
  ): Uint8Array<ArrayBuffer> {
    const offset = footer.getUint32(field, true);
    const length = footer.getUint32(field + 4, true);
    if (offset + length > footerAt || length % elementBytes !== 0) {
      throw corruptLayer(this.path, footerAt + field, `the ${what} lies outside the file`);
    }
    const bytes = this.#read(offset, length);
    if (layerChecksum(bytes, 0, length) !== footer.getUint32(field + 8, true)) {
      throw corruptLayer(this.path, offset, `the ${what}'s checksum is wrong`);
    }
    return bytes;
  }

  #loadBlock(loaded: LoadedIndex, blockNumber: number): CachedBlock {
    const at = blockNumber * INDEX_WORDS;
    const offset = loaded.words[at + 7]!;
    const length = loaded.words[at + 8]!;
    if (length < BLOCK_HEADER_BYTES || length % 8 !== 0 || offset + length > this.sizeBytes) {
      throw corruptLayer(this.path, offset, "the block lies outside the file");
    }
    const bytes = this.#read(offset, length);
    const words = new Uint32Array(bytes.buffer);
    if (words[0] !== layerChecksum(bytes, 4, length)) {
      throw corruptLayer(this.path, offset, "the block's checksum is wrong");
    }
    if (words[1] !== CODEC_RAW) {
      throw corruptLayer(this.path, offset + 4, `codec ${words[1]! & 0xff} is not known`);
    }
    const keyCount = words[2]!;
    const entryCount = words[3]!;
    const entriesAt = BLOCK_HEADER_BYTES + keyCount * BLOCK_KEY_BYTES;
    const valuesAt = entriesAt + entryCount * BLOCK_ENTRY_BYTES;
    if (keyCount === 0 || valuesAt > length) {
      throw corruptLayer(this.path, offset + 8, "the block's tables do not fit");
    }
    const block: CachedBlock = {
      bytes,
      words,
      keyCount,
      entryCount,
      entriesAt: entriesAt / 4,
      valuesAt,
      home: this.#blocks,
      blockNumber,
      referenced: true,
    };
    this.#checkTables(block, offset);
    this.#resources.blockCache.insert(block);
    return block;
  }

  /** So that no later step has to doubt an offset, whoever wrote the file. */
  #checkTables(block: CachedBlock, offset: number): void {
    const { words, keyCount, entryCount } = block;
    let firstEntry = -1;
    for (let key = 0; key < keyCount; key++) {
      const first = words[KEYS_AT + key * KEY_WORDS + 5]!;
      if (first <= firstEntry || first >= entryCount || (key === 0 && first !== 0)) {
        throw corruptLayer(this.path, offset, "the block's keys are out of order");
      }
      firstEntry = first;
    }
    let end = 0;
    for (let entry = 0; entry < entryCount; entry++) {
      const at = block.entriesAt + entry * ENTRY_WORDS;
      if (words[at + 2]! < end || words[at + 1]! >>> ENTRY_KIND_SHIFT > VALUE_TOMBSTONE) {
        throw corruptLayer(this.path, offset, "the block's entries are out of order");
      }
      end = words[at + 2]!;
    }
    if (block.valuesAt + end > block.bytes.length) {
      throw corruptLayer(this.path, offset, "the block's values lie outside it");
    }
  }

  /** Gives back memory and descriptor; the layer can be read again later. */
  close(): void {
    this.#resources.openFiles.close(this);
    this.#resources.blockCache.drop(this.#blocks);
    this.#index = undefined;
  }
}

const EMPTY = new Uint8Array(0);

function sameKey(
  a: { prefix: KeyPrefix; index: number },
  b: { prefix: KeyPrefix; index: number },
): boolean {
  return a.prefix === b.prefix && a.index === b.index;
}

function mayContain(loaded: LoadedIndex, hash: number): boolean {
  const start = filterLine(hash, loaded.filterLines) * FILTER_LINE_BYTES;
  for (let probe = 0; probe < FILTER_PROBES; probe++) {
    const bit = filterProbe(hash, probe);
    if ((loaded.filter[start + (bit >>> 3)]! & (1 << (bit & 7))) === 0) {
      return false;
    }
  }
  return true;
}

function entryLsn(block: CachedBlock, entry: number): number {
  const at = block.entriesAt + entry * ENTRY_WORDS;
  return (block.words[at + 1]! & ENTRY_LSN_HIGH_MASK) * 0x1_0000_0000 + block.words[at]!;
}

/** Order of the key at `words[at]` against (prefix, index): negative where it is lower. */
function compareKeyAt(words: Uint32Array, at: number, prefix: KeyPrefix, index: number): number {
  const ends = words[at]!;
  return (
    (ends & 0xff) - prefixField1(prefix) ||
    words[at + 1]! - prefixField2(prefix) ||
    words[at + 2]! - prefixField3(prefix) ||
    words[at + 3]! - prefixField4(prefix) ||
    ((ends >>> 8) & 0xff) - prefixField5(prefix) ||
    words[at + 4]! - index
  );
}

function prefixAt(words: Uint32Array, at: number): KeyPrefix {
  const ends = words[at]!;
  return internPrefix(
    ends & 0xff,
    words[at + 1]!,
    words[at + 2]!,
    words[at + 3]!,
    (ends >>> 8) & 0xff,
  );
}

/** The last block whose first (key, LSN) is not above the given one; -1 where all are above. */
function lastBlockAtOrBelow(
  loaded: LoadedIndex,
  prefix: KeyPrefix,
  index: number,
  lsn: Lsn,
): number {
  const { words } = loaded;
  const low32 = lsnLow(lsn);
  const high32 = lsnHigh(lsn);
  let low = 0;
  let high = loaded.blockCount;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const at = middle * INDEX_WORDS;
    const order =
      compareKeyAt(words, at, prefix, index) || words[at + 6]! - high32 || words[at + 5]! - low32;
    if (order <= 0) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low - 1;
}

/** Number of the key in the block, or -1. */
function findKey(block: CachedBlock, prefix: KeyPrefix, index: number): number {
  let low = 0;
  let high = block.keyCount - 1;
  while (low <= high) {
    const middle = (low + high) >>> 1;
    const order = compareKeyAt(block.words, KEYS_AT + middle * KEY_WORDS, prefix, index);
    if (order === 0) {
      return middle;
    }
    if (order < 0) {
      low = middle + 1;
    } else {
      high = middle - 1;
    }
  }
  return -1;
}
