// Writes one layer file: versions in key and LSN order become checksummed blocks, index and filter.

import assert from "node:assert/strict";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { type BackgroundDisk, type Disk, diskError, REAL_DISK } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import { type Lsn, lsnHigh, lsnLow } from "../../base/lsn.ts";
import { randomBytes } from "../../base/random.ts";
import { compressLz4Block } from "../../postgres/compression/lz4.ts";
import { LAYER_FORMAT_VERSION } from "./format-versions.ts";
import {
  comparePrefixes,
  type KeyPrefix,
  keyHash,
  prefixField1,
  prefixField2,
  prefixField3,
  prefixField4,
  prefixField5,
  samePrefix,
} from "./key.ts";
import {
  BLOCK_BODY_AT,
  BLOCK_ENTRY_BYTES,
  BLOCK_HEADER_BYTES,
  BLOCK_KEY_BYTES,
  CODEC_LZ4,
  CODEC_RAW,
  compareKeyWords,
  ENTRY_KIND_SHIFT,
  FILTER_BITS_PER_KEY,
  FILTER_LINE_BYTES,
  FILTER_PROBES,
  FIRST_KEY,
  FIRST_LAYER_NUMBER,
  filterLine,
  filterProbe,
  INDEX_ENTRY_BYTES,
  LAYER_FOOTER_BYTES,
  LAYER_HEADER_BYTES,
  LAYER_KIND_DELTA,
  LAYER_MAGIC,
  type LayerName,
  type LayerNumber,
  layerFileName,
  layerNameChecksum,
  MAX_COMPRESSIBLE_BLOCK_BYTES,
} from "./layer-format.ts";

/** A finished layer file, as the index names it. */
export interface LayerDescription {
  readonly fileName: string;
  readonly sizeBytes: number;
}

// A random read checks a whole block, so blocks stay near one page; a page has one to itself.
const IMAGE_BLOCK_BYTES = 8192;
const DELTA_BLOCK_BYTES = 16384;
/** A small layer needs no more: room for two writes in each would be 4 MB of new memory for whatever it is. */
const FIRST_OUT_BYTES = 1 << 16;
/** Making a view of the source for `set` costs as much as copying this many bytes, eight at a time. */
const COPY_BY_WORDS_BYTES = 160;
/** A block that compression does not make this much smaller is stored raw: reading it costs less. */
const WORTHWHILE_SHARE = 7 / 8;
/** Offsets in the file are 32 bits. */
const MAX_FILE_BYTES = 0xffff_0000;

export const TEMPORARY_SUFFIX = ".___temp";

/**
 * `add` in ascending order, `drain` now and then (it writes; memory stays bounded), `finish` at the
 * end; or `abandon`. A file that was not finished has a temporary name, which loading removes.
 */
export class LayerWriter {
  readonly #directory: string;
  readonly #kind: number;
  #path: string;
  readonly #disk: BackgroundDisk;
  /** Undefined when it is closed. */
  #file: number | undefined;
  readonly #blockBytes: number;
  #out: Buffer = Buffer.allocUnsafeSlow(FIRST_OUT_BYTES);
  #outUsed = 0;
  /** What the write that goes on writes from, or wrote last. */
  #spareOut: Buffer = Buffer.alloc(0);
  #writing: Promise<void> = Promise.resolve();
  /** Bytes of the file that are written, or being so. */
  #written = 0;

  // The block being built. Values are gathered apart, since the tables before them still grow.
  #keys = new Uint32Array(6 * 64);
  #keyCount = 0;
  #entries = new Uint32Array(3 * 256);
  #entryCount = 0;
  #values: Buffer = Buffer.allocUnsafeSlow(2 * DELTA_BLOCK_BYTES);
  #valuesView = new DataView(this.#values.buffer);
  #valuesUsed = 0;

  #compressed: Buffer = Buffer.allocUnsafeSlow(2 * DELTA_BLOCK_BYTES);

  #index = new Uint32Array((INDEX_ENTRY_BYTES / 4) * 256);
  #blockCount = 0;
  #hashes = new Int32Array(1024);
  #hashCount = 0;
  #lastPrefix: KeyPrefix = FIRST_KEY.prefix;
  #lastIndex = -1;
  #lastLsn = -1;

  private constructor(
    directory: string,
    kind: number,
    temporary: string,
    file: number,
    disk: BackgroundDisk,
  ) {
    this.#directory = directory;
    this.#kind = kind;
    this.#path = temporary;
    this.#file = file;
    this.#disk = disk;
    this.#blockBytes = kind === LAYER_KIND_DELTA ? DELTA_BLOCK_BYTES : IMAGE_BLOCK_BYTES;
    this.#outUsed = LAYER_HEADER_BYTES;
    this.#writeHeader(this.#out, 0);
  }

