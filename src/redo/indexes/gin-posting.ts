// Posting lists of GIN posting-tree leaves: the varbyte codec and redo of recompression (14-18).
//
// A segment (access/ginblock.h GinPostingList; begins at an even offset):
//   offset size field
//        0    6 first item: block number high half, low half, offset number
//        6    2 nbytes
//        8    . nbytes of varbytes: how much each later item is above the one before it; then a zero
//               byte where nbytes is odd
// An item as an integer is block number * 2^11 + offset number, 43 bits, which a double holds exactly.
// A varbyte integer has 7 bits a byte, lowest first; the high bit says that another byte follows.
//
// What WAL says of a changed leaf (access/ginxlog.h ginxlogRecompressDataLeaf): u16 nactions, then for
// each: u8 segment number, ascending; u8 type; for INSERT and REPLACE a segment; for ADDITEMS a u16
// count and that many items.

import { PAGE_SIZE, PD_LOWER } from "../../postgres/page.ts";
import { PAGE, type RedoContext, SCRATCH, TUPLE } from "../redo-context.ts";
import { SIZE_OF_TID, setTidBlkno, tidBlkno } from "./btree-tuple.ts";

/** Posting lists or posting items begin here: after the page header and the right bound. */
export const GIN_DATA_START = 32;
export const SIZE_OF_GIN_OPAQUE = 8;
export const GIN_DATA_END = PAGE_SIZE - SIZE_OF_GIN_OPAQUE;
/** u16 in the special space: number of items of a page in the format of before 9.4. */
const GIN_MAXOFF = PAGE + PAGE_SIZE - 4;

const SEGMENT_HEADER = 8;
const SEGMENT_NBYTES = 6;
const SEGMENT_DELETE = 1;
const SEGMENT_INSERT = 2;
const SEGMENT_REPLACE = 3;
const SEGMENT_ADDITEMS = 4;

const OFFSET_NUMBER_RANGE = 2 ** 11;
const ITEM_LIMIT = 2 ** 43;

/** The item as an integer; -1 where its offset number does not fit the format. */
function itemValue(c: RedoContext, item: number): number {
  const offnum = c.view.getUint16(item + 4, true);
  return offnum < OFFSET_NUMBER_RANGE ? tidBlkno(c, item) * OFFSET_NUMBER_RANGE + offnum : -1;
}

/** SizeOfGinPostingList of the segment at `at`; `corrupt` unless all of it lies before `end`. */
function segmentSize(c: RedoContext, at: number, end: number): number {
  if (at + SEGMENT_HEADER > end) {
    failSegment(c, at, `${end - at} bytes are left for a posting list`);
  }
  const nbytes = c.view.getUint16(at + SEGMENT_NBYTES, true);
  const size = SEGMENT_HEADER + nbytes + (nbytes & 1);
  if (at + size > end) {
    failSegment(c, at, `posting list of ${size} bytes, but ${end - at} are left`);
  }
  return size;
}

function failSegment(c: RedoContext, at: number, reason: string): never {
  return c.fail(reason, at >= c.delta ? at - c.delta : undefined);
}

/** Reads the items of one segment in order; `value` is the current one, Infinity after the last. */
class SegmentReader {
  value = Number.POSITIVE_INFINITY;
  #at = 0;
  #end = 0;

  /** `segment` < 0: no items. */
  open(c: RedoContext, segment: number): void {
    this.#at = segment + SEGMENT_HEADER;
    this.#end = this.#at;
    this.value = Number.POSITIVE_INFINITY;
    if (segment >= 0) {
      this.#end += c.view.getUint16(segment + SEGMENT_NBYTES, true);
      this.value = itemValue(c, segment);
      if (this.value < 0) {
        failSegment(c, segment, "a posting list begins with an impossible offset number");
      }
    }
  }

