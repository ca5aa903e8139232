// Makes WAL records with block references byte by byte, for tests.

import { INVALID_LSN, lsnHigh, lsnLow } from "../../src/base/lsn.ts";
import { recordCrc } from "../../src/postgres/xlog-record.ts";

export interface BlockSpec {
  readonly id: number;
  readonly spcOid: number;
  readonly dbOid: number;
  readonly relNumber: number;
  readonly fork?: number;
  readonly blkno: number;
  readonly data?: Uint8Array;
  readonly willInit?: boolean;
  /** The stored bytes of a full-page image that is to be applied. */
  readonly image?: Uint8Array;
  /** bimg_info of the image besides APPLY (0x02); with a hole also its place. */
  readonly imageInfo?: number;
  readonly holeOffset?: number;
  /** Present only in compressed images with a hole. */
  readonly holeLength?: number;
}

export interface RecordSpec {
  readonly rmid: number;
  readonly info: number;
  readonly xid: number;
  readonly blocks: readonly BlockSpec[];
  readonly main: Uint8Array;
}

/** As XLogRecordAssemble of 15 to 18 would; every reference names its relation. */
export function recordWithBlocks(spec: RecordSpec): Uint8Array {
  const header: number[] = [];
  const payload: Uint8Array[] = [];
  const u16 = (value: number) => header.push(value & 0xff, value >>> 8);
  const u32 = (value: number) => {
    u16(value & 0xffff);
    u16(value >>> 16);
  };
  for (const block of spec.blocks) {
    const data = block.data ?? new Uint8Array(0);
    const flags =
      (block.fork ?? 0) |
      (block.image === undefined ? 0 : 0x10) |
      (data.length > 0 ? 0x20 : 0) |
      (block.willInit === true ? 0x40 : 0);
    header.push(block.id, flags);
    u16(data.length);
    if (block.image !== undefined) {
      u16(block.image.length);
      u16(block.holeOffset ?? 0);
      header.push((block.imageInfo ?? 0) | 0x02);
      if (block.holeLength !== undefined) {
        u16(block.holeLength);
      }
      payload.push(block.image);
    }
    payload.push(data);
    u32(block.spcOid);
    u32(block.dbOid);
    u32(block.relNumber);
    u32(block.blkno);
  }
  if (spec.main.length > 255) {
    header.push(254);
    u32(spec.main.length);
  } else if (spec.main.length > 0) {
    header.push(255, spec.main.length);
  }
  const body = Buffer.concat([Uint8Array.from(header), ...payload, spec.main]);
  const bytes = new Uint8Array(24 + body.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint32(4, spec.xid, true);
  view.setUint32(8, lsnLow(INVALID_LSN), true);
  view.setUint32(12, lsnHigh(INVALID_LSN), true);
  bytes[16] = spec.info;
  bytes[17] = spec.rmid;
  bytes.set(body, 24);
  view.setUint32(20, recordCrc(bytes, 0, bytes.length), true);
  return bytes;
}
