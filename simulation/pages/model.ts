// What a simulated tenant's timelines were told to keep: a plain list of states by key, and what was answered.

import { monotonicMs } from "../../src/base/clock.ts";
import type { TenantId, TimelineId } from "../../src/base/ids.ts";
import { type Lsn, toLsn } from "../../src/base/lsn.ts";
import { type KeyPrefix, relSizePrefix, slruBlockPrefix } from "../../src/pageserver/layers/key.ts";
import type { TimelineStorage } from "../../src/pageserver/storage/timeline-storage.ts";
import { PAGE_SIZE } from "../../src/postgres/page.ts";
import { encodeClogStatus } from "../../src/wal-decoder/implied-deltas.ts";

export const START = toLsn(0x1_0000_1000);
export const RECORD_BYTES = 8;
export const LEASE_MS = 600_000;

interface Key {
  readonly prefix: KeyPrefix;
  readonly index: number;
  readonly kind: "value" | "page" | "deltas";
}

function keys(kind: Key["kind"], prefix: KeyPrefix, count: number): Key[] {
  return Array.from({ length: count }, (_, index) => ({ prefix, index, kind }));
}

/**
 * Values are metadata; of pages some are written whole, others by deltas. All are of the clog, as what lies past a relation's
 * end is nobody's business.
 */
export const KEYS: readonly Key[] = [
  ...keys("value", relSizePrefix(1663, 5, 16384, 0), 3),
  ...keys("page", slruBlockPrefix(0, 7), 4),
  ...keys("deltas", slruBlockPrefix(0, 0), 4),
];

interface State {
  readonly lsn: Lsn;
  /** Undefined: the key is not there. */
  readonly value: Uint8Array | undefined;
}

interface Put {
  readonly key: number;
  readonly kind: "image" | "delta" | "init" | "tombstone";
  readonly bytes: Uint8Array;
}

export interface Lease {
  /** When it was last given, and by the pageserver of which generation. */
  readonly givenMs: number;
  readonly generation: number;
  /** Whether an index in the store names it: then it holds on every pageserver, asked for anew or not. */
  isKept: boolean;
}

export class ModelTimeline {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  readonly number: number;
  readonly ancestor: ModelTimeline | undefined;
  readonly start: Lsn;
  /** Where the safekeepers' WAL ends. */
  end: Lsn;
  /** Up to where they may have forgotten it: the highest remote_consistent_lsn that any pageserver told. */
  trimmed: Lsn;
  /** Below it only branch points and leases are kept: the highest cutoff that was asked for. */
  cutoff: Lsn;
  /** LSNs that somebody holds a lease of: some are in the history of an ancestor. */
  readonly leases = new Map<Lsn, Lease>();
  /** Whether the creation was answered, or its WAL called durable. */
  isCreated = false;
  deletion: "none" | "asked" | "answered" = "none";
  /** As it was answered last; unknown while something is asked, and after that was not answered. */
  archival: "active" | "archived" | "unknown" = "active";
  /** Of the pageserver that answered it; what one of a lower generation is asked changes nothing. */
  archivalGeneration = 0;
  archivalAsks = 0;
  readonly #states: State[][] = KEYS.map(() => []);

  constructor(
    tenantId: TenantId,
    timelineId: TimelineId,
    number: number,
    ancestor: ModelTimeline | undefined,
    start: Lsn,
  ) {
    this.tenantId = tenantId;
    this.timelineId = timelineId;
    this.number = number;
    this.ancestor = ancestor;
    this.start = start;
    this.end = start;
    this.trimmed = start;
    this.cutoff = start;
  }

  get name(): string {
    return `timeline ${this.number}`;
  }

  get isPromised(): boolean {
    return this.isCreated && this.deletion === "none";
  }

  hasLease(lsn: Lsn): boolean {
    const lease = this.leases.get(lsn);
    return lease !== undefined && monotonicMs() < lease.givenMs + LEASE_MS;
  }

  /** One record more in the WAL. */
  write(): void {
    this.end = toLsn(this.end + RECORD_BYTES);
    const { key, kind, bytes } = this.#put(this.end);
    let value: Uint8Array | undefined;
    if (kind === "image") {
      value = bytes;
    } else if (kind !== "tombstone") {
      const base = kind === "init" ? undefined : this.stateAt(key, this.end);
      value = withClogStatus(base, bytes);
    }
    this.#states[key]!.push({ lsn: this.end, value });
  }

  /** What the record that ends at `lsn` does: the same whenever somebody asks. */
  #put(lsn: Lsn): Put {
    const record = (lsn - START) / RECORD_BYTES + this.number * 7919;
    // Any number that looks like none in particular.
    const dice = Math.imul(record ^ (record >>> 3), 0x9e3779b1) >>> 8;
    const key = dice % KEYS.length;
    if (dice % 37 === 0) {
      return { key, kind: "tombstone", bytes: new Uint8Array(0) };
    }
    switch (KEYS[key]!.kind) {
      case "value":
        return { key, kind: "image", bytes: this.#bytes(20 + (dice % 500), lsn) };
      case "page":
        return { key, kind: "image", bytes: this.#bytes(PAGE_SIZE, lsn) };
      case "deltas": {
        const xid = KEYS[key]!.index * 32768 + (dice % 1000);
        const bytes = encodeClogStatus([xid, xid + 1 + (dice % 7)], 1 + (dice % 2));
        return { key, kind: dice % 11 === 0 ? "init" : "delta", bytes };
      }
    }
  }

  #bytes(length: number, lsn: Lsn): Uint8Array {
    const bytes = Buffer.alloc(length, this.number + 1);
    bytes.writeBigUInt64LE(BigInt(lsn), 8);
    return bytes;
  }

  /** Takes the record that ends at `lsn` in. */
  ingest(
    timeline: Pick<TimelineStorage, "putImage" | "putDelta" | "putTombstone" | "advance">,
    lsn: Lsn,
  ) {
    const put = this.#put(lsn);
    const { prefix, index } = KEYS[put.key]!;
    switch (put.kind) {
      case "image":
        timeline.putImage(prefix, index, lsn, put.bytes);
        break;
      case "tombstone":
        timeline.putTombstone(prefix, index, lsn);
        break;
      case "init":
      case "delta":
        timeline.putDelta(prefix, index, lsn, put.bytes, put.kind === "init");
        break;
    }
    timeline.advance(lsn, toLsn(lsn - RECORD_BYTES));
  }

  /** Which key the record that ends there changes. */
  keyChangedAt(lsn: Lsn): number {
    return this.#put(lsn).key;
  }

  stateAt(key: number, lsn: Lsn): Uint8Array | undefined {
    const state = this.#states[key]!.findLast((one) => one.lsn <= lsn);
    if (state !== undefined) {
      return state.value;
    }
    return this.ancestor?.stateAt(key, toLsn(Math.min(lsn, this.start)));
  }
}

/** As redo does it, written once more. */
function withClogStatus(base: Uint8Array | undefined, delta: Uint8Array): Uint8Array {
  const page = base?.slice() ?? new Uint8Array(PAGE_SIZE);
  const view = new DataView(delta.buffer, delta.byteOffset, delta.length);
  for (let at = 4; at < delta.length; at += 4) {
    const slot = view.getUint32(at, true) % 32768;
    const shift = (slot % 4) * 2;
    const byte = Math.floor(slot / 4);
    page[byte] = (page[byte]! & ~(3 << shift)) | (delta[1]! << shift);
  }
  return page;
}
