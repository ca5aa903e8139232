// Compaction of layer files: many files in, files out that read the same at every LSN that is retained.
//
// Pure with regard to the timeline: who calls decides what goes in, and puts the result into effect. The
// inputs are streamed once, so that memory does not grow with them.

import assert from "node:assert/strict";
import { monotonicMs, turn } from "../../base/clock.ts";
import type { Disk } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import { type Lsn, minLsn } from "../../base/lsn.ts";
import type { PageReply } from "../flush/layer-flush.ts";
import { encodeKey, formatKey, type KeyPrefix } from "../layers/key.ts";
import { isMetadataPrefix, LAYER_KIND_IMAGE } from "../layers/layer-format.ts";
import type { BasePageLookup, CompactionSettings } from "./compaction-settings.ts";
import type { Key } from "./image-tiles.ts";
import { KeyWriter } from "./key-writer.ts";
import { type CompactionInput, compareKeys } from "./layer-cursor.ts";
import { MergeCursor } from "./merge-cursor.ts";
import { DeltaOutput, ImageOutput, OutputFiles, type OutputLayer } from "./output-layers.ts";
import { RelationEnds } from "./relation-ends.ts";
import { VersionBatch } from "./version-batch.ts";

export const DEFAULT_TARGET_BYTES = 128 << 20;
/** Of inputs at once in memory; a key with more is compacted in parts. */
const BATCH_BYTES = 4 << 20;
/** For each cut point: a page has an image or some deltas between two of them, and in parts each of these would have a file of its own. */
const CUT_BYTES = 64 << 10;
const MAX_BATCH_BYTES = 64 << 20;
/** Pages asked for at once: half a megabyte. */
const PAGE_BATCH = 64;
/** Keys between two looks at the clock. */
const KEYS_A_LOOK = 16;
/** At a key cut a delta layer with so much of its target ends: ranges of keys have files of their own, if not tiny ones. */
const CUT_SHARE = 1 / 16;
/** Written between two looks at the output files. */
const SETTLE_BYTES = 256 << 10;

export interface CompactionOptions extends CompactionSettings {
  readonly disk: Disk;
  readonly pages: BasePageLookup;
  /** Asked now and then; true ends the compaction with `unavailable`. */
  readonly cancelled: () => boolean;
  /** `pause` is called after so many milliseconds of work. */
  readonly sliceMs: number;
  /** Gives others their turn. */
  readonly pause?: () => Promise<void>;
}

export interface CompactionResult {
  /** All durable. None of them contains a state that the inputs did not have. */
  readonly layers: readonly OutputLayer[];
  /** Images that could not be built; the deltas that they would replace are there. */
  readonly failedImages: number;
  /** Key and reason of the first. */
  readonly firstFailure: string | undefined;
  /**
   * Keys, as formatKey prints them, that no image layer covers since their pages could not be built. The inputs must stay where
   * there are some.
   */
  readonly holes: readonly string[];
}

/**
 * Writes the outputs; the inputs stay as they are. `corrupt`, with file and offset, where an input is
 * damaged; `unavailable` where the
 * disk is full or it was cancelled. Then nothing is left behind and it can be repeated.
 */
export async function compactLayers(
  inputs: readonly CompactionInput[],
  options: CompactionOptions,
  batchBytes = batchBytesFor(options.cutPoints.length),
): Promise<CompactionResult> {
  const { retained, cutoff, imageLayerLsn } = options;
  const imageInput = inputs.some(({ name }) => name.kind === LAYER_KIND_IMAGE);
  assert.ok(!options.moreBelow || (!imageInput && imageLayerLsn === undefined));
  assert.ok(inputs.length > 0);
  assert.ok(cutoff === 0 || retained.at(-1) === cutoff || imageLayerLsn === cutoff);
  const files = new OutputFiles(options);
  const merge = await MergeCursor.open(inputs, options.range, options.disk, batchBytes);
  try {
    const compaction = new Compaction(inputs, merge, files, options);
    await compaction.run();
    const { failedImages, firstFailure } = compaction.writer;
    return { layers: files.finished, failedImages, firstFailure, holes: compaction.holes };
  } catch (error) {
    await files.discard();
    throw error;
  } finally {
    await merge.close();
  }
}

