// pg_filenode.map: the file numbers of the catalogs that cannot be looked up in pg_class.
//
// Source: utils/cache/relmapper.c, 14-18. Little-endian:
//   offset size field
//        0    4 magic          0x592717
//        4    4 num_mappings
//        8  8*n mappings       u32 relation oid, u32 file number; 62 up to 15, 64 from 16 on
//        .    4 crc            CRC-32C of all before it
// 512 bytes up to 15 (with 4 of padding), 524 from 16 on. A reader reports `corrupt` where magic,
// count or checksum is wrong.

import { crc32c } from "../base/crc32c.ts";
import { StorageError } from "../base/errors.ts";

const RELMAPPER_FILEMAGIC = 0x592717;
/** File size and number of slots: up to 15, and from 16 on. */
const LAYOUTS = [
  { size: 512, slots: 62 },
  { size: 524, slots: 64 },
] as const;

export interface RelationMapping {
  readonly oid: number;
  readonly relNumber: number;
}

/** StorageError `corrupt`. */
export function decodeRelationMap(bytes: Uint8Array): RelationMapping[] {
  const layout = LAYOUTS.find(({ size }) => size === bytes.length);
  if (layout === undefined) {
    throw corruptMap(`${bytes.length} bytes`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const crcOffset = 8 + layout.slots * 8;
  if (view.getUint32(0, true) !== RELMAPPER_FILEMAGIC) {
    throw corruptMap(`magic ${view.getUint32(0, true).toString(16)}`);
  }
  if (view.getUint32(crcOffset, true) !== crc32c(bytes, 0, crcOffset)) {
    throw corruptMap("checksum mismatch");
  }
  const count = view.getInt32(4, true);
  if (count < 0 || count > layout.slots) {
    throw corruptMap(`${count} mappings`);
  }
  return Array.from({ length: count }, (_, i) => ({
    oid: view.getUint32(8 + i * 8, true),
    relNumber: view.getUint32(12 + i * 8, true),
  }));
}

function corruptMap(problem: string): StorageError {
  return new StorageError("corrupt", "corrupt-relation-map", `relation map: ${problem}`);
}
