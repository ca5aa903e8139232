// Merges the versions of many layer files into one stream, in key, LSN and arrival order.

import type { Disk } from "../../base/disk.ts";
import { type KeyPrefix, samePrefix } from "../layers/key.ts";
import { FIRST_KEY, LAYER_KIND_IMAGE } from "../layers/layer-format.ts";
import { VALUE_TOMBSTONE } from "../layers/version-chain.ts";
import { type CompactionInput, compareKeys, type KeyRange, LayerCursor } from "./layer-cursor.ts";
import type { VersionBatch } from "./version-batch.ts";

/** Of all files together; each is read in pieces of at least 64 kB. */
const PIECES_BYTES = 4 << 20;
const MIN_PIECE_BYTES = 64 << 10;
const MAX_PIECE_BYTES = 1 << 20;

/**
 * Memory: the pieces, a block of each file, and what the caller keeps of batches. Where an image layer
 * has no image of a key that is there below, the merge has a tombstone, as a read would see one.
 */
export class MergeCursor {
  readonly #cursors: readonly LayerCursor[];
  readonly #images: readonly LayerCursor[];
  readonly #batchBytes: number;
  /** A heap: the cursor with the lowest head first. Those at their end are not in it. */
  readonly #heap: LayerCursor[] = [];
  #prefix: KeyPrefix = FIRST_KEY.prefix;
  #index = 0;
  /** LSNs of image layers without the key at hand, ascending, from #nextAbsence on. */
  readonly #absences: number[] = [];
  #nextAbsence = 0;

  private constructor(cursors: readonly LayerCursor[], batchBytes: number) {
    this.#cursors = cursors;
    this.#images = cursors.filter(({ isImage }) => isImage);
    this.#batchBytes = batchBytes;
    for (const cursor of cursors) {
      this.#push(cursor);
    }
  }

  /** A batch ends with the first key that makes it larger than `batchBytes`, or inside a key as large. */
  static async open(
    inputs: readonly CompactionInput[],
    range: KeyRange,
    disk: Disk,
    batchBytes: number,
  ): Promise<MergeCursor> {
    const visible = inputs.filter(({ name, maxLsn }) => name.lsnStart <= maxLsn).sort(byAge);
    const share = Math.floor(PIECES_BYTES / Math.max(1, visible.length));
    const pieceBytes = Math.min(MAX_PIECE_BYTES, Math.max(MIN_PIECE_BYTES, share));
    const cursors: LayerCursor[] = [];
    try {
      for (const [rank, input] of visible.entries()) {
        cursors.push(await LayerCursor.open(input, rank, range, disk, pieceBytes));
      }
      return new MergeCursor(cursors, batchBytes);
    } catch (error) {
      await Promise.all(cursors.map((cursor) => cursor.close()));
      throw error;
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.#cursors.map((cursor) => cursor.close()));
  }

  /** Fills the batch anew; false where nothing is left. */
  async next(batch: VersionBatch): Promise<boolean> {
    batch.reset();
    for (const cursor of this.#cursors) {
      cursor.batchBlock = -1;
    }
    if (batch.continued) {
      batch.addKey(this.#prefix, this.#index);
      await this.#fillKey(batch);
    }
    while (this.#heap.length > 0 && !batch.continues && batch.sizeBytes < this.#batchBytes) {
      const { prefix, index } = this.#heap[0]!;
      this.#prefix = prefix;
      this.#index = index;
      batch.addKey(prefix, index);
      this.#findAbsences();
      await this.#fillKey(batch);
    }
    return batch.count > 0;
  }

  /** A key that only appeared above an image layer needs no tombstone there. */
  #findAbsences(): void {
    this.#absences.length = 0;
    this.#nextAbsence = 0;
    const head = this.#heap[0]!;
    for (const image of this.#images) {
      const { keyStart, keyEnd, lsnStart } = image.input.name;
      if (
        head.lsn <= lsnStart &&
        (image.done || compareKeys(image.prefix, image.index, this.#prefix, this.#index) !== 0) &&
        compareKeys(this.#prefix, this.#index, keyStart.prefix, keyStart.index) >= 0 &&
        compareKeys(this.#prefix, this.#index, keyEnd.prefix, keyEnd.index) <= 0
      ) {
        this.#absences.push(lsnStart);
      }
    }
  }

  /** All versions of the key, or as many as a batch may have. */
  async #fillKey(batch: VersionBatch): Promise<void> {
    const heap = this.#heap;
    const sizeBefore = batch.sizeBytes;
    let last = -1;
    while (heap.length > 0) {
      const head = heap[0]!;
      if (!this.#isAtKey(head)) {
        break;
      }
      if (batch.sizeBytes - sizeBefore >= this.#batchBytes && head.lsn > last && last >= 0) {
        batch.continues = true;
        return;
      }
      this.#addAbsences(batch, head.lsn);
      head.take(
        batch,
        Math.min(this.#takeUpTo(head), this.#absences[this.#nextAbsence] ?? Infinity),
      );
      last = batch.lsns[batch.count - 1]!;
      if (head.starved) {
        await head.load();
      }
      this.#sinkTop();
    }
    this.#addAbsences(batch, Number.POSITIVE_INFINITY);
  }

  #addAbsences(batch: VersionBatch, below: number): void {
    const absences = this.#absences;
    while (this.#nextAbsence < absences.length && absences[this.#nextAbsence]! < below) {
      batch.addBare(VALUE_TOMBSTONE, absences[this.#nextAbsence++]!);
    }
  }

  #isAtKey({ prefix, index }: LayerCursor): boolean {
    return index === this.#index && samePrefix(prefix, this.#prefix);
  }

  /** How far the first cursor may go before the second one's turn. */
  #takeUpTo(head: LayerCursor): number {
    const heap = this.#heap;
    let second = heap[1];
    if (heap.length > 2 && isBefore(heap[2]!, second!)) {
      second = heap[2];
    }
    if (second === undefined || !this.#isAtKey(second)) {
      return Number.POSITIVE_INFINITY;
    }
    return head.rank < second.rank ? second.lsn : second.lsn - 1;
  }

  #push(cursor: LayerCursor): void {
    if (cursor.done) {
      return;
    }
    const heap = this.#heap;
    let at = heap.push(cursor) - 1;
    while (at > 0) {
      const parent = (at - 1) >>> 1;
      if (!isBefore(cursor, heap[parent]!)) {
        break;
      }
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = cursor;
  }

  /** The first cursor has another head now, or none. */
  #sinkTop(): void {
    const heap = this.#heap;
    let cursor = heap[0]!;
    if (cursor.done) {
      const last = heap.pop()!;
      if (heap.length === 0) {
        return;
      }
      cursor = last;
    }
    let at = 0;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= heap.length) {
        break;
      }
      if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) {
        child++;
      }
      if (!isBefore(heap[child]!, cursor)) {
        break;
      }
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = cursor;
  }
}

function isBefore(a: LayerCursor, b: LayerCursor): boolean {
  const order = compareKeys(a.prefix, a.index, b.prefix, b.index) || a.lsn - b.lsn;
  return order < 0 || (order === 0 && a.rank < b.rank);
}

/** Delta layers by their LSNs; an image layer has what the delta layers have at its LSN, and comes after. */
function byAge(a: CompactionInput, b: CompactionInput): number {
  const isImage = ({ name }: CompactionInput) => (name.kind === LAYER_KIND_IMAGE ? 1 : 0);
  return (
    isImage(a) - isImage(b) || a.name.lsnStart - b.name.lsnStart || a.name.lsnEnd - b.name.lsnEnd
  );
}
