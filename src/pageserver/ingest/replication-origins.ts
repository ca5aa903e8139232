// How far each replication origin was replayed: kept from WAL, and read for a compute that starts.
//
// Source: replication/logical/origin.c (replorigin_advance, replorigin_redo). Value: u64 LE, the LSN on
// the remote side, which need not fit our Lsn.

import { StorageError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import { KEYSPACE_REPLICATION_ORIGIN, REPLICATION_ORIGIN_PREFIX } from "../layers/key.ts";
import type { TimelineStorage } from "../storage/timeline-storage.ts";

/** Changes with this origin are not tracked. */
const DO_NOT_REPLICATE_ID = 0xffff;

export interface ReplicationOrigin {
  /** 1 to 65534. */
  readonly originId: number;
  readonly remoteLsn: bigint;
}

/** The writing side; one per WalIngest. */
export class ReplicationOrigins {
  readonly #storage: TimelineStorage;
  /** Read when the first record is about one, because most timelines have none. */
  #known: Map<number, bigint> | undefined;

  constructor(storage: TimelineStorage) {
    this.#storage = storage;
  }

  #progress(): Map<number, bigint> {
    this.#known ??= new Map(
      readReplicationOrigins(this.#storage, this.#storage.lastRecordLsn).map((origin) => [
        origin.originId,
        origin.remoteLsn,
      ]),
    );
    return this.#known;
  }

  advance(originId: number, remoteLsn: bigint, force: boolean, lsn: Lsn): void {
    if (originId === DO_NOT_REPLICATE_ID) {
      return;
    }
    const progress = this.#progress();
    const current = progress.get(originId);
    if (current === undefined || remoteLsn > current || (force && remoteLsn !== current)) {
      progress.set(originId, remoteLsn);
      const value = encodeRemoteLsn(remoteLsn);
      this.#storage.putImage(REPLICATION_ORIGIN_PREFIX, originId, lsn, value);
    }
  }

  drop(originId: number, lsn: Lsn): void {
    if (this.#progress().delete(originId)) {
      this.#storage.putTombstone(REPLICATION_ORIGIN_PREFIX, originId, lsn);
    }
  }
}

/** Every origin as of `lsn`, by ascending id. StorageError `corrupt` where a value makes no sense. */
export function readReplicationOrigins(
  storage: Pick<TimelineStorage, "scan">,
  lsn: Lsn,
): ReplicationOrigin[] {
  return [...storage.scan([KEYSPACE_REPLICATION_ORIGIN], lsn)].map(({ index, value }) => {
    if (value.length !== 8) {
      const message = `progress of replication origin ${index} is of ${value.length} bytes`;
      throw new StorageError("corrupt", "bad-replication-origin", message);
    }
    const view = new DataView(value.buffer, value.byteOffset, 8);
    return { originId: index, remoteLsn: view.getBigUint64(0, true) };
  });
}

export function encodeRemoteLsn(remoteLsn: bigint): Uint8Array {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, remoteLsn, true);
  return new Uint8Array(view.buffer);
}
