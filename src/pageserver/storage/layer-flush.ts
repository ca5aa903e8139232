// Writes a frozen layer to a delta layer file, with extra images where a key has many deltas.

import { monotonicMs } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { type Lsn, toLsn } from "../../base/lsn.ts";
import type { PageRedo } from "../../redo/page-redo.ts";
import { formatKey, type KeyPrefix, keyHash, prefixField5 } from "./key.ts";
import { FIRST_KEY, LAST_KEY, LAYER_KIND_DELTA } from "./layer-format.ts";
import { type LayerDescription, LayerWriter } from "./layer-writer.ts";
import type { OpenLayer } from "./open-layer.ts";
import { VALUE_DELTA, VALUE_DELTA_INIT, VALUE_IMAGE, VALUE_TOMBSTONE } from "./version-chain.ts";

/** The event loop is given back after this long: page service goes on during a flush. */
const SLICE_MS = 2;
const DRAIN_BYTES = 1 << 20;
/** A hot key gets images in the middle too: a read in the past replays at most this many deltas. */
const IMAGE_EVERY_DELTAS = 256;

export interface FlushOptions {
  readonly directory: string;
  /** A key with this many deltas above its last image gets an image at its last delta. */
  readonly imageAfterDeltas: number;
  /** For this flush alone: its page lives on across yields. */
  readonly redo: PageRedo;
  /** One in so many changed pages is looked at in each flush, others in the next ones ... */
  readonly imageRotation: number;
  /** ... this flush's turn, any whole number. */
  readonly turn: number;
  /** The page at an LSN, undefined where there is none. */
  readonly readPage: (prefix: KeyPrefix, index: number, lsn: Lsn) => Uint8Array | undefined;
  /** Deltas that a read at the LSN applies. */
  readonly countDeltas: (prefix: KeyPrefix, index: number, lsn: Lsn) => number;
  readonly signal: AbortSignal;
  readonly logger: Logger;
}

/**
 * Resolves when the file is durable. The layer is only read. `unavailable` where the disk is full or
 * the signal aborts: nothing is left behind and the flush can be repeated.
 */
export async function writeFrozenLayer(
  layer: OpenLayer,
  options: FlushOptions,
): Promise<LayerDescription> {
  const writer = await LayerWriter.create(options.directory, LAYER_KIND_DELTA);
  try {
    await new FrozenLayerCopy(layer, writer, options).run();
    return await writer.finish({
      kind: LAYER_KIND_DELTA,
      keyStart: FIRST_KEY,
      keyEnd: LAST_KEY,
      lsnStart: layer.lsnStart,
      lsnEnd: layer.lsnEnd,
    });
  } catch (error) {
    await writer.abandon();
    throw error;
  }
}

class FrozenLayerCopy {
  readonly #layer: OpenLayer;
  readonly #writer: LayerWriter;
  readonly #options: FlushOptions;
  #sliceStart = monotonicMs();
  #failedImages = 0;
  #firstFailure: { error: unknown; key: string } | undefined;

  constructor(layer: OpenLayer, writer: LayerWriter, options: FlushOptions) {
    this.#layer = layer;
    this.#writer = writer;
    this.#options = options;
  }

  async run(): Promise<void> {
    for (const { prefix, index, head } of this.#layer.sortedKeys()) {
      const entries = this.#layer.versions(head);
      if (entries.length < this.#options.imageAfterDeltas) {
        for (const entry of entries) {
          this.#copy(prefix, index, entry);
        }
        this.#imageInTurn(prefix, index, entries.at(-1)!);
      } else {
        await this.#copyWithImages(prefix, index, entries);
      }
      if (monotonicMs() - this.#sliceStart > SLICE_MS) {
        await this.#pause();
      }
    }
    if (this.#firstFailure !== undefined) {
      this.#options.logger.error(
        { ...this.#firstFailure, failedImages: this.#failedImages },
        "pages could not be built during a flush; their deltas were kept",
      );
    }
  }

  async #pause(): Promise<void> {
    if (this.#options.signal.aborted) {
      throw new StorageError("unavailable", "shutting-down", "the flush was interrupted");
    }
    if (this.#writer.pendingBytes >= DRAIN_BYTES) {
      await this.#writer.drain();
    } else {
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.#sliceStart = monotonicMs();
  }

