// Writes a frozen layer to a delta layer file, with extra images where a key has many deltas.
//
// Runs on the flush thread for all but small layers (flush-thread.ts), so it sees the layer as plain
// data and asks for the pages that lie in other layers, in batches.

import { monotonicMs } from "../../base/clock.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import { type Lsn, toLsn } from "../../base/lsn.ts";
import { PageRedo } from "../../redo/page-redo.ts";
import { EntryChunks, NO_ENTRY } from "./entry-chunks.ts";
import type { FrozenLayer } from "./frozen-layer.ts";
import { formatKey, internPrefix, type KeyPrefix, keyHash, prefixField5 } from "./key.ts";
import { FIRST_KEY, LAST_KEY, LAYER_KIND_DELTA } from "./layer-format.ts";
import { type LayerDescription, LayerWriter } from "./layer-writer.ts";
import { VALUE_DELTA, VALUE_DELTA_INIT, VALUE_IMAGE, VALUE_TOMBSTONE } from "./version-chain.ts";

const DRAIN_BYTES = 1 << 20;
/** A hot key gets images in the middle too: a read in the past replays at most this many deltas. */
const IMAGE_EVERY_DELTAS = 256;
/** Pages asked for at once: half a megabyte. */
const PAGE_BATCH = 64;
/** Keys looked at for one batch of pages. */
const KEY_BATCH = 4096;

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
export type PageSource = (requests: readonly PageRequest[]) => Promise<readonly PageReply[]>;

