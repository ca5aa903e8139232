// The memory of an open layer: its versions, numbered in the order of arrival.
//
// An entry is 16 bytes in a table, dense, because reads in the past and the flush walk along a key's
// versions there:
//   offset size field
//        0    8 LSN, as a double
//        8    4 the key's entry before this one, -1 where there is none
//       12    4 where the value is: chunk number * 2^19 + place in the chunk / 8; kind << 30
// and a place in an append-only chunk, at a multiple of 8 (copies into shared memory are slow, 1.7
// times, at other places), which whoever wants the value touches anyway:
//        0    4 value's length
//        4    4 zero
//        8    . value
// Table and chunks are shared memory, so that the flush thread reads a frozen layer where it lies while
// reads go on here. Both grow in pieces of up to full size, so that an idle branch costs kilobytes; a
// value larger than a chunk gets one of its own.

import { StorageError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";

const TABLE_SHIFT = 16;
const TABLE_MASK = (1 << TABLE_SHIFT) - 1;
const ENTRY_BYTES = 16;
const FIRST_TABLE_ENTRIES = 256;
const CHUNK_SHIFT = 19;
const CHUNK_MASK = (1 << CHUNK_SHIFT) - 1;
const CHUNK_BYTES = 1 << (CHUNK_SHIFT + 3);
const FIRST_CHUNK_BYTES = 1 << 14;
/** Places are 30 bits, before the kind. */
const KIND_SHIFT = 30;
const PLACE_MASK = (1 << KIND_SHIFT) - 1;
const MAX_CHUNKS = 1 << (KIND_SHIFT - CHUNK_SHIFT);
const VALUE_HEADER_BYTES = 8;
/** Chunks kept for the next layer: first touches of fresh memory are about a tenth of ingest. */
const MAX_SPARE_CHUNKS = 16;
const spareChunks: SharedArrayBuffer[] = [];
/** What an entry takes besides its value. */
export const ENTRY_OVERHEAD_BYTES = ENTRY_BYTES + VALUE_HEADER_BYTES;
export const NO_ENTRY = -1;

/** What another thread needs to read the entries. */
export interface SharedEntries {
  readonly tables: readonly SharedArrayBuffer[];
  readonly chunks: readonly SharedArrayBuffer[];
}

export class EntryChunks {
  count = 0;
  /** Views of each chunk. */
  readonly bytes: Uint8Array[] = [];
  readonly views: DataView[] = [];
  readonly #lengths: Uint32Array[] = [];
  readonly #lsns: Float64Array[] = [];
  readonly #links: Uint32Array[] = [];
  #capacity = 0;
  // The chunk that is appended to.
  #used = 0;
  #chunkCapacity = 0;

  /** Those of another thread, to read them; or none yet. */
  constructor(shared: SharedEntries = { tables: [], chunks: [] }) {
    shared.tables.forEach((buffer, i) => {
      this.#setTable(i, buffer);
    });
    for (const buffer of shared.chunks) {
      this.#addChunkViews(buffer);
    }
  }

  get shared(): SharedEntries {
    const buffers = (views: readonly ArrayBufferView[]) =>
      views.map((view) => view.buffer as unknown as SharedArrayBuffer);
    return { tables: buffers(this.#lsns), chunks: buffers(this.bytes) };
  }

  #setTable(number: number, buffer: SharedArrayBuffer): void {
    this.#lsns[number] = new Float64Array(buffer);
    this.#links[number] = new Uint32Array(buffer);
  }

  #addChunkViews(buffer: SharedArrayBuffer): void {
    this.bytes.push(new Uint8Array(buffer));
    this.views.push(new DataView(buffer));
    this.#lengths.push(new Uint32Array(buffer));
  }

  /** Whether one more record might not fit. */
  get full(): boolean {
    return this.bytes.length >= MAX_CHUNKS - 1;
  }

  /** Copies the value in; returns the entry. Its `previous` is to be set. */
  append(lsn: Lsn, kind: number, value: Uint8Array): number {
    const { length } = value;
    if (VALUE_HEADER_BYTES + length > this.#chunkCapacity - this.#used) {
      this.#addChunk(VALUE_HEADER_BYTES + length);
    }
    const entry = this.count++;
    if (entry === this.#capacity) {
      this.#growTable();
    }
    const chunk = this.bytes.length - 1;
    const start = this.#used;
    this.#lengths[chunk]![start >>> 2] = length;
    this.bytes[chunk]!.set(value, start + VALUE_HEADER_BYTES);
    this.#used = (start + VALUE_HEADER_BYTES + length + 7) & ~7;
    const slot = entry & TABLE_MASK;
    this.#lsns[entry >>> TABLE_SHIFT]![slot * 2] = lsn;
    const place = (chunk << CHUNK_SHIFT) + (start >>> 3);
    this.#links[entry >>> TABLE_SHIFT]![slot * 4 + 3] = place | (kind << KIND_SHIFT);
    return entry;
  }

  #addChunk(needed: number): void {
    if (this.bytes.length === MAX_CHUNKS) {
      const message = "one WAL record writes more than the open layer can hold";
      throw new StorageError("unsupported", "open-layer-full", message);
    }
    const grown = Math.min(CHUNK_BYTES, FIRST_CHUNK_BYTES * 4 ** this.bytes.length);
    const capacity = Math.max(grown, (needed + 7) & ~7);
    const spare = capacity === CHUNK_BYTES ? spareChunks.pop() : undefined;
    this.#addChunkViews(spare ?? new SharedArrayBuffer(capacity));
    this.#used = 0;
    this.#chunkCapacity = capacity;
  }

  /** Nobody reads the entries any more, on no thread: their memory may serve another layer. */
  release(): void {
    for (const chunk of this.shared.chunks) {
      if (chunk.byteLength === CHUNK_BYTES && spareChunks.length < MAX_SPARE_CHUNKS) {
        spareChunks.push(chunk);
      }
    }
    this.bytes.length = 0;
    this.views.length = 0;
    this.#lengths.length = 0;
  }

  /** The first table grows by copying up to the full size, then come more of that size. */
  #growTable(): void {
    const last = this.#lsns.at(-1);
    if (last === undefined || this.#capacity > TABLE_MASK) {
      const entries = last === undefined ? FIRST_TABLE_ENTRIES : TABLE_MASK + 1;
      this.#setTable(this.#lsns.length, new SharedArrayBuffer(entries * ENTRY_BYTES));
      this.#capacity += entries;
    } else {
      this.#setTable(0, new SharedArrayBuffer(this.#capacity * 2 * ENTRY_BYTES));
      this.#lsns[0]!.set(last);
      this.#capacity *= 2;
    }
  }

  lsn(entry: number): Lsn {
    return this.#lsns[entry >>> TABLE_SHIFT]![(entry & TABLE_MASK) * 2]! as Lsn;
  }

  previous(entry: number): number {
    return this.#links[entry >>> TABLE_SHIFT]![(entry & TABLE_MASK) * 4 + 2]! | 0;
  }

  setPrevious(entry: number, previous: number): void {
    this.#links[entry >>> TABLE_SHIFT]![(entry & TABLE_MASK) * 4 + 2] = previous;
  }

  /** VALUE_*. */
  kind(entry: number): number {
    return this.#links[entry >>> TABLE_SHIFT]![(entry & TABLE_MASK) * 4 + 3]! >>> KIND_SHIFT;
  }

  /** Where its value is, for the functions below. */
  place(entry: number): number {
    return this.#links[entry >>> TABLE_SHIFT]![(entry & TABLE_MASK) * 4 + 3]! & PLACE_MASK;
  }

  lengthAt(place: number): number {
    return this.#lengths[place >>> CHUNK_SHIFT]![(place & CHUNK_MASK) * 2]!;
  }

  /** Number of the chunk, for `bytes` and `views`. */
  chunkAt(place: number): number {
    return place >>> CHUNK_SHIFT;
  }

  /** Where in the chunk the value starts. */
  offsetAt(place: number): number {
    return (place & CHUNK_MASK) * 8 + VALUE_HEADER_BYTES;
  }
}
