// pg_logical/replorigin_checkpoint: how far replication origins were replayed at the last checkpoint.
//
// Source: replication/logical/origin.c, 14-18, little-endian:
//   offset size field
//        0    4 magic 0x1257DADE
//        4 16*n states: u16 origin id, 6 bytes padding, u64 remote_lsn
//        .    4 CRC-32C of all before it
// Postgres without the file starts with none; with one that is wrong it does not start.

import { crc32c } from "../../base/crc32c.ts";
import { StorageError } from "../../base/errors.ts";

const MAGIC = 0x1257_dade;
const STATE_SIZE = 16;

export interface OriginState {
  readonly originId: number;
  readonly remoteLsn: bigint;
}

/** StorageError `corrupt` on a wrong length, magic or checksum, or an origin that comes twice. */
export function decodeOriginCheckpoint(bytes: Uint8Array): OriginState[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const end = bytes.length - 4;
  if (end < 4 || (end - 4) % STATE_SIZE !== 0 || view.getUint32(0, true) !== MAGIC) {
    throw corrupt(`${bytes.length} bytes do not hold one`);
  }
  if (view.getUint32(end, true) !== crc32c(bytes, 0, end)) {
    throw corrupt("wrong checksum");
  }
  const states = new Map<number, OriginState>();
  for (let at = 4; at < end; at += STATE_SIZE) {
    const originId = view.getUint16(at, true);
    if (originId === 0 || states.has(originId)) {
      throw corrupt(`origin ${originId} at offset ${at}`);
    }
    states.set(originId, { originId, remoteLsn: view.getBigUint64(at + 8, true) });
  }
  return [...states.values()];
}

export function encodeOriginCheckpoint(states: readonly OriginState[]): Uint8Array {
  const bytes = new Uint8Array(4 + states.length * STATE_SIZE + 4);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  states.forEach(({ originId, remoteLsn }, i) => {
    view.setUint16(4 + i * STATE_SIZE, originId, true);
    view.setBigUint64(4 + i * STATE_SIZE + 8, remoteLsn, true);
  });
  const end = bytes.length - 4;
  view.setUint32(end, crc32c(bytes, 0, end), true);
  return bytes;
}

function corrupt(why: string): StorageError {
  return new StorageError("corrupt", "bad-origin-checkpoint", `replorigin_checkpoint: ${why}`);
}
