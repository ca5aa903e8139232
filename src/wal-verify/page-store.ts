// Pages that WAL changed: some in memory, the rest in a temporary file, so that any base can be replayed.
//
// A page has a slot number, which is also its place in the file (slot * 8192). Memory: the frames
// (`cacheBytes`), and 20 bytes a slot. The file is as large as the changed pages together, is made
// when the frames are first full, and has no name, so nothing is left of it whatever happens.

import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { errorMessage, StorageError } from "../base/errors.ts";
import { PAGE_SIZE } from "../postgres/page.ts";

const NONE = -1;
const MIN_FRAMES = 16;
/** Frames are allocated in pieces, so that a small replay does not touch all its memory. */
const FRAMES_PER_PIECE = 256;
/** 2 TiB of changed pages. */
const MAX_SLOTS = 2 ** 28;

export interface PageStoreOptions {
  /** Default 256 MiB. */
  readonly cacheBytes?: number;
  /** Where the overflow file is made; default the system's temporary directory. */
  readonly temporaryDirectory?: string;
}

export class PageStore {
  readonly #frameCount: number;
  readonly #temporaryDirectory: string;
  readonly #pieces: Uint8Array[] = [];
  /** By frame: the slot in it, and what the clock hand looks at. */
  readonly #slotOfFrame: Int32Array;
  readonly #used: Uint8Array;
  readonly #dirty: Uint8Array;
  #framesInUse = 0;
  #hand = 0;
  /** By slot. */
  #frameOfSlot = new Int32Array(1024);
  #tag = new Uint32Array(1024);
  #lsn = new Float64Array(1024);
  #slots = 0;
  readonly #freeSlots: number[] = [];
  #fd: number | undefined;
  /** Pages written to the overflow file so far. */
  spilledPages = 0;

  constructor(options: PageStoreOptions = {}) {
    const cacheBytes = options.cacheBytes ?? 256 * 1024 * 1024;
    this.#frameCount = Math.max(MIN_FRAMES, Math.floor(cacheBytes / PAGE_SIZE));
    this.#temporaryDirectory = options.temporaryDirectory ?? tmpdir();
    this.#slotOfFrame = new Int32Array(this.#frameCount).fill(NONE);
    this.#used = new Uint8Array(this.#frameCount);
    this.#dirty = new Uint8Array(this.#frameCount);
  }

  /** A new slot whose page has any content: write it before it is read. */
  allocate(): number {
    const free = this.#freeSlots.pop();
    if (free !== undefined) {
      this.#takeFrame(free);
      return free;
    }
    if (this.#slots === this.#frameOfSlot.length) {
      this.#grow();
    }
    const slot = this.#slots++;
    this.#takeFrame(slot);
    return slot;
  }

  #grow(): void {
    const length = this.#slots * 2;
    if (length > MAX_SLOTS) {
      throw new StorageError("unsupported", "too-many-pages", `WAL changes over ${length} pages`);
    }
    const frames = new Int32Array(length);
    frames.set(this.#frameOfSlot);
    this.#frameOfSlot = frames;
    const tags = new Uint32Array(length);
    tags.set(this.#tag);
    this.#tag = tags;
    const lsns = new Float64Array(length);
    lsns.set(this.#lsn);
    this.#lsn = lsns;
  }

  release(slot: number): void {
    const frame = this.#frameOfSlot[slot]!;
    if (frame !== NONE) {
      this.#slotOfFrame[frame] = NONE;
      this.#used[frame] = 0;
      this.#dirty[frame] = 0;
      this.#frameOfSlot[slot] = NONE;
    }
    this.#freeSlots.push(slot);
  }

  /** The page, lent until the next call of any method; for writing too if `write` is set. */
  page(slot: number, write: boolean): Uint8Array {
    let frame = this.#frameOfSlot[slot]!;
    if (frame === NONE) {
      frame = this.#takeFrame(slot);
      const view = this.#view(frame);
      if (readSync(this.#fd!, view, 0, PAGE_SIZE, slot * PAGE_SIZE) !== PAGE_SIZE) {
        throw new StorageError("internal", "short-read", "the temporary file lost a page");
      }
      this.#dirty[frame] = 0;
    }
    this.#used[frame] = 1;
    if (write) {
      this.#dirty[frame] = 1;
    }
    return this.#view(frame);
  }

  /** What last changed the page: an LSN, and a number of the caller's. */
  setOrigin(slot: number, lsn: number, tag: number): void {
    this.#lsn[slot] = lsn;
    this.#tag[slot] = tag;
  }

  originLsn(slot: number): number {
    return this.#lsn[slot]!;
  }

  originTag(slot: number): number {
    return this.#tag[slot]!;
  }

  /** Gives `slot` a frame, dirty, of any content. */
  #takeFrame(slot: number): number {
    const frame = this.#framesInUse < this.#frameCount ? this.#framesInUse++ : this.#evict();
    this.#slotOfFrame[frame] = slot;
    this.#frameOfSlot[slot] = frame;
    this.#used[frame] = 1;
    this.#dirty[frame] = 1;
    return frame;
  }

  /** The clock algorithm: the first frame not used since the hand last passed. */
  #evict(): number {
    for (;;) {
      const frame = this.#hand;
      this.#hand = frame + 1 === this.#frameCount ? 0 : frame + 1;
      if (this.#used[frame] === 1) {
        this.#used[frame] = 0;
        continue;
      }
      const slot = this.#slotOfFrame[frame]!;
      if (slot !== NONE) {
        if (this.#dirty[frame] === 1) {
          this.#write(slot, frame);
        }
        this.#frameOfSlot[slot] = NONE;
      }
      return frame;
    }
  }

  #write(slot: number, frame: number): void {
    const view = this.#view(frame);
    try {
      this.#fd ??= this.#openFile();
      for (let done = 0; done < PAGE_SIZE; ) {
        done += writeSync(this.#fd, view, done, PAGE_SIZE - done, slot * PAGE_SIZE + done);
      }
    } catch (error) {
      const message = `write changed pages to '${this.#temporaryDirectory}' ($TMPDIR): ${errorMessage(error)}`;
      throw new StorageError("unavailable", "no-temporary-file", message, { cause: error });
    }
    this.spilledPages++;
  }

  #openFile(): number {
    const directory = mkdtempSync(join(this.#temporaryDirectory, "strata-verify-"));
    try {
      return openSync(join(directory, "pages"), "wx+", 0o600);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  }

  #view(frame: number): Uint8Array {
    const index = Math.floor(frame / FRAMES_PER_PIECE);
    let piece = this.#pieces[index];
    if (piece === undefined) {
      piece = new Uint8Array(FRAMES_PER_PIECE * PAGE_SIZE);
      this.#pieces[index] = piece;
    }
    const start = (frame % FRAMES_PER_PIECE) * PAGE_SIZE;
    return piece.subarray(start, start + PAGE_SIZE);
  }

  close(): void {
    if (this.#fd !== undefined) {
      closeSync(this.#fd);
      this.#fd = undefined;
    }
    this.#pieces.length = 0;
  }
}
