// The last records that say which transactions run: where a standby can begin to replay.
//
// Value, ours, format version 1, little-endian: rewritten at each such record.
//   offset size field
//        0    1 format version = 1
//        1    1 entries, 1 or 2; the older one first
//        2    6 zero
//   then 32 bytes an entry:
//        0    8 where the record starts
//        8    8 where it ends
//       16    4 oldestRunningXid
//       20    4 nextXid
//       24    1 kind: 0 running_xacts, 1 shutdown checkpoint
//       25    7 zero
// Checksum: the layer block's. A reader that finds another length, version or kind reports `corrupt`.

import { StorageError } from "../../base/errors.ts";
import { formatLsn, type Lsn, lsnFromBigInt } from "../../base/lsn.ts";
import type { StandbySnapshot } from "../api.ts";
import { STANDBY_SNAPSHOTS_PREFIX } from "../layers/key.ts";
import type { TimelineStorage } from "../storage/timeline-storage.ts";

const FORMAT_VERSION = 1;
const HEADER_BYTES = 8;
const ENTRY_BYTES = 32;
/** A standby begins behind one of them, and knows from the next one on what runs. */
const KEPT = 2;
const KINDS = ["running", "shutdown"] as const;

export function encodeStandbySnapshots(snapshots: readonly StandbySnapshot[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(HEADER_BYTES + snapshots.length * ENTRY_BYTES));
  view.setUint8(0, FORMAT_VERSION);
  view.setUint8(1, snapshots.length);
  for (const [i, snapshot] of snapshots.entries()) {
    const at = HEADER_BYTES + i * ENTRY_BYTES;
    view.setBigUint64(at, BigInt(snapshot.startLsn), true);
    view.setBigUint64(at + 8, BigInt(snapshot.endLsn), true);
    view.setUint32(at + 16, snapshot.oldestRunningXid, true);
    view.setUint32(at + 20, snapshot.nextXid, true);
    view.setUint8(at + 24, KINDS.indexOf(snapshot.kind));
  }
  return new Uint8Array(view.buffer);
}

function decodeStandbySnapshots(bytes: Uint8Array): StandbySnapshot[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const count = bytes[1] ?? 0;
  const isWhole = count <= KEPT && bytes.length === HEADER_BYTES + count * ENTRY_BYTES;
  if (bytes[0] !== FORMAT_VERSION || !isWhole) {
    throw new StorageError(
      "corrupt",
      "bad-standby-snapshots",
      `standby snapshots: ${bytes.length} bytes of format version ${bytes[0]}`,
    );
  }
  return Array.from({ length: count }, (_, i) => {
    const at = HEADER_BYTES + i * ENTRY_BYTES;
    const startLsn = lsnFromBigInt(view.getBigUint64(at, true));
    const kind = KINDS[view.getUint8(at + 24)];
    if (kind === undefined) {
      const message = `standby snapshot at ${formatLsn(startLsn)} of an unknown kind`;
      throw new StorageError("corrupt", "bad-standby-snapshots", message);
    }
    return {
      startLsn,
      endLsn: lsnFromBigInt(view.getBigUint64(at + 8, true)),
      oldestRunningXid: view.getUint32(at + 16, true),
      nextXid: view.getUint32(at + 20, true),
      kind,
    };
  });
}

/**
 * The last two at or below `lsn`, the older one first; also an ancestor's. Fewer where WAL of an earlier version of Strata
 * was taken in. StorageError `corrupt`.
 */
export function readStandbySnapshots(
  storage: Pick<TimelineStorage, "readValue">,
  lsn: Lsn,
): readonly StandbySnapshot[] {
  const value = storage.readValue(STANDBY_SNAPSHOTS_PREFIX, 0, lsn);
  return value === undefined ? [] : decodeStandbySnapshots(value);
}

/** The writing side: of one timeline. */
export class StandbySnapshots {
  readonly #storage: TimelineStorage;
  #last: readonly StandbySnapshot[];

  constructor(storage: TimelineStorage) {
    this.#storage = storage;
    this.#last = readStandbySnapshots(storage, storage.lastRecordLsn);
    this.#keepStarts();
  }

  note(snapshot: StandbySnapshot, lsn: Lsn): void {
    this.#last = [...this.#last, snapshot].slice(-KEPT);
    const value = encodeStandbySnapshots(this.#last);
    this.#storage.putImage(STANDBY_SNAPSHOTS_PREFIX, 0, lsn, value);
    this.#keepStarts();
  }

  /** A replica begins behind one of them, and behind the last one when there is another; an ancestor's say nothing of this timeline. */
  #keepStarts(): void {
    const ends = this.#last.map(({ endLsn }) => endLsn);
    this.#storage.keepReplicaStarts(ends.filter((lsn) => lsn > this.#storage.startLsn));
  }
}
