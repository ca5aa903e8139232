// The newest layer, in memory: entries in append-only chunks, a dense index per key prefix.

import { addLsn, type Lsn, maxLsn } from "../../base/lsn.ts";
import { ENTRY_OVERHEAD_BYTES, EntryChunks, NO_ENTRY } from "./entry-chunks.ts";
import type { FrozenLayer } from "./frozen-layer.ts";
import {
  comparePrefixes,
  type KeyPrefix,
  leastPrefix,
  prefixFields,
  prefixStartsWith,
} from "./key.ts";
import { PrefixMap } from "./prefix-map.ts";
import { VALUE_IMAGE, type VersionChain } from "./version-chain.ts";
import { type StepMemory, VersionSteps } from "./version-steps.ts";

/** Indexes of one prefix in pages of 2^10 heads, since block numbers come in runs. */
const PAGE_SHIFT = 10;
const PAGE_MASK = (1 << PAGE_SHIFT) - 1;

/** Prefixes used lately, by their low bits: consecutive puts go to a handful of relations. */
const RECENT_PREFIXES = 64;

class PrefixIndex {
  /** Of indexes with long chains that were read. */
  steps: Map<number, VersionSteps> | undefined;
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
  /** Up to here all versions are in it and in those before; set by freeze. */
  consistentLsn = 0 as Lsn;
  /** Start of the last record in it, for the index that names the flushed layer; set by freeze. */
  prevRecordLsn = 0 as Lsn;
  #entryBytes = 0;
  /** Steps of hot keys: readers make them, also when it is frozen. */
  readonly #stepMemory: StepMemory = { bytes: 0 };

