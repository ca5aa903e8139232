// What a clean stop left of pg_stat: kept from WAL, and given to a compute that starts right there.
//
// Value: u64 LE, the LSN where the record that brought it ends; then the files. As in stock Postgres,
// statistics are true at the end of a clean stop only: whoever starts anywhere else begins without.

import type { Lsn } from "../../base/lsn.ts";
import { STATISTICS_PREFIX } from "../layers/key.ts";
import type { TimelineStorage } from "../storage/timeline-storage.ts";

const LSN_BYTES = 8;

export function encodeStatistics(files: Uint8Array, lsn: Lsn): Uint8Array {
  const bytes = new Uint8Array(LSN_BYTES + files.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(lsn), true);
  bytes.set(files, LSN_BYTES);
  return bytes;
}

/** Undefined where no clean stop ended at `lsn`. */
export function readStatistics(
  storage: Pick<TimelineStorage, "readValue">,
  lsn: Lsn,
): Uint8Array | undefined {
  const value = storage.readValue(STATISTICS_PREFIX, 0, lsn);
  if (value === undefined || value.length < LSN_BYTES) {
    return undefined;
  }
  const view = new DataView(value.buffer, value.byteOffset, value.length);
  return view.getBigUint64(0, true) === BigInt(lsn) ? value.subarray(LSN_BYTES) : undefined;
}
