// Pages that redo has already built, by exact version, so that hot pages do not start over each read.

import { type KeyPrefix, keyHash, samePrefix } from "../layers/key.ts";

const WAYS = 4;

/**
 * An entry says: on timeline `owner`, the key's page after every version at or below `lsn` is
 * `page`, and `lsn` is the LSN of one of those versions. A reader uses it only when it meets that
 * version of that timeline on its way down, so a stale entry can be useless but never wrong.
 * Four-way set associative in flat arrays: a lookup costs a few loads.
 */
export class PageCache {
  readonly #setMask: number;
  readonly #owners: Int32Array;
  readonly #prefixes: (KeyPrefix | undefined)[];
  readonly #indexes: Uint32Array;
  readonly #lsns: Float64Array;
  readonly #usedAt: Float64Array;
  readonly #pages: (Uint8Array | undefined)[];
  /** Of pages that were built lately, some bits of which they were. */
  readonly #built: Int32Array;
  #clock = 0;

  /** Rounded down to a power of two; at least one set. */
  constructor(capacityPages: number) {
    const sets = 2 ** Math.max(0, Math.floor(Math.log2(capacityPages / WAYS)));
    this.#setMask = sets - 1;
    const slots = sets * WAYS;
    this.#owners = new Int32Array(slots).fill(-1);
    this.#prefixes = new Array<KeyPrefix | undefined>(slots).fill(undefined);
    this.#indexes = new Uint32Array(slots);
    this.#lsns = new Float64Array(slots);
    this.#usedAt = new Float64Array(slots);
    this.#pages = new Array<Uint8Array | undefined>(slots).fill(undefined);
    this.#built = new Int32Array(slots);
  }

  #firstSlot(owner: number, hash: number): number {
    return ((hash ^ Math.imul(owner, 0x85ebca6b)) & this.#setMask) * WAYS;
  }

  #find(owner: number, prefix: KeyPrefix, index: number, hash: number): number {
    const first = this.#firstSlot(owner, hash);
    for (let slot = first; slot < first + WAYS; slot++) {
      if (
        this.#indexes[slot] === index &&
        this.#owners[slot] === owner &&
        samePrefix(this.#prefixes[slot]!, prefix)
      ) {
        return slot;
      }
    }
    return -1;
  }

  /** The LSN of the page held for the key on this timeline, or -1. `hash`: keyHash. */
  lsnOf(owner: number, prefix: KeyPrefix, index: number, hash: number): number {
    const slot = this.#find(owner, prefix, index, hash);
    return slot < 0 ? -1 : this.#lsns[slot]!;
  }

  /** The page itself, not to be changed; only after `lsnOf` gave an LSN and nothing was put since. */
  page(owner: number, prefix: KeyPrefix, index: number, hash: number): Uint8Array {
    const slot = this.#find(owner, prefix, index, hash);
    this.#usedAt[slot] = ++this.#clock;
    return this.#pages[slot]!;
  }

  /**
   * Notes that a page was built; says whether it was before, lately: a scan builds more pages than there is room for, each
   * once, and to copy them costs as much as some redo. May be wrong.
   */
  noteBuilt(owner: number, hash: number): boolean {
    const mixed = hash ^ Math.imul(owner, 0x85ebca6b);
    const place = mixed & (this.#built.length - 1);
    const wasBuilt = this.#built[place] === mixed;
    this.#built[place] = mixed;
    return wasBuilt;
  }

  /** Copies the page in, in place of the key's other version or the set's least recently used. */
  put(owner: number, prefix: KeyPrefix, index: number, lsn: number, page: Uint8Array): void {
    const hash = keyHash(prefix, index);
    let slot = this.#find(owner, prefix, index, hash);
    if (slot < 0) {
      const first = this.#firstSlot(owner, hash);
      slot = first;
      for (let other = first + 1; other < first + WAYS; other++) {
        if (this.#usedAt[other]! < this.#usedAt[slot]!) {
          slot = other;
        }
      }
    }
    this.#owners[slot] = owner;
    this.#prefixes[slot] = prefix;
    this.#indexes[slot] = index;
    this.#lsns[slot] = lsn;
    this.#usedAt[slot] = ++this.#clock;
    const held = this.#pages[slot];
    if (held !== undefined && held.length === page.length) {
      held.set(page);
    } else {
      this.#pages[slot] = page.slice();
    }
  }
}