  readonly #entries = new EntryChunks();
  readonly #prefixes = new PrefixMap<PrefixIndex>();
  /** Of a layer that nothing was put in: thousands of idle branches have one each. */
  static readonly #NO_PREFIXES: (KeyPrefix | undefined)[] = new Array(RECENT_PREFIXES).fill(
    undefined,
  );
  #recentPrefixes = OpenLayer.#NO_PREFIXES;
  #recentIndexes: (PrefixIndex | undefined)[] = [];

  constructor(lsnStart: Lsn) {
    this.lsnStart = lsnStart;
  }

  /** Bytes in memory. */
  get sizeBytes(): number {
    return this.#entryBytes + this.#stepMemory.bytes;
  }

  get entryCount(): number {
    return this.#entries.count;
  }

  /** Whether one more value would not fit the position encoding: the layer must be frozen. */
  get full(): boolean {
    return this.#entries.full;
  }

  /** `lastPutLsn`: above `lastRecordLsn` inside a record. */
  freeze(lastRecordLsn: Lsn, lastPutLsn: Lsn, prevRecordLsn: Lsn): void {
    this.lsnEnd = addLsn(maxLsn(lastRecordLsn, lastPutLsn), 1);
    this.consistentLsn = lastRecordLsn;
    this.prevRecordLsn = prevRecordLsn;
  }

  /** Copies the value in. LSNs must not go down (the caller checks). */
  put(prefix: KeyPrefix, index: number, lsn: Lsn, kind: number, value: Uint8Array): void {
    const entry = this.#entries.append(lsn, kind, value);
    const slot = prefix.hash & (RECENT_PREFIXES - 1);
    // By identity: ingest keeps the prefixes of relations that it changes.
    const prefixIndex =
      this.#recentPrefixes[slot] === prefix
        ? this.#recentIndexes[slot]!
        : this.#selectPrefix(prefix);
    this.#entries.setPrevious(entry, prefixIndex.replaceHead(index, entry));
    this.#entryBytes += value.length + ENTRY_OVERHEAD_BYTES;
  }

  #selectPrefix(prefix: KeyPrefix): PrefixIndex {
    let index = this.#prefixes.get(prefix);
    if (index === undefined) {
      index = new PrefixIndex();
      this.#prefixes.set(prefix, index);
    }
    const slot = prefix.hash & (RECENT_PREFIXES - 1);
    if (this.#recentPrefixes === OpenLayer.#NO_PREFIXES) {
      this.#recentPrefixes = new Array(RECENT_PREFIXES).fill(undefined);
      this.#recentIndexes = new Array(RECENT_PREFIXES).fill(undefined);
    }
    this.#recentPrefixes[slot] = prefix;
    this.#recentIndexes[slot] = index;
    return index;
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
    const entries = this.#entries;
    const head = prefixIndex.head(index);
    const steps = prefixIndex.steps?.get(index);
    let step = steps === undefined ? 0 : steps.firstAbove(maxLsn);
    let entry = steps === undefined || step === steps.count ? head : steps.entry(step);
    let walked = 0;
    while (entry !== NO_ENTRY && entries.lsn(entry) > maxLsn) {
      entry = entries.previous(entry);
      walked++;
    }
    let complete = false;
    let stepEntry = steps?.entry(--step);
    for (; entry !== NO_ENTRY && !complete; entry = entries.previous(entry)) {
      walked++;
      if (entry === stepEntry) {
        const page = steps!.page(step);
        if (page !== undefined && chain.usesCaches) {
          complete = chain.add(VALUE_IMAGE, entries.lsn(entry), page, 0, page.length);
          break;
        }
        stepEntry = steps!.entry(--step);
      }
      const place = entries.place(entry);
      complete = chain.add(
        entries.kind(entry),
        entries.lsn(entry),
        entries.bytes[entries.chunkAt(place)]!,
        entries.offsetAt(place),
        entries.lengthAt(place),
      );
    }
    if (walked > 2 * chain.stepVersions) {
      chain.steps.push(this.#addSteps(prefixIndex, index, head, chain.stepVersions));
    }
    return complete;
  }

  /** Steps from the newest version down to the last one that there is, or the first version. */
  #addSteps(prefixIndex: PrefixIndex, index: number, head: number, distance: number): VersionSteps {
    prefixIndex.steps ??= new Map();
    const steps = prefixIndex.steps.get(index) ?? new VersionSteps(this.#stepMemory);
    prefixIndex.steps.set(index, steps);
    const entries = this.#entries;
    const last = steps.entry(steps.count - 1);
    const found: number[] = [];
    let newerLsn = entries.lsn(head);
    let passed = 0;
    for (let at = entries.previous(head); at !== last; at = entries.previous(at)) {
      const lsn = entries.lsn(at);
      if (++passed >= distance && lsn < newerLsn) {
        found.push(at);
        passed = 0;
      }
      newerLsn = lsn;
    }
    for (const at of found.reverse()) {
      steps.push(at, entries.lsn(at));
    }
    return steps;
  }

  /** Reports each key whose fields start with `fields`, from `first` (more fields) on; in no order. */
  collectKeys(
    fields: readonly number[],
    maxLsn: Lsn,
    report: (prefix: KeyPrefix, index: number) => void,
    first = fields,
  ): void {
    if (this.lsnStart > maxLsn) {
      return;
    }
    const from = leastPrefix(first);
    for (const [prefix, index] of this.#prefixes) {
      if (prefixStartsWith(prefix, fields) && comparePrefixes(prefix, from) >= 0) {
        for (const [number] of index.entries()) {
          report(prefix, number);
        }
      }
    }
  }

  /** After its flush, when no reader finds it any more. */
  release(): void {
    this.#entries.release();
  }

  /** What a flush writes; for a frozen layer. Shares its memory. */
  frozen(): FrozenLayer {
    const prefixes = [...this.#prefixes].sort(([a], [b]) => comparePrefixes(a, b));
    const ordinals: number[] = [];
    const indexes: number[] = [];
    const heads: number[] = [];
    prefixes.forEach(([, prefixIndex], ordinal) => {
      for (const [index, head] of prefixIndex.entries()) {
        ordinals.push(ordinal);
        indexes.push(index);
        heads.push(head);
      }
    });
    return {
      lsnStart: this.lsnStart,
      lsnEnd: this.lsnEnd,
      entries: this.#entries.shared,
      prefixFields: prefixes.map(([prefix]) => prefixFields(prefix)),
      keyPrefixes: Uint32Array.from(ordinals),
      keyIndexes: Uint32Array.from(indexes),
      keyHeads: Int32Array.from(heads),
    };
  }
}
