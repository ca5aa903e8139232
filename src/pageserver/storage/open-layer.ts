// The newest layer, in memory: values in append-only chunks, a dense index per key prefix.

import { StorageError } from "../../base/errors.ts";
import { addLsn, type Lsn } from "../../base/lsn.ts";
import { comparePrefixes, type KeyPrefix, prefixStartsWith } from "./key.ts";
import type { VersionChain } from "./version-chain.ts";

// A value's position is chunk number * 2^22 + offset: it fits 32 bits for 1024 chunks. Chunks grow
// up to the full size, so that an idle branch costs kilobytes; a value larger than that gets a
// chunk of its own, at offset 0.
const CHUNK_SHIFT = 22;
const CHUNK_BYTES = 1 << CHUNK_SHIFT;
const FIRST_CHUNK_BYTES = 1 << 14;
const MAX_CHUNKS = 1024;
const FIRST_ENTRIES = 256;
// Room that the entry columns take for one value; counted into the size that triggers a flush.
const ENTRY_BYTES = 21;

/** Indexes of one prefix in pages of 2^10 heads, since block numbers come in runs. */
const PAGE_SHIFT = 10;
const PAGE_MASK = (1 << PAGE_SHIFT) - 1;
const NO_ENTRY = -1;

class PrefixIndex {
  readonly #pages = new Map<number, Int32Array>();
  #lastNumber = -1;
  #lastPage: Int32Array = new Int32Array(0);

  /** The newest entry of an index, or -1. */
  head(index: number): number {
    const number = index >>> PAGE_SHIFT;
    if (number !== this.#lastNumber) {
      const page = this.#pages.get(number);
      if (page === undefined) {
        return NO_ENTRY;
      }
      this.#lastNumber = number;
      this.#lastPage = page;
    }
    const slot = index & PAGE_MASK;
    return slot < this.#lastPage.length ? this.#lastPage[slot]! : NO_ENTRY;
  }

  /** Makes `entry` the newest and returns the one before, or -1. */
  replaceHead(index: number, entry: number): number {
    const number = index >>> PAGE_SHIFT;
    const slot = index & PAGE_MASK;
    if (number !== this.#lastNumber || slot >= this.#lastPage.length) {
      this.#selectPage(number, slot);
    }
    const previous = this.#lastPage[slot]!;
    this.#lastPage[slot] = entry;
    return previous;
  }

  #selectPage(number: number, slot: number): void {
    const old = this.#pages.get(number);
    let page = old;
    if (page === undefined || slot >= page.length) {
      // Small relations are the most common ones: a page starts with four slots.
      let length = 4;
      while (length <= slot) {
        length *= 2;
      }
      page = new Int32Array(length).fill(NO_ENTRY);
      if (old !== undefined) {
        page.set(old);
      }
      this.#pages.set(number, page);
    }
    this.#lastNumber = number;
    this.#lastPage = page;
  }

  /** Calls back with each index that has an entry, ascending, and its newest entry. */
  *entries(): Generator<readonly [index: number, head: number]> {
    for (const number of [...this.#pages.keys()].sort((a, b) => a - b)) {
      const page = this.#pages.get(number)!;
      for (let slot = 0; slot < page.length; slot++) {
        if (page[slot] !== NO_ENTRY) {
          yield [number * (PAGE_MASK + 1) + slot, page[slot]!];
        }
      }
    }
  }
}

/**
 * All versions of one timeline with LSNs in [lsnStart, lsnEnd). Appended to until `freeze`, then
 * immutable and shared by the flush and by readers. Entries are numbered in the order of puts, so
 * within a key a larger number is a newer version, also where LSNs are equal.
 */
export class OpenLayer {
  readonly lsnStart: Lsn;
  /** Exclusive; MAX until frozen. */
  lsnEnd = Number.MAX_SAFE_INTEGER as Lsn;
  /** Start of the last record in it, for the index that names the flushed layer; set by freeze. */
  prevRecordLsn = 0 as Lsn;
  entryCount = 0;
  sizeBytes = 0;

  readonly #chunks: Uint8Array[] = [];
  #chunkUsed = 0;
  #chunkCapacity = 0;
  #lsns = new Float64Array(0);
  #positions = new Uint32Array(0);
  #lengths = new Uint32Array(0);
  #previous = new Int32Array(0);
  #kinds = new Uint8Array(0);
  readonly #prefixes = new Map<KeyPrefix, PrefixIndex>();
  #lastPrefix = -1;
  #lastIndex = new PrefixIndex();

  constructor(lsnStart: Lsn) {
    this.lsnStart = lsnStart;
  }

  /** Whether one more value would not fit the position encoding: the layer must be frozen. */
  get full(): boolean {
    return this.#chunks.length >= MAX_CHUNKS - 1;
  }

  freeze(lastRecordLsn: Lsn, prevRecordLsn: Lsn): void {
    this.lsnEnd = addLsn(lastRecordLsn, 1);
    this.prevRecordLsn = prevRecordLsn;
  }

