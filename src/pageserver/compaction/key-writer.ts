// Writes the versions of a batch that stay, key by key, and builds the images that take others' place.

import { errorMessage } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import { PageRedo } from "../../redo/page-redo.ts";
import type { PageReply } from "../flush/layer-flush.ts";
import { formatKey, isPagePrefix, type KeyPrefix, prefixField5 } from "../layers/key.ts";
import { VALUE_DELTA, VALUE_IMAGE, VALUE_TOMBSTONE } from "../layers/version-chain.ts";
import type { CompactionSettings } from "./compaction-settings.ts";
import type { DeltaOutput, ImageOutput } from "./output-layers.ts";
import type { RelationEnds } from "./relation-ends.ts";
import {
  ACTION_DROP,
  ACTION_IMAGE,
  ACTION_KEEP,
  type Retention,
  VersionPlan,
} from "./retained-versions.ts";
import type { VersionBatch } from "./version-batch.ts";

/** What the key at hand is like, beside its versions. */
interface KeyInHand {
  readonly prefix: KeyPrefix;
  readonly index: number;
  /** Versions [first, end) of the batch. */
  readonly first: number;
  readonly end: number;
  /** Those at or below the image layers' LSN end before this one. */
  readonly split: number;
  readonly continued: boolean;
  readonly continues: boolean;
}

/** A key's value; undefined: it is not there. */
type KeyState = Uint8Array | undefined | "unbuilt";

/** The state of a key at the end of a part of it, where more follows. */
type CarriedState = "absent" | "there";

/** For one batch after the other: `plan`, then `writeKey` for each key in turn. */
export class KeyWriter {
  failedImages = 0;
  firstFailure: string | undefined;
  writtenBytes = 0;
  /** The key written last is to be in no image layer, as it could not be built. */
  leavesHole = false;
  readonly #settings: CompactionSettings;
  readonly #batch: VersionBatch;
  readonly #deltas: DeltaOutput;
  readonly #images: ImageOutput | undefined;
  readonly #ends: RelationEnds | undefined;
  readonly #plan = new VersionPlan();
  /** For versions up to the image layers, and for those above. */
  readonly #lower: Retention;
  readonly #upper: Retention;
  readonly #imageLsn: number;
  readonly #redo: PageRedo;
  /** Redo's page is the key's after the version before this one ... */
  #replayed = 0;
  /** ... unless that could not be built. */
  #broken = false;
  #reply: PageReply | undefined;
  /** Of the key that goes on in the next batch. */
  #carried: CarriedState = "absent";
  /** Its value, where that is yet to go to the image layers. */
  #carriedValue: KeyState;
  #inImageLayer = false;