  static async create(
    directory: string,
    kind: number,
    { background }: Disk = REAL_DISK,
  ): Promise<LayerWriter> {
    const path = join(directory, `layer-${randomBytes(8).toString("hex")}${TEMPORARY_SUFFIX}`);
    try {
      const file = await background.open(path, "wx+");
      return new LayerWriter(directory, kind, path, file, background);
    } catch (error) {
      throw diskError(error, `create ${path}`);
    }
  }

  #writeHeader(target: Buffer, at: number): void {
    const view = new DataView(target.buffer, target.byteOffset + at, 8);
    view.setUint32(0, LAYER_MAGIC, true);
    view.setUint16(4, LAYER_FORMAT_VERSION, true);
    view.setUint8(6, this.#kind);
    view.setUint8(7, 0);
  }

  /** Bytes that wait for `drain`. */
  get pendingBytes(): number {
    return this.#outUsed;
  }

  /**
   * Of the file so far, with what waits for `drain`; the block at hand counts as raw. `finish` adds the block
   * index (36 bytes a block) and a delta layer's key filter (2 bytes a key).
   */
  get sizeBytes(): number {
    return this.#written + this.#outUsed + this.#valuesUsed;
  }

  get keyCount(): number {
    return this.#hashCount;
  }

  /**
   * Copies the value `bytes[offset, offset + length)` in. Keys ascend; LSNs ascend within a key.
   * `view`, of all of `bytes`, makes small values cheaper.
   */
  add(
    prefix: KeyPrefix,
    index: number,
    lsn: Lsn,
    kind: number,
    bytes: Uint8Array,
    offset = 0,
    length = bytes.length,
    view?: DataView,
  ): void {
    const sameKey = index === this.#lastIndex && samePrefix(prefix, this.#lastPrefix);
    if (sameKey ? lsn < this.#lastLsn : !this.#ascends(prefix, index)) {
      assert.fail("versions must be added in key and LSN order");
    }
    const used =
      BLOCK_HEADER_BYTES +
      this.#keyCount * BLOCK_KEY_BYTES +
      this.#entryCount * BLOCK_ENTRY_BYTES +
      this.#valuesUsed;
    if (this.#entryCount > 0 && used + length + BLOCK_ENTRY_BYTES > this.#blockBytes) {
      this.#sealBlock();
    }
    if (this.#entryCount === 0) {
      this.#startBlock(prefix, index, lsn);
    }
    if (!sameKey) {
      this.#addHash(keyHash(prefix, index));
    }
    if (!sameKey || this.#entryCount === 0) {
      this.#addKey(prefix, index);
    }
    this.#addValue(bytes, offset, length, view);
    this.#addEntry(lsn, kind);
    this.#lastPrefix = prefix;
    this.#lastIndex = index;
    this.#lastLsn = lsn;
  }

