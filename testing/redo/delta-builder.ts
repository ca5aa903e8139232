// Makes deltas (wal-decoder/delta.ts, kind 1) by hand, for unit tests and fuzzers.

import {
  DELTA_HEADER_SIZE,
  DELTA_RECORD,
  DELTA_REFERENCE_SIZE,
} from "../../src/wal-decoder/delta.ts";

export interface DeltaReference {
  readonly id: number;
  readonly blkno: number;
  /** Default 0, the main fork. */
  readonly fork?: number;
  readonly willInit?: boolean;
}

export interface DeltaFields {
  readonly rmid: number;
  readonly info: number;
  readonly blockId?: number;
  readonly xid?: number;
  /** Default 17's. */
  readonly pageMagic?: number;
  /** Default: one reference 0 to block 0. */
  readonly references?: readonly DeltaReference[];
  readonly main?: Uint8Array;
  readonly data?: Uint8Array;
}

export function buildDelta(fields: DeltaFields): Uint8Array {
  const references = fields.references ?? [{ id: 0, blkno: 0 }];
  const main = fields.main ?? new Uint8Array(0);
  const data = fields.data ?? new Uint8Array(0);
  const mainAt = DELTA_HEADER_SIZE + references.length * DELTA_REFERENCE_SIZE;
  const bytes = new Uint8Array(mainAt + main.length + data.length);
  const view = new DataView(bytes.buffer);
  bytes.set([DELTA_RECORD, fields.rmid, fields.info, fields.blockId ?? 0]);
  view.setUint32(4, fields.xid ?? 700, true);
  view.setUint8(8, references.length);
  view.setUint16(10, fields.pageMagic ?? 0xd116, true);
  view.setUint32(12, main.length, true);
  view.setUint32(16, data.length, true);
  references.forEach((reference, i) => {
    const at = DELTA_HEADER_SIZE + i * DELTA_REFERENCE_SIZE;
    bytes[at] = reference.id;
    bytes[at + 1] = (reference.fork ?? 0) | (reference.willInit === true ? 0x40 : 0);
    view.setUint32(at + 4, reference.blkno, true);
  });
  bytes.set(main, mainAt);
  bytes.set(data, mainAt + main.length);
  return bytes;
}

/** Little-endian fields packed without padding: `["u16", 1], ["u8", 2], ...`. */
export function pack(...fields: readonly (readonly ["u8" | "u16" | "u32", number])[]): Uint8Array {
  const sizes = { u8: 1, u16: 2, u32: 4 };
  const bytes = new Uint8Array(fields.reduce((sum, [type]) => sum + sizes[type], 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const [type, value] of fields) {
    if (type === "u8") {
      view.setUint8(at, value);
    } else if (type === "u16") {
      view.setUint16(at, value, true);
    } else {
      view.setUint32(at, value, true);
    }
    at += sizes[type];
  }
  return bytes;
}

export function concat(...parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}