  constructor(
    settings: CompactionSettings,
    batch: VersionBatch,
    deltas: DeltaOutput,
    images: ImageOutput | undefined,
    ends: RelationEnds | undefined,
  ) {
    const { retained, cutoff, imageLayerLsn } = settings;
    this.#settings = settings;
    this.#batch = batch;
    this.#deltas = deltas;
    this.#images = images;
    this.#ends = ends;
    this.#redo = new PageRedo({ walLogHints: settings.walLogHints });
    this.#imageLsn = imageLayerLsn ?? -1;
    const imageLsn = this.#imageLsn;
    this.#lower = {
      retained: retained.filter((lsn) => lsn < imageLsn),
      cutoff: Math.min(cutoff, imageLsn),
    };
    this.#upper = { retained: retained.filter((lsn) => lsn > imageLsn), cutoff };
  }

  /** Decides on every version; returns the keys whose pages below their oldest version are needed. */
  plan(): number[] {
    const batch = this.#batch;
    const asked: number[] = [];
    for (let key = 0; key < batch.keyCount; key++) {
      const at = this.#keyAt(key);
      const images = this.#planKey(at);
      if (
        images &&
        !at.continued &&
        this.#settings.moreBelow &&
        batch.kinds[at.first] === VALUE_DELTA &&
        isPagePrefix(at.prefix) &&
        this.#firstImageNeedsBase(at)
      ) {
        asked.push(key);
      }
    }
    return asked;
  }

  #keyAt(key: number): KeyInHand {
    const { prefixes, indexes, ends, lsns, keyCount, continued, continues } = this.#batch;
    const first = key === 0 ? 0 : ends[key - 1]!;
    const end = ends[key]!;
    let split = first;
    while (split < end && lsns[split]! <= this.#imageLsn) {
      split++;
    }
    return {
      prefix: prefixes[key]!,
      index: indexes[key]!,
      first,
      end,
      split,
      continued: continued && key === 0,
      continues: continues && key === keyCount - 1,
    };
  }

  #planKey({ first, split, end, continued, continues }: KeyInHand): boolean {
    const batch = this.#batch;
    const stateBelow = continued ? this.#carried === "there" : this.#settings.moreBelow;
    const addImages = this.#images === undefined;
    let images = false;
    if (split > first) {
      const here = { stateBelow, addImages, continues: continues && split === end };
      images = this.#plan.make(batch, first, split, this.#lower, here);
    }
    if (end > split) {
      const above = split > first ? batch.kinds[split - 1] !== VALUE_TOMBSTONE : stateBelow;
      const here = { stateBelow: above, addImages, continues };
      images = this.#plan.make(batch, split, end, this.#upper, here) || images;
    }
    return images;
  }

  #firstImageNeedsBase({ first, end }: KeyInHand): boolean {
    const { kinds } = this.#batch;
    for (let i = first; i < end; i++) {
      const action = this.#plan.actions[i];
      if (kinds[i] !== VALUE_DELTA) {
        return false;
      }
      if (action !== ACTION_KEEP && action !== ACTION_DROP) {
        return true;
      }
    }
    return false;
  }

  /** The files that it writes to are open. `reply`: where `plan` said that the page below is needed. */
  writeKey(key: number, reply: PageReply | undefined): void {
    const at = this.#keyAt(key);
    const { first, split, end, continued, continues } = at;
    this.#reply = reply;
    this.#replayed = first;
    if (!continued) {
      this.#broken = false;
      this.#inImageLayer = false;
    }
    if (this.#images !== undefined && !this.#inImageLayer && split < end) {
      this.#writeVersions(at, first, split);
      this.#writeToImageLayer(at, first, split);
      this.#writeVersions(at, split, end);
    } else {
      this.#writeVersions(at, first, end);
      if (this.#images !== undefined && !this.#inImageLayer && !continues) {
        this.#writeToImageLayer(at, first, end);
      }
    }
    if (continues) {
      this.#carry(at);
    }
  }

  #writeVersions(at: KeyInHand, start: number, end: number): void {
    const { actions } = this.#plan;
    for (let i = start; i < end; i++) {
      const action = actions[i]!;
      if (action === ACTION_DROP) {
        continue;
      }
      if (action !== ACTION_IMAGE) {
        this.#copy(at, i);
      }
      if (action !== ACTION_KEEP) {
        if (this.#buildPage(at, i)) {
          this.#writeImage(at, i);
        } else if (action === ACTION_IMAGE) {
          this.#copyReplaced(at, i);
        }
      }
    }
  }

  #copy(at: KeyInHand, i: number): void {
    const { blocks, views, blockOf, kinds, lsns, offsets, lengths } = this.#batch;
    const block = blockOf[i]!;
    const length = lengths[i]!;
    this.#deltas.add(
      at,
      lsns[i]!,
      kinds[i]!,
      blocks[block]!.bytes,
      offsets[i]!,
      length,
      views[block]!,
    );
    this.writtenBytes += length;
  }

  #writeImage(at: KeyInHand, i: number): void {
    const { page } = this.#redo;
    this.#deltas.add(at, this.#batch.lsns[i]!, VALUE_IMAGE, page, 0, page.length, undefined);
    this.writtenBytes += page.length;
  }

  /** The image that should take their place cannot be built: versions from its base to i stay. */
  #copyReplaced(at: KeyInHand, i: number): void {
    const { kinds } = this.#batch;
    const { actions } = this.#plan;
    let start = i;
    while (start > at.first && kinds[start] === VALUE_DELTA && actions[start - 1] === ACTION_DROP) {
      start--;
    }
    for (let version = start; version <= i; version++) {
      this.#copy(at, version);
    }
  }

  #value(i: number): Uint8Array {
    const { blocks, blockOf, offsets, lengths } = this.#batch;
    const offset = offsets[i]!;
    return blocks[blockOf[i]!]!.bytes.subarray(offset, offset + lengths[i]!);
  }

  /** Makes redo's page the one after version i; false where that fails, which is noted. */
  #buildPage(at: KeyInHand, i: number): boolean {
    const { kinds } = this.#batch;
    if (i < this.#replayed) {
      return !this.#broken;
    }
    let start = i;
    while (start > this.#replayed && kinds[start] === VALUE_DELTA) {
      start--;
    }
    if (kinds[start] === VALUE_DELTA) {
      if (this.#broken || (start === at.first && !at.continued && !this.#loadBase(at))) {
        return false;
      }
    }
    this.#broken = false;
    try {
      for (let version = start; version <= i; version++) {
        this.#apply(at, version);
      }
    } catch (error) {
      return this.#giveUp(at, errorMessage(error));
    } finally {
      this.#replayed = i + 1;
    }
    return true;
  }

  #apply(at: KeyInHand, i: number): void {
    const { blocks, blockOf, offsets, lengths, kinds, lsns } = this.#batch;
    const redo = this.#redo;
    switch (kinds[i]) {
      case VALUE_IMAGE:
        redo.load(this.#value(i));
        return;
      case VALUE_TOMBSTONE:
        redo.loadZero();
        return;
      case VALUE_DELTA:
        break;
      default:
        redo.loadZero();
    }
    const { bytes } = blocks[blockOf[i]!]!;
    const fork = prefixField5(at.prefix);
    redo.applyAt(bytes, offsets[i]!, lengths[i]!, lsns[i]! as Lsn, at.index, fork);
  }

  /** A page that has no base at all starts from zeros, as in Postgres's recovery. */
  #loadBase(at: KeyInHand): boolean {
    const reply = this.#reply;
    if (reply === undefined || reply.state === "none") {
      this.#redo.loadZero();
      return true;
    }
    if (reply.state === "page") {
      this.#redo.load(reply.page);
      return true;
    }
    return this.#giveUp(at, reply.state === "failed" ? reply.reason : "its base was refused");
  }

  #giveUp({ prefix, index }: KeyInHand, reason: string): false {
    this.#broken = true;
    this.failedImages++;
    this.firstFailure ??= `key ${formatKey(prefix, index)}: ${reason}`;
    return false;
  }

  /** The key's state after version `end - 1`, or the one carried where that is not here. */
  #writeToImageLayer(at: KeyInHand, first: number, end: number): void {
    this.#inImageLayer = true;
    if (this.#ends?.has(at.prefix, at.index) === false) {
      return;
    }
    const value = end > first ? this.#stateAfter(at, end - 1) : this.#carriedStateOf(at);
    if (value === "unbuilt") {
      // An image layer without it would say that the page is not there.
      this.leavesHole = true;
    } else if (value !== undefined) {
      this.#images!.add(at, value);
      this.writtenBytes += value.length;
    }
  }

  #carriedStateOf({ continued }: KeyInHand): KeyState {
    return continued ? this.#carriedValue : undefined;
  }

  /** Lent until the next page is built. */
  #stateAfter(at: KeyInHand, i: number): KeyState {
    const kind = this.#batch.kinds[i]!;
    if (kind === VALUE_TOMBSTONE) {
      return undefined;
    }
    if (kind === VALUE_IMAGE) {
      return this.#value(i);
    }
    return this.#buildPage(at, i) ? this.#redo.page : "unbuilt";
  }

  #carry(at: KeyInHand): void {
    const last = at.end - 1;
    this.#carried = this.#batch.kinds[last] === VALUE_TOMBSTONE ? "absent" : "there";
    if (isPagePrefix(at.prefix)) {
      this.#buildPage(at, last);
    }
    if (this.#images === undefined || this.#inImageLayer) {
      this.#carriedValue = undefined;
    } else {
      const state = this.#stateAfter(at, last);
      this.#carriedValue = typeof state === "object" ? state.slice() : state;
    }
  }
}