  #ascends(prefix: KeyPrefix, index: number): boolean {
    if (this.#lastIndex < 0) {
      return true;
    }
    const order = comparePrefixes(this.#lastPrefix, prefix);
    return order < 0 || (order === 0 && this.#lastIndex < index);
  }

  #addHash(hash: number): void {
    if (this.#hashCount === this.#hashes.length) {
      const hashes = new Int32Array(this.#hashes.length * 2);
      hashes.set(this.#hashes);
      this.#hashes = hashes;
    }
    this.#hashes[this.#hashCount++] = hash;
  }

  #addKey(prefix: KeyPrefix, index: number): void {
    const at = this.#keyCount * 6;
    if (at === this.#keys.length) {
      this.#keys = doubled(this.#keys);
    }
    setKeyWords(this.#keys, at, prefix, index);
    this.#keys[at + 5] = this.#entryCount;
    this.#keyCount++;
  }

  #addValue(bytes: Uint8Array, offset: number, length: number, view: DataView | undefined): void {
    const at = this.#valuesUsed;
    const end = at + length;
    if (end > this.#values.length) {
      const values = Buffer.allocUnsafeSlow(Math.max(end, this.#values.length * 2));
      values.set(this.#values.subarray(0, at));
      this.#values = values;
      this.#valuesView = new DataView(values.buffer);
    }
    this.#valuesUsed = end;
    if (view === undefined || length > COPY_BY_WORDS_BYTES) {
      this.#values.set(bytes.subarray(offset, offset + length), at);
      return;
    }
    const to = this.#valuesView;
    let i = 0;
    for (const stop = length - 7; i < stop; i += 8) {
      to.setBigInt64(at + i, view.getBigInt64(offset + i, true), true);
    }
    for (; i < length; i++) {
      this.#values[at + i] = bytes[offset + i]!;
    }
  }

  /** Of the value added last. */
  #addEntry(lsn: Lsn, kind: number): void {
    const at = this.#entryCount * 3;
    if (at === this.#entries.length) {
      this.#entries = doubled(this.#entries);
    }
    const high = lsnHigh(lsn);
    // Not lsnLow: a remainder of doubles costs more than all the rest.
    this.#entries[at] = lsn - high * 2 ** 32;
    this.#entries[at + 1] = high + (kind << ENTRY_KIND_SHIFT);
    this.#entries[at + 2] = this.#valuesUsed;
    this.#entryCount++;
  }

  #startBlock(prefix: KeyPrefix, index: number, lsn: Lsn): void {
    const at = this.#blockCount * (INDEX_ENTRY_BYTES / 4);
    if (at === this.#index.length) {
      this.#index = doubled(this.#index);
    }
    setKeyWords(this.#index, at, prefix, index);
    this.#index[at + 5] = lsnLow(lsn);
    this.#index[at + 6] = lsnHigh(lsn);
    this.#index[at + 7] = this.#written + this.#outUsed;
  }

  #sealBlock(): void {
    const keyBytes = this.#keyCount * BLOCK_KEY_BYTES;
    const entryBytes = this.#entryCount * BLOCK_ENTRY_BYTES;
    const used = BLOCK_HEADER_BYTES + keyBytes + entryBytes + this.#valuesUsed;
    const length = Math.ceil(used / 8) * 8;
    if (this.#written + this.#outUsed + length > MAX_FILE_BYTES) {
      throw new StorageError("unsupported", "layer-too-large", "a layer file is limited to 4 GiB");
    }
    const at = this.#reserve(length);
    const block = this.#out.subarray(at, at + length);
    const view = new DataView(block.buffer, block.byteOffset, BLOCK_HEADER_BYTES);
    view.setUint32(4, CODEC_RAW, true);
    view.setUint32(8, this.#keyCount, true);
    view.setUint32(12, this.#entryCount, true);
    block.set(bytesOf(this.#keys, keyBytes), BLOCK_HEADER_BYTES);
    block.set(bytesOf(this.#entries, entryBytes), BLOCK_HEADER_BYTES + keyBytes);
    block.set(this.#values.subarray(0, this.#valuesUsed), used - this.#valuesUsed);
    block.fill(0, used);
    const stored = this.#compress(block, view);
    view.setUint32(0, crc32(block.subarray(4, stored)), true);
    this.#outUsed = at + stored;
    this.#index[this.#blockCount * (INDEX_ENTRY_BYTES / 4) + 8] = stored;
    this.#blockCount++;
    this.#keyCount = 0;
    this.#entryCount = 0;
    this.#valuesUsed = 0;
  }

  /** Compresses a raw block where it lies, if that saves an eighth; returns the length it has then. */
  #compress(block: Buffer, view: DataView): number {
    if (block.length > MAX_COMPRESSIBLE_BLOCK_BYTES) {
      return block.length;
    }
    const limit = Math.floor(block.length * WORTHWHILE_SHARE) - BLOCK_HEADER_BYTES;
    if (this.#compressed.length < limit) {
      this.#compressed = Buffer.allocUnsafeSlow(2 * limit);
    }
    const target = this.#compressed.subarray(0, Math.max(limit, 0));
    const length = compressLz4Block(block.subarray(BLOCK_BODY_AT), target);
    if (length === 0) {
      return block.length;
    }
    const end = BLOCK_HEADER_BYTES + length;
    const stored = Math.ceil(end / 8) * 8;
    view.setUint32(4, CODEC_LZ4, true);
    view.setUint32(8, block.length, true);
    view.setUint32(12, length, true);
    block.set(target.subarray(0, length), BLOCK_HEADER_BYTES);
    block.fill(0, end, stored);
    return stored;
  }

  /** Room for `length` bytes in the output; returns where. */
  #reserve(length: number): number {
    if (this.#outUsed + length > this.#out.length) {
      const capacity = Math.max(this.#outUsed + length, this.#out.length * 2, FIRST_OUT_BYTES);
      const larger = Buffer.allocUnsafeSlow(capacity);
      larger.set(this.#out.subarray(0, this.#outUsed));
      this.#out = larger;
    }
    const at = this.#outUsed;
    this.#outUsed += length;
    return at;
  }

  /**
   * Starts to write what is pending, when the write before is done; resolves then. A write that fails
   * rejects the next `drain` or `finish`: `unavailable` where the disk is full.
   */
  async drain(): Promise<void> {
    await this.#writeEnds();
    const bytes = this.#out;
    const length = this.#outUsed;
    this.#out = this.#spareOut;
    this.#spareOut = bytes;
    this.#outUsed = 0;
    this.#writing = this.#disk.write(this.#file!, bytes.subarray(0, length), this.#written);
    this.#written += length;
    // Looked at by #writeEnds, perhaps after a while.
    this.#writing.catch(() => undefined);
  }

  async #writeEnds(): Promise<void> {
    try {
      await this.#writing;
    } catch (error) {
      throw diskError(error, `write ${this.#path}`);
    }
  }

  /**
   * Makes the file durable under its name, which covers the first to the last key at least; nobody else has a file
   * of that name. On failure the caller still calls `abandon`.
   */
  async finish(
    name: LayerName,
    number: LayerNumber = FIRST_LAYER_NUMBER,
  ): Promise<LayerDescription> {
    assert.equal(name.kind, this.#kind);
    if (this.#entryCount > 0) {
      this.#sealBlock();
    }
    this.#checkCovers(name);
    const index = Buffer.from(bytesOf(this.#index, this.#blockCount * INDEX_ENTRY_BYTES));
    const filter = this.#kind === LAYER_KIND_DELTA ? this.#buildFilter() : Buffer.alloc(0);
    const footer = Buffer.alloc(LAYER_FOOTER_BYTES);
    this.#writeHeader(footer, 0);
    const view = new DataView(footer.buffer, footer.byteOffset, LAYER_FOOTER_BYTES);
    this.#appendSection(view, 8, index);
    this.#appendSection(view, 20, filter);
    view.setUint32(32, layerNameChecksum(name), true);
    view.setUint32(36, this.#hashCount, true);
    view.setUint32(60, crc32(footer.subarray(0, 60)), true);
    // Before `#out` is looked at: it may be another one then.
    const footerAt = this.#reserve(LAYER_FOOTER_BYTES);
    this.#out.set(footer, footerAt);
    await this.drain();
    await this.#writeEnds();
    const fileName = layerFileName(name, number);
    try {
      await this.#disk.fsync(this.#file!);
      await this.#close();
      const path = join(this.#directory, fileName);
      await this.#disk.rename(this.#path, path);
      this.#path = path;
      await this.#disk.fsyncDirectory(this.#directory);
    } catch (error) {
      throw diskError(error, `finish ${fileName}`);
    }
    return { fileName, sizeBytes: this.#written };
  }

  /** Readers do not look for a key in a layer whose name does not cover it. */
  #checkCovers({ keyStart, keyEnd }: LayerName): void {
    if (this.#blockCount > 0) {
      const toFirst = compareKeyWords(this.#index, 0, keyStart.prefix, keyStart.index);
      const fromLast =
        comparePrefixes(this.#lastPrefix, keyEnd.prefix) || this.#lastIndex - keyEnd.index;
      assert.ok(toFirst >= 0 && fromLast <= 0, "the layer has keys that its name does not cover");
    }
  }

  #appendSection(footer: DataView, field: number, section: Buffer): void {
    const padded = Math.ceil(section.length / 8) * 8;
    footer.setUint32(field, this.#written + this.#outUsed, true);
    footer.setUint32(field + 4, section.length, true);
    footer.setUint32(field + 8, crc32(section), true);
    const at = this.#reserve(padded);
    this.#out.set(section, at);
    this.#out.fill(0, at + section.length, at + padded);
  }

  #buildFilter(): Buffer {
    const lines = Math.ceil((this.#hashCount * FILTER_BITS_PER_KEY) / (FILTER_LINE_BYTES * 8));
    const filter = Buffer.alloc(lines * FILTER_LINE_BYTES);
    for (let i = 0; i < this.#hashCount; i++) {
      const hash = this.#hashes[i]!;
      const start = filterLine(hash, lines) * FILTER_LINE_BYTES;
      for (let probe = 0; probe < FILTER_PROBES; probe++) {
        const bit = filterProbe(hash, probe);
        filter[start + (bit >>> 3)]! |= 1 << (bit & 7);
      }
    }
    return filter;
  }

  /** Closes and removes the file, whatever name it has by now. Never throws: it runs where something already failed. */
  async abandon(): Promise<void> {
    await this.#writing.catch(() => undefined);
    await this.#close().catch(() => undefined);
    await this.#disk.removeTree(this.#path).catch(() => undefined);
  }

  async #close(): Promise<void> {
    const file = this.#file;
    this.#file = undefined;
    if (file !== undefined) {
      await this.#disk.close(file);
    }
  }
}

/** Writes a key as blocks and block index have it: five words. */
function setKeyWords(words: Uint32Array, at: number, prefix: KeyPrefix, index: number): void {
  words[at] = prefixField1(prefix) | (prefixField5(prefix) << 8);
  words[at + 1] = prefixField2(prefix);
  words[at + 2] = prefixField3(prefix);
  words[at + 3] = prefixField4(prefix);
  words[at + 4] = index;
}

function doubled(words: Uint32Array): Uint32Array<ArrayBuffer> {
  const larger = new Uint32Array(words.length * 2);
  larger.set(words);
  return larger;
}

function bytesOf(words: Uint32Array, lengthBytes: number): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, lengthBytes);
}
