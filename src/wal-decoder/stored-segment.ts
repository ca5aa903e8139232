// A WAL segment as it is kept in the object store: only the bytes that a timeline has of it, compressed.
//
// Ours, format version 1. Little-endian. Immutable.
//
//   head | frames
//
// head
//   offset size field
//        0    8 "STRATAWL"; no WAL page begins so
//        8    4 format version
//       12    4 segment size
//       16    8 LSN where the segment begins
//       24    4 where in the segment its bytes begin: below are zeros, which are not kept
//       28    4 where they end: the segment size where it is whole
//       32    4 bytes of WAL in each frame but the last
//       36    4 number of frames (F)
//       40  8*F frames: u32 length as it is stored, u32 CRC-32 of it as it is stored
//        .    4 CRC-32 of the head before this field
// frame: FRAME_BYTES of WAL, one zstd frame where that saves an eighth, else as they are (the lengths tell)
//
// A part of the segment is read with the head and the frames that it lies in. Objects of before are the segment byte
// for byte, zeros and all; they are read as well. Who finds anything wrong reports `corrupt` with the object's name.

import { constants, crc32, zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { StorageError } from "../base/errors.ts";
import { formatLsn, type Lsn, lsnFromParts, lsnHigh, lsnLow } from "../base/lsn.ts";

const MAGIC = new TextEncoder().encode("STRATAWL");
/** 1: first. Without a head: the segment byte for byte. */
const FORMAT_VERSION = 1;
const FIXED_BYTES = 40;
const FRAME_ENTRY_BYTES = 8;
/** A millisecond of the thread that answers commits. Twice as much gains 2 %, half of it loses 3 %. */
const FRAME_BYTES = 128 * 1024;
const MAX_SEGMENT_SIZE = 1024 ** 3;
/** So many bytes from an object's start have all of its head, and the whole of a small one. */
export const MAX_HEAD_BYTES = 128 * 1024;
/** Level 3 gains nothing on WAL of TPC-B, and a sixth on that of a load, for half as much time again. */
const ZSTD = { params: { [constants.ZSTD_c_compressionLevel]: 1 } };

/** Bytes of a segment: zeros below `begin`, WAL from there on; where it ends before the segment does, so does the WAL. */
export interface SegmentBytes {
  /** Where the segment begins. */
  readonly startLsn: Lsn;
  readonly segmentSize: number;
  readonly begin: number;
  readonly bytes: Uint8Array;
}

/** What an object's head says. */
export interface StoredSegmentHead {
  readonly startLsn: Lsn;
  readonly segmentSize: number;
  /** The bytes of the segment that are kept: [begin, end). */
  readonly begin: number;
  readonly end: number;
  readonly frameBytes: number;
  /** Where each frame begins in the object, and where the last one ends. */
  readonly offsets: Uint32Array;
  readonly crcs: Uint32Array;
  /** Of the whole object. */
  readonly sizeBytes: number;
}

/** Frames [first, last), and where in the object they are. */
export interface FrameRange {
  readonly first: number;
  readonly last: number;
  readonly start: number;
  readonly end: number;
}

/** The object; others may have their turn between two frames. */
export function* encodeStoredSegment(segment: SegmentBytes): Generator<void, Uint8Array, unknown> {
  const { startLsn, segmentSize, begin, bytes } = segment;
  const frames: Uint8Array[] = [];
  for (let at = begin; at < bytes.length; at += FRAME_BYTES) {
    if (at > begin) {
      yield;
    }
    const raw = bytes.subarray(at, at + FRAME_BYTES);
    const packed = zstdCompressSync(raw, ZSTD);
    frames.push(packed.length <= raw.length - raw.length / 8 ? packed : raw);
  }
  const head = new Uint8Array(FIXED_BYTES + FRAME_ENTRY_BYTES * frames.length + 4);
  head.set(MAGIC);
  const view = new DataView(head.buffer);
  view.setUint32(8, FORMAT_VERSION, true);
  view.setUint32(12, segmentSize, true);
  view.setUint32(16, lsnLow(startLsn), true);
  view.setUint32(20, lsnHigh(startLsn), true);
  view.setUint32(24, begin, true);
  view.setUint32(28, bytes.length, true);
  view.setUint32(32, FRAME_BYTES, true);
  view.setUint32(36, frames.length, true);
  for (const [i, frame] of frames.entries()) {
    view.setUint32(FIXED_BYTES + FRAME_ENTRY_BYTES * i, frame.length, true);
    view.setUint32(FIXED_BYTES + FRAME_ENTRY_BYTES * i + 4, crc32(frame), true);
  }
  view.setUint32(head.length - 4, crc32(head.subarray(0, -4)), true);
  return Buffer.concat([head, ...frames]);
}

/**
 * The head of the object `name`, of which `bytes` are the first MAX_HEAD_BYTES, or all. Undefined where it has none: it is the
 * segment as it is. StorageError `corrupt`; `unsupported` for a later format.
 */
export function decodeStoredHead(bytes: Uint8Array, name: string): StoredSegmentHead | undefined {
  if (bytes.length < MAGIC.length || !MAGIC.every((byte, i) => bytes[i] === byte)) {
    return undefined;
  }
  const wrong = (what: string) =>
    new StorageError("corrupt", "stored-wal-damaged", `${name}: ${what}`);
  if (bytes.length < FIXED_BYTES) {
    throw wrong(`it ends within its head, after ${bytes.length} bytes`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const field = (at: number) => view.getUint32(at, true);
  const version = field(8);
  if (version !== FORMAT_VERSION) {
    const message = `${name} has format version ${version}, which only a later release reads`;
    throw new StorageError("unsupported", "stored-wal-version", message);
  }
  const count = field(36);
  const length = FIXED_BYTES + FRAME_ENTRY_BYTES * count + 4;
  if (length > Math.min(bytes.length, MAX_HEAD_BYTES)) {
    throw wrong(`a head of ${count} frames does not fit`);
  }
  if (crc32(bytes.subarray(0, length - 4)) !== field(length - 4)) {
    throw wrong("checksum mismatch in its head");
  }
  const [segmentSize, begin, end, frameBytes] = [field(12), field(24), field(28), field(32)];
  const isPossible =
    segmentSize <= MAX_SEGMENT_SIZE &&
    begin <= end &&
    end <= segmentSize &&
    frameBytes > 0 &&
    Math.ceil((end - begin) / frameBytes) === count &&
    field(20) < 2 ** 21;
  if (!isPossible) {
    throw wrong("its head cannot be");
  }
  const offsets = new Uint32Array(count + 1);
  const crcs = new Uint32Array(count);
  offsets[0] = length;
  for (let i = 0; i < count; i++) {
    const stored = field(FIXED_BYTES + FRAME_ENTRY_BYTES * i);
    const rawBytes = Math.min(frameBytes, end - begin - i * frameBytes);
    if (stored > rawBytes) {
      throw wrong(`frame ${i} is larger than its WAL`);
    }
    offsets[i + 1] = offsets[i]! + stored;
    crcs[i] = field(FIXED_BYTES + FRAME_ENTRY_BYTES * i + 4);
  }
  const startLsn = lsnFromParts(field(20), field(16));
  const sizeBytes = offsets[count]!;
  return { startLsn, segmentSize, begin, end, frameBytes, offsets, crcs, sizeBytes };
}

/** The frames in which bytes [start, end) of the segment are; none where those are zeros that are not kept. */
export function framesOf(head: StoredSegmentHead, start: number, end: number): FrameRange {
  const { begin, frameBytes, offsets } = head;
  const first = Math.floor(Math.max(0, start - begin) / frameBytes);
  const last = Math.max(first, Math.ceil((end - begin) / frameBytes));
  return { first, last, start: offsets[first]!, end: offsets[last]! };
}

/**
 * Bytes [start, end) of the segment, at most up to the head's end, out of the frames `range` of them, `stored`; others may have
 * their turn between two frames. StorageError `corrupt`.
 */
export function* decodeFrames(
  head: StoredSegmentHead,
  range: FrameRange,
  stored: Uint8Array,
  [start, end]: readonly [number, number],
  name: string,
): Generator<void, Uint8Array, unknown> {
  const bytes = new Uint8Array(end - start);
  for (let i = range.first; i < range.last; i++) {
    if (i > range.first) {
      yield;
    }
    const from = head.begin + i * head.frameBytes;
    const at = head.offsets[i]! - range.start;
    const rawBytes = Math.min(head.frameBytes, head.end - from);
    const frame = stored.subarray(at, at + head.offsets[i + 1]! - head.offsets[i]!);
    const raw = decodeFrame(frame, head.crcs[i]!, rawBytes);
    if (raw === undefined) {
      const lsn = formatLsn((head.startLsn + from) as Lsn);
      const message = `${name}: the frame of WAL from ${lsn} on is damaged`;
      throw new StorageError("corrupt", "stored-wal-damaged", message);
    }
    const skipped = Math.max(0, start - from);
    bytes.set(raw.subarray(skipped, Math.max(skipped, end - from)), from + skipped - start);
  }
  return bytes;
}

function decodeFrame(frame: Uint8Array, crc: number, rawBytes: number): Uint8Array | undefined {
  if (crc32(frame) !== crc) {
    return undefined;
  }
  if (frame.length === rawBytes) {
    return frame;
  }
  let raw: Uint8Array;
  try {
    raw = zstdDecompressSync(frame, { maxOutputLength: rawBytes });
  } catch {
    return undefined;
  }
  return raw.length === rawBytes ? raw : undefined;
}

/** The segment in a whole object, zeros where it has none, up to its end; of an object of before, that itself. Errors as above. */
export function decodeStoredSegment(object: Uint8Array, name: string): Uint8Array {
  const head = decodeStoredHead(object.subarray(0, MAX_HEAD_BYTES), name);
  if (head === undefined) {
    return object;
  }
  const frames = framesOf(head, 0, head.end);
  const stored = object.subarray(frames.start, frames.end);
  const steps = decodeFrames(head, frames, stored, [0, head.end], name);
  for (let step = steps.next(); ; step = steps.next()) {
    if (step.done === true) {
      return step.value;
    }
  }
}
