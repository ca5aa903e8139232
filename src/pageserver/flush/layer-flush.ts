// Writes a frozen layer to a delta layer file, with extra images where a key has many deltas.
//
// Runs on the background thread for all but small layers (background-thread.ts), so it sees the layer as plain
// data and asks for the pages that lie in other layers, in batches.

import { monotonicMs, turn } from "../../base/clock.ts";
import type { Disk } from "../../base/disk.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import { type Lsn, toLsn } from "../../base/lsn.ts";
import { PageRedo } from "../../redo/page-redo.ts";
import { EntryChunks, NO_ENTRY } from "../layers/entry-chunks.ts";
import type { FrozenLayer } from "../layers/frozen-layer.ts";
import { formatKey, type KeyPrefix, keyHash, keyPrefix, prefixField5 } from "../layers/key.ts";
import {
  FIRST_KEY,
  LAST_KEY,
  LAYER_KIND_DELTA,
  type LayerName,
  type LayerNumber,
} from "../layers/layer-format.ts";
import { type LayerDescription, LayerWriter } from "../layers/layer-writer.ts";
import {
  VALUE_DELTA,
  VALUE_DELTA_INIT,
  VALUE_IMAGE,
  VALUE_TOMBSTONE,
} from "../layers/version-chain.ts";

const DRAIN_BYTES = 1 << 20;
/** A hot key gets images in the middle too: a read in the past replays at most this many deltas. */
const IMAGE_EVERY_DELTAS = 256;
/** Pages asked for at once: half a megabyte. */
const PAGE_BATCH = 64;
/** Keys looked at for one batch of pages. */
const KEY_BATCH = 4096;
/** Room in a batch at first: most flushes of quiet branches have less. */
const FIRST_VERSIONS = 512;

const LENGTHS_AHEAD = 32;

/** One page of a key, at an LSN. */
export interface PageRequest {
  /** Number of the key in the layer. */
  readonly key: number;
  readonly lsn: Lsn;
  /** Only wanted where a read would apply at least so many deltas, caches left out of account. */
  readonly minDeltas: number;
}

/**
 * `page`: 8 kB, the receiver's to keep. `none`: the key does not exist there. `unwanted`: fewer
 * deltas. `failed`: why it cannot be read.
 */
export type PageReply =
  | { readonly state: "page"; readonly page: Uint8Array }
  | { readonly state: "none" | "unwanted" }
  | { readonly state: "failed"; readonly reason: string };

/** Answers requests, in their order. */
export type PageLookup = (requests: readonly PageRequest[]) => Promise<readonly PageReply[]>;

export interface FlushSettings {
  readonly directory: string;
  /** Of the file, in its name. */
  readonly number: LayerNumber;
  /** A key with this many deltas above its last image gets an image at its last delta. */
  readonly imageAfterDeltas: number;
  /** One in so many changed pages is looked at in each flush, others in the next ones ... */
  readonly imageRotation: number;
  /** ... this flush's turn, any whole number. */
  readonly turn: number;
  /** As PageRedo's. */
  readonly walLogHints: boolean;
}

export interface FlushOptions extends FlushSettings {
  readonly disk: Disk;
  readonly pages: PageLookup;
  /** Asked now and then; true ends the flush with `unavailable`. */
  readonly cancelled: () => boolean;
  /** Other work of this thread gets its turn after so many milliseconds. */
  readonly sliceMs: number;
}

export interface FlushResult {
  readonly layer: LayerDescription;
  /** Images that could not be built; their deltas are there. */
  readonly failedImages: number;
  /** Key and reason of the first. */
  readonly firstFailure: string | undefined;
}

/**
 * Resolves when the file is durable. `unavailable` where the disk is full or it was cancelled:
 * nothing is left behind and the flush can be repeated.
 */
export async function writeFrozenLayer(
  layer: FrozenLayer,
  options: FlushOptions,
): Promise<FlushResult> {
  const writer = await LayerWriter.create(options.directory, LAYER_KIND_DELTA, options.disk);
  try {
    const copy = new FrozenLayerCopy(layer, writer, options);
    await copy.run();
    const name: LayerName = {
      kind: LAYER_KIND_DELTA,
      keyStart: FIRST_KEY,
      keyEnd: LAST_KEY,
      lsnStart: layer.lsnStart,
      lsnEnd: layer.lsnEnd,
    };
    const description = await writer.finish(name, options.number);
    const { failedImages, firstFailure } = copy;
    return { layer: description, failedImages, firstFailure };
  } catch (error) {
    await writer.abandon();
    throw error;
  }
}

