// Ancestors in a row that a read passes in one step where none of them has its key.
//
// Each map has one span over its nearest ancestors: one, or as many as make two spans of the same length
// and one ancestor (the jumps of a skew-binary list: Myers, "An applicative random-access stack", 1983).
// So a read passes n ancestors in about log2(n) steps, and a span belongs to all branches below.
//
// A span's key hashes are right for good: what an ancestor shows below a cap stays as it is once it has
// taken in WAL up to there; flushes and compactions add no key. Only a map that is cut off its ancestors
// has more from then on, and all spans of its tree are made anew. No span reaches over a root or a large map:
// spans begin anew above it.

import { type Lsn, minLsn } from "../../base/lsn.ts";
import type { BlockCache, CacheEntry } from "../layers/block-cache.ts";
import type { KeyHashes } from "./key-hashes.ts";

/** As an index: it stands for many. */
const SPAN_CHANCES = 2;
/** Reads that come by before a build is tried again; twice as many after each failure. */
const FIRST_WAIT = 64;
const MAX_WAIT = 1 << 16;

/** `M`: LayerMap. */
export class AncestorSpan<M> implements CacheEntry {
  /** The last of the ancestors: a read that has passed goes on with what that one inherits. */
  readonly top: M;
  /** The lowest cap on the way. */
  readonly capLsn: Lsn;
  /** Ancestors that it passes. */
  readonly length: number;
  chances = SPAN_CHANCES;
  place = -1;
  #hashes: KeyHashes | undefined;
  #cache: BlockCache | undefined;
  #wait = FIRST_WAIT;
  #readsToBuild = 1;

  /** Over `parent`, and the spans that follow on it where they fit: that of its map, and the one above that. */
  constructor(
    parent: { readonly map: M; readonly capLsn: Lsn },
    next: AncestorSpan<M> | undefined,
    afterNext: AncestorSpan<M> | undefined,
  ) {
    if (next !== undefined && afterNext !== undefined && next.length === afterNext.length) {
      this.top = afterNext.top;
      this.length = 1 + next.length + afterNext.length;
      this.capLsn = minLsn(parent.capLsn, minLsn(next.capLsn, afterNext.capLsn));
    } else {
      this.top = parent.map;
      this.length = 1;
      this.capLsn = parent.capLsn;
    }
  }

  get hashes(): KeyHashes | undefined {
    return this.#hashes;
  }

  get heldBytes(): number {
    return this.#hashes?.heldBytes ?? 0;
  }

  /** Whether no ancestor in it has the key; false also while that is not known. `hash`: keyHash. */
  lacks(hash: number): boolean {
    this.chances = SPAN_CHANCES;
    return this.#hashes !== undefined && !this.#hashes.has(hash);
  }

  /** Whether a read that comes by should have it built. A span over one is not worth it. */
  wantsBuild(): boolean {
    return this.length > 1 && this.#hashes === undefined && --this.#readsToBuild === 0;
  }

  /** Into the cache, which may forget it again. */
  keep(hashes: KeyHashes, cache: BlockCache): void {
    this.#hashes = hashes;
    this.#cache = cache;
    this.#readsToBuild = FIRST_WAIT;
    cache.insert(this);
  }

  buildFailed(): void {
    this.#readsToBuild = this.#wait;
    this.#wait = Math.min(MAX_WAIT, this.#wait * 2);
  }

  forget(): void {
    this.#hashes = undefined;
  }

  /** Another takes its place. */
  drop(): void {
    if (this.place >= 0) {
      this.#cache!.evict(this);
    }
  }
}