  /** Copies the value in. LSNs must not go down (the caller checks). */
  put(prefix: KeyPrefix, index: number, lsn: Lsn, kind: number, value: Uint8Array): void {
    const entry = this.entryCount;
    if (entry === this.#lsns.length) {
      this.#growEntries();
    }
    const length = value.length;
    // The second half keeps an empty value's position inside a chunk that exists.
    if (length > this.#chunkCapacity - this.#chunkUsed || this.#chunkUsed === this.#chunkCapacity) {
      this.#addChunk(length);
    }
    const chunk = this.#chunks.length - 1;
    this.#chunks[chunk]!.set(value, this.#chunkUsed);
    this.#positions[entry] = chunk * CHUNK_BYTES + this.#chunkUsed;
    this.#chunkUsed += length;
    this.#lengths[entry] = length;
    this.#lsns[entry] = lsn;
    this.#kinds[entry] = kind;
    if (prefix !== this.#lastPrefix) {
      this.#selectPrefix(prefix);
    }
    this.#previous[entry] = this.#lastIndex.replaceHead(index, entry);
    this.entryCount = entry + 1;
    this.sizeBytes += length + ENTRY_BYTES;
  }

  #selectPrefix(prefix: KeyPrefix): void {
    let index = this.#prefixes.get(prefix);
    if (index === undefined) {
      index = new PrefixIndex();
      this.#prefixes.set(prefix, index);
    }
    this.#lastPrefix = prefix;
    this.#lastIndex = index;
  }

  #addChunk(length: number): void {
    if (this.#chunks.length === MAX_CHUNKS) {
      const message = "one WAL record writes more than the open layer can hold";
      throw new StorageError("unsupported", "open-layer-full", message);
    }
    const grown = Math.min(CHUNK_BYTES, FIRST_CHUNK_BYTES * 2 ** (this.#chunks.length * 2));
    const capacity = Math.max(grown, length);
    // Slow: not out of the shared pool, whose other slices would keep a whole chunk alive.
    this.#chunks.push(Buffer.allocUnsafeSlow(capacity));
    this.#chunkUsed = 0;
    // Beyond 2^22 an offset does not fit, so an oversized chunk takes one value only.
    this.#chunkCapacity = capacity > CHUNK_BYTES ? length : capacity;
  }

  #growEntries(): void {
    const capacity = Math.max(FIRST_ENTRIES, this.#lsns.length * 2);
    const lsns = new Float64Array(capacity);
    lsns.set(this.#lsns);
    this.#lsns = lsns;
    const positions = new Uint32Array(capacity);
    positions.set(this.#positions);
    this.#positions = positions;
    const lengths = new Uint32Array(capacity);
    lengths.set(this.#lengths);
    this.#lengths = lengths;
    const previous = new Int32Array(capacity);
    previous.set(this.#previous);
    this.#previous = previous;
    const kinds = new Uint8Array(capacity);
    kinds.set(this.#kinds);
    this.#kinds = kinds;
  }

  /** Adds the key's versions at or below `maxLsn` to the chain; true when it is complete. */
  collect(
    prefix: KeyPrefix,
    index: number,
    _hash: number,
    maxLsn: Lsn,
    chain: VersionChain,
  ): boolean {
    const prefixIndex = this.#prefixes.get(prefix);
    if (prefixIndex === undefined) {
      return false;
    }
    let entry = prefixIndex.head(index);
    while (entry !== NO_ENTRY && this.#lsns[entry]! > maxLsn) {
      entry = this.#previous[entry]!;
    }
    while (entry !== NO_ENTRY) {
      const position = this.#positions[entry]!;
      const complete = chain.add(
        this.#kinds[entry]!,
        this.#lsns[entry]!,
        this.#chunks[position >>> CHUNK_SHIFT]!,
        position & (CHUNK_BYTES - 1),
        this.#lengths[entry]!,
      );
      if (complete) {
        return true;
      }
      entry = this.#previous[entry]!;
    }
    return false;
  }

  /** Reports each key whose fields start with `fields`, in no order. */
  collectKeys(
    fields: readonly number[],
    maxLsn: Lsn,
    report: (prefix: KeyPrefix, index: number) => void,
  ): void {
    if (this.lsnStart > maxLsn) {
      return;
    }
    for (const [prefix, index] of this.#prefixes) {
      if (prefixStartsWith(prefix, fields)) {
        for (const [number] of index.entries()) {
          report(prefix, number);
        }
      }
    }
  }

  /** Every key, ascending, with its newest entry; for the flush of a frozen layer. */
  *sortedKeys(): Generator<{ prefix: KeyPrefix; index: number; head: number }> {
    const prefixes = [...this.#prefixes.keys()].sort(comparePrefixes);
    for (const prefix of prefixes) {
      for (const [index, head] of this.#prefixes.get(prefix)!.entries()) {
        yield { prefix, index, head };
      }
    }
  }

  /** The key's entries, oldest first. */
  versions(head: number): number[] {
    const entries: number[] = [];
    for (let entry = head; entry !== NO_ENTRY; entry = this.#previous[entry]!) {
      entries.push(entry);
    }
    return entries.reverse();
  }

  entryLsn(entry: number): Lsn {
    return this.#lsns[entry]! as Lsn;
  }

  entryKind(entry: number): number {
    return this.#kinds[entry]!;
  }

  /** The buffer that holds the entry's value, at `entryOffset` for `entryLength` bytes. */
  entryBuffer(entry: number): Uint8Array {
    return this.#chunks[this.#positions[entry]! >>> CHUNK_SHIFT]!;
  }

  entryOffset(entry: number): number {
    return this.#positions[entry]! & (CHUNK_BYTES - 1);
  }

  entryLength(entry: number): number {
    return this.#lengths[entry]!;
  }
}
