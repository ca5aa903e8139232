// Prepared transactions that are open: kept from WAL, and read for a compute that starts.
//
// Each has a slot, an index of its own from 1 on, which the next one takes when it has ended: a start
// reads as many keys as were ever open at once (at most max_prepared_transactions), not as many as
// there ever were. Value: u64 LE, the full xid; then the content of pg_twophase/<xid> without its CRC.
// Slot 0 is the mark that there are slots. Timelines of before have a key for each transaction that
// ever was (keyspace 0x67); what is open there moves into slots at the first record that is about one.

import { StorageError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import {
  KEYSPACE_PREPARED_SLOT,
  KEYSPACE_TWO_PHASE,
  PREPARED_SLOT_PREFIX,
  prefixField2,
  prefixField3,
} from "../layers/key.ts";
import type { TimelineStorage } from "../storage/timeline-storage.ts";

const MARK_SLOT = 0;
const MARK = new Uint8Array([1]);
const XID_BYTES = 8;

export interface PreparedTransaction {
  readonly fullXid: bigint;
  /** pg_twophase/<xid> without its CRC. */
  readonly payload: Uint8Array;
}

/** The writing side; one per WalIngest. */
export class PreparedTransactions {
  readonly #storage: TimelineStorage;
  /** Slots by xid. Read when the first record is about one, because most timelines have none. */
  #slots: Map<bigint, number> | undefined;
  readonly #free: number[] = [];

  constructor(storage: TimelineStorage) {
    this.#storage = storage;
  }

  prepare(fullXid: bigint, payload: Uint8Array, lsn: Lsn): void {
    this.#put(this.#load(lsn), { fullXid, payload }, lsn);
  }

  /** Nothing where it is not known: it was prepared before the timeline began. */
  forget(fullXid: bigint, lsn: Lsn): void {
    const slots = this.#load(lsn);
    const slot = slots.get(fullXid);
    if (slot !== undefined) {
      slots.delete(fullXid);
      this.#free.push(slot);
      this.#storage.putTombstone(PREPARED_SLOT_PREFIX, slot, lsn);
    }
  }

  #put(slots: Map<bigint, number>, transaction: PreparedTransaction, lsn: Lsn): void {
    const { fullXid } = transaction;
    // Slots are 1 to the number of open and free ones.
    const slot = slots.get(fullXid) ?? this.#free.pop() ?? slots.size + 1;
    slots.set(fullXid, slot);
    this.#storage.putImage(PREPARED_SLOT_PREFIX, slot, lsn, encodeSlot(transaction));
  }

  #load(lsn: Lsn): Map<bigint, number> {
    if (this.#slots !== undefined) {
      return this.#slots;
    }
    const slots = new Map<bigint, number>();
    const { lastRecordLsn } = this.#storage;
    if (hasSlots(this.#storage, lastRecordLsn)) {
      for (const { index, value } of this.#storage.scan([KEYSPACE_PREPARED_SLOT], lastRecordLsn)) {
        if (index !== MARK_SLOT) {
          slots.set(decodeSlot(index, value).fullXid, index);
        }
      }
      const taken = new Set(slots.values());
      for (let slot = Math.max(0, ...taken) - 1; slot > MARK_SLOT; slot--) {
        if (!taken.has(slot)) {
          this.#free.push(slot);
        }
      }
    } else {
      this.#storage.putImage(PREPARED_SLOT_PREFIX, MARK_SLOT, lsn, MARK);
      for (const transaction of readWithoutSlots(this.#storage, lastRecordLsn)) {
        this.#put(slots, transaction, lsn);
      }
    }
    this.#slots = slots;
    return slots;
  }
}

/** All that are open as of `lsn`, by ascending xid. StorageError `corrupt` where a value makes no sense. */
export function readPreparedTransactions(
  storage: Pick<TimelineStorage, "scan" | "readValue">,
  lsn: Lsn,
): PreparedTransaction[] {
  if (!hasSlots(storage, lsn)) {
    return readWithoutSlots(storage, lsn);
  }
  return [...storage.scan([KEYSPACE_PREPARED_SLOT], lsn)]
    .filter(({ index }) => index !== MARK_SLOT)
    .map(({ index, value }) => decodeSlot(index, value))
    .sort((a, b) => (a.fullXid < b.fullXid ? -1 : 1));
}

/** The values at PREPARED_SLOT_PREFIX of a timeline that begins with these. */
export function* preparedSlots(
  transactions: readonly PreparedTransaction[],
): Generator<{ index: number; value: Uint8Array }> {
  yield { index: MARK_SLOT, value: MARK };
  for (const [i, transaction] of transactions.entries()) {
    yield { index: i + 1, value: encodeSlot(transaction) };
  }
}

function hasSlots(storage: Pick<TimelineStorage, "readValue">, lsn: Lsn): boolean {
  return storage.readValue(PREPARED_SLOT_PREFIX, MARK_SLOT, lsn) !== undefined;
}

function readWithoutSlots(storage: Pick<TimelineStorage, "scan">, lsn: Lsn): PreparedTransaction[] {
  return [...storage.scan([KEYSPACE_TWO_PHASE], lsn)].map(({ prefix, value }) => ({
    fullXid: (BigInt(prefixField2(prefix)) << 32n) + BigInt(prefixField3(prefix)),
    payload: value,
  }));
}

function encodeSlot({ fullXid, payload }: PreparedTransaction): Uint8Array {
  const bytes = new Uint8Array(XID_BYTES + payload.length);
  new DataView(bytes.buffer).setBigUint64(0, fullXid, true);
  bytes.set(payload, XID_BYTES);
  return bytes;
}

function decodeSlot(slot: number, value: Uint8Array): PreparedTransaction {
  if (value.length < XID_BYTES) {
    const message = `prepared transaction in slot ${slot} is of ${value.length} bytes`;
    throw new StorageError("corrupt", "bad-prepared-transaction", message);
  }
  const view = new DataView(value.buffer, value.byteOffset, value.length);
  return { fullXid: view.getBigUint64(0, true), payload: value.subarray(XID_BYTES) };
}
