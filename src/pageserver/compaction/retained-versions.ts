// Which versions of one key a compaction keeps: a pure rule over kinds, LSNs and lengths.
//
// Below the cutoff only the retained LSNs are read any more. Between two neighbours of them, versions
// matter only from the last one on that needs nothing older, and of those the deltas stay, or an image
// takes their place at the newest, whichever is smaller. Above the cutoff every version stays, and a long
// chain gets images beside them.

import { PAGE_SIZE } from "../../postgres/page.ts";
import { VALUE_DELTA, VALUE_IMAGE, VALUE_TOMBSTONE } from "../layers/version-chain.ts";

export const ACTION_DROP = 0;
export const ACTION_KEEP = 1;
/** An image, with what the version makes of the page, takes its place. */
export const ACTION_IMAGE = 2;
/** It stays, and such an image comes after it. */
export const ACTION_KEEP_WITH_IMAGE = 3;

/** A read of a retained LSN, and of the newest LSN, applies at most so many deltas of those seen here. */
export const MAX_CHAIN_DELTAS = 32;
/** A read of any other LSN applies about so many: images there are for few readers. */
const IMAGE_EVERY_DELTAS = 256;

/** What LSNs the key will still be read at. */
export interface Retention {
  /** Ascending, each at or below the cutoff; the cutoff itself is one, where it is to be readable. */
  readonly retained: readonly number[];
  /** All LSNs above it can be read. 0: all LSNs. */
  readonly cutoff: number;
}

/** What is under the key's oldest version, or where its history goes on. */
export interface KeySituation {
  /** Whether an older state may exist that the versions do not contain: a tombstone must hide it. */
  readonly stateBelow: boolean;
  /** Images beside versions above the cutoff, where they pay. */
  readonly addImages: boolean;
  /** More versions of the key follow, planned on their own: the last state gets an image. */
  readonly continues: boolean;
}

/** Columns of one key's versions, ascending by LSN and then by arrival; [first, end) of them. */
export interface KeyVersions {
  readonly kinds: Uint8Array;
  readonly lsns: Float64Array;
  readonly lengths: Uint32Array;
}

/** The rule as a reusable object, as the hot path plans millions of keys. */
export class VersionPlan {
  /** ACTION_* of version i at `actions[i]`. */
  actions = new Uint8Array(4096);
  #kinds: Uint8Array = this.actions;
  #lsns: Float64Array = new Float64Array(0);
  #lengths: Uint32Array = new Uint32Array(0);
  /** Deltas that a read of the state before the version at hand applies. */
  #chain = 0;
  /** Their bytes. */
  #chainBytes = 0;
  /** Whether that state may be there, in the output or below it. */
  #state = false;

  /** Fills `actions` of [first, end). True where at least one of them needs an image built. */
  make(
    versions: KeyVersions,
    first: number,
    end: number,
    { retained, cutoff }: Retention,
    situation: KeySituation,
  ): boolean {
    if (this.actions.length < end) {
      const larger = new Uint8Array(Math.max(end, this.actions.length * 2));
      larger.set(this.actions);
      this.actions = larger;
    }
    this.#kinds = versions.kinds;
    this.#lsns = versions.lsns;
    this.#lengths = versions.lengths;
    this.#chain = 0;
    this.#chainBytes = 0;
    this.#state = situation.stateBelow;
    let at = first;
    let images = false;
    if (at < end && this.#lsns[at]! <= cutoff) {
      for (const lsn of retained) {
        const start = at;
        while (at < end && this.#lsns[at]! <= lsn) {
          at++;
        }
        if (at > start) {
          const last = at === end && situation.continues;
          images = this.#planInterval(start, at, last) || images;
        }
      }
      while (at < end && this.#lsns[at]! <= cutoff) {
        this.actions[at++] = ACTION_DROP;
      }
    }
    return this.#planAbove(at, end, situation) || images;
  }

  /** Versions [start, end), of which only the state after the last one is read. */
  #planInterval(start: number, end: number, wantsImage: boolean): boolean {
    const kinds = this.#kinds;
    let from = end - 1;
    while (from > start && kinds[from] === VALUE_DELTA) {
      from--;
    }
    this.actions.fill(ACTION_DROP, start, from);
    const kind = kinds[from]!;
    if (from === end - 1 && (kind === VALUE_IMAGE || kind === VALUE_TOMBSTONE)) {
      this.actions[from] = kind === VALUE_IMAGE || this.#state ? ACTION_KEEP : ACTION_DROP;
      this.#state = kind === VALUE_IMAGE;
      this.#chain = 0;
      this.#chainBytes = 0;
      return false;
    }
    let bytes = 0;
    for (let i = from; i < end; i++) {
      bytes += this.#lengths[i]!;
    }
    // Under an image that is there already, deltas only come on top of its bytes.
    const chain = kind === VALUE_DELTA ? this.#chain + end - from : end - from;
    const image =
      wantsImage || kind === VALUE_IMAGE || bytes > PAGE_SIZE || chain > MAX_CHAIN_DELTAS;
    this.actions.fill(image ? ACTION_DROP : ACTION_KEEP, from, end);
    if (image) {
      this.actions[end - 1] = ACTION_IMAGE;
    }
    this.#state = true;
    this.#chain = image ? 0 : chain;
    this.#chainBytes = image ? 0 : kind === VALUE_DELTA ? this.#chainBytes + bytes : bytes;
    return image;
  }

  #planAbove(start: number, end: number, situation: KeySituation): boolean {
    const kinds = this.#kinds;
    this.actions.fill(ACTION_KEEP, start, end);
    if (!situation.addImages) {
      return false;
    }
    let images = false;
    for (let i = start; i < end; i++) {
      if (kinds[i] !== VALUE_DELTA) {
        this.#chain = 0;
        this.#chainBytes = 0;
      }
      if (kinds[i] === VALUE_IMAGE || kinds[i] === VALUE_TOMBSTONE) {
        continue;
      }
      this.#chain++;
      this.#chainBytes += this.#lengths[i]!;
      const long = this.#chain >= MAX_CHAIN_DELTAS || this.#chainBytes > PAGE_SIZE;
      const due =
        i + 1 === end
          ? situation.continues || long
          : this.#chain >= IMAGE_EVERY_DELTAS && this.#lsns[i + 1] !== this.#lsns[i];
      if (due) {
        this.actions[i] = ACTION_KEEP_WITH_IMAGE;
        this.#chain = 0;
        this.#chainBytes = 0;
        images = true;
      }
    }
    return images;
  }
}