/** Keys [start, end) of the layer and their versions, in columns: key by key, the oldest first. */
class KeyBatch {
  start = 0;
  end = 0;
  requests: PageRequest[] = [];
  replies: Promise<readonly PageReply[]> = Promise.resolve([]);
  /** Versions of key `start + i` end before this one. */
  readonly ends = new Uint32Array(KEY_BATCH);
  count = 0;
  kinds = new Uint8Array(FIRST_VERSIONS);
  lsns = new Float64Array(FIRST_VERSIONS);
  /** As in EntryChunks. */
  places = new Int32Array(FIRST_VERSIONS);

  reserve(count: number): void {
    if (count <= this.lsns.length) {
      return;
    }
    const capacity = Math.max(count, this.lsns.length * 2);
    const { kinds, lsns, places } = this;
    this.kinds = new Uint8Array(capacity);
    this.kinds.set(kinds);
    this.lsns = new Float64Array(capacity);
    this.lsns.set(lsns);
    this.places = new Int32Array(capacity);
    this.places.set(places);
  }
}

class FrozenLayerCopy {
  failedImages = 0;
  firstFailure: string | undefined;
  readonly #layer: FrozenLayer;
  readonly #writer: LayerWriter;
  readonly #options: FlushOptions;
  readonly #prefixes: readonly KeyPrefix[];
  readonly #redo: PageRedo;
  readonly #chunks: EntryChunks;
  /** The batch at hand, and the next one, whose pages are on their way meanwhile. */
  #batch = new KeyBatch();
  #nextBatch = new KeyBatch();
  /** Entries of one key, the newest first. */
  #chain = new Int32Array(256);
  /** The key at hand has versions [#first, #end) of the batch. */
  #first = 0;
  #end = 0;
  /** Lengths of some values of that key: of versions [#lengthsFrom, #lengthsEnd). */
  readonly #lengths = new Int32Array(LENGTHS_AHEAD);
  #lengthsFrom = 0;
  #lengthsEnd = 0;
  #sliceStart = monotonicMs();

  constructor(layer: FrozenLayer, writer: LayerWriter, options: FlushOptions) {
    this.#layer = layer;
    this.#writer = writer;
    this.#options = options;
    this.#redo = new PageRedo({ walLogHints: options.walLogHints });
    this.#prefixes = layer.prefixFields.map((fields) => keyPrefix(...fields));
    this.#chunks = new EntryChunks(layer.entries);
  }

  async run(): Promise<void> {
    const keys = this.#layer.keyHeads.length;
    this.#plan(this.#nextBatch, 0);
    while (this.#nextBatch.start < keys) {
      const batch = this.#nextBatch;
      this.#nextBatch = this.#batch;
      this.#batch = batch;
      const replies = await batch.replies;
      this.#plan(this.#nextBatch, batch.end);
      try {
        await this.#copyBatch(replies);
      } finally {
        // One question at a time is on its way, and none is when the flush has ended.
        await this.#nextBatch.replies;
      }
    }
  }

  async #copyBatch(replies: readonly PageReply[]): Promise<void> {
    const { start, end, ends, requests } = this.#batch;
    let next = 0;
    this.#end = 0;
    for (let key = start; key < end; key++) {
      this.#first = this.#end;
      this.#end = ends[key - start]!;
      this.#lengthsEnd = this.#first;
      const wanted = requests[next]?.key === key;
      this.#copyKey(key, wanted ? replies[next]! : undefined);
      next += wanted ? 1 : 0;
      if (
        this.#writer.pendingBytes >= DRAIN_BYTES ||
        ((key & 15) === 0 && monotonicMs() - this.#sliceStart > this.#options.sliceMs)
      ) {
        await this.#pause();
      }
    }
  }

