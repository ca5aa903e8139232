// Block index and key filter of a layer file: reads and checks them, and says where a key may be.

import { type Lsn, lsnHigh, lsnLow } from "../../base/lsn.ts";
import { LAYER_FORMAT_VERSION } from "./format-versions.ts";
import type { KeyPrefix } from "./key.ts";
import { type BlockMemory, type LayerBlock, parseBlock } from "./layer-block.ts";
import {
  BLOCK_HEADER_BYTES,
  compareKeyWords,
  corruptLayer,
  FILTER_LINE_BYTES,
  FILTER_PROBES,
  filterLine,
  filterProbe,
  INDEX_ENTRY_BYTES,
  LAYER_FOOTER_BYTES,
  LAYER_HEADER_BYTES,
  LAYER_MAGIC,
  type LayerName,
  layerChecksum,
  layerNameChecksum,
} from "./layer-format.ts";

const INDEX_WORDS = INDEX_ENTRY_BYTES / 4;

/** Where the bytes of a layer come from. */
export interface LayerSource {
  /** For errors. */
  readonly path: string;
  readonly name: LayerName;
  /** As the timeline's index has it, and the source's true size. */
  readonly sizeBytes: number;
  /** Bytes [offset, offset + length), in a buffer of their own that the caller keeps. */
  read(offset: number, length: number): Uint8Array<ArrayBuffer>;
}

export interface BlockSource extends LayerSource {
  /** As `read`, good until the next call. */
  lend(offset: number, length: number): Uint8Array;
}

export interface LayerIndex {
  /** INDEX_WORDS a block. */
  readonly words: Uint32Array;
  readonly blockCount: number;
  readonly filter: Uint8Array;
  /** 0: there is no filter. */
  readonly filterLines: number;
}

/** `corrupt`, with file and offset, where header, footer, index or filter are wrong. */
export function readLayerIndex(source: LayerSource): LayerIndex {
  const { path, sizeBytes } = source;
  if (sizeBytes < LAYER_HEADER_BYTES + LAYER_FOOTER_BYTES) {
    throw corruptLayer(path, 0, "the file is too short for a layer");
  }
  const footerAt = sizeBytes - LAYER_FOOTER_BYTES;
  const footer = source.read(footerAt, LAYER_FOOTER_BYTES);
  const view = new DataView(footer.buffer);
  checkHeader(source, new DataView(source.read(0, LAYER_HEADER_BYTES).buffer), 0);
  checkHeader(source, view, footerAt);
  if (view.getUint32(60, true) !== layerChecksum(footer, 0, 60)) {
    throw corruptLayer(path, footerAt, "the footer's checksum is wrong");
  }
  if (view.getUint32(32, true) !== layerNameChecksum(source.name)) {
    throw corruptLayer(path, footerAt, "the file belongs to another layer");
  }
  const index = readSection(source, view, 8, INDEX_ENTRY_BYTES, "block index");
  const filter = readSection(source, view, 20, FILTER_LINE_BYTES, "key filter");
  return {
    words: new Uint32Array(index.buffer),
    blockCount: index.length / INDEX_ENTRY_BYTES,
    filter,
    filterLines: filter.length / FILTER_LINE_BYTES,
  };
}

function checkHeader({ path, name }: LayerSource, view: DataView, offset: number): void {
  if (view.getUint32(0, true) !== LAYER_MAGIC) {
    throw corruptLayer(path, offset, "this is not a layer file");
  }
  const version = view.getUint16(4, true);
  if (version < 1 || version > LAYER_FORMAT_VERSION) {
    throw corruptLayer(path, offset + 4, `format version ${version} is not known`);
  }
  if (view.getUint8(6) !== name.kind) {
    throw corruptLayer(path, offset + 6, "the layer's kind is not what its name says");
  }
}

function readSection(
  source: LayerSource,
  footer: DataView,
  field: number,
  elementBytes: number,
  what: string,
): Uint8Array<ArrayBuffer> {
  const { path } = source;
  const footerAt = source.sizeBytes - LAYER_FOOTER_BYTES;
  const offset = footer.getUint32(field, true);
  const length = footer.getUint32(field + 4, true);
  if (offset + length > footerAt || length % elementBytes !== 0) {
    throw corruptLayer(path, footerAt + field, `the ${what} lies outside the file`);
  }
  const bytes = source.read(offset, length);
  if (layerChecksum(bytes, 0, length) !== footer.getUint32(field + 8, true)) {
    throw corruptLayer(path, offset, `the ${what}'s checksum is wrong`);
  }
  return bytes;
}

/** False where the layer certainly has no version of the key. `hash`: keyHash. */
export function mayContain(index: LayerIndex, hash: number): boolean {
  if (index.filterLines === 0) {
    return true;
  }
  const start = filterLine(hash, index.filterLines) * FILTER_LINE_BYTES;
  for (let probe = 0; probe < FILTER_PROBES; probe++) {
    const bit = filterProbe(hash, probe);
    if ((index.filter[start + (bit >>> 3)]! & (1 << (bit & 7))) === 0) {
      return false;
    }
  }
  return true;
}

/** The last block whose first (key, LSN) is not above the given one; -1 where all are above. */
export function lastBlockAtOrBelow(
  { words, blockCount }: LayerIndex,
  prefix: KeyPrefix,
  index: number,
  lsn: Lsn,
): number {
  const low32 = lsnLow(lsn);
  const high32 = lsnHigh(lsn);
  let low = 0;
  let high = blockCount;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const at = middle * INDEX_WORDS;
    const order =
      compareKeyWords(words, at, prefix, index) ||
      words[at + 6]! - high32 ||
      words[at + 5]! - low32;
    if (order <= 0) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low - 1;
}

/** Reads and checks a block, in memory of its own or in `memory`; `corrupt` where it is damaged or not in the file. */
export function readBlock(
  source: BlockSource,
  index: LayerIndex,
  blockNumber: number,
  memory?: BlockMemory,
): LayerBlock {
  const at = blockNumber * INDEX_WORDS;
  const offset = index.words[at + 7]!;
  const length = index.words[at + 8]!;
  if (length < BLOCK_HEADER_BYTES || length % 8 !== 0 || offset + length > source.sizeBytes) {
    throw corruptLayer(source.path, offset, "the block lies outside the file");
  }
  return parseBlock(source.lend(offset, length), source.path, offset, memory);
}
