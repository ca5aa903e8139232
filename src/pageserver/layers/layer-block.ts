// One block of a layer file in memory: checks its bytes once, then finds keys and versions in them.

import { decompressLz4Block } from "../../postgres/compression/lz4.ts";
import { type KeyPrefix, keyPrefix } from "./key.ts";
import {
  BLOCK_BODY_AT,
  BLOCK_ENTRY_BYTES,
  BLOCK_HEADER_BYTES,
  BLOCK_KEY_BYTES,
  CODEC_LZ4,
  CODEC_RAW,
  compareKeyWords,
  corruptLayer,
  ENTRY_KIND_SHIFT,
  ENTRY_LSN_HIGH_MASK,
  layerChecksum,
  MAX_COMPRESSIBLE_BLOCK_BYTES,
} from "./layer-format.ts";
import { VALUE_TOMBSTONE } from "./version-chain.ts";

const KEY_WORDS = BLOCK_KEY_BYTES / 4;
const ENTRY_WORDS = BLOCK_ENTRY_BYTES / 4;
const KEYS_AT = BLOCK_HEADER_BYTES / 4;
/** Blocks are of a page and a little more, or of so many deltas, but for large values. */
export const REUSED_BYTES = 32 << 10;

/**
 * A checked block: keys ascend, entries [firstEntry, endEntry) of a key ascend by LSN, and a value is
 * `bytes[valueStart, valueEnd)`. `bytes` is the raw block and never changes.
 */
export interface LayerBlock {
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;
  readonly keyCount: number;
  readonly entryCount: number;
  /** Word offset of the entries, byte offset of the values. */
  readonly entriesAt: number;
  readonly valuesAt: number;
}

/** Memory of a block; it begins its buffer, a whole number of words. */
export type BlockMemory = (length: number) => Uint8Array<ArrayBuffer>;

/** With anything in it: zeros would be written over at once. */
const freshMemory: BlockMemory = (length) => new Uint8Array(Buffer.allocUnsafeSlow(length).buffer);

/** The same each time, but for blocks that are larger: of the blocks made with it only the last is good. */
export function reusedMemory(): BlockMemory {
  const bytes = freshMemory(REUSED_BYTES);
  return (length) => (length > REUSED_BYTES ? freshMemory(length) : bytes.subarray(0, length));
}

/**
 * `stored`, which may change afterwards, is a whole block of the file at `offset`. No step has to doubt an offset in
 * what is returned, whoever wrote the file; `corrupt` where that cannot be had.
 */
export function parseBlock(
  stored: Uint8Array,
  path: string,
  offset: number,
  memory = freshMemory,
): LayerBlock {
  const view = new DataView(stored.buffer, stored.byteOffset, stored.length);
  if (view.getUint32(0, true) !== layerChecksum(stored, 4, stored.length)) {
    throw corruptLayer(path, offset, "the block's checksum is wrong");
  }
  const codec = view.getUint32(4, true);
  if (codec !== CODEC_RAW && codec !== CODEC_LZ4) {
    throw corruptLayer(path, offset + 4, `codec ${codec & 0xff} is not known`);
  }
  const bytes =
    codec === CODEC_RAW ? copyOf(stored, memory) : decompress(stored, view, path, offset, memory);
  const words = new Uint32Array(bytes.buffer);
  const keyCount = words[2]!;
  const entryCount = words[3]!;
  const entriesAt = BLOCK_HEADER_BYTES + keyCount * BLOCK_KEY_BYTES;
  const valuesAt = entriesAt + entryCount * BLOCK_ENTRY_BYTES;
  if (keyCount === 0 || valuesAt > bytes.length) {
    throw corruptLayer(path, offset + 8, "the block's tables do not fit");
  }
  const block = { bytes, words, keyCount, entryCount, entriesAt: entriesAt / 4, valuesAt };
  checkTables(block, path, offset);
  return block;
}

function copyOf(stored: Uint8Array, memory: BlockMemory): Uint8Array<ArrayBuffer> {
  const bytes = memory(stored.length);
  bytes.set(stored);
  return bytes;
}

