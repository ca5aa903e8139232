// The file of a logical replication slot, as far as Strata reads it.

import { crc32c } from "../../src/base/crc32c.ts";

/** As Postgres 17 writes it but for what is behind `confirmed_flush`, which is zeros. */
export function slotState(slot: {
  readonly name: string;
  readonly restartLsn: number;
  readonly confirmedFlush: number;
  readonly dbOid?: number;
  readonly persistency?: number;
}): Uint8Array {
  const bytes = Buffer.alloc(200);
  bytes.writeUInt32LE(0x0105_1ca1, 0);
  bytes.writeUInt32LE(5, 8);
  bytes.writeUInt32LE(bytes.length - 16, 12);
  bytes.write(slot.name, 16, "latin1");
  bytes.writeUInt32LE(slot.dbOid ?? 5, 80);
  bytes.writeUInt32LE(slot.persistency ?? 0, 84);
  bytes.writeBigUInt64LE(BigInt(slot.restartLsn), 96);
  bytes.writeBigUInt64LE(BigInt(slot.confirmedFlush), 112);
  bytes.writeUInt32LE(crc32c(bytes, 8), 4);
  return bytes;
}