  next(c: RedoContext): void {
    if (this.#at === this.#end) {
      this.value = Number.POSITIVE_INFINITY;
      return;
    }
    const { bytes } = c;
    let step = 0;
    let scale = 1;
    let byte = 0x80;
    for (let i = 0; byte >= 0x80; i++, scale *= 128) {
      if (this.#at === this.#end || i === 7) {
        failSegment(c, this.#at, "an item of a posting list has no end");
      }
      byte = bytes[this.#at++]!;
      step += (byte & 0x7f) * scale;
    }
    if (step === 0 || this.value + step >= ITEM_LIMIT) {
      failSegment(c, this.#at, `an item of a posting list is ${step} above the one before`);
    }
    this.value += step;
  }
}

const reader = new SegmentReader();

/**
 * Writes to TUPLE the one segment that has the items of the segment at `old` (-1: none) and the
 * `count` items at `items`, ascending; an item of both occurs once. Returns its size, at most 8192.
 */
function encodeSegment(c: RedoContext, old: number, items: number, count: number): number {
  const { bytes, view } = c;
  const limit = TUPLE + PAGE_SIZE - 1;
  let at = TUPLE + SEGMENT_HEADER;
  let previous = -1;
  let taken = 0;
  reader.open(c, old);
  for (;;) {
    let value = reader.value;
    const added = taken < count ? itemValue(c, items + taken * SIZE_OF_TID) : ITEM_LIMIT;
    if (added < value && added < ITEM_LIMIT) {
      value = added;
    } else if (value >= ITEM_LIMIT) {
      break;
    }
    if (value <= previous) {
      failSegment(c, items + taken * SIZE_OF_TID, "items of a posting list do not ascend");
    }
    if (value === reader.value) {
      reader.next(c);
    }
    if (value === added) {
      taken++;
    }
    if (previous < 0) {
      setTidBlkno(c, TUPLE, Math.floor(value / OFFSET_NUMBER_RANGE));
      view.setUint16(TUPLE + 4, value % OFFSET_NUMBER_RANGE, true);
    } else {
      let step = value - previous;
      // A varbyte integer has 7 bytes at most.
      if (at + 7 > limit) {
        c.fail("a posting list does not fit a page");
      }
      for (; step > 0x7f; step = Math.floor(step / 128)) {
        bytes[at++] = 0x80 | (step % 128);
      }
      bytes[at++] = step;
    }
    previous = value;
  }
  const nbytes = at - TUPLE - SEGMENT_HEADER;
  view.setUint16(TUPLE + SEGMENT_NBYTES, nbytes, true);
  if ((nbytes & 1) !== 0) {
    bytes[at++] = 0;
  }
  return at - TUPLE;
}

/**
 * Turns a leaf in the format of before 9.4, an array of items counted by maxoff, into one of posting
 * lists. The caller sets the page's flag.
 */
export function compressOldLeaf(c: RedoContext): void {
  const count = c.view.getUint16(GIN_MAXOFF, true);
  const items = PAGE + GIN_DATA_START;
  if (items + count * SIZE_OF_TID > PAGE + GIN_DATA_END) {
    c.fail(`a leaf of ${count} uncompressed items`);
  }
  const size = count > 0 ? encodeSegment(c, -1, items, count) : 0;
  if (items + size > PAGE + GIN_DATA_END) {
    c.fail(`a leaf of ${count} uncompressed items makes ${size} bytes`);
  }
  c.bytes.copyWithin(items, TUPLE, TUPLE + size);
  c.view.setUint16(PAGE + PD_LOWER, GIN_DATA_START + size, true);
  c.view.setUint16(GIN_MAXOFF, 0, true);
}

/** The page's old segments, in a copy, against the new ones that take their place. */
class LeafWriter {
  /** The old segment at hand, in SCRATCH. */
  old = 0;
  oldEnd = 0;
  #to = 0;
  #segno = 0;

  start(c: RedoContext): void {
    const lower = c.view.getUint16(PAGE + PD_LOWER, true);
    if (lower < GIN_DATA_START || lower > GIN_DATA_END) {
      c.fail(`posting lists from byte ${GIN_DATA_START} to ${lower}`);
    }
    c.bytes.copyWithin(SCRATCH + GIN_DATA_START, PAGE + GIN_DATA_START, PAGE + lower);
    this.old = SCRATCH + GIN_DATA_START;
    this.oldEnd = SCRATCH + lower;
    this.#to = PAGE + GIN_DATA_START;
    this.#segno = 0;
  }

  put(c: RedoContext, from: number, size: number): void {
    if (this.#to + size > PAGE + GIN_DATA_END) {
      c.fail(`no room for ${size} bytes of posting list at ${this.#to - PAGE}`);
    }
    c.bytes.copyWithin(this.#to, from, from + size);
    this.#to += size;
  }

  drop(c: RedoContext): void {
    this.old += segmentSize(c, this.old, this.oldEnd);
    this.#segno++;
  }

  /** Keeps the segments before number `segno`. */
  keepUntil(c: RedoContext, segno: number, action: number): void {
    if (segno < this.#segno) {
      c.fail(`segment ${segno} comes after segment ${this.#segno}`, action - c.delta);
    }
    while (this.#segno < segno) {
      const from = this.old;
      this.drop(c);
      this.put(c, from, this.old - from);
    }
  }

  finish(c: RedoContext): void {
    this.put(c, this.old, this.oldEnd - this.old);
    c.view.setUint16(PAGE + PD_LOWER, this.#to - PAGE, true);
  }
}

const writer = new LeafWriter();

/** `ginRedoRecompress` with the block data, on a page of posting lists. */
export function redoRecompress(c: RedoContext): void {
  c.needData(c.data, 2);
  const { view } = c;
  const actions = view.getUint16(c.data, true);
  if (actions === 0) {
    c.fail("recompression changes no segment", c.data - c.delta);
  }
  writer.start(c);
  let at = c.data + 2;
  for (let i = 0; i < actions; i++) {
    c.needData(at, 2);
    writer.keepUntil(c, view.getUint8(at), at);
    at = applyAction(c, at);
  }
  writer.finish(c);
}

/** Returns where the next action begins. */
function applyAction(c: RedoContext, action: number): number {
  const from = action + 2;
  switch (c.view.getUint8(action + 1)) {
    case SEGMENT_DELETE:
      writer.drop(c);
      return from;
    case SEGMENT_INSERT: {
      const size = segmentSize(c, from, c.dataEnd);
      writer.put(c, from, size);
      return from + size;
    }
    case SEGMENT_REPLACE: {
      const size = segmentSize(c, from, c.dataEnd);
      writer.drop(c);
      writer.put(c, from, size);
      return from + size;
    }
    case SEGMENT_ADDITEMS: {
      c.needData(from, 2);
      const count = c.view.getUint16(from, true);
      const end = from + 2 + count * SIZE_OF_TID;
      c.needData(from, 2 + count * SIZE_OF_TID);
      const old = writer.old;
      writer.drop(c);
      writer.put(c, TUPLE, encodeSegment(c, old, from + 2, count));
      return end;
    }
    default:
      return c.fail(
        `unknown action ${c.view.getUint8(action + 1)} on a posting list`,
        action - c.delta,
      );
  }
}
