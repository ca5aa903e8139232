// The object store of a simulated run: what it holds, when it is away, and steps on it carried out at once.

import { StorageError } from "../src/base/errors.ts";
import { MemoryObjectStore } from "../src/object-store/memory-object-store.ts";
import type { StoreAnswer, StoreCall, StoreSteps } from "../src/object-store/store-steps.ts";
import { type PartialSegment, StoredWal } from "../src/safekeeper/wal-backup/stored-wal.ts";
import { decodeStoredSegment } from "../src/wal-decoder/stored-segment.ts";
import { SEGMENT_SIZE, TIMELINE_IDS } from "./simulated-wal.ts";

/** Durable at once. WAL below FIRST_LSN is zeros. */
export class SimulatedStore extends MemoryObjectStore {
  readonly #names = new StoredWal(
    this,
    TIMELINE_IDS.tenantId,
    TIMELINE_IDS.timelineId,
    SEGMENT_SIZE,
  );
  /** Every call fails. */
  away = false;

  override call(call: StoreCall): StoreAnswer {
    if (this.away) {
      throw new StorageError("unavailable", "store-away", "the object store is away");
    }
    return super.call(call);
  }

  /** For checks: also while it is away. */
  peek(segno: number): Uint8Array | undefined {
    return this.#peek(this.#names.segmentKey(segno));
  }

  /** The same. */
  peekPartial(partial: PartialSegment): Uint8Array | undefined {
    return this.#peek(this.#names.partialKey(partial));
  }

  #peek(key: string): Uint8Array | undefined {
    let object: Uint8Array;
    try {
      object = super.call({ type: "get", key }) as Uint8Array;
    } catch {
      return undefined;
    }
    return decodeStoredSegment(object, key);
  }
}

/** Steps without a moment between them. */
export function carryOutNow<T>(steps: StoreSteps<T>, store: SimulatedStore): T {
  let step = steps.next();
  while (step.done !== true) {
    let answer: StoreAnswer;
    try {
      answer = store.call(step.value);
    } catch (error) {
      step = steps.throw(error);
      continue;
    }
    step = steps.next(answer);
  }
  return step.value;
}
