// The files that a compaction writes: delta layers between cut points, image layers side by side.

import { join } from "node:path";
import type { Disk } from "../../base/disk.ts";
import type { Lsn } from "../../base/lsn.ts";
import { keyAfter, samePrefix } from "../layers/key.ts";
import {
  FIRST_METADATA_KEY,
  LAYER_KIND_DELTA,
  LAYER_KIND_IMAGE,
  type LayerName,
  type LayerNumber,
} from "../layers/layer-format.ts";
import { type LayerDescription, LayerWriter } from "../layers/layer-writer.ts";
import { VALUE_IMAGE } from "../layers/version-chain.ts";
import { compareKey, type Key, keyBefore } from "./image-tiles.ts";
import type { KeyRange } from "./layer-cursor.ts";

/** A durable layer file. */
export interface OutputLayer extends LayerDescription {
  readonly name: LayerName;
}

export interface OutputSettings {
  readonly directory: string;
  readonly disk: Disk;
  readonly number: LayerNumber;
  /** A file that has reached it is ended at the next key. */
  readonly targetBytes: number;
}

/** What files that are open at once may hold in memory, for writes and for their keys. */
const PENDING_BYTES = 8 << 20;
const MIN_DRAIN_BYTES = 64 << 10;
const MAX_DRAIN_BYTES = 1 << 20;
const MAX_OPEN_KEYS = 2 << 20;

/** What is written so far; ends with `discard` where anything failed. */
export class OutputFiles {
  readonly settings: OutputSettings;
  readonly finished: OutputLayer[] = [];
  readonly #open = new Set<LayerWriter>();

  constructor(settings: OutputSettings) {
    this.settings = settings;
  }

  async create(kind: LayerName["kind"]): Promise<LayerWriter> {
    const writer = await LayerWriter.create(this.settings.directory, kind, this.settings.disk);
    this.#open.add(writer);
    return writer;
  }

  /** Durable under its name when it resolves. */
  async finish(writer: LayerWriter, name: LayerName): Promise<void> {
    const description = await writer.finish(name, this.settings.number);
    this.#open.delete(writer);
    const keyStart = plainKey(name.keyStart);
    const keyEnd = plainKey(name.keyEnd);
    this.finished.push({ ...description, name: { ...name, keyStart, keyEnd } });
  }

  /** Removes every file, finished or not. Never throws: it runs where something already failed. */
  async discard(): Promise<void> {
    const { directory, disk } = this.settings;
    await Promise.all([...this.#open].map((writer) => writer.abandon()));
    for (const { fileName } of this.finished) {
      await disk.background.removeTree(join(directory, fileName)).catch(() => undefined);
    }
  }
}

/** What writers are handed as a key may have more to it. */
function plainKey({ prefix, index }: Key): Key {
  return { prefix, index };
}

interface Band {
  /** LSNs [start, end) ... */
  readonly start: number;
  readonly end: number;
  /** ... of which those from here on are in no file yet: a key larger than a file is cut by LSN. */
  from: number;
  writer: LayerWriter | undefined;
  first: Key | undefined;
  last: Key | undefined;
}

/**
 * Delta layers, one file at a time for each band of LSNs between two cut points. Files of a band have its
 * LSNs in their names, and no key in common, so that readers find a key's file by search.
 */
export class DeltaOutput {
  readonly #files: OutputFiles;
  readonly #bands: readonly Band[];
  /** The band at hand. */
  #band: Band;

  /** `bounds`: ascending; bands are [bounds[i], bounds[i + 1]). */
  constructor(files: OutputFiles, bounds: readonly number[]) {
    this.#files = files;
    this.#bands = bounds.slice(1).map((end, i) => ({
      start: bounds[i]!,
      end,
      from: bounds[i]!,
      writer: undefined,
      first: undefined,
      last: undefined,
    }));
    this.#band = this.#bands[0]!;
  }

  #find(lsn: number): Band {
    if (lsn >= this.#band.start && lsn < this.#band.end) {
      return this.#band;
    }
    let low = 0;
    let high = this.#bands.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if (this.#bands[middle]!.start <= lsn) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    this.#band = this.#bands[low]!;
    return this.#band;
  }

  /** Opens the file that a version of this LSN goes to, where it is not open: before `add`. */
  prepare(lsn: number): Promise<void> | undefined {
    const band = this.#find(lsn);
    return band.writer === undefined ? this.#openFile(band) : undefined;
  }

  async #openFile(band: Band): Promise<void> {
    band.writer = await this.#files.create(LAYER_KIND_DELTA);
  }

  /** As LayerWriter.add; keys ascend, and LSNs in each. */
  add(
    key: Key,
    lsn: number,
    kind: number,
    bytes: Uint8Array,
    offset: number,
    length: number,
    view: DataView | undefined,
  ): void {
    const band = this.#find(lsn);
    const { prefix, index } = key;
    band.writer!.add(prefix, index, lsn as Lsn, kind, bytes, offset, length, view);
    band.first ??= key;
    band.last = key;
  }

  /** Now and then between two keys: ends files that are large enough, writes. True where one ended. */
  async settle(targetBytes = this.#files.settings.targetBytes): Promise<boolean> {
    let ended = false;
    const open = this.#bands.filter(({ writer }) => writer !== undefined);
    const drain = Math.max(
      MIN_DRAIN_BYTES,
      Math.min(MAX_DRAIN_BYTES, PENDING_BYTES / Math.max(1, open.length)),
    );
    const keys = open.reduce((sum, { writer }) => sum + writer!.keyCount, 0);
    for (const band of open) {
      const writer = band.writer!;
      // Many files at once hold many keys in memory: then each is ended sooner.
      const crowded = keys > MAX_OPEN_KEYS && writer.keyCount >= keys / open.length;
      if (writer.sizeBytes >= targetBytes || crowded) {
        await this.#finish(band, band.end);
        ended = true;
      } else if (writer.pendingBytes >= drain) {
        await writer.drain();
      }
    }
    return ended;
  }

  /** Between two keys, or after a part of one that has files of its own: ends all files. */
  async finishAll(): Promise<void> {
    for (const band of this.#bands) {
      await this.#finish(band, band.end);
      band.from = band.start;
    }
  }

  /** As `settle`, in a key that has files of its own; what it has at or below `lastLsn` is written. */
  async settleInKey(lastLsn: number): Promise<boolean> {
    let ended = false;
    for (const band of this.#bands) {
      const { writer } = band;
      if (writer === undefined) {
        continue;
      }
      if (writer.sizeBytes >= this.#files.settings.targetBytes) {
        const end = Math.min(band.end, lastLsn + 1);
        await this.#finish(band, end);
        band.from = end;
        ended = true;
      } else {
        await writer.drain();
      }
    }
    return ended;
  }

  async #finish(band: Band, end: number): Promise<void> {
    const { writer, first, last, from } = band;
    band.writer = undefined;
    band.first = undefined;
    band.last = undefined;
    if (writer === undefined) {
      return;
    }
    if (first === undefined || last === undefined) {
      await writer.abandon();
      return;
    }
    await this.#files.finish(writer, {
      kind: LAYER_KIND_DELTA,
      keyStart: first,
      keyEnd: last,
      lsnStart: from as Lsn,
      lsnEnd: end as Lsn,
    });
  }
}