  async #pause(): Promise<void> {
    if (this.#options.cancelled()) {
      throw new StorageError("unavailable", "shutting-down", "the flush was interrupted");
    }
    if (this.#writer.pendingBytes >= DRAIN_BYTES) {
      await this.#writer.drain();
    } else {
      await turn();
    }
    this.#sliceStart = monotonicMs();
  }

  /** Makes `batch` one of keys from `start` on, and asks for the pages that they need. */
  #plan(batch: KeyBatch, start: number): void {
    const requests: PageRequest[] = [];
    const limit = Math.min(this.#layer.keyHeads.length, start + KEY_BATCH);
    batch.start = start;
    batch.count = 0;
    let key = start;
    for (; key < limit && requests.length < PAGE_BATCH; key++) {
      const first = batch.count;
      this.#findVersions(batch, this.#layer.keyHeads[key]!);
      batch.ends[key - start] = batch.count;
      const request = this.#pageFor(batch, key, first);
      if (request !== undefined) {
        requests.push(request);
      }
    }
    batch.end = key;
    batch.requests = requests;
    batch.replies = requests.length === 0 ? Promise.resolve([]) : this.#options.pages(requests);
  }

  /** Appends the versions of one key to those of the batch. */
  #findVersions(batch: KeyBatch, newest: number): void {
    const chunks = this.#chunks;
    let length = 0;
    for (let entry = newest; entry !== NO_ENTRY; entry = chunks.previous(entry)) {
      if (length === this.#chain.length) {
        const larger = new Int32Array(length * 2);
        larger.set(this.#chain);
        this.#chain = larger;
      }
      this.#chain[length++] = entry;
    }
    batch.reserve(batch.count + length);
    const { kinds, lsns, places } = batch;
    for (let i = length - 1, at = batch.count; i >= 0; i--, at++) {
      const entry = this.#chain[i]!;
      kinds[at] = chunks.kind(entry);
      lsns[at] = chunks.lsn(entry);
      places[at] = chunks.place(entry);
    }
    batch.count += length;
  }

  #pageFor(batch: KeyBatch, key: number, first: number): PageRequest | undefined {
    const { lsnStart } = this.#layer;
    const { imageAfterDeltas } = this.#options;
    if (batch.count - first >= imageAfterDeltas) {
      const needed =
        batch.kinds[first] === VALUE_DELTA && this.#wantsImage(batch, first, batch.count);
      return needed ? { key, lsn: toLsn(lsnStart - 1), minDeltas: 0 } : undefined;
    }
    // A page that gets a few deltas in every layer would have long chains over many layers: an
    // image where its turn comes bounds them to about `imageRotation` layers.
    const { imageRotation, turn } = this.#options;
    const due = ((keyHash(this.#prefixOf(key), this.#indexOf(key)) >>> 0) + turn) % imageRotation;
    return due === 0 && isDeltaKind(batch.kinds[batch.count - 1]!)
      ? { key, lsn: batch.lsns[batch.count - 1]! as Lsn, minDeltas: imageAfterDeltas }
      : undefined;
  }

  #prefixOf(key: number): KeyPrefix {
    return this.#prefixes[this.#layer.keyPrefixes[key]!]!;
  }

  #indexOf(key: number): number {
    return this.#layer.keyIndexes[key]!;
  }

  #copyKey(key: number, reply: PageReply | undefined): void {
    if (this.#end - this.#first >= this.#options.imageAfterDeltas) {
      this.#copyWithImages(key, reply);
    } else {
      this.#copyEntries(key, reply);
    }
  }

  #copyEntries(key: number, reply: PageReply | undefined): void {
    const prefix = this.#prefixOf(key);
    const index = this.#indexOf(key);
    for (let i = this.#first; i < this.#end; i++) {
      this.#copy(prefix, index, i);
    }
    if (reply?.state === "page") {
      const lsn = this.#batch.lsns[this.#end - 1]! as Lsn;
      this.#writer.add(prefix, index, lsn, VALUE_IMAGE, reply.page);
    } else if (reply?.state === "failed") {
      this.#giveUpImage(key, reply.reason);
    }
  }

  /**
   * Each value lies somewhere else in memory, and waiting for that is a good part of a flush. Lengths
   * of several at once are loads that wait together, and then the values are near.
   */
  #lengthOf(version: number): number {
    if (version >= this.#lengthsEnd) {
      const { places } = this.#batch;
      const count = Math.min(LENGTHS_AHEAD, this.#end - version);
      for (let i = 0; i < count; i++) {
        this.#lengths[i] = this.#chunks.lengthAt(places[version + i]!);
      }
      this.#lengthsFrom = version;
      this.#lengthsEnd = version + count;
    }
    return this.#lengths[version - this.#lengthsFrom]!;
  }

  #copy(prefix: KeyPrefix, index: number, version: number): void {
    const chunks = this.#chunks;
    const { kinds, lsns, places } = this.#batch;
    const place = places[version]!;
    const chunk = chunks.chunkAt(place);
    this.#writer.add(
      prefix,
      index,
      lsns[version]! as Lsn,
      kinds[version]!,
      chunks.bytes[chunk]!,
      chunks.offsetAt(place),
      this.#lengthOf(version),
      chunks.views[chunk]!,
    );
  }

  /** An image goes after the last delta of its LSN, which it contains. */
  #copyWithImages(key: number, base: PageReply | undefined): void {
    const { kinds, lsns } = this.#batch;
    const prefix = this.#prefixOf(key);
    const index = this.#indexOf(key);
    let sinceImage = 0;
    // Redo runs only over keys that get an image at all: from the start where one is due somewhere.
    let building =
      this.#wantsImage(this.#batch, this.#first, this.#end) && this.#loadBase(key, base);
    for (let i = this.#first; i < this.#end; i++) {
      this.#copy(prefix, index, i);
      sinceImage = deltasUpTo(sinceImage, kinds[i]!);
      if (building) {
        building = this.#replay(key, i);
      }
      const last = i + 1 === this.#end;
      const lsn = lsns[i]! as Lsn;
      const due = last
        ? sinceImage >= this.#options.imageAfterDeltas
        : sinceImage >= IMAGE_EVERY_DELTAS && lsns[i + 1]! !== lsn;
      if (building && due) {
        this.#writer.add(prefix, index, lsn, VALUE_IMAGE, this.#redo.page);
        sinceImage = 0;
      }
    }
  }

  #wantsImage(batch: KeyBatch, first: number, end: number): boolean {
    let deltas = 0;
    for (let i = first; i < end; i++) {
      deltas = deltasUpTo(deltas, batch.kinds[i]!);
      if (deltas >= IMAGE_EVERY_DELTAS) {
        return true;
      }
    }
    return deltas >= this.#options.imageAfterDeltas;
  }

  /** No reply: the oldest entry needs nothing below. */
  #loadBase(key: number, reply: PageReply | undefined): boolean {
    if (reply?.state === "failed") {
      return this.#giveUpImage(key, reply.reason);
    }
    if (reply?.state === "unwanted") {
      // There is a page, in a layer that is not on the disk: no image can be made.
      return false;
    }
    if (reply?.state === "page") {
      this.#redo.load(reply.page);
    } else {
      this.#redo.loadZero();
    }
    return true;
  }

  #replay(key: number, version: number): boolean {
    const chunks = this.#chunks;
    const redo = this.#redo;
    const { kinds, lsns, places } = this.#batch;
    const place = places[version]!;
    const bytes = chunks.bytes[chunks.chunkAt(place)]!;
    const offset = chunks.offsetAt(place);
    const length = this.#lengthOf(version);
    try {
      switch (kinds[version]) {
        case VALUE_IMAGE:
          redo.load(bytes.subarray(offset, offset + length));
          return true;
        case VALUE_TOMBSTONE:
          redo.loadZero();
          return true;
        case VALUE_DELTA_INIT:
          redo.loadZero();
          break;
      }
      const fork = prefixField5(this.#prefixOf(key));
      redo.applyAt(bytes, offset, length, lsns[version]! as Lsn, this.#indexOf(key), fork);
      return true;
    } catch (error) {
      return this.#giveUpImage(key, errorMessage(error));
    }
  }

  /** An image is only a shortcut: a page that cannot be built must not stop the flush. */
  #giveUpImage(key: number, reason: string): false {
    this.failedImages++;
    this.firstFailure ??= `key ${formatKey(this.#prefixOf(key), this.#indexOf(key))}: ${reason}`;
    return false;
  }
}

/** How many deltas a read of a version applies, from that number for the version before and its kind. */
function deltasUpTo(before: number, kind: number): number {
  return kind === VALUE_DELTA ? before + 1 : kind === VALUE_DELTA_INIT ? 1 : 0;
}

function isDeltaKind(kind: number): boolean {
  return kind === VALUE_DELTA || kind === VALUE_DELTA_INIT;
}
