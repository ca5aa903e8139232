// Layer files on disk: layout, names and checks shared by the writer and the reader.
//
// Ours, format versions 1 and 2. Little-endian; every block and section starts at a multiple of 8. Immutable.
//
//   file:   header (8) | blocks | block index | key filter | footer (64)
//
// header, and the first 8 bytes of the footer
//   offset size field
//        0    4 magic 0x5259_4C53 ("SLYR")
//        4    2 format version
//        6    1 kind: 0 image layer, 1 delta layer
//        7    1 zero
// block: versions sorted by key, then LSN, then order of arrival
//        0    4 CRC-32 of the block from offset 4 to its end, as it is stored
//        4    1 codec: 0 raw; 1 LZ4, from version 2 on
//        5    3 zero
// LZ4:   8    4 length of the raw block, at most 16 MiB
//       12    4 length of the compressed bytes (C)
//       16    C the raw block from offset 8 on, as one LZ4 block, then zeros up to a multiple of 8
// raw:   8    4 number of keys (K)
//       12    4 number of entries (E)
//       16 24*K keys: u8 f1, u8 f5, u16 zero, u32 f2, u32 f3, u32 f4, u32 index, u32 first entry
//        . 12*E entries: u32 LSN low; u32 LSN high (24 bits) + value kind << 24; u32 end of the value,
//               from the start of the values; the value starts where the entry before ends
//        .    . values, then zeros up to a multiple of 8
// block index: one element of 36 bytes a block, ascending
//        0   20 first key, as in a block, without its first entry
//       20    8 first LSN: u32 low, u32 high
//       28    4 offset of the block in the file
//       32    4 length of the block
// key filter (delta layers): a Bloom filter of 64-byte lines, see `filterProbe`; absent where length 0
// footer, the last 64 bytes
//        8    4 offset, 12 4 length, 16 4 CRC-32 of the block index
//       20    4 offset, 24 4 length, 28 4 CRC-32 of the key filter
//       32    4 CRC-32 of the layer's name without its suffix: finds files that changed places
//       36    4 number of keys (saturating)
//       40   20 zero
//       60    4 CRC-32 of the footer before this field
//
// The checksum is zlib's CRC-32 and not CRC-32C, since Node computes it natively: 3.4 us a page
// instead of 7.9, and a cold page read costs about 10 in all. Timeline and tenant are not in the file:
// an imported layer is hard-linked into many timelines.
// A reader that finds anything wrong reports `corrupt` with file and offset, and no other file suffers.

import { crc32 } from "node:zlib";
import { StorageError } from "../../base/errors.ts";
import { type Lsn, lsnHigh, lsnLow, toLsn } from "../../base/lsn.ts";
import {
  decodeKey,
  FIRST_METADATA_KEYSPACE,
  formatKey,
  type KeyPrefix,
  keyPrefix,
  prefixField1,
  prefixField2,
  prefixField3,
  prefixField4,
  prefixField5,
} from "./key.ts";

export const LAYER_MAGIC = 0x52594c53;
export const LAYER_KIND_IMAGE = 0;
export const LAYER_KIND_DELTA = 1;
export const LAYER_HEADER_BYTES = 8;
export const LAYER_FOOTER_BYTES = 64;

export const BLOCK_HEADER_BYTES = 16;
export const BLOCK_KEY_BYTES = 24;
export const BLOCK_ENTRY_BYTES = 12;
export const INDEX_ENTRY_BYTES = 36;
export const CODEC_RAW = 0;
export const CODEC_LZ4 = 1;
/** Where the part of a raw block begins that is compressed. */
export const BLOCK_BODY_AT = 8;
/** A larger block (one huge value) stays raw, so that a hostile one cannot ask for more memory. */
export const MAX_COMPRESSIBLE_BLOCK_BYTES = 16 << 20;

/** Value kind in the top byte of an entry's second word; LSNs are below 2^53, so their high half is below 2^21. */
export const ENTRY_KIND_SHIFT = 24;
export const ENTRY_LSN_HIGH_MASK = 0xff_ffff;

export const FILTER_LINE_BYTES = 64;
const FILTER_LINE_BITS = FILTER_LINE_BYTES * 8;
/** 0.2 % of absent keys get through, each at the price of a block. */
export const FILTER_BITS_PER_KEY = 16;
export const FILTER_PROBES = 6;

/** CRC-32 of bytes [start, end), as zlib has it; the checksum of everything in a layer file. */
export function layerChecksum(bytes: Uint8Array, start: number, end: number): number {
  return crc32(bytes.subarray(start, end));
}

