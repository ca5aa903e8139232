// What a read found for one key: a base version and the deltas above it, collected newest first.

import type { Lsn } from "../../base/lsn.ts";
import type { VersionSteps } from "./version-steps.ts";

/** Kinds of stored values, as in layer files: never renumber. */
export const VALUE_IMAGE = 0;
export const VALUE_DELTA = 1;
/** A delta that starts from a zero page: nothing older is needed. */
export const VALUE_DELTA_INIT = 2;
/** From here on the key does not exist. */
export const VALUE_TOMBSTONE = 3;

/** No base version was found (yet). */
export const BASE_NONE = 0;
/** `baseBuffer` holds the image. */
export const BASE_IMAGE = 1;
/** The deltas start from a zero page. */
const BASE_ZERO = 2;
/** The key does not exist below the deltas. */
export const BASE_ABSENT = 3;
/** The page of the materialised-page cache at `cachedLsn`. */
export const BASE_CACHED = 4;

const INITIAL_CAPACITY = 64;

/**
 * One reusable collector: columns instead of an object a delta. The buffers are lent by layers and
 * block cache until the next `reset`. Delta 0 is the newest.
 */
export class VersionChain {
  /** Counts the keys that were read, this one too: what was lent to an earlier one is not needed any more. */
  reads = 0;
  deltaCount = 0;
  buffers: (Uint8Array | undefined)[] = [];
  offsets = new Uint32Array(INITIAL_CAPACITY);
  lengths = new Uint32Array(INITIAL_CAPACITY);
  lsns = new Float64Array(INITIAL_CAPACITY);
  base = BASE_NONE;
  baseBuffer: Uint8Array | undefined;
  baseOffset = 0;
  baseLength = 0;
  /** A version at this LSN is in the page cache; -1 for none. */
  cachedLsn = -1;
  /** Whose page that is. */
  cachedOwner = -1;
  /** Whether pages that are kept at steps of hot keys may be the base. */
  usesCaches = true;
  /** Of layers in memory where the way was long: redo keeps pages there. */
  readonly steps: VersionSteps[] = [];
  /** Versions between two steps; a chain that is twice as long gets steps. */
  readonly stepVersions: number;

  constructor(stepVersions = 256) {
    this.stepVersions = stepVersions;
  }

  reset(): void {
    this.reads++;
    // Drop references to blocks, so that a long chain does not hold evicted ones until the next one.
    this.buffers.fill(undefined, 0, this.deltaCount);
    this.deltaCount = 0;
    this.base = BASE_NONE;
    this.baseBuffer = undefined;
    this.cachedLsn = -1;
    this.steps.length = 0;
  }

  /** Takes the next older version; true when nothing older is needed. */
  add(kind: number, lsn: number, buffer: Uint8Array, offset: number, length: number): boolean {
    if (lsn === this.cachedLsn) {
      this.base = BASE_CACHED;
      return true;
    }
    if (kind === VALUE_DELTA || kind === VALUE_DELTA_INIT) {
      const at = this.deltaCount++;
      if (at === this.lsns.length) {
        this.#grow();
      }
      this.buffers[at] = buffer;
      this.offsets[at] = offset;
      this.lengths[at] = length;
      this.lsns[at] = lsn;
      if (kind === VALUE_DELTA) {
        return false;
      }
      this.base = BASE_ZERO;
      return true;
    }
    if (kind === VALUE_TOMBSTONE) {
      this.base = BASE_ABSENT;
      return true;
    }
    this.base = BASE_IMAGE;
    this.baseBuffer = buffer;
    this.baseOffset = offset;
    this.baseLength = length;
    return true;
  }

  /** Forgets the deltas at or below `lsn`: an image layer at `lsn` already contains them. */
  dropDeltasUpTo(lsn: Lsn): void {
    while (this.deltaCount > 0 && this.lsns[this.deltaCount - 1]! <= lsn) {
      this.deltaCount--;
      this.buffers[this.deltaCount] = undefined;
    }
  }

  #grow(): void {
    const capacity = this.lsns.length * 2;
    const offsets = new Uint32Array(capacity);
    offsets.set(this.offsets);
    this.offsets = offsets;
    const lengths = new Uint32Array(capacity);
    lengths.set(this.lengths);
    this.lengths = lengths;
    const lsns = new Float64Array(capacity);
    lsns.set(this.lsns);
    this.lsns = lsns;
  }
}