export interface FlushSettings {
  readonly directory: string;
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
  readonly pages: PageSource;
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
  const writer = await LayerWriter.create(options.directory, LAYER_KIND_DELTA);
  try {
    const copy = new FrozenLayerCopy(layer, writer, options);
    await copy.run();
    const description = await writer.finish({
      kind: LAYER_KIND_DELTA,
      keyStart: FIRST_KEY,
      keyEnd: LAST_KEY,
      lsnStart: layer.lsnStart,
      lsnEnd: layer.lsnEnd,
    });
    const { failedImages, firstFailure } = copy;
    return { layer: description, failedImages, firstFailure };
  } catch (error) {
    await writer.abandon();
    throw error;
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
  /** Entries of the keys of the batch at hand, each key's oldest first, and where each key's end. */
  #entries = new Int32Array(4096);
  readonly #ends = new Uint32Array(KEY_BATCH);
  /** The key at hand has entries [#first, #end) of those. */
  #first = 0;
  #end = 0;
  #sliceStart = monotonicMs();

  constructor(layer: FrozenLayer, writer: LayerWriter, options: FlushOptions) {
    this.#layer = layer;
    this.#writer = writer;
    this.#options = options;
    this.#redo = new PageRedo({ walLogHints: options.walLogHints });
    this.#prefixes = layer.prefixFields.map((fields) => internPrefix(...fields));
    this.#chunks = new EntryChunks(layer.entries);
  }

  async run(): Promise<void> {
    const keys = this.#layer.keyHeads.length;
    for (let start = 0; start < keys; ) {
      const { end, requests } = this.#planBatch(start);
      const replies = requests.length === 0 ? [] : await this.#options.pages(requests);
      let next = 0;
      this.#end = 0;
      for (let key = start; key < end; key++) {
        this.#first = this.#end;
        this.#end = this.#ends[key - start]!;
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
      start = end;
    }
  }

  async #pause(): Promise<void> {
    if (this.#options.cancelled()) {
      throw new StorageError("unavailable", "shutting-down", "the flush was interrupted");
    }
    if (this.#writer.pendingBytes >= DRAIN_BYTES) {
      await this.#writer.drain();
    } else {
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.#sliceStart = monotonicMs();
  }

  /** The keys [start, end) and the pages that they need. */
  #planBatch(start: number): { end: number; requests: PageRequest[] } {
    const requests: PageRequest[] = [];
    const limit = Math.min(this.#layer.keyHeads.length, start + KEY_BATCH);
    this.#end = 0;
    let key = start;
    for (; key < limit && requests.length < PAGE_BATCH; key++) {
      this.#findEntries(this.#layer.keyHeads[key]!);
      this.#ends[key - start] = this.#end;
      const request = this.#pageFor(key);
      if (request !== undefined) {
        requests.push(request);
      }
    }
    return { end: key, requests };
  }

  /** Appends the entries of one key to those of the batch. */
  #findEntries(newest: number): void {
    this.#first = this.#end;
    let end = this.#end;
    for (let entry = newest; entry !== NO_ENTRY; entry = this.#chunks.previous(entry)) {
      if (end === this.#entries.length) {
        const larger = new Int32Array(end * 2);
        larger.set(this.#entries);
        this.#entries = larger;
      }
      this.#entries[end++] = entry;
    }
    this.#end = end;
    for (let low = this.#first, high = end - 1; low < high; low++, high--) {
      const entry = this.#entries[low]!;
      this.#entries[low] = this.#entries[high]!;
      this.#entries[high] = entry;
    }
  }

  #pageFor(key: number): PageRequest | undefined {
    const chunks = this.#chunks;
    const { lsnStart, keyHeads } = this.#layer;
    const { imageAfterDeltas } = this.#options;
    if (this.#end - this.#first >= imageAfterDeltas) {
      const needed = chunks.kind(this.#entries[this.#first]!) === VALUE_DELTA && this.#wantsImage();
      return needed ? { key, lsn: toLsn(lsnStart - 1), minDeltas: 0 } : undefined;
    }
    // A page that gets a few deltas in every layer would have long chains over many layers: an
    // image where its turn comes bounds them to about `imageRotation` layers.
    const { imageRotation, turn } = this.#options;
    const due = ((keyHash(this.#prefixOf(key), this.#indexOf(key)) >>> 0) + turn) % imageRotation;
    const newest = keyHeads[key]!;
    return due === 0 && isDeltaKind(chunks.kind(newest))
      ? { key, lsn: chunks.lsn(newest), minDeltas: imageAfterDeltas }
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
      this.#copy(prefix, index, this.#entries[i]!);
    }
    if (reply?.state === "page") {
      const lsn = this.#chunks.lsn(this.#entries[this.#end - 1]!);
      this.#writer.add(prefix, index, lsn, VALUE_IMAGE, reply.page);
    } else if (reply?.state === "failed") {
      this.#giveUpImage(key, reply.reason);
    }
  }

  #copy(prefix: KeyPrefix, index: number, entry: number): void {
    const chunks = this.#chunks;
    const place = chunks.place(entry);
    const chunk = chunks.chunkAt(place);
    this.#writer.add(
      prefix,
      index,
      chunks.lsn(entry),
      chunks.kind(entry),
      chunks.bytes[chunk]!,
      chunks.offsetAt(place),
      chunks.lengthAt(place),
      chunks.views[chunk]!,
    );
  }

  /** An image goes after the last delta of its LSN, which it contains. */
  #copyWithImages(key: number, base: PageReply | undefined): void {
    const chunks = this.#chunks;
    const prefix = this.#prefixOf(key);
    const index = this.#indexOf(key);
    let sinceImage = 0;
    // Redo runs only over keys that get an image at all: from the start where one is due somewhere.
    let building = this.#wantsImage() && this.#loadBase(key, base);
    for (let i = this.#first; i < this.#end; i++) {
      const entry = this.#entries[i]!;
      this.#copy(prefix, index, entry);
      sinceImage = isDeltaKind(chunks.kind(entry)) ? sinceImage + 1 : 0;
      if (building) {
        building = this.#replay(key, entry);
      }
      const last = i + 1 === this.#end;
      const lsn = chunks.lsn(entry);
      const due = last
        ? sinceImage >= this.#options.imageAfterDeltas
        : sinceImage >= IMAGE_EVERY_DELTAS && chunks.lsn(this.#entries[i + 1]!) !== lsn;
      if (building && due) {
        this.#writer.add(prefix, index, lsn, VALUE_IMAGE, this.#redo.page);
        sinceImage = 0;
      }
    }
  }

  #wantsImage(): boolean {
    let deltas = 0;
    for (let i = this.#first; i < this.#end; i++) {
      deltas = isDeltaKind(this.#chunks.kind(this.#entries[i]!)) ? deltas + 1 : 0;
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
    if (reply?.state === "page") {
      this.#redo.load(reply.page);
    } else {
      this.#redo.loadZero();
    }
    return true;
  }

  #replay(key: number, entry: number): boolean {
    const chunks = this.#chunks;
    const redo = this.#redo;
    const place = chunks.place(entry);
    const bytes = chunks.bytes[chunks.chunkAt(place)]!;
    const offset = chunks.offsetAt(place);
    const length = chunks.lengthAt(place);
    try {
      switch (chunks.kind(entry)) {
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
      redo.applyAt(bytes, offset, length, chunks.lsn(entry), this.#indexOf(key), fork);
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

function isDeltaKind(kind: number): boolean {
  return kind === VALUE_DELTA || kind === VALUE_DELTA_INIT;
}