function batchBytesFor(cutPoints: number): number {
  return Math.min(MAX_BATCH_BYTES, Math.max(BATCH_BYTES, cutPoints * CUT_BYTES));
}

class Compaction {
  readonly writer: KeyWriter;
  readonly holes: string[] = [];
  readonly #merge: MergeCursor;
  readonly #options: CompactionOptions;
  readonly #batch = new VersionBatch();
  readonly #deltas: DeltaOutput;
  readonly #images: ImageOutput | undefined;
  readonly #ends: RelationEnds | undefined;
  /** Outputs have either blocks or metadata. */
  #inMetadata: boolean;
  /** Key cuts before it are passed. */
  #nextKeyCut = 0;
  #sliceStart = monotonicMs();
  #settledBytes = 0;

  constructor(
    inputs: readonly CompactionInput[],
    merge: MergeCursor,
    files: OutputFiles,
    options: CompactionOptions,
  ) {
    this.#merge = merge;
    this.#options = options;
    const { imageLayerLsn, cutPoints } = options;
    // A delta layer across an image layer would be read before it, and may lack what the image has.
    const cuts = imageLayerLsn === undefined ? cutPoints : [...cutPoints, imageLayerLsn];
    this.#deltas = new DeltaOutput(files, bandBounds(inputs, cuts));
    this.#images =
      imageLayerLsn === undefined
        ? undefined
        : new ImageOutput(files, imageLayerLsn, options.range);
    this.#inMetadata = isMetadataPrefix(options.range.start.prefix);
    this.#ends =
      imageLayerLsn === undefined ? undefined : new RelationEnds(options.pages, imageLayerLsn);
    this.writer = new KeyWriter(options, this.#batch, this.#deltas, this.#images, this.#ends);
  }

  async run(): Promise<void> {
    const batch = this.#batch;
    while (await this.#merge.next(batch)) {
      await this.#ends?.learn(batch);
      const replies = await this.#askForPages(this.writer.plan());
      await this.#prepareFiles(0);
      await this.#writeKeys(replies);
      await this.#pause();
    }
    if (isMetadataPrefix(this.#options.range.end.prefix)) {
      await this.#enterMetadata();
    }
    await this.#deltas.finishAll();
    await this.#images?.finish();
  }

  /** Ends the files that end before this key; true where there are some. */
  async #cutBefore(prefix: KeyPrefix, index: number): Promise<boolean> {
    const { keyCuts, targetBytes } = this.#options;
    const isPassed = (cut: Key) => compareKeys(cut.prefix, cut.index, prefix, index) <= 0;
    const first = this.#nextKeyCut;
    while (this.#nextKeyCut < keyCuts.length && isPassed(keyCuts[this.#nextKeyCut]!)) {
      this.#nextKeyCut++;
    }
    const cut = this.#nextKeyCut > first && (await this.#deltas.settle(targetBytes * CUT_SHARE));
    return (isMetadataPrefix(prefix) && (await this.#enterMetadata())) || cut;
  }

  /** Ends the files that have blocks; true where that is new. */
  async #enterMetadata(): Promise<boolean> {
    if (this.#inMetadata) {
      return false;
    }
    this.#inMetadata = true;
    await this.#deltas.finishAll();
    await this.#images?.finishBlocks();
    return true;
  }

  /** Of keys of the batch, ascending. */
  async #askForPages(keys: readonly number[]): Promise<ReadonlyMap<number, PageReply>> {
    const { prefixes, indexes, ends, lsns } = this.#batch;
    const replies = new Map<number, PageReply>();
    for (let start = 0; start < keys.length; start += PAGE_BATCH) {
      const some = keys.slice(start, start + PAGE_BATCH);
      const requests = some.map((key) => ({
        key: encodeKey(prefixes[key]!, indexes[key]!),
        lsn: (lsns[key === 0 ? 0 : ends[key - 1]!]! - 1) as Lsn,
      }));
      const answers = await this.#options.pages(requests);
      some.forEach((key, i) => {
        replies.set(key, answers[i]!);
      });
      await this.#pause();
    }
    return replies;
  }

  /** Also for versions that are to go: they stay where the image in their place cannot be built. */
  async #prepareFiles(from: number): Promise<void> {
    const { lsns, count } = this.#batch;
    for (let i = from; i < count; i++) {
      const opening = this.#deltas.prepare(lsns[i]!);
      if (opening !== undefined) {
        await opening;
      }
    }
    await this.#images?.prepare();
  }