/** The raw block, without its first words. */
function decompress(
  stored: Uint8Array,
  view: DataView,
  path: string,
  offset: number,
  memory: BlockMemory,
): Uint8Array<ArrayBuffer> {
  const rawLength = view.getUint32(8, true);
  const length = view.getUint32(12, true);
  if (BLOCK_HEADER_BYTES + length > stored.length) {
    throw corruptLayer(path, offset + 12, "the compressed bytes lie outside the block");
  }
  if (
    rawLength < BLOCK_HEADER_BYTES ||
    rawLength % 8 !== 0 ||
    rawLength > MAX_COMPRESSIBLE_BLOCK_BYTES
  ) {
    throw corruptLayer(path, offset + 8, `a raw block cannot have ${rawLength} bytes`);
  }
  const raw = memory(rawLength);
  const source = stored.subarray(BLOCK_HEADER_BYTES, BLOCK_HEADER_BYTES + length);
  if (!decompressLz4Block(source, raw.subarray(BLOCK_BODY_AT))) {
    throw corruptLayer(path, offset, `the block does not decompress to ${rawLength} bytes`);
  }
  return raw;
}

function checkTables(block: LayerBlock, path: string, offset: number): void {
  const { words, keyCount, entryCount } = block;
  let first = -1;
  for (let key = 0; key < keyCount; key++) {
    const next = firstEntry(block, key);
    if (next <= first || next >= entryCount || (key === 0 && next !== 0)) {
      throw corruptLayer(path, offset, "the block's keys are out of order");
    }
    first = next;
  }
  let end = 0;
  for (let entry = 0; entry < entryCount; entry++) {
    const at = block.entriesAt + entry * ENTRY_WORDS;
    if (words[at + 2]! < end || words[at + 1]! >>> ENTRY_KIND_SHIFT > VALUE_TOMBSTONE) {
      throw corruptLayer(path, offset, "the block's entries are out of order");
    }
    end = words[at + 2]!;
  }
  if (block.valuesAt + end > block.bytes.length) {
    throw corruptLayer(path, offset, "the block's values lie outside it");
  }
}

/** Number of the key in the block, or -1. */
export function findKey(block: LayerBlock, prefix: KeyPrefix, index: number): number {
  let low = 0;
  let high = block.keyCount - 1;
  while (low <= high) {
    const middle = (low + high) >>> 1;
    const order = compareKeyWords(block.words, KEYS_AT + middle * KEY_WORDS, prefix, index);
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

export function blockKeyPrefix({ words }: LayerBlock, key: number): KeyPrefix {
  const at = KEYS_AT + key * KEY_WORDS;
  const ends = words[at]!;
  return keyPrefix(
    ends & 0xff,
    words[at + 1]!,
    words[at + 2]!,
    words[at + 3]!,
    (ends >>> 8) & 0xff,
  );
}

export function blockKeyIndex(block: LayerBlock, key: number): number {
  return block.words[KEYS_AT + key * KEY_WORDS + 4]!;
}

export function firstEntry(block: LayerBlock, key: number): number {
  return block.words[KEYS_AT + key * KEY_WORDS + 5]!;
}

export function endEntry(block: LayerBlock, key: number): number {
  return key + 1 < block.keyCount ? firstEntry(block, key + 1) : block.entryCount;
}

/** A number and not an Lsn: who wrote the file may have put anything below 2^56 here. */
export function entryLsn(block: LayerBlock, entry: number): number {
  const at = block.entriesAt + entry * ENTRY_WORDS;
  return (block.words[at + 1]! & ENTRY_LSN_HIGH_MASK) * 0x1_0000_0000 + block.words[at]!;
}

/** One of the VALUE_ kinds. */
export function entryKind(block: LayerBlock, entry: number): number {
  return block.words[block.entriesAt + entry * ENTRY_WORDS + 1]! >>> ENTRY_KIND_SHIFT;
}

export function valueStart(block: LayerBlock, entry: number): number {
  const at = block.entriesAt + entry * ENTRY_WORDS;
  return block.valuesAt + (entry === 0 ? 0 : block.words[at - 1]!);
}

export function valueEnd(block: LayerBlock, entry: number): number {
  return block.valuesAt + block.words[block.entriesAt + entry * ENTRY_WORDS + 2]!;
}