  #copy(prefix: KeyPrefix, index: number, entry: number): void {
    const layer = this.#layer;
    this.#writer.add(
      prefix,
      index,
      layer.entryLsn(entry),
      layer.entryKind(entry),
      layer.entryBuffer(entry),
      layer.entryOffset(entry),
      layer.entryLength(entry),
    );
  }

  /**
   * A page that gets a few deltas in every layer would have long chains over many layers: an image
   * where its turn comes bounds them to about `imageRotation` layers.
   */
  #imageInTurn(prefix: KeyPrefix, index: number, newest: number): void {
    const { imageRotation, turn, imageAfterDeltas } = this.#options;
    const due = ((keyHash(prefix, index) >>> 0) + turn) % imageRotation === 0;
    if (!due || !isDeltaKind(this.#layer.entryKind(newest))) {
      return;
    }
    const lsn = this.#layer.entryLsn(newest);
    try {
      if (this.#options.countDeltas(prefix, index, lsn) >= imageAfterDeltas) {
        const page = this.#options.readPage(prefix, index, lsn);
        this.#writer.add(prefix, index, lsn, VALUE_IMAGE, page!);
      }
    } catch (error) {
      this.#giveUpImage(prefix, index, error);
    }
  }

  /** An image goes after the last delta of its LSN, which it contains. */
  async #copyWithImages(prefix: KeyPrefix, index: number, entries: number[]): Promise<void> {
    let sinceImage = 0;
    // Redo runs only over keys that get an image at all: from the start where one is due somewhere.
    let building = this.#wantsImage(entries) && this.#loadBase(prefix, index, entries[0]!);
    for (let i = 0; i < entries.length; i++) {
      const entry = entries[i]!;
      this.#copy(prefix, index, entry);
      const isDelta = isDeltaKind(this.#layer.entryKind(entry));
      sinceImage = isDelta ? sinceImage + 1 : 0;
      if (building) {
        building = this.#replay(prefix, index, entry);
      }
      const next = entries[i + 1];
      const lsn = this.#layer.entryLsn(entry);
      const due =
        next === undefined
          ? sinceImage >= this.#options.imageAfterDeltas
          : sinceImage >= IMAGE_EVERY_DELTAS && this.#layer.entryLsn(next) !== lsn;
      if (building && due) {
        this.#writer.add(prefix, index, lsn, VALUE_IMAGE, this.#options.redo.copyOut());
        sinceImage = 0;
      }
      if ((i & 15) === 15 && monotonicMs() - this.#sliceStart > SLICE_MS) {
        await this.#pause();
      }
    }
  }

  #wantsImage(entries: readonly number[]): boolean {
    let deltas = 0;
    for (const entry of entries) {
      deltas = isDeltaKind(this.#layer.entryKind(entry)) ? deltas + 1 : 0;
      if (deltas >= IMAGE_EVERY_DELTAS) {
        return true;
      }
    }
    return deltas >= this.#options.imageAfterDeltas;
  }

  #loadBase(prefix: KeyPrefix, index: number, firstEntry: number): boolean {
    const { redo, readPage } = this.#options;
    const kind = this.#layer.entryKind(firstEntry);
    if (kind !== VALUE_DELTA) {
      redo.loadZero();
      return true;
    }
    try {
      const below = readPage(prefix, index, toLsn(this.#layer.lsnStart - 1));
      if (below === undefined) {
        redo.loadZero();
      } else {
        redo.load(below);
      }
      return true;
    } catch (error) {
      return this.#giveUpImage(prefix, index, error);
    }
  }

  #replay(prefix: KeyPrefix, index: number, entry: number): boolean {
    const layer = this.#layer;
    const { redo } = this.#options;
    const offset = layer.entryOffset(entry);
    const value = layer.entryBuffer(entry).subarray(offset, offset + layer.entryLength(entry));
    try {
      switch (layer.entryKind(entry)) {
        case VALUE_IMAGE:
          redo.load(value);
          return true;
        case VALUE_TOMBSTONE:
          redo.loadZero();
          return true;
        case VALUE_DELTA_INIT:
          redo.loadZero();
          break;
      }
      redo.apply(value, layer.entryLsn(entry), index, prefixField5(prefix));
      return true;
    } catch (error) {
      return this.#giveUpImage(prefix, index, error);
    }
  }

  /** An image is only a shortcut: a page that cannot be built must not stop the flush. */
  #giveUpImage(prefix: KeyPrefix, index: number, error: unknown): false {
    this.#failedImages++;
    this.#firstFailure ??= { error, key: formatKey(prefix, index) };
    return false;
  }
}

function isDeltaKind(kind: number): boolean {
  return kind === VALUE_DELTA || kind === VALUE_DELTA_INIT;
}