/** Order of the key at `words[at]`, of a block or the index, against (prefix, index): negative where it is lower. */
export function compareKeyWords(
  words: Uint32Array,
  at: number,
  prefix: KeyPrefix,
  index: number,
): number {
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

/** The line of a key's bits. `hash`: keyHash. */
export function filterLine(hash: number, lineCount: number): number {
  return (hash >>> 0) % lineCount;
}

/** Bit [0, 512) of probe number `probe` in the key's line. */
export function filterProbe(hash: number, probe: number): number {
  // Another multiplication, so that the bits in a line do not follow from the choice of the line.
  const other = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  return ((other >>> 5) + probe * ((other >>> 17) | 1)) % FILTER_LINE_BITS;
}

/** What a layer covers: keys [keyStart, keyEnd], LSNs [lsnStart, lsnEnd). */
export interface LayerName {
  readonly kind: typeof LAYER_KIND_IMAGE | typeof LAYER_KIND_DELTA;
  readonly keyStart: { readonly prefix: KeyPrefix; readonly index: number };
  /** Inclusive, in memory and in the name: the last key of all has no successor. */
  readonly keyEnd: { readonly prefix: KeyPrefix; readonly index: number };
  readonly lsnStart: Lsn;
  /** An image layer covers [lsn, lsn + 1). */
  readonly lsnEnd: Lsn;
}

export const FIRST_KEY = { prefix: keyPrefix(0, 0, 0, 0, 0), index: 0 };
export const LAST_KEY = {
  prefix: keyPrefix(0xff, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff, 0xff),
  index: 0xffff_ffff,
};

/** From here on keys are metadata: small values, which every start of a compute reads. Blocks and relation maps are below. */
export const FIRST_METADATA_KEY = {
  prefix: keyPrefix(FIRST_METADATA_KEYSPACE, 0, 0, 0, 0),
  index: 0,
};

/** Whether a layer's key range reaches to the metadata: ingest reads such keys. */
export function mayHaveMetadata({ keyEnd }: LayerName): boolean {
  return isMetadataPrefix(keyEnd.prefix);
}

/**
 * Tells apart layers of one timeline that cover the same. Each life of a pageserver process has a
 * generation of its own, so a life never writes over a file that another one made.
 */
export interface LayerNumber {
  /** [1, 2^32). */
  readonly generation: number;
  /** In that generation, [0, 2^32). */
  readonly sequence: number;
}

/** Of layers that are made outside of any tenant, and of those that homes of version 1 have. */
export const FIRST_LAYER_NUMBER: LayerNumber = { generation: 1, sequence: 0 };

/** Format version 1 of an index had `-v1-<generation>` behind the name proper. */
const NAME =
  /^([0-9A-F]{36})-([0-9A-F]{36})__([0-9A-F]{16})(?:-([0-9A-F]{16}))?(?:-v1-[0-9a-f]{8}|-[0-9a-f]{8}-[0-9a-f]{8})?$/;

function formatLsn16(lsn: Lsn): string {
  const hex = (value: number) => value.toString(16).toUpperCase().padStart(8, "0");
  return hex(lsnHigh(lsn)) + hex(lsnLow(lsn));
}

/** The name proper, as the footer's checksum covers it. */
export function formatLayerName(name: LayerName): string {
  const first = formatKey(name.keyStart.prefix, name.keyStart.index);
  const last = formatKey(name.keyEnd.prefix, name.keyEnd.index);
  const lsns =
    name.kind === LAYER_KIND_IMAGE
      ? formatLsn16(name.lsnStart)
      : `${formatLsn16(name.lsnStart)}-${formatLsn16(name.lsnEnd)}`;
  return `${first}-${last}__${lsns}`;
}

export function layerFileName(name: LayerName, { generation, sequence }: LayerNumber): string {
  const hex = (value: number) => value.toString(16).padStart(8, "0");
  return `${formatLayerName(name)}-${hex(generation)}-${hex(sequence)}`;
}

/** Undefined where it is not the name of a layer file. */
export function parseLayerFileName(fileName: string): LayerName | undefined {
  const match = NAME.exec(fileName);
  if (match === null) {
    return undefined;
  }
  const [, first, last, start, end] = match;
  try {
    const lsnStart = toLsn(Number.parseInt(start!, 16));
    return {
      kind: end === undefined ? LAYER_KIND_IMAGE : LAYER_KIND_DELTA,
      keyStart: decodeKey(Buffer.from(first!, "hex")),
      keyEnd: decodeKey(Buffer.from(last!, "hex")),
      lsnStart,
      lsnEnd: toLsn(end === undefined ? lsnStart + 1 : Number.parseInt(end, 16)),
    };
  } catch {
    return undefined;
  }
}

export function layerNameChecksum(name: LayerName): number {
  return crc32(formatLayerName(name));
}

export function isMetadataPrefix(prefix: KeyPrefix): boolean {
  return prefixField1(prefix) >= FIRST_METADATA_KEYSPACE;
}

export function corruptLayer(path: string, offset: number, what: string): StorageError {
  return new StorageError("corrupt", "corrupt-layer", `layer ${path}, offset ${offset}: ${what}`, {
    fields: { path, offset },
  });
}