/** Image layers at one LSN that together cover a key range, but for keys that were to be left out. */
export class ImageOutput {
  readonly #files: OutputFiles;
  readonly #lsn: Lsn;
  readonly #end: Key;
  #start: Key;
  /** A hole is the last key of the range. */
  #isAtEnd = false;
  #writer: LayerWriter | undefined;
  #last: Key | undefined;

  constructor(files: OutputFiles, lsn: Lsn, range: KeyRange) {
    this.#files = files;
    this.#lsn = lsn;
    this.#start = range.start;
    this.#end = range.end;
  }

  /** Before the first `add` of a key. */
  async prepare(): Promise<void> {
    this.#writer ??= await this.#files.create(LAYER_KIND_IMAGE);
  }

  add(key: Key, value: Uint8Array): void {
    this.#writer!.add(key.prefix, key.index, this.#lsn, VALUE_IMAGE, value);
    this.#last = key;
  }

  /** As DeltaOutput's. */
  async settle(): Promise<boolean> {
    const writer = this.#writer;
    if (writer === undefined || this.#last === undefined) {
      return false;
    }
    const { prefix, index } = this.#last;
    const next = keyAfter(prefix, index);
    const atEnd = samePrefix(prefix, this.#end.prefix) && index === this.#end.index;
    if (writer.sizeBytes >= this.#files.settings.targetBytes && next !== undefined && !atEnd) {
      await this.#finish(writer, this.#last);
      this.#start = next;
      return true;
    }
    if (writer.pendingBytes >= MAX_DRAIN_BYTES) {
      await writer.drain();
    }
    return false;
  }

  /** The file at hand reaches to where metadata begins, and the next one begins there. */
  async finishBlocks(): Promise<void> {
    await this.#finishBefore(FIRST_METADATA_KEY);
  }

  /** No file covers the key: a read goes on below. */
  async leaveHole(key: Key): Promise<void> {
    await this.#finishBefore(key);
    const next = keyAfter(key.prefix, key.index);
    this.#isAtEnd = compareKey(key, this.#end) >= 0 || next === undefined;
    this.#start = next ?? key;
  }

  async #finishBefore(key: Key): Promise<void> {
    if (compareKey(this.#start, key) < 0) {
      await this.prepare();
      await this.#finish(this.#writer!, keyBefore(key));
      this.#start = key;
    }
  }

  /** The last file reaches to the range's end; it may have no images, and says that there is no key. */
  async finish(): Promise<void> {
    if (!this.#isAtEnd) {
      await this.prepare();
      await this.#finish(this.#writer!, this.#end);
    }
    await this.#writer?.abandon();
  }

  async #finish(writer: LayerWriter, keyEnd: Key): Promise<void> {
    this.#writer = undefined;
    this.#last = undefined;
    await this.#files.finish(writer, {
      kind: LAYER_KIND_IMAGE,
      keyStart: this.#start,
      keyEnd,
      lsnStart: this.#lsn,
      lsnEnd: (this.#lsn + 1) as Lsn,
    });
  }
}