  async #writeKeys(replies: ReadonlyMap<number, PageReply>): Promise<void> {
    const batch = this.#batch;
    const last = batch.keyCount - 1;
    for (let key = 0; key <= last; key++) {
      const continues = key === last && batch.continues;
      const continued = key === 0 && batch.continued;
      const entered =
        !continued && (await this.#cutBefore(batch.prefixes[key]!, batch.indexes[key]!));
      if (continues && !continued) {
        // A key that may not fit one file gets files of its own, which are cut by LSN.
        await this.#deltas.finishAll();
      }
      if (entered || (continues && !continued)) {
        await this.#prepareFiles(key === 0 ? 0 : batch.ends[key - 1]!);
      }
      this.writer.writeKey(key, replies.get(key));
      let ended = await this.#leaveHole(batch.prefixes[key]!, batch.indexes[key]!);
      if (continues) {
        ended = (await this.#deltas.settleInKey(batch.lsns[batch.count - 1]!)) || ended;
      } else if (continued) {
        await this.#deltas.finishAll();
        ended = true;
      } else if (this.writer.writtenBytes - this.#settledBytes >= SETTLE_BYTES) {
        ended = (await this.#settle()) || ended;
      }
      if (ended) {
        await this.#prepareFiles(batch.ends[key]!);
      }
      if (key % KEYS_A_LOOK === 0 && monotonicMs() - this.#sliceStart >= this.#options.sliceMs) {
        await this.#pause();
      }
    }
  }

  /** Image layers leave out a key whose page cannot be built: what is below says what it is. */
  async #leaveHole(prefix: KeyPrefix, index: number): Promise<boolean> {
    if (!this.writer.leavesHole) {
      return false;
    }
    this.writer.leavesHole = false;
    this.holes.push(formatKey(prefix, index));
    await this.#images!.leaveHole({ prefix, index });
    return true;
  }

  /** Whether any file came to its end. */
  async #settle(): Promise<boolean> {
    this.#settledBytes = this.writer.writtenBytes;
    const ended = await this.#deltas.settle();
    return (await this.#images?.settle()) || ended;
  }

  async #pause(): Promise<void> {
    if (this.#options.cancelled()) {
      throw new StorageError("unavailable", "shutting-down", "the compaction was interrupted");
    }
    if (monotonicMs() - this.#sliceStart >= this.#options.sliceMs) {
      await (this.#options.pause ?? turn)();
      this.#sliceStart = monotonicMs();
    }
  }
}

/** The LSNs of all inputs, cut after each cut point. */
function bandBounds(inputs: readonly CompactionInput[], cutPoints: readonly Lsn[]): number[] {
  const start = Math.min(...inputs.map(({ name }) => name.lsnStart));
  const end = Math.max(
    ...inputs.map(({ name, maxLsn }) => minLsn((name.lsnEnd - 1) as Lsn, maxLsn) + 1),
  );
  const cuts = cutPoints.map((lsn) => lsn + 1).filter((lsn) => lsn > start && lsn < end);
  return [start, ...new Set(cuts.toSorted((a, b) => a - b)), end];
}
